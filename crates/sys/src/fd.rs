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
