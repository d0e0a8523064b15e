//! Signals: sets, masks, and reading them from a descriptor, so that no handler is ever needed.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// The highest signal number of Linux (`SIGRTMAX`).
pub const MAX: i32 = 64;

/// A set of signals.
#[derive(Clone, Copy)]
pub struct Set(libc::sigset_t);

impl Set {
    /// No signal.
    pub fn empty() -> Set {
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initializes the whole set and cannot fail on a valid pointer.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            Set(set.assume_init())
        }
    }

    /// Every signal, but the two that the C library keeps for itself.
    pub fn full() -> Set {
        let mut set = Set::empty();
        // SAFETY: the set is initialized and ours.
        unsafe { libc::sigfillset(&mut set.0) };
        set
    }

    pub(crate) fn as_ptr(&self) -> *const libc::sigset_t {
        &self.0
    }

    /// The set with `signal`; a number that is no signal changes nothing.
    #[must_use]
    pub fn with(mut self, signal: i32) -> Set {
        // SAFETY: the set is initialized and ours; a bad number only makes the call fail.
        unsafe { libc::sigaddset(&mut self.0, signal) };
        self
    }

    /// The set without `signal`.
    #[must_use]
    pub fn without(mut self, signal: i32) -> Set {
        // SAFETY: as in `with`.
        unsafe { libc::sigdelset(&mut self.0, signal) };
        self
    }
}

/// Makes `set` the signals that the calling thread holds back, and returns those it held back before.
pub fn set_mask(set: Set) -> io::Result<Set> {
    let mut old = Set::empty();
    // SAFETY: both sets are initialized and live across the call.
    match unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &set.0, &mut old.0) } {
        0 => Ok(old),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Gives every signal its default effect again, those too that this process or the one that started it ignored:
/// what is ignored stays so across exec. The two that the C library keeps for itself are among them: its own
/// `posix_spawn` leaves them ignored.
pub fn reset_all() {
    for signal in 1..=MAX {
        // The two that cannot be handled are refused.
        reset(signal);
    }
}

/// Lets this process hear of its children's ends, whoever started it: with SIGCHLD ignored, which stays so across
/// exec, they end without a word and cannot be waited for.
pub fn hear_of_children() {
    reset(libc::SIGCHLD);
}

fn reset(signal: i32) {
    /// As the kernel takes it, of no handler and no flags; longer than on any machine.
    const DEFAULT: [u64; 4] = [0; 4];
    // SAFETY: the kernel reads a `struct kernel_sigaction`, all zero: SIG_DFL, which runs none of our code.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            signal,
            DEFAULT.as_ptr(),
            std::ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// A signal that was taken from a [`SignalFd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Who sent it; 0 for the kernel and for senders outside the pid namespace.
    pub pid: i32,
}

/// Signals as a readable descriptor. They must be held back ([`set_mask`]) to arrive here.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

impl SignalFd {
    /// A non-blocking descriptor for the signals of `set`.
    pub fn new(set: Set) -> io::Result<SignalFd> {
        let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
        // SAFETY: the set lives across the call, and -1 asks for a new descriptor.
        let fd = unsafe { libc::signalfd(-1, &set.0, flags) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for us.
        Ok(SignalFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The next signal that waits, if any.
    pub fn read(&self) -> io::Result<Option<Received>> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        // SAFETY: the buffer is of the size given; signalfd only ever writes whole records.
        let read = unsafe { libc::read(self.0.as_raw_fd(), info.as_mut_ptr().cast(), size) };
        if read == size as isize {
            // SAFETY: the whole record was written.
            let info = unsafe { info.assume_init() };
            return Ok(Some(Received {
                signal: info.ssi_signo as i32,
                pid: info.ssi_pid as i32,
            }));
        }
        match io::Error::last_os_error() {
            error if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            error => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_held_back_is_read() {
        let set = Set::empty().with(libc::SIGUSR2);
        let old = set_mask(set).unwrap();
        let fd = SignalFd::new(set).unwrap();
        assert_eq!(fd.read().unwrap(), None);
        let me = rustix::thread::gettid();
        // SAFETY: the signal goes to this very thread, which holds it back.
        unsafe {
            libc::syscall(
                libc::SYS_tgkill,
                std::process::id(),
                me.as_raw_nonzero().get(),
                libc::SIGUSR2,
            )
        };
        assert_eq!(fd.read().unwrap().unwrap().signal, libc::SIGUSR2);
        set_mask(old).unwrap();
    }
}
