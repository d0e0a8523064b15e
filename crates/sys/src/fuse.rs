//! The requests that `/dev/fuse` takes by ioctl (`include/uapi/linux/fuse.h`, "Device ioctls").

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

/// `_IOR(229, 0, uint32_t)`.
const CLONE: libc::c_ulong = 0x8004_e500;
/// `_IOW(229, 1, struct fuse_backing_map)`.
const BACKING_OPEN: libc::c_ulong = 0x4010_e501;
/// `_IOW(229, 2, uint32_t)`.
const BACKING_CLOSE: libc::c_ulong = 0x4004_e502;

#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

/// Opens `/dev/fuse`: a connection without a file system yet.
pub fn open_device() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        "/dev/fuse",
        OFlags::RDWR | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

/// Another descriptor of the connection `device`, with a queue of its own for requests that were read and not yet
/// answered.
pub fn clone_device(device: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let clone = open_device()?;
    let source = device.as_raw_fd() as u32;
    // SAFETY: the request reads one u32, which lives across the call, and keeps no reference to it.
    let result = unsafe { libc::ioctl(clone.as_fd().as_raw_fd(), CLONE as _, &raw const source) };
    if result == 0 {
        Ok(clone)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes `file` known to the connection as a file that requests may be passed through to; gives its backing id.
///
/// It is access to the file for reading and writing, whatever mode `file` was opened with: only a read-only mount
/// takes that away. `EPERM` without `CAP_SYS_ADMIN`, `ELOOP` where the file's own file system is stacked too deep.
pub fn backing_open(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> io::Result<u32> {
    let map = BackingMap {
        fd: file.as_raw_fd(),
        flags: 0,
        padding: 0,
    };
    // SAFETY: the request reads one `fuse_backing_map`, whose layout `BackingMap` has and which lives across the call.
    let id = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_OPEN as _, &raw const map) };
    if id > 0 {
        Ok(id as u32)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives a backing id back. Files that are open through it stay so.
pub fn backing_close(device: BorrowedFd<'_>, id: u32) -> io::Result<()> {
    // SAFETY: the request reads one u32, which lives across the call.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BACKING_CLOSE as _, &raw const id) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
