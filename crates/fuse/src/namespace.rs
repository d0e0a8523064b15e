//! Namespaces: not keeping a mount alive that nobody else sees, and what a user's own means for the format.
//!
//! A mount namespace ends with the last process in it, and takes its mounts along. A server that stayed in the namespace
//! where it mounted would be that last process, for ever. So once the mount is attached, every thread of the server
//! moves to the namespace of the first process, where it stands in nobody's way.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};

/// Whether this process is in the first user namespace, which maps all ids: in others there are no attributes of the kind
/// `trusted.`.
pub(crate) fn is_first_of_users() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

/// Leaves for the first process's mount namespace. Where that is this thread's own, or is not permitted, nothing changes.
pub(crate) fn leave() {
    let ours = std::fs::read_link("/proc/thread-self/ns/mnt");
    let first = std::fs::read_link("/proc/1/ns/mnt");
    match (ours, first) {
        (Ok(ours), Ok(first)) if ours != first => {}
        _ => return,
    }
    let Ok(namespace) = rustix::fs::open("/proc/1/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    else {
        return;
    };
    if sys::process::unshare_directories().is_ok() {
        let _ = sys::process::setns(namespace.as_fd(), sys::process::namespaces::MOUNT);
    }
}
