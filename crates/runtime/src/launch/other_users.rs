//! A container in a user namespace that exists already (`namespaces`: `user` with a path).
//!
//! The namespaces that it gets anew must be made by a process that is in that one, or it would have no rights in them;
//! and the supervisor, once there, could not come back. So a helper goes there, makes the container's process, which
//! is born as its sibling and so as the supervisor's child, and ends.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use sys::process::{Child, Fork};

use super::fault::{During, Fault, Result};
use super::namespaces::Joined;

const MAX_WORD: usize = 4096;

/// As [`sys::process::fork`], from inside the user namespace `joined`.
pub(super) fn fork(joined: &Joined, request: &Fork<'_>, run: impl FnOnce() -> u8) -> Result<Child> {
    let doing = || "a helper in the user namespace".to_owned();
    let (ours, theirs) = sys::socket::pair().during(doing)?;
    let helper = sys::process::fork(&Fork::default(), || {
        let sibling = Fork {
            sibling: true,
            ..*request
        };
        let made = joined.enter().and_then(|()| {
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
    let message = sys::socket::receive(ours.as_fd(), MAX_WORD).during(doing)?;
    let mut message = message.ok_or_else(|| Fault::new(format!("{} ended without a word", doing())))?;
    match message.fds.pop() {
        Some(pidfd) => Ok(Child {
            pid: number(&pidfd)?,
            pidfd,
        }),
        None => Err(Fault::new(String::from_utf8_lossy(&message.bytes))),
    }
}

/// The process's number here: the helper may have been born into another pid namespace, and know another.
fn number(pidfd: &OwnedFd) -> Result<i32> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).during(|| path.clone())?;
    text.lines()
        .find_map(|line| line.strip_prefix("Pid:")?.trim().parse().ok())
        .filter(|pid| *pid > 0)
        .ok_or_else(|| Fault::new("the container's process has ended already"))
}
