//! File handles: a name for an inode that outlives renames (`name_to_handle_at(2)`), and the identity of the file
//! system it is on.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::OFlags;

/// `MAX_HANDLE_SZ`.
const MAX: usize = 128;

/// What the file system calls one of its inodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileHandle {
    /// Layout of `bytes`; each file system has its own.
    pub kind: i32,
    /// The handle.
    pub bytes: Vec<u8>,
}

#[repr(C)]
struct Raw {
    bytes: u32,
    kind: i32,
    handle: [u8; MAX],
}

impl FileHandle {
    /// The handle of the inode behind `fd`, of any kind, `O_PATH` too. `EOPNOTSUPP` where the file system has none.
    pub fn of(fd: BorrowedFd<'_>) -> io::Result<FileHandle> {
        let mut raw = Raw {
            bytes: MAX as u32,
            kind: 0,
            handle: [0; MAX],
        };
        let mut mount = 0;
        // SAFETY: the path is an empty C string; `raw` states how much room it has and is written within it.
        let result = unsafe {
            libc::syscall(
                libc::SYS_name_to_handle_at,
                fd.as_raw_fd(),
                c"".as_ptr(),
                &raw mut raw,
                &raw mut mount,
                libc::AT_EMPTY_PATH,
            )
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(FileHandle {
            kind: raw.kind,
            bytes: raw.handle[..(raw.bytes as usize).min(MAX)].to_vec(),
        })
    }

    /// Opens the inode, on the file system that `mount` is on. Needs `CAP_DAC_READ_SEARCH`; `ESTALE` when it is gone.
    pub fn open(&self, mount: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let mut raw = Raw {
            bytes: self.bytes.len() as u32,
            kind: self.kind,
            handle: [0; MAX],
        };
        let Some(room) = raw.handle.get_mut(..self.bytes.len()) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        };
        room.copy_from_slice(&self.bytes);
        let flags = (flags | OFlags::CLOEXEC).bits();
        // SAFETY: `raw` is a whole file_handle whose length lies within it; the kernel only reads it.
        let fd = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                mount.as_raw_fd(),
                &raw mut raw,
                flags,
            )
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call returned a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
    }
}

/// `struct fsuuid2`.
#[repr(C)]
struct FsUuid {
    length: u8,
    uuid: [u8; 16],
}

/// The UUID of the file system `fd` is on, as the kernel keeps it (`FS_IOC_GETFSUUID`, Linux 6.9). `None` where the
/// kernel or the file system does not say.
pub fn fs_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
    /// `_IOR(0x15, 0, struct fsuuid2)`.
    const GETFSUUID: libc::Ioctl = 0x8011_1500 as libc::Ioctl;
    let mut answer = MaybeUninit::<FsUuid>::zeroed();
    // SAFETY: the request writes a `fsuuid2` of 17 bytes, which is what it is given.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), GETFSUUID, answer.as_mut_ptr()) };
    // SAFETY: zeroes are a valid value, and so is anything the kernel wrote over them.
    let answer = unsafe { answer.assume_init() };
    (result == 0 && answer.length == 16).then_some(answer.uuid)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::Dir;

    #[test]
    fn a_handle_is_the_inodes() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let file = dir.create_new("a", rustix::fs::Mode::RUSR).unwrap();
        let Ok(handle) = FileHandle::of(file.as_fd()) else {
            return; // This file system has none.
        };
        dir.rename("a", &dir, "b").unwrap();
        let again = dir
            .open_file("b", OFlags::PATH, rustix::fs::Mode::empty())
            .unwrap();
        assert_eq!(FileHandle::of(again.as_fd()).unwrap(), handle);
        assert_ne!(FileHandle::of(dir.as_fd()).unwrap(), handle);
    }
}
