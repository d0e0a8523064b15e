//! `maskedPaths` and `readonlyPaths`: parts of /proc and /sys that a container may not see, or not change.
//!
//! What is masked is what was opened: a reference to the path is taken once, within the root, checked to be on the
//! file system it should be on, and mounted over. The cover of files is the host's /dev/null, verified by number
//! (CVE-2025-31133 was a /dev/null in the container that had been replaced by a link).

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::mount::{MountAttrFlags, MountPropagationFlags};
use sys::mount::{FsContext, SetAttr};

use super::fault::{During, Fault, Result};
use super::root::{self, Root};

/// Covers for what is masked, made when first needed. The first of each kind is used as it is and then cloned: it is
/// attached by then, as older kernels want it.
#[derive(Default)]
struct Covers {
    /// The null device, in a mount that hears nothing of the host's.
    null: Option<OwnedFd>,
    /// An empty read-only directory: one file system for all of them.
    empty: Option<OwnedFd>,
}

impl Covers {
    fn file(&mut self) -> Result<OwnedFd> {
        let doing = || "a cover for masked files".to_owned();
        if let Some(null) = &self.null {
            return sys::mount::clone_tree(null.as_fd(), "", false).during(doing);
        }
        let null = super::dev::null()?;
        let cover = sys::mount::clone_tree(null.as_fd(), "", false).during(doing)?;
        let change = SetAttr {
            set: (MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC)
                .bits()
                .into(),
            propagation: MountPropagationFlags::PRIVATE.bits().into(),
            ..SetAttr::default()
        };
        sys::mount::set_attr(cover.as_fd(), false, change).during(doing)?;
        Ok(cover)
    }

    fn directory(&mut self, label: Option<&str>) -> Result<OwnedFd> {
        let doing = || "a cover for masked directories".to_owned();
        if let Some(empty) = &self.empty {
            return sys::mount::clone_tree(empty.as_fd(), "", false).during(doing);
        }
        let context = FsContext::open("tmpfs").during(doing)?;
        context.set("source", "masked").during(doing)?;
        context.set("nr_inodes", "1").during(doing)?;
        context.set("mode", "0555").during(doing)?;
        if let Some(label) = label {
            context.set("context", label).during(doing)?;
        }
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        context.mount(attributes).during(doing)
    }
}

/// Covers every path of `masked` that exists; the covers of directories have the SELinux label `label`.
pub(super) fn mask(root: &Root, masked: &[String], mounted: &Mounted, label: Option<&str>) -> Result<()> {
    let mut covers = Covers::default();
    for path in masked {
        let doing = || format!("masking {path}");
        let Some(target) = root.find(Path::new(path)).during(doing)? else {
            continue;
        };
        mounted.check(path, &target)?;
        if root::is_directory(target.as_fd()).during(doing)? {
            let cover = covers.directory(label)?;
            sys::mount::attach(cover.as_fd(), target.as_fd()).during(doing)?;
            covers.empty.get_or_insert(cover);
        } else {
            let cover = covers.file()?;
            sys::mount::attach(cover.as_fd(), target.as_fd()).during(doing)?;
            covers.null.get_or_insert(cover);
        }
    }
    Ok(())
}

/// Makes every path of `paths` that exists read-only, with all that is mounted beneath it.
pub(super) fn make_read_only(root: &Root, paths: &[String], mounted: &Mounted) -> Result<()> {
    for path in paths {
        let doing = || format!("making {path} read-only");
        let Some(target) = root.find(Path::new(path)).during(doing)? else {
            continue;
        };
        mounted.check(path, &target)?;
        let copy = sys::mount::clone_tree(target.as_fd(), "", true).during(doing)?;
        let change = SetAttr {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
            ..SetAttr::default()
        };
        sys::mount::set_attr(copy.as_fd(), true, change).during(doing)?;
        sys::mount::attach(copy.as_fd(), target.as_fd()).during(doing)?;
    }
    Ok(())
}

/// Which of the kernel's file systems the spec mounts at /proc and /sys.
#[derive(Debug, Default)]
pub(super) struct Mounted {
    pub(super) proc: bool,
    pub(super) sys: bool,
}

impl Mounted {
    /// The file system that `path` must lie on, where that is known.
    fn under(&self, path: &str) -> Option<u64> {
        let path = Path::new(path);
        if self.proc && path.starts_with("/proc") {
            Some(root::PROC)
        } else if self.sys && path.starts_with("/sys") && !path.starts_with("/sys/fs") {
            Some(root::SYSFS)
        } else {
            None
        }
    }

    fn check(&self, path: &str, found: &OwnedFd) -> Result<()> {
        let Some(wanted) = self.under(path) else {
            return Ok(());
        };
        let found = root::file_system(found.as_fd()).during(|| format!("looking at {path}"))?;
        if found == wanted {
            return Ok(());
        }
        Err(Fault::new(format!(
            "{path} is not the kernel's (file system {found:#x}): something else was put in its place"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_must_be_the_kernels() {
        let both = Mounted {
            proc: true,
            sys: true,
        };
        assert_eq!(both.under("/proc/kcore"), Some(root::PROC));
        assert_eq!(both.under("/sys/firmware"), Some(root::SYSFS));
        assert_eq!(both.under("/sys/fs/cgroup"), None);
        assert_eq!(both.under("/procedure"), None);
        assert_eq!(Mounted::default().under("/proc/kcore"), None);
    }
}
