//! Project quotas: a limit for the files of one directory tree, kept by the file system (ext4 and xfs have them).
//!
//! Every inode carries a project id. A directory with the inherit flag gives its own to what is made in it, and the
//! file system counts blocks and inodes by project. quotactl(2), ioctl_xfs_fsgetxattr(2), `fs/quota/quota.c`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::inode_flags::Extended;

/// What a project takes, and may take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Bytes on disk that it may take; 0 for any number.
    pub limit: u64,
    /// Bytes on disk that it takes.
    pub bytes: u64,
    /// Inodes that it takes.
    pub inodes: u64,
}

/// The kernel counts limits in blocks of this many bytes, whatever those of the file system are.
const BLOCK: u64 = 1024;

const PRJQUOTA: u32 = 2;
/// `XQM_CMD(8)`: which quotas are counted and which enforced.
const Q_XGETQSTATV: u32 = (b'X' as u32) << 8 | 8;
const FS_QSTATV_VERSION1: i8 = 1;
const FS_QUOTA_PDQ_ENFD: u16 = 1 << 5;

/// `struct fs_quota_statv` of `<linux/dqblk_xfs.h>`: 160 bytes, of which the flags are read.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    pad: u8,
    flags: u16,
    in_core: u32,
    rest: [u64; 19],
}

const _: () = assert!(size_of::<State>() == 160);

/// The project id of an open file or directory; 0 is nobody's. `ENOTTY` or `EOPNOTSUPP` where there is no such thing.
pub fn project(fd: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(Extended::get(fd)?.project)
}

/// Gives an open directory a project id, and to all that will be made in it. What is in it already keeps its own.
pub fn set_project(dir: BorrowedFd<'_>, project: u32) -> io::Result<()> {
    let mut wanted = Extended::get(dir)?;
    wanted.project = project;
    wanted.flags |= Extended::PROJECT_INHERIT;
    wanted.set(dir)
}

/// Whether the file system that `fd` lies on holds projects to their limits: not where it has no project quotas, was
/// mounted without them, or the kernel is older than 5.14.
pub fn enforced(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut state = State {
        version: FS_QSTATV_VERSION1,
        ..State::default()
    };
    // SAFETY: Q_XGETQSTATV reads and writes one `fs_quota_statv`, which `state` is laid out as.
    match unsafe { quotactl(fd, Q_XGETQSTATV, 0, (&raw mut state).cast()) } {
        Ok(()) => Ok(state.flags & FS_QUOTA_PDQ_ENFD != 0),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOSYS | Errno::INVAL | Errno::SRCH | Errno::OPNOTSUPP) => Ok(false),
            _ => Err(error),
        },
    }
}

/// What `project` takes and may take, on the file system that `fd` lies on. Zero for one that nobody uses.
pub fn of_project(fd: BorrowedFd<'_>, project: u32) -> io::Result<Quota> {
    // SAFETY: all bytes zero is a valid `dqblk`, which is nothing but numbers.
    let mut found: libc::dqblk = unsafe { std::mem::zeroed() };
    // SAFETY: Q_GETQUOTA writes one `dqblk`, which lives across the call.
    match unsafe {
        quotactl(
            fd,
            libc::Q_GETQUOTA.cast_unsigned(),
            project,
            (&raw mut found).cast(),
        )
    } {
        Ok(()) => Ok(Quota {
            limit: found.dqb_bhardlimit.saturating_mul(BLOCK),
            bytes: found.dqb_curspace,
            inodes: found.dqb_curinodes,
        }),
        // xfs has no record of what was never used.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(Quota::default()),
        Err(error) => Err(error),
    }
}

/// Limits the bytes on disk that `project` may take; 0 lifts the limit. Rounded up to 1,024.
pub fn limit_project(fd: BorrowedFd<'_>, project: u32, bytes: u64) -> io::Result<()> {
    // SAFETY: all bytes zero is a valid `dqblk`, which is nothing but numbers.
    let mut wanted: libc::dqblk = unsafe { std::mem::zeroed() };
    wanted.dqb_bhardlimit = bytes.div_ceil(BLOCK);
    wanted.dqb_valid = libc::QIF_BLIMITS;
    // SAFETY: Q_SETQUOTA reads one `dqblk`, which lives across the call.
    unsafe {
        quotactl(
            fd,
            libc::Q_SETQUOTA.cast_unsigned(),
            project,
            (&raw mut wanted).cast(),
        )
    }
}

/// quotactl_fd(2), Linux 5.14: no path of a block device is needed.
///
/// # Safety
/// `data` points to what `command` reads or writes, and nobody else uses it meanwhile.
unsafe fn quotactl(
    fd: BorrowedFd<'_>,
    command: u32,
    project: u32,
    data: *mut libc::c_void,
) -> io::Result<()> {
    // SAFETY: `data` fits the command, as the caller promises; the descriptor is borrowed, so it is open.
    let result = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            fd.as_raw_fd(),
            command << 8 | PRJQUOTA,
            project,
            data,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn procfs_limits_nothing() {
        let proc = File::open("/proc").unwrap();
        assert!(!enforced(proc.as_fd()).unwrap());
        assert!(of_project(proc.as_fd(), 7).is_err());
    }
}
