//! A process of a container that is made from inside namespaces which exist already: a user namespace that the spec
//! joins, or those of a running container.
//!
//! Whoever makes it must be there, for the rights over what is made anew, or for the process to be born in a pid
//! namespace; and the supervisor, once there, could not come back. So a helper goes there, makes the process, which is
//! born as its sibling and so as the supervisor's child, and ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use sys::process::{Child, Fork};

use super::fault::{During, Fault, Result};
use super::steps;

const MAX_WORD: usize = 4096;

/// As [`sys::process::fork`], from where `go` takes the calling process. With `kept`, helper and process have no other
/// descriptors from the start.
pub(super) fn fork(
    go: impl FnOnce() -> Result<()>,
    kept: Option<&[BorrowedFd<'_>]>,
    request: &Fork<'_>,
    run: impl FnOnce() -> u8,
) -> Result<Child> {
    let doing = || "a helper in the container's namespaces".to_owned();
    let (ours, theirs) = sys::socket::pair().during(doing)?;
    let helper = sys::process::fork(&Fork::default(), || {
        let sibling = Fork {
            sibling: true,
            ..*request
        };
        let leave_behind = || match kept {
            Some(kept) => {
                let kept: Vec<_> = kept.iter().copied().chain([theirs.as_fd()]).collect();
                sys::fd::keep_only(&kept).during(|| "closing descriptors".into())
            }
            None => Ok(()),
        };
        // From its birth on nobody who is there already may look into it.
        let made = leave_behind().and_then(|()| steps::hide()).and_then(|()| go());
        let made = made.and_then(|()| {
            sys::process::fork(&sibling, run)
                .during(|| "making the container's process and namespaces".into())
        });
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

/// As [`fork`], with a helper that has the calling process's memory: no more than half as dear. The helper is in the caller's
/// pid namespace, and goes into no time namespace, which is for those alone who share their memory with nobody.
pub(super) fn fork_lending(
    go: impl FnOnce() -> Result<()>,
    kept: &[BorrowedFd<'_>],
    request: &Fork<'_>,
    run: impl FnOnce() -> u8,
) -> Result<Child> {
    let doing = || "a helper in the container's namespaces".to_owned();
    // A matter of memory, and so of both; what is forked is hidden from its birth on.
    let hidden = steps::Hidden::new()?;
    let made = sys::process::lend(|| {
        sys::fd::keep_only(kept).during(|| "closing descriptors".into())?;
        go()?;
        let sibling = Fork {
            sibling: true,
            ..*request
        };
        let made = sys::process::fork(&sibling, run);
        let made = made.during(|| "making the container's process and namespaces".into())?;
        // Its descriptor is one of the helper's own.
        Ok(made.pid)
    });
    drop(hidden);
    let pid = made.during(doing)??;
    let process =
        rustix::process::Pid::from_raw(pid).ok_or_else(|| Fault::new("a process without a number"))?;
    // The caller's child: its number is nobody else's before it is reaped.
    let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty()).during(doing)?;
    Ok(Child { pid, pidfd })
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
