//! Opening the directories of an overlay.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use overlay::live::Layers;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use sys::Dir;
use sys::mount::{MountAttrFlags, SetAttr};

/// The directories of an overlay, by their paths.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// Lower directories, topmost first.
    pub lower: Vec<PathBuf>,
    /// Upper and work directory.
    pub writable: Option<(PathBuf, PathBuf)>,
}

/// A directory that cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what} directory {}: {source}", path.display())]
pub struct LayerError {
    /// `lower`, `upper` or `work`.
    pub what: &'static str,
    /// Its path.
    pub path: PathBuf,
    /// The errno.
    pub source: io::Error,
}

/// Directories, opened.
#[derive(Debug)]
pub struct Opened {
    /// For the overlay.
    pub layers: Layers,
    /// Whether the upper directory's file system is stacked on another.
    pub stacked: bool,
    /// Keeps the private mounts of the lower directories.
    pub mounts: Vec<OwnedFd>,
}

/// Opens them all. Lower directories are opened through a private read-only mount each, where this process may make
/// one: nothing can then write to them, whatever is asked and whatever is wrong here.
pub fn open(paths: &Paths) -> Result<Opened, LayerError> {
    distinct(paths)?;
    let mut mounts = Vec::new();
    let mut lower = Vec::with_capacity(paths.lower.len());
    for path in &paths.lower {
        let failed = |source| LayerError {
            what: "lower",
            path: path.clone(),
            source,
        };
        let plain = Dir::open_ambient(path).map_err(failed)?;
        lower.push(match read_only(path) {
            Ok((dir, mount)) => {
                mounts.push(mount);
                dir
            }
            // Not permitted, or not on this kernel.
            Err(Errno::PERM | Errno::NOSYS | Errno::INVAL) => plain,
            Err(errno) => return Err(failed(errno.into())),
        });
    }
    let open = |what, path: &PathBuf| {
        Dir::open_ambient(path).map_err(|source| LayerError {
            what,
            path: path.clone(),
            source,
        })
    };
    let (mut upper, mut work, mut stacked) = (None, None, false);
    if let Some((upper_path, work_path)) = &paths.writable {
        apart(upper_path, work_path)?;
        let dir = open("upper", upper_path)?;
        stacked = is_stacked(&dir);
        upper = Some(dir);
        work = Some(open("work", work_path)?);
    }
    Ok(Opened {
        layers: Layers { lower, upper, work },
        stacked,
        mounts,
    })
}

/// Refuses what the kernel's overlay refuses with `ELOOP`: a lower directory that is another layer too, or lies in one. What
/// is written to the upper directory must not be written to a lower one. (An upper directory may lie in a lower one.)
fn distinct(paths: &Paths) -> Result<(), LayerError> {
    let look = |what, path: &Path| {
        let failed = |source| LayerError {
            what,
            path: path.to_path_buf(),
            source,
        };
        let real = path.canonicalize().map_err(failed)?;
        let status = real.metadata().map_err(failed)?;
        Ok((real, (status.dev(), status.ino())))
    };
    let (mut known, mut inodes) = (HashSet::new(), HashSet::new());
    if let Some((upper, work)) = &paths.writable {
        for (what, path) in [("upper", upper), ("work", work)] {
            let (real, inode) = look(what, path)?;
            known.insert(real);
            inodes.insert(inode);
        }
    }
    let overlaps = |path: &Path| LayerError {
        what: "lower",
        path: path.to_path_buf(),
        source: io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is another layer too, or lies in one",
        ),
    };
    let mut lower = Vec::with_capacity(paths.lower.len());
    for path in &paths.lower {
        let (real, inode) = look("lower", path)?;
        if !inodes.insert(inode) {
            return Err(overlaps(path));
        }
        known.insert(real.clone());
        lower.push((path, real));
    }
    let inside = |real: &PathBuf| real.ancestors().skip(1).any(|above| known.contains(above));
    match lower.iter().find(|(_, real)| inside(real)) {
        Some((path, _)) => Err(overlaps(path)),
        None => Ok(()),
    }
}

/// What is prepared in one must not appear in the other.
fn apart(upper: &Path, work: &Path) -> Result<(), LayerError> {
    let real = |what, path: &Path| {
        path.canonicalize().map_err(|source| LayerError {
            what,
            path: path.to_path_buf(),
            source,
        })
    };
    let (real_upper, real_work) = (real("upper", upper)?, real("work", work)?);
    if real_upper.starts_with(&real_work) || real_work.starts_with(&real_upper) {
        let source = io::Error::new(
            io::ErrorKind::InvalidInput,
            "it and the upper directory must lie apart",
        );
        return Err(LayerError {
            what: "work",
            path: work.to_path_buf(),
            source,
        });
    }
    Ok(())
}

/// The directory through a mount of its own that is read-only and keeps no times of access.
fn read_only(path: &Path) -> Result<(Dir, OwnedFd), Errno> {
    let errno = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let mount = sys::mount::clone_tree_at(path, false).map_err(errno)?;
    let change = |times: MountAttrFlags, cleared: MountAttrFlags| SetAttr {
        set: u64::from((MountAttrFlags::MOUNT_ATTR_RDONLY | times).bits()),
        clear: u64::from(cleared.bits()),
        propagation: MS_PRIVATE,
        idmap: None,
    };
    let without_times = change(
        MountAttrFlags::MOUNT_ATTR_NOATIME | MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        MountAttrFlags::MOUNT_ATTR__ATIME,
    );
    match sys::mount::set_attr(mount.as_fd(), false, without_times).map_err(errno) {
        // In a user namespace what a mount says about times of access is locked. None are kept where nothing is
        // written; asking for that takes a little longer each time.
        Err(Errno::PERM) => {
            let none = MountAttrFlags::empty();
            sys::mount::set_attr(mount.as_fd(), false, change(none, none)).map_err(errno)?;
        }
        other => other?,
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(&mount, ".", flags, Mode::empty())?;
    Ok((Dir::from_fd(dir).map_err(errno)?, mount))
}

/// `MS_PRIVATE` of mount(2).
const MS_PRIVATE: u64 = 1 << 18;

fn is_stacked(dir: &Dir) -> bool {
    const OVERLAYFS: u64 = 0x794c_7630;
    const ECRYPTFS: u64 = 0xf15f;
    const FUSE: u64 = 0x6573_5546;
    rustix::fs::fstatfs(dir.as_fd()).is_ok_and(|status| {
        let magic = status.f_type as u64;
        [OVERLAYFS, ECRYPTFS, FUSE].contains(&magic)
    })
}

/// Takes away the mark of a volatile mount, for one who knows that its upper directory may be incomplete.
pub fn forgive_volatile(work: &Path) -> io::Result<()> {
    let missing = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    match Dir::open_ambient(work)?.open_dir("work/incompat") {
        Ok(incompat) => match incompat.remove_tree("volatile") {
            Err(error) if missing(&error) => Ok(()),
            other => other,
        },
        Err(error) if missing(&error) => Ok(()),
        Err(error) => Err(error),
    }
}
