//! From values to the bytes of a reply.
//!
//! A [`Reply`] is one growing buffer that a worker keeps: the header's place first, then the body. What it sends is
//! length, errno and number of the request, and the body where the request succeeded.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use rustix::fs::{FileType, Stat, StatVfs, Timespec};
use rustix::io::Errno;

use super::{InitFlags, MAJOR, OUT_HEADER, OpenReply};

/// Bytes of `fuse_entry_out`.
pub const ENTRY_OUT: usize = 128;
/// Bytes of `fuse_dirent` before its name.
const DIRENT: usize = 24;

/// How long the kernel may believe what it was told.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// A name, also that there is none.
    pub entry: Duration,
    /// Attributes.
    pub attr: Duration,
}

/// What INIT agrees on.
#[derive(Debug, Clone, Copy)]
pub struct InitOut {
    /// Minor version that will be spoken.
    pub minor: u32,
    /// Bytes that the kernel reads ahead at most.
    pub max_readahead: u32,
    /// What both sides can do.
    pub flags: InitFlags,
    /// Requests that the kernel may have under way in the background.
    pub max_background: u16,
    /// Bytes of a write at most.
    pub max_write: u32,
    /// Pages of a request at most.
    pub max_pages: u16,
    /// How deep the backing files' file system may be stacked, plus one; 0: no passthrough.
    pub max_stack_depth: u32,
}

/// A reply being put together.
#[derive(Debug, Default)]
pub struct Reply(Vec<u8>);

impl Reply {
    /// Forgets what was there, and leaves room for the header.
    pub fn clear(&mut self) {
        self.0.clear();
        self.0.resize(OUT_HEADER, 0);
    }

    /// Fills the header in: `more` bytes follow from elsewhere. Gives what is to be written.
    pub fn finish(&mut self, unique: u64, result: Result<(), Errno>, more: usize) -> &[u8] {
        let errno = match result {
            Ok(()) => 0,
            Err(errno) => {
                self.clear();
                errno.raw_os_error()
            }
        };
        let length = self.0.len() + if errno == 0 { more } else { 0 };
        self.set_u32(0, length as u32);
        self.set_u32(4, errno.wrapping_neg() as u32);
        self.set(8, &unique.to_ne_bytes());
        &self.0
    }

    /// Makes a message that answers nothing: `FUSE_NOTIFY_INVAL_INODE` for the attributes of a node.
    pub fn forget_attributes(node: u64) -> [u8; OUT_HEADER + 24] {
        const INVAL_INODE: i32 = 2;
        let mut message = [0; OUT_HEADER + 24];
        let length = message.len() as u32;
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(place) = message.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&length.to_ne_bytes());
        put(&INVAL_INODE.to_ne_bytes());
        put(&0u64.to_ne_bytes());
        put(&node.to_ne_bytes());
        // A negative offset leaves the data alone.
        put(&(-1i64).to_ne_bytes());
        put(&0i64.to_ne_bytes());
        message
    }

    /// Bytes of the body so far.
    pub fn body_len(&self) -> usize {
        self.0.len().saturating_sub(OUT_HEADER)
    }

    /// Takes back all of the body beyond its first `length` bytes.
    pub fn truncate_body(&mut self, length: usize) {
        self.0.truncate(OUT_HEADER + length);
    }

    /// Appends bytes as they are.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Appends a number.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_ne_bytes());
    }

    /// Appends a number.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_ne_bytes());
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_ne_bytes());
    }

    fn zeros(&mut self, count: usize) {
        self.0.resize(self.0.len() + count, 0);
    }

    fn set(&mut self, at: usize, bytes: &[u8]) {
        if let Some(place) = self.0.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    }

    fn set_u32(&mut self, at: usize, value: u32) {
        self.set(at, &value.to_ne_bytes());
    }

    /// `fuse_init_out`.
    pub fn init(&mut self, out: &InitOut) {
        let flags = out.flags.bits();
        self.u32(MAJOR);
        self.u32(out.minor);
        self.u32(out.max_readahead);
        self.u32(flags as u32);
        self.u16(out.max_background);
        self.u16(out.max_background / 4 * 3);
        self.u32(out.max_write);
        self.u32(1); // Times are exact to the nanosecond.
        self.u16(out.max_pages);
        self.u16(0); // No shared memory window.
        self.u32((flags >> 32) as u32);
        self.u32(out.max_stack_depth);
        self.zeros(24);
    }

    /// `fuse_attr`.
    fn attr(&mut self, stat: &Stat) {
        self.u64(stat.st_ino);
        self.u64(stat.st_size as u64);
        self.u64(stat.st_blocks as u64);
        self.u64(stat.st_atime as u64);
        self.u64(stat.st_mtime as u64);
        self.u64(stat.st_ctime as u64);
        self.u32(stat.st_atime_nsec as u32);
        self.u32(stat.st_mtime_nsec as u32);
        self.u32(stat.st_ctime_nsec as u32);
        self.u32(stat.st_mode);
        self.u32(u32::try_from(stat.st_nlink).unwrap_or(u32::MAX));
        self.u32(stat.st_uid);
        self.u32(stat.st_gid);
        self.u32(stat.st_rdev as u32);
        self.u32(stat.st_blksize as u32);
        self.u32(0);
    }

    /// `fuse_attr_out`.
    pub fn attr_out(&mut self, stat: &Stat, valid: Duration) {
        self.u64(valid.as_secs());
        self.u32(valid.subsec_nanos());
        self.u32(0);
        self.attr(stat);
    }

    /// `fuse_statx_out`: what [`Stat`] says, and the time of birth where it is known.
    pub fn statx_out(&mut self, stat: &Stat, birth: Option<Timespec>, valid: Duration) {
        const BASIC: u32 = 0x7ff;
        const BTIME: u32 = 0x800;
        self.u64(valid.as_secs());
        self.u32(valid.subsec_nanos());
        self.zeros(4 + 16);
        self.u32(BASIC | if birth.is_some() { BTIME } else { 0 });
        self.u32(stat.st_blksize as u32);
        self.u64(0);
        self.u32(u32::try_from(stat.st_nlink).unwrap_or(u32::MAX));
        self.u32(stat.st_uid);
        self.u32(stat.st_gid);
        self.u16(stat.st_mode as u16);
        self.u16(0);
        self.u64(stat.st_ino);
        self.u64(stat.st_size as u64);
        self.u64(stat.st_blocks as u64);
        self.u64(0);
        let mut time = |seconds: i64, nanoseconds: u32| {
            self.u64(seconds as u64);
            self.u32(nanoseconds);
            self.u32(0);
        };
        time(stat.st_atime, stat.st_atime_nsec as u32);
        time(
            birth.map_or(0, |b| b.tv_sec),
            birth.map_or(0, |b| b.tv_nsec as u32),
        );
        time(stat.st_ctime, stat.st_ctime_nsec as u32);
        time(stat.st_mtime, stat.st_mtime_nsec as u32);
        self.u32(rustix::fs::major(stat.st_rdev));
        self.u32(rustix::fs::minor(stat.st_rdev));
        self.zeros(8 + 14 * 8);
    }

    /// `fuse_entry_out`: a name is node `node`.
    pub fn entry(&mut self, node: u64, stat: &Stat, timeouts: Timeouts) {
        self.entry_head(node, timeouts);
        self.attr(stat);
    }

    fn entry_head(&mut self, node: u64, timeouts: Timeouts) {
        self.u64(node);
        self.u64(0); // Generation: a node number is never used again.
        self.u64(timeouts.entry.as_secs());
        self.u64(timeouts.attr.as_secs());
        self.u32(timeouts.entry.subsec_nanos());
        self.u32(timeouts.attr.subsec_nanos());
    }

    /// `fuse_entry_out` without a node: the name does not exist, and the kernel may remember that.
    pub fn no_entry(&mut self, timeouts: Timeouts) {
        self.entry_head(0, timeouts);
        self.zeros(ENTRY_OUT - 40);
    }

    /// `fuse_open_out`.
    pub fn open(&mut self, fh: u64, flags: OpenReply, backing: u32) {
        self.u64(fh);
        self.u32(flags.bits());
        self.u32(backing);
    }

    /// `fuse_ioctl_out` of a call that succeeded, with what it gives.
    pub fn ioctl(&mut self, data: &[u8]) {
        self.zeros(16);
        self.bytes(data);
    }

    /// `fuse_statfs_out`.
    pub fn statfs(&mut self, stat: &StatVfs) {
        self.u64(stat.f_blocks);
        self.u64(stat.f_bfree);
        self.u64(stat.f_bavail);
        self.u64(stat.f_files);
        self.u64(stat.f_ffree);
        self.u32(stat.f_bsize as u32);
        self.u32(stat.f_namemax as u32);
        self.u32(stat.f_frsize as u32);
        self.zeros(4 + 24);
    }

    /// `fuse_dirent`, if the body then has at most `limit` bytes. Answers whether it fitted.
    pub fn dirent(&mut self, limit: usize, name: &OsStr, ino: u64, kind: FileType, next: u64) -> bool {
        let size = (DIRENT + name.len()).next_multiple_of(8);
        if self.body_len() + size > limit {
            return false;
        }
        self.u64(ino);
        self.u64(next);
        self.u32(name.len() as u32);
        self.u32(kind.as_raw_mode() >> 12);
        self.bytes(name.as_bytes());
        self.zeros(size - DIRENT - name.len());
        true
    }

    /// `fuse_direntplus` with a blank entry, as [`Reply::dirent`]; [`Reply::fill_entry`] fills it.
    pub fn dirent_plus(&mut self, limit: usize, name: &OsStr, ino: u64, kind: FileType, next: u64) -> bool {
        let size = (ENTRY_OUT + DIRENT + name.len()).next_multiple_of(8);
        if self.body_len() + size > limit {
            return false;
        }
        self.zeros(ENTRY_OUT);
        self.dirent(limit, name, ino, kind, next)
    }

    /// Writes `entry` over the blank one that begins at byte `at` of the body.
    pub fn fill_entry(&mut self, at: usize, node: u64, stat: &Stat, timeouts: Timeouts) {
        let end = self.0.len();
        self.entry(node, stat, timeouts);
        self.0.copy_within(end.., OUT_HEADER + at);
        self.0.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Timeouts = Timeouts {
        entry: Duration::from_secs(86400),
        attr: Duration::from_secs(1),
    };

    fn stat() -> Stat {
        rustix::fs::stat("/").unwrap()
    }

    #[test]
    fn bodies_have_the_sizes_of_the_header() {
        let mut sizes = Vec::new();
        let mut body = |fill: &dyn Fn(&mut Reply)| {
            let mut reply = Reply::default();
            reply.clear();
            fill(&mut reply);
            sizes.push(reply.body_len());
        };
        body(&|r| r.entry(1, &stat(), DAY));
        body(&|r| r.no_entry(DAY));
        body(&|r| r.attr_out(&stat(), DAY.attr));
        body(&|r| r.statx_out(&stat(), None, DAY.attr));
        body(&|r| r.open(1, OpenReply::empty(), 0));
        body(&|r| r.statfs(&rustix::fs::statvfs("/").unwrap()));
        let out = InitOut {
            minor: 31,
            max_readahead: 0,
            flags: InitFlags::PASSTHROUGH,
            max_background: 64,
            max_write: 4096,
            max_pages: 1,
            max_stack_depth: 1,
        };
        body(&|r| r.init(&out));
        assert_eq!(sizes, [ENTRY_OUT, ENTRY_OUT, 104, 288, 16, 80, 64]);
    }

    #[test]
    fn an_error_has_a_header_alone() {
        let mut reply = Reply::default();
        reply.clear();
        reply.u64(7);
        let bytes = reply.finish(5, Err(Errno::NOENT), 100).to_vec();
        assert_eq!(bytes.len(), OUT_HEADER);
        assert_eq!(bytes[..8], [16u32.to_ne_bytes(), (-2i32).to_ne_bytes()].concat());
        assert_eq!(bytes[8..], 5u64.to_ne_bytes());
    }

    #[test]
    fn a_listing_fills_no_more_than_it_may() {
        let mut reply = Reply::default();
        reply.clear();
        assert!(reply.dirent_plus(400, "abc".as_ref(), 9, FileType::Directory, 1));
        assert!(reply.dirent_plus(400, "12345678".as_ref(), 9, FileType::RegularFile, 2));
        assert!(!reply.dirent_plus(400, "x".as_ref(), 9, FileType::RegularFile, 3));
        assert_eq!(reply.body_len(), 160 + 160);
        let before = reply.0[OUT_HEADER + 160 + ENTRY_OUT..].to_vec();
        reply.fill_entry(160, 77, &stat(), DAY);
        assert_eq!(reply.body_len(), 320);
        assert_eq!(reply.0[OUT_HEADER + 160..][..8], 77u64.to_ne_bytes());
        assert_eq!(reply.0[OUT_HEADER + 160 + ENTRY_OUT..], before);
        assert_eq!(reply.0[OUT_HEADER..][..8], [0; 8]);
    }
}
