//! A process of a container that is made from inside namespaces which exist already: a user namespace that the spec
//! joins, or those of a running container.
//!
//! Whoever makes it must be there, for the rights over what is made anew, or for the process to be born in a pid
//! namespace; and the supervisor, once there, could not come back. So a helper goes there, makes the process, which is
//! born as its sibling and so as the supervisor's child, and ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use sys::process::{Child, Fork, namespaces as kind};
use sys::within::{Failed, Place, Step};

use super::fault::{During, Fault, Result};
use super::steps;

const MAX_WORD: usize = 4096;

const HELPER: &str = "a helper in the container's namespaces";
const CLOSING: &str = "closing descriptors";
pub(super) const JOINING: &str = "joining the container's namespaces";
const MAKING: &str = "making the container's process and namespaces";

/// As [`sys::process::fork`], from where `go` takes the calling process. With `kept`, helper and process have no other
/// descriptors from the start.
pub(super) fn fork(
    go: impl FnOnce() -> Result<()>,
    kept: Option<&[BorrowedFd<'_>]>,
    request: &Fork<'_>,
    run: impl FnOnce() -> u8,
) -> Result<Child> {
    let doing = || HELPER.to_owned();
    let (ours, theirs) = sys::socket::pair().during(doing)?;
    let helper = sys::process::fork(&Fork::default(), || {
        let sibling = Fork {
            sibling: true,
            ..*request
        };
        let leave_behind = || match kept {
            Some(kept) => {
                let kept: Vec<_> = kept.iter().copied().chain([theirs.as_fd()]).collect();
                sys::fd::keep_only(&kept).during(|| CLOSING.into())
            }
            None => Ok(()),
        };
        // From its birth on nobody who is there already may look into it.
        let made = leave_behind().and_then(|()| steps::hide()).and_then(|()| go());
        // Other rights may have shown it again.
        let made = made
            .and_then(|()| steps::hide())
            .and_then(|()| sys::process::fork(&sibling, run).during(|| MAKING.into()));
        let said = match &made {
            Ok(child) => sys::socket::send(theirs.as_fd(), b"made", &[child.pidfd.as_fd()]),
            Err(fault) => sys::socket::send(theirs.as_fd(), fault.text.as_bytes(), &[]),
        };
        u8::from(said.is_err())
    })
    .during(doing)?;
    drop(theirs);
    super::end(&helper);
    // It has said what it had to say. The process that it made holds the other end too, for as long as it likes.
    rustix::io::ioctl_fionbio(&ours, true).during(doing)?;
    let message = match sys::socket::receive(ours.as_fd(), MAX_WORD) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
        other => other.during(doing)?,
    };
    let mut message = message.ok_or_else(|| Fault::new(format!("{} ended without a word", doing())))?;
    match message.fds.pop() {
        Some(pidfd) => Ok(Child {
            pid: number(pidfd.as_fd())?,
            pidfd,
        }),
        None => Err(Fault::new(String::from_utf8_lossy(&message.bytes))),
    }
}

/// As [`fork`], with a helper that has the calling process's memory: no more than half as dear.
pub(super) fn fork_lending(
    place: &Place<'_>,
    request: &Fork<'_>,
    run: impl FnOnce() -> u8 + Copy,
) -> Result<Child> {
    // A matter of memory, and so of both; what is forked is hidden from its birth on.
    let hidden = steps::Hidden::new()?;
    let made = sys::within::fork(place, request, run);
    drop(hidden);
    made.or_else(|Failed { step, error }| {
        let doing = match step {
            Step::Helper => HELPER,
            Step::Closing => CLOSING,
            Step::Joining => JOINING,
            Step::Making => MAKING,
        };
        Err(error).during(|| doing.into())
    })
}

/// Whether a helper that has the calling process's memory, and goes where `kinds` are, keeps that out of the sight of who is
/// there. Who comes into a user namespace is given other rights, and the kernel hides the memory anew, as
/// `fs.suid_dumpable` says: where that is 1, not at all (`commit_creds`).
pub(super) fn can_lend(kinds: u64) -> bool {
    lends(kinds, || {
        std::fs::read_to_string("/proc/sys/fs/suid_dumpable").ok()
    })
}

fn lends(kinds: u64, suid_dumpable: impl FnOnce() -> Option<String>) -> bool {
    let hides = || suid_dumpable().is_some_and(|text| matches!(text.trim(), "0" | "2"));
    kinds & kind::TIME == 0 && (kinds & kind::USER == 0 || hides())
}

/// The process's number here: the helper may have been born into another pid namespace, and know another.
pub(super) fn number(pidfd: BorrowedFd<'_>) -> Result<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).during(|| path.clone())?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .ok_or_else(|| Fault::new("the container's process has ended already"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_lent_where_it_stays_hidden() {
        let with = |kinds, text: Option<&str>| lends(kinds, || text.map(str::to_owned));
        let others = kind::PID | kind::MOUNT;
        for hidden in ["0\n", "2\n"] {
            assert!(with(others | kind::USER, Some(hidden)));
        }
        for shown in [Some("1\n"), None] {
            assert!(!with(others | kind::USER, shown));
            assert!(with(others, shown));
        }
        assert!(!with(others | kind::TIME, Some("0\n")));
    }
}
