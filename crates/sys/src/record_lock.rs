//! Locks on ranges of a file (`fcntl(2)`): those of a process (POSIX) and those of an open file description.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whose lock it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// The process, or rather whoever shares its table of descriptors (POSIX, `F_SETLK`).
    Process,
    /// The open file description (`F_OFD_SETLK`).
    Description,
}

/// Kinds of lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Several may hold it.
    Read,
    /// One alone holds it.
    Write,
    /// None: what is held is let go.
    None,
}

impl Kind {
    fn raw(self) -> libc::c_short {
        (match self {
            Kind::Read => libc::F_RDLCK,
            Kind::Write => libc::F_WRLCK,
            Kind::None => libc::F_UNLCK,
        }) as libc::c_short
    }
}

fn request(kind: Kind, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind.raw(),
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// Takes, changes or lets go a lock on `length` bytes from `start` (0: to the end, wherever that will be) without
/// waiting: `EAGAIN` or `EACCES` when another owner's is in the way.
pub fn set(file: BorrowedFd<'_>, owner: Owner, kind: Kind, start: i64, length: i64) -> io::Result<()> {
    let command = match owner {
        Owner::Process => libc::F_SETLK,
        Owner::Description => libc::F_OFD_SETLK,
    };
    let lock = request(kind, start, length);
    // SAFETY: the kernel reads one `flock`, which lives across the call; the descriptor is open while borrowed.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw const lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether a lock of `kind` would be in the way of another owner's: its start and length if so.
pub fn conflict(
    file: BorrowedFd<'_>,
    owner: Owner,
    kind: Kind,
    start: i64,
    length: i64,
) -> io::Result<Option<(i64, i64)>> {
    let command = match owner {
        Owner::Process => libc::F_GETLK,
        Owner::Description => libc::F_OFD_GETLK,
    };
    let mut lock = request(kind, start, length);
    // SAFETY: as for `set`; the kernel also writes to that `flock`.
    match unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ if lock.l_type == Kind::None.raw() => Ok(None),
        _ => Ok(Some((lock.l_start, lock.l_len))),
    }
}

/// The process whose lock (of [`Owner::Process`]) would be in the way of one of `kind`: its number in the caller's pid
/// namespace, 0 or less where it has none there. `EACCES` for the lock of a description, which is no process's.
pub fn process(file: BorrowedFd<'_>, kind: Kind, start: i64, length: i64) -> io::Result<Option<i32>> {
    let mut lock = request(kind, start, length);
    // SAFETY: as for `conflict`.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETLK, &raw mut lock) } {
        -1 => Err(io::Error::last_os_error()),
        _ if lock.l_type == Kind::None.raw() => Ok(None),
        _ if lock.l_pid == -1 => Err(io::Error::from_raw_os_error(libc::EACCES)),
        _ => Ok(Some(lock.l_pid)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn descriptions_keep_each_other_out() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let (one, two) = (file.reopen().unwrap(), file.reopen().unwrap());
        set(one.as_fd(), Owner::Description, Kind::Write, 10, 5).unwrap();
        let found = conflict(two.as_fd(), Owner::Description, Kind::Read, 0, 0).unwrap();
        assert_eq!(found, Some((10, 5)));
        assert!(set(two.as_fd(), Owner::Description, Kind::Read, 12, 1).is_err());
        set(two.as_fd(), Owner::Description, Kind::Write, 0, 10).unwrap();
        set(one.as_fd(), Owner::Description, Kind::None, 0, 0).unwrap();
        set(two.as_fd(), Owner::Description, Kind::Write, 12, 1).unwrap();
    }
}
