//! `process.selinuxLabel` and `linux.mountLabel` (OCI runtime spec, "Linux Process" and "Mount Label"): where the kernel has
//! SELinux, what a program is confined to and what the files of new file systems are; refused where it has not.

use std::os::fd::{AsFd, BorrowedFd};

use oci_spec::runtime::{Linux, Process};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::fault::{During, Fault, Result};
use super::sysctl::Proc;

/// Where selinuxfs is mounted, if anywhere, and what it is known by (`SELINUX_MAGIC` of linux/magic.h).
const PLACE: &str = "/sys/fs/selinux";
const MAGIC: u32 = 0xf97c_ff8c;

/// File systems of the kernel's own that are one for all who mount them, or have labels by their kinds of file.
const NOT_LABELLED: [&str; 4] = ["proc", "sysfs", "cgroup", "cgroup2"];

/// The options of a file system that say a label.
const OPTIONS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

/// The label that the process is to have; none where the spec has none.
pub(super) fn wanted(process: &Process) -> Option<&str> {
    let label = process.selinux_label().as_deref();
    label.filter(|label| !label.is_empty())
}

/// The label that what is mounted is to have.
pub(super) fn of_mounts(linux: Option<&Linux>) -> Option<&str> {
    let label = linux.and_then(|linux| linux.mount_label().as_deref());
    label.filter(|label| !label.is_empty())
}

/// Whether the kernel has SELinux, and shows it.
pub fn is_enabled() -> bool {
    rustix::fs::statfs(PLACE).is_ok_and(|stat| stat.f_type as u32 == MAGIC)
}

/// Refuses a label on a machine that knows none.
pub(super) fn check(what: &str, label: &str) -> Result<()> {
    if is_enabled() {
        return Ok(());
    }
    Err(Fault::new(format!(
        "{what} {label:?}: SELinux is not enabled on this machine"
    )))
}

/// Sets the label that the next exec changes to.
pub(super) fn at_exec(proc: &Proc, label: &str) -> Result<()> {
    write(proc, "exec", label)
}

/// Changes the calling process to the label, without an exec.
pub(super) fn now(proc: &Proc, label: &str) -> Result<()> {
    write(proc, "current", label)
}

/// Sets the label of keyrings that the calling thread makes; nothing for that of its own.
pub(super) fn of_keys(proc: &Proc, label: &str) -> Result<()> {
    write(proc, "keycreate", label)
}

/// Through the host's procfs, as it is with AppArmor (CVE-2025-52881).
fn write(proc: &Proc, file: &str, label: &str) -> Result<()> {
    proc.write(&format!("thread-self/attr/{file}"), label)
        .during(|| format!("process.selinuxLabel {label:?}"))
}

/// The options of a new file system of this kind, with the label of the container's mounts where it has none of its own. No
/// shell has taken the marks off that keep a label's commas together.
pub(super) fn options<'a>(
    kind: &str,
    data: &[&'a str],
    label: Option<&'a str>,
) -> Vec<(&'a str, Option<&'a str>)> {
    let named = |key: &str| OPTIONS.contains(&key);
    let mut options: Vec<_> = data
        .iter()
        .map(|option| match option.split_once('=') {
            Some((key, value)) if named(key) => (key, Some(value.trim_matches('"'))),
            Some((key, value)) => (key, Some(value)),
            None => (*option, None),
        })
        .collect();
    let has = options.iter().any(|(key, _)| named(key));
    if let Some(label) = label
        && !has
        && kind != "mqueue"
        && !NOT_LABELLED.contains(&kind)
    {
        options.push(("context", Some(label)));
    }
    options
}

/// Labels the root of a file system that takes no option for it.
pub(super) fn label_root(kind: &str, tree: BorrowedFd<'_>, label: Option<&str>) -> Result<()> {
    let (Some(label), "mqueue") = (label, kind) else {
        return Ok(());
    };
    let doing = || format!("linux.mountLabel {label:?}");
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(tree, ".", flags, Mode::empty()).during(doing)?;
    match sys::xattr::set(root.as_fd(), "security.selinux", label.as_bytes()) {
        // A policy that gives queues no labels.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(()),
        other => other.during(doing),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_has_the_label() {
        let label = Some("system_u:object_r:container_file_t:s0:c1,c2");
        assert_eq!(
            options("tmpfs", &["size=1m", "noswap"], label),
            [("size", Some("1m")), ("noswap", None), ("context", label)]
        );
        for kind in ["proc", "sysfs", "cgroup2", "mqueue"] {
            assert_eq!(options(kind, &[], label), [], "{kind}");
        }
        // What a mount says itself stands, without the marks that a shell or a table would need.
        for own in ["context=a:b:c:s0:c3,c4", "context=\"a:b:c:s0:c3,c4\""] {
            assert_eq!(
                options("tmpfs", &[own], label),
                [("context", Some("a:b:c:s0:c3,c4"))]
            );
        }
        assert_eq!(options("tmpfs", &["mode=0755"], None), [("mode", Some("0755"))]);
    }
}
