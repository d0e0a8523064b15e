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

/// The UUID of the file system `fd` is on, as the kernel keeps it. `None` where the kernel or the file system does not say:
/// before Linux 6.9 only ext4 (6.0), xfs and btrfs do, each in a way of its own.
pub fn fs_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
    /// `FS_IOC_GETFSUUID`: `_IOR(0x15, 0, struct fsuuid2)`.
    const GETFSUUID: libc::Ioctl = 0x8011_1500 as libc::Ioctl;
    let mut answer = MaybeUninit::<FsUuid>::zeroed();
    // SAFETY: the request writes a `fsuuid2` of 17 bytes, which is what it is given.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), GETFSUUID, answer.as_mut_ptr()) };
    // SAFETY: zeroes are a valid value, and so is anything the kernel wrote over them.
    let answer = unsafe { answer.assume_init() };
    match result == 0 && answer.length == 16 {
        true => Some(answer.uuid),
        false => own_fs_uuid(fd),
    }
}

/// The same, by the file system's own request.
fn own_fs_uuid(fd: BorrowedFd<'_>) -> Option<[u8; 16]> {
    const EXT4: u64 = 0xef53;
    const XFS: u64 = 0x5846_5342;
    const BTRFS: u64 = 0x9123_683e;
    /// As large as the largest argument, which is btrfs's.
    #[repr(C, align(8))]
    struct Argument([u8; 1024]);
    let mut argument = Argument([0; 1024]);
    let (request, at) = match rustix::fs::fstatfs(fd).ok()?.f_type as u64 {
        // `EXT4_IOC_GETFSUUID`: `_IOR('f', 44, struct fsuuid)`, 8 bytes and the UUID, whose length is told.
        EXT4 => {
            argument.0[..4].copy_from_slice(&16_u32.to_ne_bytes());
            (0x8008_662c_u32, 8)
        }
        // `XFS_IOC_FSGEOMETRY_V1`: `_IOR('X', 100, struct xfs_fsop_geom_v1)`, 112 bytes.
        XFS => (0x8070_5864, 64),
        // `BTRFS_IOC_FS_INFO`: `_IOR(0x94, 31, struct btrfs_ioctl_fs_info_args)`, 1024 bytes.
        BTRFS => (0x8400_941f, 16),
        _ => return None,
    };
    // SAFETY: each of these requests reads and writes no more than 1024 bytes, which is what it is given.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), request as libc::Ioctl, &raw mut argument) };
    let uuid = argument.0[at..at + 16].try_into().ok()?;
    (result == 0).then_some(uuid)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::Dir;

    #[test]
    fn older_kernels_tell_the_same_uuid() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        // Of a file system that has no way of its own nothing is known, and one that was given another UUID while it was
        // mounted is known to the kernel by the one before.
        let known = fs_uuid(dir.as_fd()).filter(|uuid| *uuid != [0; 16]);
        if let (Some(known), Some(own)) = (known, own_fs_uuid(dir.as_fd())) {
            assert_eq!(known, own);
        }
    }

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
