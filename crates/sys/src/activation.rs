//! Sockets that were open before this program began: systemd's socket activation (sd_listen_fds(3)).

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::FdFlags;

/// The first of them.
const FIRST: RawFd = 3;

/// Takes the `count` descriptors that the service manager passed, close-on-exec from now on.
///
/// # Errors
/// One of them is not open, or this was asked before.
pub fn take(count: u32) -> io::Result<Vec<OwnedFd>> {
    use std::sync::atomic::{AtomicBool, Ordering};
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let numbers = FIRST..FIRST.saturating_add_unsigned(count);
    // SAFETY: only looks whether the number is that of an open descriptor; nothing is owned by it.
    let is_open = |fd: RawFd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0;
    if !numbers.clone().all(is_open) {
        return Err(rustix::io::Errno::BADF.into());
    }
    numbers
        .map(|fd| {
            // SAFETY: it is open, and nobody else's: the manager opened it before this program began, the program opens
            // none by number, and the flag above lets this be done once.
            let fd = unsafe { OwnedFd::from_raw_fd(fd) };
            rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
            Ok(fd)
        })
        .collect()
}
