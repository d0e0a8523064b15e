//! A process that is born within namespaces which exist already, made by a helper that goes there and has the memory of the
//! calling process: it costs a fraction of a [`crate::process::fork`] of the helper, which has to copy how memory is laid
//! out.
//!
//! The helper may be killed at any moment, by whoever is in the namespaces that it has come into. So it changes nothing of
//! the memory that it shares but its own stack and where its answer goes, which is looked at only when it came to its end:
//! it takes and gives back no memory, holds no lock, and has no code to run but this file's (`tests/within.rs` counts). The
//! process that it makes has a copy of memory, and may do as it likes.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};

use rustix::process::{Pid, PidfdFlags, WaitOptions};

use crate::process::{Child, Fork, is_single_threaded};

/// What the helper was at when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It could not be made, or did not come to its end.
    Helper,
    /// Closing descriptors.
    Closing,
    /// Joining the namespaces.
    Joining,
    /// Making the process.
    Making,
}

/// No process was made.
#[derive(Debug)]
pub struct Failed {
    /// What was being done.
    pub step: Step,
    /// Why it was not.
    pub error: io::Error,
}

/// Where a process is to be born.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// A process whose namespaces are joined, those of these kinds ([`crate::process::namespaces`]). Not a time namespace:
    /// that is for those alone who share their memory with nobody.
    pub first: BorrowedFd<'a>,
    /// The kinds.
    pub kinds: u64,
    /// The only descriptors that the process has from its birth on, besides the standard streams.
    pub kept: &'a [BorrowedFd<'a>],
}

/// As much as the code below needs, many times over; what is not used is not taken.
const STACK: usize = 1 << 18;

/// What the helper does, and what it answers: nothing in it owns memory that the helper could change.
struct Errand<'a, F> {
    first: BorrowedFd<'a>,
    kinds: u64,
    kept: &'a [RawFd],
    request: Fork<'a>,
    run: F,
    /// The process's number, or what failed with which error number.
    answer: Result<i32, (Step, i32)>,
}

/// As [`crate::process::fork`], from within `place`; the process is the calling one's child. The caller's namespaces and
/// descriptors stay as they are. What `run` holds is copied and never dropped, since to drop may be to give back memory.
///
/// # Errors
/// [`Failed`], and of nothing that was made anything stays. `EBUSY` where the process has other threads.
pub fn fork<F: FnOnce() -> u8 + Copy>(
    place: &Place<'_>,
    request: &Fork<'_>,
    run: F,
) -> Result<Child, Failed> {
    let helper = |error: io::Error| Failed {
        step: Step::Helper,
        error,
    };
    if !is_single_threaded() {
        return Err(helper(io::Error::from_raw_os_error(libc::EBUSY)));
    }
    let kept = crate::fd::in_order(place.kept);
    let mut errand = Errand {
        first: place.first,
        kinds: place.kinds,
        kept: &kept,
        request: Fork {
            sibling: true,
            ..*request
        },
        run,
        answer: Err((Step::Helper, libc::ECHILD)),
    };
    let (read_write, anonymous) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK | libc::MAP_NORESERVE,
    );
    // SAFETY: the stack is new memory, used by nobody but the child, and taken away only when that is gone; its lowest page
    // ends whoever runs over it. With CLONE_VFORK this process, which has no other thread, does nothing until the child has
    // ended, so that only one of the two ever uses what both have; and whenever the child ends, also by a signal, it has
    // left everything whole but `errand` (see above), whose answer is not looked at then.
    let (pid, failed) = unsafe {
        let stack = libc::mmap(std::ptr::null_mut(), STACK, read_write, anonymous, -1, 0);
        if stack == libc::MAP_FAILED {
            return Err(helper(io::Error::last_os_error()));
        }
        libc::mprotect(stack, 4096, libc::PROT_NONE);
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let pid = libc::clone(go::<F>, stack.byte_add(STACK), flags, (&raw mut errand).cast());
        let failed = io::Error::last_os_error();
        libc::munmap(stack, STACK);
        (pid, failed)
    };
    let Some(pid) = Pid::from_raw(pid).filter(|_| pid > 0) else {
        return Err(helper(failed));
    };
    let ended = rustix::io::retry_on_intr(|| rustix::process::waitpid(Some(pid), WaitOptions::empty()));
    let ended = ended.map_err(|error| helper(error.into()))?;
    match ended.and_then(|(_, status)| status.exit_status()) {
        Some(0) => {}
        _ => return Err(helper(io::Error::other("it was killed"))),
    }
    let number = errand.answer.map_err(|(step, number)| Failed {
        step,
        error: io::Error::from_raw_os_error(number),
    })?;
    let process = Pid::from_raw(number).ok_or_else(|| helper(io::ErrorKind::InvalidData.into()))?;
    // The caller's child: its number is nobody else's before it is reaped. The descriptor that the helper had is gone with it.
    let pidfd = rustix::process::pidfd_open(process, PidfdFlags::empty());
    Ok(Child {
        pid: number,
        pidfd: pidfd.map_err(|error| helper(error.into()))?,
    })
}

extern "C" fn go<F: FnOnce() -> u8 + Copy>(errand: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `fork` above gives a pointer to an `Errand` of this type, and neither looks at it nor goes on until this process
    // is gone.
    let errand = unsafe { &mut *errand.cast::<Errand<'_, F>>() };
    errand.answer = errand.go();
    0
}

impl<F: FnOnce() -> u8 + Copy> Errand<'_, F> {
    fn go(&self) -> Result<i32, (Step, i32)> {
        let during = |step| move |error: io::Error| (step, error.raw_os_error().unwrap_or(libc::EINVAL));
        crate::fd::close_all_but(self.kept).map_err(during(Step::Closing))?;
        crate::process::join_namespaces(self.first, self.kinds).map_err(during(Step::Joining))?;
        let made = crate::process::fork(&self.request, self.run).map_err(during(Step::Making))?;
        Ok(made.pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn not_beside_threads() {
        let (_keep, wait) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || wait.recv());
        let null = std::fs::File::open("/dev/null").unwrap();
        let place = Place {
            first: null.as_fd(),
            kinds: 0,
            kept: &[],
        };
        let failed = fork(&place, &Fork::default(), || 0).unwrap_err();
        assert_eq!(failed.step, Step::Helper);
        assert_eq!(failed.error.raw_os_error(), Some(libc::EBUSY));
    }
}
