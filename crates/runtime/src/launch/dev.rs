//! The devices and links that a container finds in /dev (OCI runtime spec, "Default Devices").

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use sys::mount::SetAttr;

use super::fault::{During, Fault, Result};
use super::mounts::Planned;
use super::options::NODEV;
use super::root::{Kind, Root};

/// Device number and type of a node.
#[derive(Debug, Clone, Copy)]
struct Node {
    kind: FileType,
    major: u32,
    minor: u32,
}

impl Node {
    fn number(self) -> rustix::fs::Dev {
        rustix::fs::makedev(self.major, self.minor)
    }

    fn is(self, found: &Stat) -> bool {
        FileType::from_raw_mode(found.st_mode) == self.kind && found.st_rdev == self.number()
    }
}

/// Character devices in /dev that every container has, 0666 root:root.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// Makes terminals: with a devpts of the container's own, a link into that.
const PTMX: &str = "/dev/ptmx";

/// Links in /dev.
const LINKS: [(&str, &str); 4] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

/// Whether /dev is the container's own to fill: not where the spec binds a directory of the host there.
pub(super) fn is_ours(mounts: &[Planned<'_>]) -> bool {
    !mounts
        .iter()
        .any(|mount| mount.destination() == Path::new("/dev") && mount.is_bind())
}

/// Whether `file` is one of the devices that every container has.
pub(super) fn is_default(file: BorrowedFd<'_>) -> rustix::io::Result<bool> {
    let found = rustix::fs::fstat(file)?;
    Ok(
        FileType::from_raw_mode(found.st_mode) == FileType::CharacterDevice
            && DEFAULT
                .iter()
                .any(|(_, major, minor)| rustix::fs::makedev(*major, *minor) == found.st_rdev),
    )
}

/// Makes the default devices, those of the spec, and the links. The umask must be 0. With `bind`, and where the kernel
/// lets nobody make device nodes (a user namespace), the host's are bound instead. Answers whether they are.
pub(super) fn populate(root: &Root, spec: &Spec, has_devpts: bool, mut bind: bool) -> Result<bool> {
    let listed = listed(spec);
    let doing = || "/dev".to_owned();
    let dev = root
        .find_or_make(Path::new("/dev"), Kind::Directory)
        .during(doing)?;
    for (name, path, node) in defaults(listed) {
        let make = || make(dev.as_fd(), name.as_ref(), node, 0o666);
        make_or_bind(root, &path, &mut bind, make)?;
    }
    for device in listed {
        if has_devpts && device.path() == Path::new(PTMX) {
            // It is replaced below, and could not be where it is bound.
            continue;
        }
        make_listed(root, device, &mut bind)?;
    }
    for (name, target) in LINKS {
        link(dev.as_fd(), name, target)?;
    }
    if has_devpts {
        // An image's own would lead to the host's terminals.
        match rustix::fs::unlinkat(&dev, "ptmx", AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error).during(|| "replacing /dev/ptmx".into()),
        }
        link(dev.as_fd(), "ptmx", "pts/ptmx")?;
    }
    Ok(bind)
}

/// Devices of the spec.
fn listed(spec: &Spec) -> &[LinuxDevice] {
    let linux = spec.linux().as_ref();
    linux
        .and_then(|linux| linux.devices().as_deref())
        .unwrap_or_default()
}

/// The default devices: names and paths. One that the spec lists takes the spec's mode and owner.
fn defaults(listed: &[LinuxDevice]) -> impl Iterator<Item = (&'static str, PathBuf, Node)> {
    DEFAULT.into_iter().filter_map(|(name, major, minor)| {
        let path = Path::new("/dev").join(name);
        let node = Node {
            kind: FileType::CharacterDevice,
            major,
            minor,
        };
        (!listed.iter().any(|device| *device.path() == path)).then_some((name, path, node))
    })
}

/// Where nobody refuses devices, no mount of the container opens any, `/dev` no more than others. Each device that it is
/// to have becomes a mount of its own, of that one node, which does.
pub(super) fn set_apart(root: &Root, spec: &Spec) -> Result<()> {
    let listed = listed(spec);
    let mut devices: Vec<_> = defaults(listed).map(|(_, path, node)| (path, node)).collect();
    for device in listed {
        devices.push((device.path().clone(), node_of(device)?));
    }
    for (path, node) in devices {
        let doing = || format!("device {}", path.display());
        let found = root.find(&path).during(doing)?;
        let found = found.ok_or_else(|| Fault::new(format!("{} is gone", doing())))?;
        let status = rustix::fs::fstat(&found).during(doing)?;
        // Others may write where it lies, if that is a directory of theirs, too.
        if !node.is(&status) {
            return Err(Fault::new(format!("{} is another by now", doing())));
        }
        let tree = sys::mount::clone_tree(found.as_fd(), "", false).during(doing)?;
        let change = SetAttr {
            clear: NODEV,
            ..SetAttr::default()
        };
        sys::mount::set_attr(tree.as_fd(), false, change).during(doing)?;
        sys::mount::attach(tree.as_fd(), found.as_fd()).during(doing)?;
    }
    Ok(())
}

/// What is to be made for a device of the spec.
fn node_of(device: &LinuxDevice) -> Result<Node> {
    let path = device.path();
    let number = |value: i64| {
        u32::try_from(value)
            .map_err(|_| Fault::new(format!("device {}: no device number {value}", path.display())))
    };
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(Fault::new(format!(
                "device {}: type \"a\" is for rules alone",
                path.display()
            )));
        }
    };
    Ok(match kind {
        // A pipe has no number; whatever the spec gives is not looked at.
        FileType::Fifo => Node {
            kind,
            major: 0,
            minor: 0,
        },
        _ => Node {
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
        },
    })
}

/// Makes a device, or from the first one on that the kernel does not let be made binds the host's.
fn make_or_bind(
    root: &Root,
    path: &Path,
    bind: &mut bool,
    make: impl FnOnce() -> rustix::io::Result<()>,
) -> Result<()> {
    if !*bind {
        match make() {
            Err(Errno::PERM) => *bind = true,
            other => return other.during(|| format!("device {}", path.display())),
        }
    }
    bind_from_host(root, path)
}

fn make_listed(root: &Root, device: &LinuxDevice, bind: &mut bool) -> Result<()> {
    let path = device.path();
    let node = node_of(device)?;
    let doing = || format!("device {}", path.display());
    let place = root.place(path).during(doing)?;
    let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
    let make = || make(place.dir.as_fd(), &place.name, node, mode);
    make_or_bind(root, path, bind, make)?;
    if *bind {
        return Ok(());
    }
    let (uid, gid) = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    if (uid, gid) != (0, 0) {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(
            &place.dir,
            place.name.as_os_str(),
            Some(uid),
            Some(gid),
            AtFlags::SYMLINK_NOFOLLOW,
        )
        .during(doing)?;
    }
    Ok(())
}

/// Makes the node `name` in `dir`, in the place of what an image may have brought under the name.
fn make(dir: BorrowedFd<'_>, name: &OsStr, node: Node, mode: u32) -> rustix::io::Result<()> {
    let make = || rustix::fs::mknodat(dir, name, node.kind, Mode::from_raw_mode(mode), node.number());
    match make() {
        Err(Errno::EXIST) => {}
        other => return other,
    }
    let found = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if node.is(&found) {
        return Ok(());
    }
    rustix::fs::unlinkat(dir, name, AtFlags::empty())?;
    make()
}

fn bind_from_host(root: &Root, path: &Path) -> Result<()> {
    let doing = || format!("device {}", path.display());
    let target = root.find_or_make(path, Kind::File).during(doing)?;
    let tree = sys::mount::clone_tree_at(path, false).during(doing)?;
    sys::mount::attach(tree.as_fd(), target.as_fd()).during(doing)
}

fn link(dev: BorrowedFd<'_>, name: &str, target: &str) -> Result<()> {
    match rustix::fs::symlinkat(target, dev, name) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).during(|| format!("link /dev/{name}")),
    }
}

/// The host's /dev/null, known to be the null device and nothing else.
pub(super) fn null() -> Result<OwnedFd> {
    let doing = || "the host's /dev/null".to_owned();
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let fd = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()).during(doing)?;
    let status = rustix::fs::fstat(&fd).during(doing)?;
    let is_null = FileType::from_raw_mode(status.st_mode) == FileType::CharacterDevice
        && status.st_rdev == rustix::fs::makedev(1, 3);
    if !is_null {
        return Err(Fault::new("the host's /dev/null is not the null device"));
    }
    Ok(fd)
}
