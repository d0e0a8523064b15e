//! Descriptors that come from outside: numbers this process was started with.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

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
