//! Equal parts of two files onto the same blocks (ioctl_fideduperange(2)): btrfs and xfs.
//!
//! The kernel compares the bytes itself, under the locks of both files, and shares only what is equal. Neither file's
//! content nor its times change.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::ioctl::opcode;

/// Most bytes that one call shares everywhere (btrfs's limit).
const MOST: u64 = 16 << 20;
const SAME: i32 = 0;
const DIFFERS: i32 = 1;

/// `struct file_dedupe_range` of `<linux/fs.h>`, with its one `struct file_dedupe_range_info`.
#[repr(C)]
struct Range {
    from_offset: u64,
    length: u64,
    count: u16,
    reserved: [u16; 3],
    to: i64,
    to_offset: u64,
    shared: u64,
    status: i32,
    reserved_too: u32,
}

/// The part of [`Range`] that the request's number counts.
const HEAD: usize = 24;

const _: () = assert!(size_of::<Range>() == HEAD + 32);

/// Puts the first `size` bytes of `to`, the whole file, onto the blocks of `from`. `false` when they are not equal: what
/// came before the difference may be shared then. `EOPNOTSUPP`, `EINVAL` or `ENOTTY` where the file system shares no
/// blocks, `EXDEV` between two.
pub fn share(from: BorrowedFd<'_>, to: BorrowedFd<'_>, size: u64) -> io::Result<bool> {
    let request = opcode::read_write::<[u8; HEAD]>(0x94, 54);
    let mut at = 0;
    while at < size {
        let mut range = Range {
            from_offset: at,
            length: MOST.min(size - at),
            count: 1,
            reserved: [0; 3],
            to: i64::from(to.as_raw_fd()),
            to_offset: at,
            shared: 0,
            status: 0,
            reserved_too: 0,
        };
        // SAFETY: FIDEDUPERANGE reads and writes one `file_dedupe_range` and the `count` infos behind it, one here, which
        // `range` is laid out as and lives across the call.
        let result = unsafe { libc::ioctl(from.as_raw_fd(), request as _, &raw mut range) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        match range.status {
            SAME if range.shared > 0 => at += range.shared,
            SAME | DIFFERS => return Ok(false),
            error => return Err(io::Error::from_raw_os_error(-error)),
        }
    }
    Ok(true)
}
