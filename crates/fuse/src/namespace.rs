//! Namespaces: not keeping a mount alive that nobody else sees, and what a user's own means for the format.
//!
//! A mount namespace ends with the last process in it, and takes its mounts along. A server that stayed in the namespace
//! where it mounted would be that last process, for ever. So every thread of the server moves to the namespace of the
//! first process, where it stands in nobody's way; the one that attaches the mount does so first.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// Whether this process is in the first user namespace, which maps all ids: in others there are no attributes of the kind
/// `trusted.`.
pub(crate) fn is_first_of_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Leaves for the first process's mount namespace; answers the name of the one that was left, as `/proc` has it. Where that
/// is the first process's too, or leaving is not permitted, nothing changes.
pub(crate) fn leave() -> Option<PathBuf> {
    let ours = std::fs::read_link("/proc/thread-self/ns/mnt").ok()?;
    let first = std::fs::read_link("/proc/1/ns/mnt").ok()?;
    (ours != first && join("/proc/1/ns/mnt")).then_some(ours)
}

/// Goes back to the mount namespace of that name, to unmount there. A descriptor of it would have kept it alive, so it is
/// asked of the processes that live in it; where there is none, it has ended and its mounts with it.
pub(crate) fn return_to(home: &Path) {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return;
    };
    for process in processes.flatten() {
        let namespace = process.path().join("ns/mnt");
        if std::fs::read_link(&namespace).is_ok_and(|name| name == home) && join(&namespace) {
            return;
        }
    }
}

/// Moves this thread into a mount namespace; whether it could.
fn join(namespace: impl AsRef<Path>) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::open(namespace.as_ref(), flags, Mode::empty()).is_ok_and(|namespace| {
        sys::process::unshare_directories().is_ok()
            && sys::process::setns(namespace.as_fd(), sys::process::namespaces::MOUNT).is_ok()
    })
}
