//! The kernel's driver.
//!
//! An overlay is built detached with the new mount API, one `lowerdir+` a layer, and then attached: nobody sees
//! it half made, its length is not bounded by one page, and what the kernel has to say comes back as text. Linux
//! before 6.8 does not know `lowerdir+`; there mount(2) takes the whole list as one string of at most 4,095
//! bytes, made short by naming the layers relative to the directory they share.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use sys::mount::{ConfigError, FsContext, MountAttrFlags, SetAttr, legacy};

use crate::overlay::Overlay;
use crate::{Mount, idmap, table};

/// Layers that overlayfs takes at most (`OVL_MAX_STACK`).
pub const MAX_LOWER: usize = 500;

/// A string value given to `fsconfig(2)` is cut off by the kernel beyond this many bytes.
const MAX_CONFIG_VALUE: usize = 255;

/// Why a mount could not be made or taken away.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The kernel refused the file system.
    #[error("mounting {kind} at {}: {error}", target.display())]
    Refused {
        /// Type of the file system.
        kind: String,
        /// Where it was to be mounted.
        target: PathBuf,
        /// The step, the errno, and the kernel's message.
        #[source]
        error: ConfigError,
    },
    /// More lower directories than overlayfs takes.
    #[error("an overlay takes at most {MAX_LOWER} lower directories, and this one has {0}")]
    TooManyLayers(usize),
    /// An older kernel's limit of one page for the options.
    #[error(
        "{layers} layers need {length} bytes of mount options, and this kernel takes 4095 (Linux 6.8 has no such limit)"
    )]
    OptionsTooLong {
        /// Lower directories of the overlay.
        layers: usize,
        /// Bytes that their list needs.
        length: usize,
    },
    /// An option that the mount's type does not have.
    #[error("unknown option {0:?} for a bind mount")]
    UnknownOption(String),
    /// Another overlay writes to the same upper or work directory: two of them would destroy each other's work.
    #[error("{} is in use by another overlay", .0.display())]
    InUse(PathBuf),
    /// The server of a FUSE mount could not be started, or said why it does not serve.
    #[error("mounting at {}: {reason}", target.display())]
    Served {
        /// Where it was to be mounted.
        target: PathBuf,
        /// In the server's words.
        reason: String,
    },
    /// A call on the source or the target failed.
    #[error("{what} {}: {error}", path.display())]
    Io {
        /// What was attempted, such as `unmounting`.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The errno.
        #[source]
        error: io::Error,
    },
}

fn io_error(what: &'static str, path: &Path, error: io::Error) -> MountError {
    MountError::Io {
        what,
        path: path.to_path_buf(),
        error,
    }
}

/// Makes `mount` real at the directory `target`, which must exist and is not followed if it is a link.
pub fn attach(mount: &Mount, target: &Path) -> Result<(), MountError> {
    match mount.kind.as_str() {
        "bind" => attach_bind(mount, target),
        "overlay" => attach_overlay(mount, target),
        _ => attach_other(mount, target),
    }
}

/// Detaches every mount that lies at `target`. Answers whether there was one; processes that still use it keep
/// it alive, unseen. What is no mount point, or does not exist, is no error.
pub fn detach(target: &Path) -> Result<bool, MountError> {
    let mut found = false;
    loop {
        match sys::mount::detach_at(target) {
            Ok(()) => found = true,
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::INVAL | Errno::NOENT) => return Ok(found),
                _ => return Err(io_error("unmounting", target, error)),
            },
        }
    }
}

/// Unmounts the topmost mount at `target`, as umount(8) does: one in use answers `EBUSY`, unless it is to be taken out
/// of the tree whoever uses it.
pub fn unmount(target: &Path, lazy: bool) -> Result<(), MountError> {
    let mut flags = UnmountFlags::NOFOLLOW;
    flags.set(UnmountFlags::DETACH, lazy);
    rustix::mount::unmount(target, flags).map_err(|errno| io_error("unmounting", target, errno.into()))
}

/// Attributes of a mount, as opposed to options of its file system.
fn attribute(option: &str) -> Option<MountAttrFlags> {
    Some(match option {
        "ro" => MountAttrFlags::MOUNT_ATTR_RDONLY,
        "nosuid" => MountAttrFlags::MOUNT_ATTR_NOSUID,
        "nodev" => MountAttrFlags::MOUNT_ATTR_NODEV,
        "noexec" => MountAttrFlags::MOUNT_ATTR_NOEXEC,
        "noatime" => MountAttrFlags::MOUNT_ATTR_NOATIME,
        "nodiratime" => MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        "strictatime" => MountAttrFlags::MOUNT_ATTR_STRICTATIME,
        "nosymfollow" => MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
        "relatime" | "rw" | "suid" | "dev" | "exec" | "async" | "defaults" => MountAttrFlags::empty(),
        _ => return None,
    })
}

/// Takes the attributes out of a list of options.
fn split_attributes(options: Vec<String>) -> (MountAttrFlags, Vec<String>) {
    let mut attributes = MountAttrFlags::empty();
    let mut rest = Vec::new();
    for option in options {
        match attribute(&option) {
            Some(flag) => attributes |= flag,
            None => rest.push(option),
        }
    }
    (attributes, rest)
}

fn attach_at(mount: OwnedFd, target: &Path) -> Result<(), MountError> {
    let place = sys::mount::target(target).map_err(|error| io_error("opening", target, error))?;
    sys::mount::attach(mount.as_fd(), place.as_fd()).map_err(|error| io_error("mounting at", target, error))
}

fn attach_bind(mount: &Mount, target: &Path) -> Result<(), MountError> {
    let source = Path::new(&mount.source);
    let (attributes, mut rest) = split_attributes(mount.options.clone());
    let ids = idmap::take(&mut rest)
        .transpose()
        .map_err(MountError::UnknownOption)?;
    let mut recursive = false;
    for option in rest {
        match option.as_str() {
            "bind" => {}
            "rbind" => recursive = true,
            _ => return Err(MountError::UnknownOption(option)),
        }
    }
    let cloned = match ids {
        Some(ids) => ids
            .namespace()
            .and_then(|namespace| idmap::mapped(source, recursive, &namespace)),
        None => sys::mount::clone_tree_at(source, recursive),
    };
    let tree = cloned.map_err(|error| io_error("cloning", source, error))?;
    if !attributes.is_empty() {
        let change = SetAttr {
            set: attributes.bits().into(),
            ..SetAttr::default()
        };
        // Mounts beneath keep their own attributes, as in mount(8).
        sys::mount::set_attr(tree.as_fd(), false, change)
            .map_err(|error| io_error("setting attributes of", source, error))?;
    }
    attach_at(tree, target)
}

fn attach_other(mount: &Mount, target: &Path) -> Result<(), MountError> {
    let refused = |error| MountError::Refused {
        kind: mount.kind.clone(),
        target: target.to_path_buf(),
        error,
    };
    let (attributes, rest) = split_attributes(mount.options.clone());
    let context = FsContext::open(&mount.kind).map_err(refused)?;
    context.set("source", &mount.source).map_err(refused)?;
    set_options(&context, &rest).map_err(refused)?;
    if attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        context.flag("ro").map_err(refused)?;
    }
    attach_at(context.mount(attributes).map_err(refused)?, target)
}

fn set_options(context: &FsContext, options: &[String]) -> Result<(), ConfigError> {
    for option in options {
        match option.split_once('=') {
            Some((key, value)) => context.set(key, value)?,
            None => context.flag(option)?,
        }
    }
    Ok(())
}

fn attach_overlay(mount: &Mount, target: &Path) -> Result<(), MountError> {
    let mut overlay = Overlay::parse(&mount.options);
    let layers = overlay.lower.len() + overlay.data.len();
    if layers > MAX_LOWER {
        return Err(MountError::TooManyLayers(layers));
    }
    let writable = overlay.writable.iter().flat_map(|(upper, work)| [upper, work]);
    // Until it is in the mount table, where a server that begins now finds it.
    let _locks = writable
        .map(|path| keep_servers_out(path))
        .collect::<Result<Vec<_>, _>>()?;
    let (attributes, mut extra) = split_attributes(std::mem::take(&mut overlay.extra));
    let ids = idmap::take(&mut extra);
    overlay.extra = extra;
    if let Some(ids) = ids {
        let ids = ids.map_err(MountError::UnknownOption)?;
        let build = || build_mapped(&mount.source, &overlay, attributes, target);
        let built = idmap::over(&overlay, &ids, build);
        return attach_at(
            built.map_err(|(path, error)| io_error("mapping the ids of", &path, error))??,
            target,
        );
    }
    match build_overlay(&mount.source, &overlay, attributes) {
        Ok(built) => attach_at(built, target),
        Err(error) if Errno::from_io_error(&error.errno) == Some(Errno::NOSYS) || !takes_layers_singly() => {
            mount2_overlay(&mount.source, &overlay, attributes, target)
        }
        Err(error) => Err(MountError::Refused {
            kind: "overlay".into(),
            target: target.to_path_buf(),
            error,
        }),
    }
}

/// Builds an overlay in a mount namespace that nobody else sees.
fn build_mapped(
    source: &str,
    overlay: &Overlay,
    attributes: MountAttrFlags,
    target: &Path,
) -> Result<OwnedFd, MountError> {
    match build_overlay(source, overlay, attributes) {
        Err(error) if Errno::from_io_error(&error.errno) == Some(Errno::NOSYS) || !takes_layers_singly() => {
            mount2_overlay(source, overlay, attributes, target)?;
            sys::mount::clone_tree_at(target, false).map_err(|error| io_error("cloning", target, error))
        }
        other => other.map_err(|error| MountError::Refused {
            kind: "overlay".into(),
            target: target.to_path_buf(),
            error,
        }),
    }
}

/// How long a server's lock is waited for: it ends a moment after umount(8) has taken its mount away.
const PATIENCE: Duration = Duration::from_millis(500);

/// Keeps servers of ours from an upper or work directory while what is returned is open. One that has it already holds a
/// lock on it, which the kernel's overlay does not look at. What cannot be opened is for the kernel to refuse.
fn keep_servers_out(path: &Path) -> Result<Option<sys::Dir>, MountError> {
    let Ok(dir) = sys::Dir::open_ambient(path) else {
        return Ok(None);
    };
    match sys::fd::lock_within(&dir, FlockOperation::NonBlockingLockShared, PATIENCE) {
        Ok(false) => Err(MountError::InUse(path.to_path_buf())),
        _ => Ok(Some(dir)),
    }
}

/// Mounts an overlay by mount(2), as [`attach`] does on a kernel without `lowerdir+`.
pub fn attach_overlay_by_mount2(mount: &Mount, target: &Path) -> Result<(), MountError> {
    let mut overlay = Overlay::parse(&mount.options);
    let (attributes, extra) = split_attributes(std::mem::take(&mut overlay.extra));
    overlay.extra = extra;
    mount2_overlay(&mount.source, &overlay, attributes, target)
}

/// Whether this kernel's overlayfs takes `lowerdir+` (6.8). Asked only when a mount was refused: before 6.5
/// the new API collects any option and finds fault when the file system is created, with an errno that says
/// nothing about the reason.
pub fn takes_layers_singly() -> bool {
    FsContext::open("overlay").is_ok_and(|context| {
        let checks_at_once = context.flag("no-such-option").is_err();
        checks_at_once && context.set("lowerdir+", "/").is_ok()
    })
}

fn build_overlay(
    source: &str,
    overlay: &Overlay,
    attributes: MountAttrFlags,
) -> Result<OwnedFd, ConfigError> {
    let context = FsContext::open("overlay")?;
    context.set("source", source)?;
    for path in &overlay.lower {
        set_layer(&context, "lowerdir+", path)?;
    }
    for path in &overlay.data {
        set_layer(&context, "datadir+", path)?;
    }
    if let Some((upper, work)) = &overlay.writable {
        set_layer(&context, "upperdir", upper)?;
        set_layer(&context, "workdir", work)?;
    }
    set_options(&context, &overlay.extra)?;
    if attributes.contains(MountAttrFlags::MOUNT_ATTR_RDONLY) {
        context.flag("ro")?;
    }
    context.mount(attributes)
}

fn set_layer(context: &FsContext, key: &str, path: &Path) -> Result<(), ConfigError> {
    // `lowerdir+` and `datadir+` take the path as it is; `upperdir` and `workdir` unescape theirs.
    let value = match key {
        "upperdir" | "workdir" => crate::overlay::escape(path, b"\\"),
        _ => path.as_os_str().to_owned(),
    };
    if value.len() <= MAX_CONFIG_VALUE {
        return context.set(key, value);
    }
    // A longer path is given as a descriptor, which overlayfs takes since 6.13.
    let directory = sys::Dir::open_ambient(path).map_err(|errno| ConfigError {
        step: format!("{key}={}", path.display()),
        errno,
        messages: Vec::new(),
    })?;
    context
        .set_fd(key, directory.as_fd())
        .map_err(|error| ConfigError {
            step: format!("{key}={}", path.display()),
            messages: vec![format!(
                "a path longer than {MAX_CONFIG_VALUE} bytes needs Linux 6.13"
            )],
            ..error
        })
}

/// mount(2), with the layers named relative to the directory they share when the full names do not fit.
fn mount2_overlay(
    source: &str,
    overlay: &Overlay,
    attributes: MountAttrFlags,
    target: &Path,
) -> Result<(), MountError> {
    let mut flags = mount2_flags(attributes);
    let mut overlay = overlay.clone();
    overlay.extra.retain(|word| match file_system_flag(word) {
        Some(flag) => {
            flags |= flag;
            false
        }
        None => true,
    });
    let mut data = overlay.mount2_data(None);
    let mut base = None;
    if data.len() > 4095 {
        base = shared_directory(&overlay);
        data = overlay.mount2_data(base.as_deref());
        if data.len() > 4095 {
            let layers = overlay.lower.len() + overlay.data.len();
            return Err(MountError::OptionsTooLong {
                layers,
                length: data.len(),
            });
        }
    }
    let mounted = match &base {
        None => legacy::mount(source.as_ref(), target, "overlay", flags, &data),
        Some(base) => {
            let target = std::path::absolute(target).map_err(|error| io_error("opening", target, error))?;
            legacy::mount_from(base, source.as_ref(), &target, "overlay", flags, &data)
        }
    };
    mounted.map_err(|error| MountError::Refused {
        kind: "overlay".into(),
        target: target.to_path_buf(),
        error: ConfigError {
            step: "mount(2)".into(),
            errno: error,
            messages: Vec::new(),
        },
    })
}

/// What mount(2) takes as a flag, and the new API as a word.
fn file_system_flag(word: &str) -> Option<MountFlags> {
    match word {
        "sync" => Some(MountFlags::SYNCHRONOUS),
        "dirsync" => Some(MountFlags::DIRSYNC),
        "lazytime" => Some(MountFlags::LAZYTIME),
        _ => None,
    }
}

pub(crate) fn mount2_flags(attributes: MountAttrFlags) -> MountFlags {
    [
        (MountAttrFlags::MOUNT_ATTR_RDONLY, MountFlags::RDONLY),
        (MountAttrFlags::MOUNT_ATTR_NOSUID, MountFlags::NOSUID),
        (MountAttrFlags::MOUNT_ATTR_NODEV, MountFlags::NODEV),
        (MountAttrFlags::MOUNT_ATTR_NOEXEC, MountFlags::NOEXEC),
        (MountAttrFlags::MOUNT_ATTR_NOATIME, MountFlags::NOATIME),
        (MountAttrFlags::MOUNT_ATTR_NODIRATIME, MountFlags::NODIRATIME),
        (MountAttrFlags::MOUNT_ATTR_STRICTATIME, MountFlags::STRICTATIME),
        (MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW, MountFlags::NOSYMFOLLOW),
    ]
    .into_iter()
    .filter(|(attribute, _)| attributes.contains(*attribute))
    .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}

/// The deepest directory that all layers lie in.
fn shared_directory(overlay: &Overlay) -> Option<PathBuf> {
    let mut paths = overlay.lower.iter().chain(&overlay.data);
    let mut shared = paths.next()?.parent()?.to_path_buf();
    for path in paths {
        while !path.starts_with(&shared) {
            shared.pop();
        }
    }
    (shared.is_absolute() && shared.parent().is_some()).then_some(shared)
}

/// Whether an overlay is mounted whose upper or work directory is `path`, as far as this mount namespace tells: by
/// whatever way they were named then. A relative name is believed where it leads from here to the directory that the
/// mount shows; elsewhere it may be anybody's.
pub fn upper_in_use(path: &Path) -> io::Result<bool> {
    let identity = |path: &Path| {
        let stat = rustix::fs::stat(path).ok()?;
        Some((stat.st_dev, stat.st_ino))
    };
    let wanted = identity(path);
    let same = |other: PathBuf| other == path || (wanted.is_some() && identity(&other) == wanted);
    let uses = |entry: &table::Entry| {
        let named = |key| entry.super_option(key).map(crate::overlay::unescape);
        let upper = named("upperdir");
        // The root of the kernel's overlay has the inode number of its upper directory.
        let is_shown = |upper: &Path| {
            let (upper, root) = (identity(upper), identity(&entry.target));
            upper.is_some() && upper.map(|upper| upper.1) == root.map(|root| root.1)
        };
        let from_here = upper.as_deref().is_some_and(is_shown);
        [upper, named("workdir")]
            .into_iter()
            .flatten()
            .any(|path| (path.is_absolute() || from_here) && same(path))
    };
    Ok(table::read()?
        .iter()
        .any(|entry| entry.kind == "overlay" && uses(entry)))
}
