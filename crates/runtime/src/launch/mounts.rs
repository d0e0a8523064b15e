//! The spec's `mounts`, made in their order: each is built detached, given its attributes while nobody sees it, and
//! attached to the descriptor of its target.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rustix::io::Errno;
use rustix::mount::MountAttrFlags;
use sys::mount::FsContext;

use super::fault::{About, During, Fault, Result};
use super::options::{self, NODEV, Options};
use super::root::{self, Kind, Root};
use super::{dev, selinux};
use crate::control::Concern;

/// File systems whose superblock others share: `ro` is an attribute of our mount and never the superblock's.
const SHARED_SUPERBLOCK: [&str; 5] = ["proc", "sysfs", "mqueue", "cgroup2", "tmpfs"];

/// Names beneath /proc that may be mounted over: values that tools such as lxcfs put in the place of the kernel's.
/// Anything else there could make a process that reads or writes /proc (a runtime's exec, setting its label) do so on
/// a file of the container's choosing.
const PROC_TARGETS: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/uptime",
];

/// In the place of a file system's type: nothing is mounted, but what is there is changed.
const REMOUNT: &str = "remount";

/// One mount of the spec, with the source of a bind mount already open.
pub(super) struct Planned<'s> {
    destination: PathBuf,
    kind: &'s str,
    source: &'s str,
    options: Options<'s>,
    /// A detached copy of what is bound.
    bound: Option<OwnedFd>,
    /// SELinux's, of what is made.
    label: Option<&'s str>,
}

/// How the cgroup file system is shown in the container.
#[derive(Debug, Clone)]
pub(crate) enum CgroupView {
    /// A cgroup namespace is the container's own: a mount of the hierarchy shows its part alone.
    Namespaced,
    /// The host's namespace: its mount of the cgroup2 hierarchy, since a new one would reset its options.
    Host(PathBuf),
    /// The kernel has no cgroup2 hierarchy mounted: an empty directory.
    None,
}

/// Reads the mounts of a spec and opens the sources of bind mounts. This is done while the process still has its
/// rights on the host; a relative source lies in the bundle.
/// `ready` is what the launcher made of them before the fork. With `nodev`, device nodes in them open nothing. What is made
/// here has the `label`.
pub(super) fn plan<'s>(
    mounts: &'s [Mount],
    bundle: &Path,
    cgroup: &CgroupView,
    ready: &[Option<OwnedFd>],
    nodev: bool,
    label: Option<&'s str>,
) -> Result<Vec<Planned<'s>>> {
    let one = |(mount, ready): (&'s Mount, &Option<OwnedFd>)| {
        let mut planned = plan_one(mount, bundle, cgroup, ready.as_ref())?;
        planned.label = label.filter(|_| planned.kind != REMOUNT);
        if nodev {
            planned.withhold_devices()?;
        }
        Ok(planned)
    };
    mounts.iter().zip(ready).map(one).collect()
}

fn plan_one<'s>(
    mount: &'s Mount,
    bundle: &Path,
    cgroup: &CgroupView,
    ready: Option<&OwnedFd>,
) -> Result<Planned<'s>> {
    let destination = Path::new("/").join(mount.destination());
    let shown = destination.display().to_string();
    let options = options::of(mount);
    let source = mount.source().as_deref().and_then(Path::to_str);
    let mut planned = Planned {
        destination,
        kind: mount.typ().as_deref().unwrap_or("none"),
        source: source.unwrap_or(mount.typ().as_deref().unwrap_or("none")),
        options,
        bound: None,
        label: None,
    };
    if planned.destination == Path::new("/") {
        return Err(Fault::new("a mount at / would hide the root file system"));
    }
    if planned.options.remount {
        planned.kind = REMOUNT;
        return Ok(planned);
    }
    if planned.kind == "bind" && planned.options.bind.is_none() {
        planned.options.bind = Some(false);
    }
    if matches!(planned.kind, "cgroup" | "cgroup2") && planned.options.bind.is_none() {
        match cgroup {
            CgroupView::Namespaced => planned.kind = "cgroup2",
            CgroupView::Host(path) => planned.bound = Some(copy_tree(path, true)?),
            CgroupView::None => planned.kind = "tmpfs",
        }
        // Options of the cgroup hierarchy belong to the host.
        planned.options.data.clear();
    }
    if let Some(recursive) = planned.options.bind {
        let Some(source) = mount.source() else {
            return Err(Fault::new(format!(
                "mount {shown}: a bind mount without a source"
            )));
        };
        if let Some(option) = planned.options.data.first() {
            return Err(Fault::new(format!(
                "mount {shown}: unknown option {option:?} of a bind mount"
            )));
        }
        planned.bound = Some(match ready {
            Some(tree) => tree.try_clone().during(|| format!("mount {shown}"))?,
            None => copy_tree(&bundle.join(source), recursive)?,
        });
    }
    if let (None, "sysfs", Some(tree)) = (planned.options.bind, planned.kind, ready) {
        planned.bound = Some(tree.try_clone().during(|| format!("mount {shown}"))?);
    }
    if planned.options.copy_up && planned.kind != "tmpfs" {
        return Err(Fault::new(format!("mount {shown}: tmpcopyup is for tmpfs alone")));
    }
    Ok(planned)
}

/// Makes the spec's sysfs, which shows the network that the calling process is in, where the container's users may not.
pub(super) fn make_sysfs(spec: &Spec, ready: &mut [Option<OwnedFd>]) -> Result<()> {
    let mounts = spec.mounts().iter().flatten().zip(ready);
    for (_, ready) in mounts.filter(|(mount, _)| mount.typ().as_deref() == Some("sysfs")) {
        let doing = || "mounting sysfs".to_owned();
        let context = FsContext::open("sysfs").during(doing)?;
        context.set("source", "sysfs").during(doing)?;
        *ready = Some(context.mount(MountAttrFlags::empty()).during(doing)?);
    }
    Ok(())
}

fn copy_tree(source: &Path, recursive: bool) -> Result<OwnedFd> {
    sys::mount::clone_tree_at(source, recursive).during(|| format!("mount source {}", source.display()))
}

impl Planned<'_> {
    /// Where it goes, as the spec has it.
    pub(super) fn destination(&self) -> &Path {
        &self.destination
    }

    /// Whether something of the host is bound here.
    pub(super) fn is_bind(&self) -> bool {
        self.bound.is_some()
    }

    /// Type of the file system.
    pub(super) fn kind(&self) -> &str {
        self.kind
    }

    /// Device nodes in it open nothing, whatever the spec says: but terminals, and a device that every container has,
    /// bound by itself (as /dev/null is over a file that is not wanted).
    fn withhold_devices(&mut self) -> Result<()> {
        match &self.bound {
            Some(tree) => {
                let doing = || format!("mount source {}", self.source);
                if !dev::is_default(tree.as_fd()).during(doing)? {
                    self.options.recursive.turn(NODEV, true);
                }
            }
            None if self.kind == REMOUNT => self.options.own.clear &= !NODEV,
            None if self.kind == "devpts" => {}
            None => self.options.own.turn(NODEV, true),
        }
        Ok(())
    }

    /// Builds the mount and attaches it in `root`.
    pub(super) fn attach(mut self, root: &Root) -> Result<()> {
        if self.kind == REMOUNT {
            return self.remount(root);
        }
        let doing = format!("mount {}", self.destination.display());
        let kind = match &self.bound {
            Some(tree) if !root::is_directory(tree.as_fd()).during(|| doing.clone())? => Kind::File,
            _ => Kind::Directory,
        };
        let target = self.target(root, kind)?;
        let tree = match self.bound.take() {
            Some(tree) => tree,
            None => self.make(target.as_fd())?,
        };
        self.set_attributes(tree.as_fd())?;
        match sys::mount::attach(tree.as_fd(), target.as_fd()) {
            // The kernel says only EINVAL.
            Err(_) if root::is_directory(target.as_fd()).is_ok_and(|is| is != (kind == Kind::Directory)) => {
                Err(Fault::new(self.of_two_kinds(kind)))
            }
            other => other.during(|| doing),
        }
    }

    /// Why what is mounted, of this kind, does not go over what is there, which is of the other.
    fn of_two_kinds(&self, kind: Kind) -> String {
        let (is, there) = match kind {
            Kind::Directory => ("a directory", "is a file"),
            Kind::File => ("a file", "is a directory"),
        };
        let at = self.destination.display();
        let what = match self.options.bind {
            Some(_) => format!("{} is {is}", self.source),
            None => format!("a {} is {is}", self.kind),
        };
        format!(
            "mount {at}: {what}, but {at} {there} in the container; neither can be mounted over the other"
        )
    }

    fn set_attributes(&self, mount: BorrowedFd<'_>) -> Result<()> {
        let changes = [
            (false, self.options.own.change(self.options.propagation)),
            (
                true,
                self.options.recursive.change(self.options.recursive_propagation),
            ),
        ];
        for (recursive, change) in changes {
            if let Some(change) = change {
                sys::mount::set_attr(mount, recursive, change)
                    .during(|| format!("mount {}: setting its attributes", self.destination.display()))?;
            }
        }
        Ok(())
    }

    /// Changes what is mounted at the destination: the attributes that are named, of the mount alone, as mount(8) has
    /// it; and the file system's own options, of which a bind mount has none.
    fn remount(&self, root: &Root) -> Result<()> {
        let doing = || format!("remount {}", self.destination.display());
        let nothing = || Fault::new(format!("{}: nothing is mounted there", doing()));
        let target = root.find(&self.destination).during(doing)?.ok_or_else(nothing)?;
        if !root::is_mount(target.as_fd()).during(doing)? {
            return Err(nothing());
        }
        match self.options.data.first() {
            Some(option) if self.options.bind.is_some() => {
                return Err(Fault::new(format!(
                    "{}: unknown option {option:?} of a bind mount",
                    doing()
                )));
            }
            Some(_) => {
                let context = FsContext::of(target.as_fd()).during(doing)?;
                self.configure(&context, doing)?;
                context.reconfigure().during(doing)?;
            }
            None => {}
        }
        self.set_attributes(target.as_fd())
    }

    /// Gives a file system its own options.
    fn configure(&self, context: &FsContext, doing: impl Fn() -> String) -> Result<()> {
        for (key, value) in selinux::options(self.kind, &self.options.data, self.label) {
            match value {
                Some(value) => context.set(key, value),
                None => context.flag(key),
            }
            .during(&doing)?;
        }
        Ok(())
    }

    fn target(&self, root: &Root, kind: Kind) -> Result<OwnedFd> {
        let doing = || format!("mount target {}", self.destination.display());
        if matches!(self.kind, "proc" | "sysfs") {
            if self.kind == "sysfs"
                && let Some(found) = root.find(&self.destination).during(doing)?
            {
                self.check_proc(root, found.as_fd())?;
            }
            // Everything that follows about /proc and /sys (masks, read-only paths) relies on their being where
            // they are named: a link could be turned elsewhere by whoever shares the directory it is in.
            return match root.find_plain(&self.destination) {
                Ok(Some(found)) => Ok(found),
                Ok(None) => root.find_or_make(&self.destination, kind).during(doing),
                // `openat2` says so of a link on the way.
                Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                    let text = format!("{} is no plain directory but a symbolic link", doing());
                    Err(Fault::new(text)).about(Concern::Root)
                }
                Err(error) => Err(error).during(doing),
            };
        }
        let target = root.find_or_make(&self.destination, kind).during(doing)?;
        self.check_proc(root, target.as_fd())?;
        if root::file_system(target.as_fd()).during(doing)? == root::PROC {
            let allowed = PROC_TARGETS
                .iter()
                .any(|allowed| self.destination == Path::new(allowed));
            if !allowed {
                return Err(Fault::new(format!(
                    "{}: nothing may be mounted beneath /proc here",
                    doing()
                )));
            }
        }
        Ok(target)
    }

    /// Nothing takes the place of the container's /proc but what the kernel shows there (CVE-2019-16884,
    /// CVE-2019-19921): what others look at there, and what lies over parts of it, relies on that.
    fn check_proc(&self, root: &Root, target: BorrowedFd<'_>) -> Result<()> {
        let doing = || format!("mount target {}", self.destination.display());
        let proc = root.find(Path::new("/proc")).during(doing)?;
        let is_proc = match &proc {
            Some(proc) => root::is_same(proc.as_fd(), target).during(doing)?,
            None => false,
        };
        if !is_proc {
            return Ok(());
        }
        let shows = match &self.bound {
            Some(tree) => root::is_all_of_proc(tree.as_fd()).during(doing)?,
            None => false,
        };
        match shows {
            true => Ok(()),
            false => Err(Fault::new(format!(
                "{}: nothing but a file system of type proc may be mounted at /proc, or a bind of one",
                doing()
            ))),
        }
    }

    /// Makes the file system, detached.
    fn make(&mut self, target: BorrowedFd<'_>) -> Result<OwnedFd> {
        let doing = || format!("mount {} at {}", self.kind, self.destination.display());
        let context = FsContext::open(self.kind).during(doing)?;
        context.set("source", self.source).during(doing)?;
        self.configure(&context, doing)?;
        let read_only = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
        if self.options.own.set & read_only != 0 && !SHARED_SUPERBLOCK.contains(&self.kind) {
            context.flag("ro").during(doing)?;
        }
        if self.options.copy_up {
            let tree = context.mount(MountAttrFlags::empty()).during(doing)?;
            super::copy_up::copy_up(target, tree.as_fd()).during(|| format!("{}: copying up", doing()))?;
            return Ok(tree);
        }
        // Made with its attributes, it needs no second call for them.
        let attributes = std::mem::take(&mut self.options.own).set;
        let attributes = u32::try_from(attributes).map(MountAttrFlags::from_bits_retain);
        let made = context.mount(attributes.unwrap_or(MountAttrFlags::empty()));
        if let Ok(tree) = &made {
            selinux::label_root(self.kind, tree.as_fd(), self.label)?;
        }
        match made {
            Err(error) if self.kind == "proc" && error.errno.kind() == ErrorKind::PermissionDenied => {
                // mount_too_revealing() of the kernel.
                Err(Fault::new(format!(
                    "{}: in a user namespace a new one is to be had only where nothing lies over parts of this machine's own",
                    doing()
                )))
            }
            other => other.during(doing),
        }
    }
}
