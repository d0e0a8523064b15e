//! The devices and links that a container finds in /dev (OCI runtime spec, "Default Devices").

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::fault::{During, Fault, Result};
use super::mounts::Planned;
use super::root::{Kind, Root};

/// Device number and type of a node.
#[derive(Debug, Clone, Copy)]
struct Node {
    kind: FileType,
    major: u32,
    minor: u32,
}

/// Character devices that every container has, 0666 root:root.
const DEFAULT: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 4] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];

/// Whether /dev is the container's own to fill: not where the spec binds a directory of the host there.
pub(super) fn is_ours(mounts: &[Planned<'_>]) -> bool {
    !mounts
        .iter()
        .any(|mount| mount.destination() == Path::new("/dev") && mount.is_bind())
}

/// Makes the default devices, those of the spec, and the links. The umask must be 0. With `bind`, where device nodes
/// cannot be made (a user namespace), the host's are bound instead.
pub(super) fn populate(root: &Root, spec: &Spec, has_devpts: bool, bind: bool) -> Result<()> {
    let linux = spec.linux().as_ref();
    let listed = linux
        .and_then(|linux| linux.devices().as_deref())
        .unwrap_or_default();
    for (path, major, minor) in DEFAULT {
        // One that the spec lists takes the spec's mode and owner.
        if listed.iter().any(|device| device.path() == Path::new(path)) {
            continue;
        }
        let node = Node {
            kind: FileType::CharacterDevice,
            major,
            minor,
        };
        make(
            root,
            Path::new(path),
            node,
            Mode::from_raw_mode(0o666),
            None,
            bind,
        )?;
    }
    for device in listed {
        make_listed(root, device, bind)?;
    }
    for (name, target) in LINKS {
        link(root, name, target, false)?;
    }
    if has_devpts {
        link(root, "/dev/ptmx", "pts/ptmx", true)?;
    }
    Ok(())
}

fn make_listed(root: &Root, device: &LinuxDevice, bind: bool) -> Result<()> {
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
    let node = match kind {
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
    };
    let mode = Mode::from_raw_mode(device.file_mode().unwrap_or(0o666) & 0o7777);
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    make(root, path, node, mode, (owner != (0, 0)).then_some(owner), bind)
}

fn make(
    root: &Root,
    path: &Path,
    node: Node,
    mode: Mode,
    owner: Option<(u32, u32)>,
    bind: bool,
) -> Result<()> {
    let doing = || format!("device {}", path.display());
    if bind {
        return bind_from_host(root, path);
    }
    let place = root.place(path).during(doing)?;
    let number = rustix::fs::makedev(node.major, node.minor);
    let name = place.name.as_os_str();
    let mut made = rustix::fs::mknodat(&place.dir, name, node.kind, mode, number);
    if made == Err(Errno::EXIST) {
        let found = place.stat().during(doing)?;
        if found.is_some_and(|found| {
            FileType::from_raw_mode(found.st_mode) == node.kind && found.st_rdev == number
        }) {
            return Ok(());
        }
        // An image may bring anything under the name of a device.
        place.unlink().during(doing)?;
        made = rustix::fs::mknodat(&place.dir, name, node.kind, mode, number);
    }
    made.during(doing)?;
    if let Some((uid, gid)) = owner {
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::chownat(&place.dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .during(doing)?;
    }
    Ok(())
}

fn bind_from_host(root: &Root, path: &Path) -> Result<()> {
    let doing = || format!("device {}", path.display());
    let target = root.find_or_make(path, Kind::File).during(doing)?;
    let tree = sys::mount::clone_tree_at(path, false).during(doing)?;
    sys::mount::attach(tree.as_fd(), target.as_fd()).during(doing)
}

fn link(root: &Root, name: &str, target: &str, replace: bool) -> Result<()> {
    let doing = || format!("link {name}");
    let place = root.place(Path::new(name)).during(doing)?;
    if replace {
        place.unlink().during(doing)?;
    }
    match rustix::fs::symlinkat(target, &place.dir, place.name.as_os_str()) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).during(doing),
    }
}

/// A copy of the host's /dev/null, detached, known to be the null device and nothing else.
pub(super) fn null() -> Result<std::os::fd::OwnedFd> {
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
