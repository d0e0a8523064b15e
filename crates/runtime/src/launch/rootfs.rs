//! The container's tree: its root, what the spec mounts in it, its devices, what is hidden; and the change of root.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MountPropagationFlags, UnmountFlags};
use sys::mount::{FsContext, SetAttr};
use sys::pty::Pty;

use super::fault::{About, During, Fault, Result};
use super::mounts::{self, Planned};
use super::paths::{self, Mounted};
use super::root::{self, Kind, Root};
use super::{Order, console, dev, options, selinux};
use crate::control::Concern;

/// A container's tree before anything is mounted in it: the root attached in a mount namespace that tells the host
/// nothing, and the sources of bind mounts open.
pub(super) struct Tree<'s> {
    spec: &'s Spec,
    root: Root,
    mounts: Vec<Planned<'s>>,
    nodev: bool,
}

impl<'s> Tree<'s> {
    /// Cuts the mount namespace off from the host's, opens everything that is named by a path of the host, and
    /// attaches the root. Needs the rights of the host's user.
    pub(super) fn open(spec: &'s Spec, order: &Order<'_>, ready: &[Option<OwnedFd>]) -> Result<Tree<'s>> {
        let Some(root) = spec.root() else {
            return Err(Fault::new("the configuration has no root"));
        };
        let path = order.bundle.join(root.path());
        let doing = || format!("root file system {}", path.display());
        let wanted = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.rootfs_propagation().as_deref());
        let (host, own) = match wanted.and_then(options::propagation) {
            Some((bit, recursive)) => (propagation(bit, recursive), None),
            None => (
                propagation(slave(), true),
                Some(MountPropagationFlags::PRIVATE.bits().into()),
            ),
        };
        rustix::mount::mount_change("/", host).during(|| "cutting off the host's mounts".into())?;
        if wanted.is_some() {
            // The root may be changed only where what it lies on is shared with nobody.
            make_carrier_private(&path).during(doing)?;
        }
        let mounts = mounts::plan(
            spec.mounts().as_deref().unwrap_or_default(),
            order.bundle,
            &order.cgroup_view,
            ready,
            order.nodev,
            selinux::of_mounts(spec.linux().as_ref()),
        )?;
        let tree = sys::mount::clone_tree_at(&path, true).during(doing)?;
        if let Some(propagation) = own {
            let change = SetAttr {
                propagation,
                ..SetAttr::default()
            };
            sys::mount::set_attr(tree.as_fd(), true, change).during(doing)?;
        }
        if order.nodev {
            let change = SetAttr {
                set: options::NODEV,
                ..SetAttr::default()
            };
            sys::mount::set_attr(tree.as_fd(), true, change).during(doing)?;
        }
        sys::mount::attach_at(tree.as_fd(), &path).during(doing)?;
        Ok(Tree {
            spec,
            root: Root::new(tree),
            mounts,
            nodev: order.nodev,
        })
    }

    /// Makes everything in it. `bind_devices` where it is known that device nodes cannot be made. Returns the terminal, where the spec
    /// asks for one; `size` is its window's in rows and columns.
    pub(super) fn build(self, bind_devices: bool, size: Option<(u16, u16)>) -> Result<(Root, Option<Pty>)> {
        let Tree {
            spec,
            root,
            mounts,
            nodev,
        } = self;
        let fill_dev = dev::is_ours(&mounts);
        let mounted_at = |path: &str, kind: &str| {
            mounts.iter().any(|mount| {
                mount.destination() == Path::new(path) && mount.kind() == kind && !mount.is_bind()
            })
        };
        let devpts = mounted_at("/dev/pts", "devpts");
        // Where the host's own are bound, the host may have covered parts of them itself.
        let mounted = Mounted {
            proc: mounted_at("/proc", "proc"),
            sys: mounted_at("/sys", "sysfs"),
        };
        for mount in mounts {
            mount.attach(&root)?;
        }
        if fill_dev {
            let bound = dev::populate(&root, spec, devpts, bind_devices).about(Concern::Device)?;
            // Those of the host are mounts of their own already.
            if nodev && !bound {
                dev::set_apart(&root, spec).about(Concern::Device)?;
            }
        }
        let process = spec.process().as_ref();
        let terminal = process.and_then(|process| process.terminal()).unwrap_or(false);
        let pty = terminal.then(|| console::make(&root, size)).transpose()?;
        if let Some(pty) = &pty {
            console::show(&root, pty)?;
        }
        if let Some(process) = process {
            root.find_or_make(process.cwd(), Kind::Directory)
                .during(|| format!("working directory {}", process.cwd().display()))
                .about(Concern::Directory)?;
        }
        if let Some(linux) = spec.linux() {
            // Read-only first: a path that is to be hidden stays hidden whatever else is said of it.
            paths::make_read_only(
                &root,
                linux.readonly_paths().as_deref().unwrap_or_default(),
                &mounted,
            )?;
            paths::mask(
                &root,
                linux.masked_paths().as_deref().unwrap_or_default(),
                &mounted,
                selinux::of_mounts(Some(linux)),
            )?;
        }
        if spec
            .root()
            .as_ref()
            .and_then(|root| root.readonly())
            .unwrap_or(false)
        {
            let change = SetAttr {
                set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
                ..SetAttr::default()
            };
            sys::mount::set_attr(root.as_fd(), false, change)
                .during(|| "making the root read-only".into())?;
        }
        Ok((root, pty))
    }
}

/// Makes `root` the root of the calling process and lets go of the host's tree; with `no_pivot`, what of it could do harm
/// where it is not exchanged.
pub(super) fn change_root(spec: &Spec, root: &Root, no_pivot: bool) -> Result<()> {
    let doing = || "changing the root".to_owned();
    let wanted = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.rootfs_propagation().as_deref());
    rustix::process::fchdir(root).during(doing)?;
    if no_pivot {
        return move_root(root, wanted);
    }
    // The old root comes to lie on the new one, at the same place, and is taken off it there: no directory in the
    // container is needed for it (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".").during(doing)?;
    let wanted = wanted.and_then(options::propagation);
    if wanted.is_some() {
        // Else the host would lose what is let go of here.
        rustix::mount::mount_change(".", propagation(slave(), true)).during(doing)?;
    }
    rustix::mount::unmount(".", UnmountFlags::DETACH).during(|| "letting go of the host's tree".into())?;
    rustix::process::chdir("/").during(doing)?;
    if let Some((bit, recursive)) = wanted {
        rustix::mount::mount_change("/", propagation(bit, recursive))
            .during(|| "rootfsPropagation".into())?;
    }
    Ok(())
}

/// Moves `root`, the working directory, over the host's root and goes in. That one stays beneath, where nobody comes who
/// cannot mount; what is mounted of its procfs and sysfs goes before, since a user namespace may mount new ones where it sees
/// whole ones.
fn move_root(root: &Root, propagation_wanted: Option<&str>) -> Result<()> {
    let doing = || "moving the root".to_owned();
    let own = sys::mount::mount_id(root.as_fd()).during(doing)?;
    let table = mount::table::read().during(doing)?;
    let place = table.iter().find(|entry| entry.id == own);
    let place = place.ok_or_else(|| Fault::new("moving the root: it is not in the table of mounts"))?;
    let place = place.target.as_path();
    let of_kernel = |entry: &&mount::table::Entry| matches!(entry.kind.as_str(), "proc" | "sysfs");
    // The last that was mounted goes first.
    for entry in table.iter().rev().filter(of_kernel) {
        if entry.target.starts_with(place) {
            continue;
        }
        let doing = || format!("letting go of the host's {}", entry.target.display());
        rustix::mount::mount_change(&entry.target, propagation(slave(), true)).during(doing)?;
        match rustix::mount::unmount(&entry.target, UnmountFlags::DETACH) {
            // One that is locked in this user namespace is covered.
            Err(Errno::INVAL | Errno::PERM) => {
                let context = FsContext::open("tmpfs").during(doing)?;
                let cover = context.mount(MountAttrFlags::empty()).during(doing)?;
                sys::mount::attach_at(cover.as_fd(), &entry.target).during(doing)?;
            }
            other => other.during(doing)?,
        }
    }
    sys::mount::attach_at(root.as_fd(), "/").during(doing)?;
    rustix::process::chroot(".").during(doing)?;
    rustix::process::chdir("/").during(doing)?;
    match propagation_wanted.and_then(options::propagation) {
        Some((bit, recursive)) => rustix::mount::mount_change("/", propagation(bit, recursive))
            .during(|| "rootfsPropagation".into()),
        None => Ok(()),
    }
}

fn slave() -> u64 {
    MountPropagationFlags::DOWNSTREAM.bits().into()
}

fn propagation(bit: u64, recursive: bool) -> MountPropagationFlags {
    let bits = u32::try_from(bit).unwrap_or_default();
    let flags = MountPropagationFlags::from_bits_retain(bits);
    if recursive {
        flags | MountPropagationFlags::REC
    } else {
        flags
    }
}

/// Makes the mount that `path` lies on private, in this mount namespace.
fn make_carrier_private(path: &Path) -> std::io::Result<()> {
    let mut dir = open_directory(CWD.as_fd(), path)?;
    loop {
        if root::is_mount(dir.as_fd())? {
            let change = SetAttr {
                propagation: MountPropagationFlags::PRIVATE.bits().into(),
                ..SetAttr::default()
            };
            return sys::mount::set_attr(dir.as_fd(), false, change);
        }
        dir = open_directory(dir.as_fd(), Path::new(".."))?;
    }
}

fn open_directory(at: std::os::fd::BorrowedFd<'_>, path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(at, path, flags, Mode::empty())?)
}
