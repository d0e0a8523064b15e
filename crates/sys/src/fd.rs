//! Descriptors that come from outside: numbers this process was started with. And locks on what is open.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// Takes ownership of a descriptor number that this process was started with, such as one named in its
/// arguments. Fails when it is not open or is one of the standard streams.
pub fn inherited_fd(number: i32) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: F_GETFD only looks a number up; it does nothing to memory.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the number is open, and the one who started this process gave it to us and to nobody else in it.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    rustix::io::fcntl_setfd(fd.as_fd(), rustix::io::FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Closes what this process inherited beyond the standard streams: every descriptor that is not close-on-exec. Those
/// that Rust code opens all are, so nothing that has an owner in this process is touched. For a role that outlives
/// the one who started it, and must not keep that one's locks and pipes.
pub fn close_inherited() -> io::Result<()> {
    for entry in crate::Dir::open_ambient("/proc/self/fd")?.entries()? {
        let number = entry.name.to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number > 2) else {
            continue;
        };
        // SAFETY: F_GETFD only looks a number up; it does nothing to memory.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: an owner in this process would have made it close-on-exec; it was inherited, and nobody in
            // this process knows of it.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Closes every descriptor but the standard streams and those of `kept`. For a process that has a copy of its maker's
/// descriptors, made by [`crate::process::fork`] to go among others who might look into it; whatever it goes on to use must
/// be in `kept`.
pub fn keep_only(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    close_all_but(&in_order(kept))
}

/// Their numbers, as [`close_all_but`] takes them.
pub(crate) fn in_order(kept: &[BorrowedFd<'_>]) -> Vec<RawFd> {
    let mut kept: Vec<RawFd> = kept.iter().map(AsRawFd::as_raw_fd).collect();
    kept.sort_unstable();
    kept
}

/// [`keep_only`] with the numbers to keep in their order. It takes no memory.
pub(crate) fn close_all_but(kept: &[RawFd]) -> io::Result<()> {
    let mut first = 3;
    for number in kept.iter().copied().filter(|number| *number > 2) {
        close_range(first, number - 1)?;
        first = number + 1;
    }
    close_range(first, RawFd::MAX)
}

fn close_range(first: RawFd, last: RawFd) -> io::Result<()> {
    // SAFETY: no memory is passed. The calling process was forked, or made by `within::fork`: either way its table of
    // descriptors is a copy. The owners of what is closed are its maker's; whether their memory was copied or is shared,
    // they stand for entries of the maker's table, which stay. The calling process never returns to their frames, and ends
    // with `_exit` or with another program, so that no owner ever closes or uses a number here.
    if first <= last && unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Takes a lock (`operation` is one that does not block) and waits at most `patience` for those who have it; `false` if
/// they still have it then.
pub fn lock_within(fd: impl AsFd, operation: FlockOperation, patience: Duration) -> io::Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        match flock(&fd, operation) {
            Err(Errno::WOULDBLOCK) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(Errno::WOULDBLOCK) => return Ok(false),
            other => return other.map(|()| true).map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::exit_now;

    #[test]
    fn a_child_keeps_what_it_asks_for() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let (other, _other) = rustix::pipe::pipe().unwrap();
        // The test harness has threads, and `fork` refuses those; what is checked here takes no lock.
        // SAFETY: the child makes system calls alone, and ends by `_exit`.
        match unsafe { libc::fork() } {
            0 => {
                let kept = keep_only(&[writer.as_fd()]).is_ok()
                    && rustix::io::fcntl_getfd(&writer).is_ok()
                    && rustix::io::fcntl_getfd(&reader) == Err(Errno::BADF)
                    && rustix::io::fcntl_getfd(&other) == Err(Errno::BADF);
                exit_now(if kept { 7 } else { 1 })
            }
            child => {
                let child = rustix::process::Pid::from_raw(child);
                let (_, status) = rustix::process::waitpid(child, rustix::process::WaitOptions::empty())
                    .unwrap()
                    .unwrap();
                assert_eq!(status.exit_status(), Some(7));
            }
        }
    }

    #[test]
    fn a_lock_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let open = || std::fs::File::open(dir.path()).unwrap();
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let (first, second) = (open(), open());
        assert!(lock_within(&first, exclusive, Duration::ZERO).unwrap());
        assert!(!lock_within(&second, exclusive, Duration::from_millis(20)).unwrap());
        std::thread::scope(|scope| {
            scope.spawn(move || {
                std::thread::sleep(Duration::from_millis(30));
                drop(first);
            });
            assert!(lock_within(&second, exclusive, Duration::from_secs(60)).unwrap());
        });
    }
}
