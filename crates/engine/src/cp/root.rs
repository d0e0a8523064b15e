//! A root directory that paths are resolved in: this machine's, or a container's as it sees itself.

use std::ffi::OsString;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use runtime::bundle::Bundle;
use runtime::options::mounts::{MountKind, MountOption};
use runtime::options::volumes::is_read_only;
use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock};
use rustix::mount::MountAttrFlags;
use store::Standing;
use sys::Dir;
use sys::ids::Ids;
use sys::mount::SetAttr;

use super::{CopyError, End};
use crate::Engine;
use crate::run::{Details, Plan};

/// How long another copy of the same container may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a container's root may stay mounted after its end.
const UNMOUNTED: Duration = Duration::from_secs(5);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(20);
/// Where a stopped container's root is mounted until it is open, in the state directory: process and container follow.
const COPY: &str = ".copy-";
/// The kernel's limit of links on one way.
const MAX_LINKS: usize = 40;

/// Where paths begin, and what keeps it.
pub(super) struct Root {
    dir: Dir,
    /// Relative paths begin here.
    base: PathBuf,
    /// Of a container that has others than the machine.
    pub(super) ids: Option<Ids>,
    /// Held while a stopped container's root is mounted for this copy alone.
    _lock: Option<(Dir, Standing)>,
}

/// What is at a path.
pub(super) enum Seen {
    Dir(Dir),
    File {
        dir: Dir,
        name: OsString,
    },
    /// Nothing, and whether there is a directory that it could be made in.
    Missing {
        dir: Option<Dir>,
        name: OsString,
    },
}

impl Engine {
    /// The root that an end of a copy lies in, and its path there.
    pub(super) fn root(&self, end: &End<'_>) -> Result<(Root, PathBuf), CopyError> {
        match end {
            End::Container { name, path } => Ok((self.container_root(name)?, (*path).to_owned())),
            End::Host(path) => {
                let at = |source| CopyError::Path {
                    path: (*path).to_owned(),
                    source,
                };
                Ok((
                    Root {
                        dir: Dir::open_ambient("/").map_err(at)?,
                        base: std::env::current_dir().map_err(at)?,
                        ids: None,
                        _lock: None,
                    },
                    (*path).to_owned(),
                ))
            }
            End::Input(_) | End::Output(_) => Err(CopyError::Streams),
        }
    }

    fn container_root(&self, name: &str) -> Result<Root, CopyError> {
        let row = self.store.find_container(self.ns(), name)?;
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(pid) = self.state(&row).pid()
                && let Some(dir) = self.running_root(&row.id, pid)?
            {
                return Ok(Root {
                    dir,
                    base: "/".into(),
                    ids: ids_of(&row),
                    _lock: None,
                });
            }
            if let Some(root) = self.stopped_root(&row)? {
                return Ok(root);
            }
            if Instant::now() > end {
                return Err(CopyError::InUse(row.name));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// The root of a container's first process; `None` if that has ended meanwhile.
    fn running_root(&self, id: &str, pid: i32) -> Result<Option<Dir>, CopyError> {
        let bundle = Bundle::open(&self.bundle_path(id))?;
        let root = Dir::open_ambient(format!("/proc/{pid}/root"));
        // Opened first: if the number is the container's still, it was then.
        let state = runtime::state::load(&bundle)?;
        let lives = state.is_some_and(|state| {
            state.process.pid == pid && state.process.open().is_ok_and(|process| process.is_some())
        });
        Ok(root.ok().filter(|_| lives))
    }

    /// The root of a container that does not run, mounted for as long as it is open and for nobody else to see. `None`
    /// where somebody copies already, or starts it.
    fn stopped_root(&self, row: &store::Container) -> Result<Option<Root>, CopyError> {
        let upper = self.store.upper_path(self.ns(), &row.id)?;
        let at = |source| CopyError::Path {
            path: upper.clone(),
            source,
        };
        // One mount at a time: two that write to one directory know nothing of each other. A start takes this too.
        let standing = self.store.stand().map_err(io::Error::other).map_err(at)?;
        let lock = copies_lock(&upper).map_err(at)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            other => other.map_err(|errno| at(errno.into()))?,
        }
        self.clear_copies(&row.id);
        let end = Instant::now() + UNMOUNTED;
        while mount::kernel::upper_in_use(&upper).map_err(at)? {
            if self.state(row).is_up() {
                return Ok(None);
            }
            if Instant::now() > end {
                return Err(CopyError::InUse(row.name.clone()));
            }
            // It has just ended, and whoever looks after that is about to unmount it.
            let _ = self.detach_ended(&row.id);
            std::thread::sleep(PAUSE);
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.state_dir())
            .map_err(at)?;
        let state = Dir::open_ambient(self.state_dir()).map_err(at)?;
        let name = format!("{COPY}{}-{}", std::process::id(), &row.id[..12]);
        state.mkdir(&name, Mode::RWXU).map_err(at)?;
        let place = self.state_dir().join(&name);
        let mounted = self.mount_at(row, &place);
        let _ = state.rmdir(&name);
        Ok(Some(Root {
            dir: mounted?,
            base: "/".into(),
            ids: ids_of(row),
            _lock: Some((lock, standing)),
        }))
    }

    /// Waits until nobody copies to or from a container that does not run, and keeps others from it while the directory is
    /// open.
    pub(crate) fn hold_from_copies(&self, row: &store::Container) -> io::Result<Dir> {
        let upper = self
            .store
            .upper_path(self.ns(), &row.id)
            .map_err(io::Error::other)?;
        let lock = copies_lock(&upper)?;
        flock(&lock, FlockOperation::LockExclusive)?;
        self.clear_copies(&row.id);
        Ok(lock)
    }

    /// Unmounts what copies left that were killed. The caller holds the lock that copies take, or removes the container.
    pub(crate) fn clear_copies(&self, id: &str) {
        let Ok(state) = Dir::open_ambient(self.state_dir()) else {
            return;
        };
        let end = format!("-{}", &id[..12]);
        for entry in state.entries().unwrap_or_default() {
            let name = entry
                .name
                .to_str()
                .filter(|name| name.starts_with(COPY) && name.ends_with(&end));
            if let Some(name) = name {
                // What stays is found when its place is wanted.
                let _ = mount::detach(&self.state_dir().join(name));
                let _ = state.rmdir(name);
            }
        }
    }

    /// Mounts a container's root, opens it, and takes the mount out of the tree again: it lives on as long as it is open.
    fn mount_at(&self, row: &store::Container, place: &Path) -> Result<Dir, CopyError> {
        for mount in self.store.root_mounts(self.ns(), &row.id)? {
            mount::attach(&mount, place)?;
        }
        let opened = Dir::open_ambient(place).map_err(|source| CopyError::Path {
            path: place.to_owned(),
            source,
        });
        let opened = match Details::of(row).plan {
            Some(plan) => opened.and_then(|root| self.with_mounts(&plan, root, place)),
            None => opened,
        };
        mount::detach(place)?;
        opened
    }

    /// Mounts in a root what its container has mounted of this machine; the whole tree, which nobody else sees.
    fn with_mounts(&self, plan: &Plan, root: Dir, place: &Path) -> Result<Dir, CopyError> {
        let mut mounts = self.mount_volumes(plan, &root).map_err(Box::new)?;
        mounts.extend(plan.container.mounts.iter().cloned());
        if mounts.is_empty() {
            return Ok(root);
        }
        mounts.sort_by_key(|mount| mount.destination.components().count());
        for mount in &mounts {
            let MountKind::Bind { source } = &mount.kind else {
                continue;
            };
            attach_bind(&root, mount, source).map_err(|source| CopyError::Path {
                path: mount.destination.clone(),
                source,
            })?;
        }
        let whole = || -> io::Result<Dir> {
            let tree = sys::mount::clone_tree_at(place, true)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            // As long as this is open the tree stays whole.
            Dir::from_fd(rustix::fs::openat(&tree, ".", flags, Mode::empty())?)
        };
        whole().map_err(|source| CopyError::Path {
            path: place.to_owned(),
            source,
        })
    }
}

/// What copies and starts lock: the directory that a container's writable one lies in. That one itself is locked by
/// whoever mounts it. A container that is removed meanwhile leaves its directory to the collector.
fn copies_lock(upper: &Path) -> io::Result<Dir> {
    Dir::open_ambient(upper.parent().unwrap_or(upper))
}

fn ids_of(row: &store::Container) -> Option<Ids> {
    Details::of(row).plan?.container.users.ids()
}

/// Binds what lies on this machine into a root, where a start makes the place for it too.
fn attach_bind(root: &Dir, mount: &MountOption, source: &Path) -> io::Result<()> {
    let tree = sys::mount::clone_tree_at(source, true)?;
    if is_read_only(&mount.options) {
        let change = SetAttr {
            set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
            ..SetAttr::default()
        };
        sys::mount::set_attr(tree.as_fd(), true, change)?;
    }
    let target = match source.is_dir() {
        true => runtime::make_directory(root, &mount.destination)?,
        false => {
            let beneath = mount.destination.strip_prefix("/").unwrap_or(&mount.destination);
            match root.open_in_root(beneath, OFlags::PATH, Mode::empty()) {
                // A file's place is made when the container starts; until then there is nothing to copy to or from.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                other => other?,
            }
        }
    };
    sys::mount::attach(tree.as_fd(), target.as_fd())
}

impl Root {
    /// What is at a path. Links on the way are followed as whoever has this root would; one at its end if `follow` says
    /// so.
    pub(super) fn look(&self, path: &Path, follow: bool) -> Result<Seen, CopyError> {
        let failed = |source| CopyError::Path {
            path: path.to_owned(),
            source,
        };
        let mut way = self.base.join(path);
        for _ in 0..MAX_LINKS {
            let Some(Component::Normal(name)) = way.components().next_back() else {
                return self.open(&way).map(Seen::Dir).map_err(failed);
            };
            let name = name.to_owned();
            let parent = way.parent().unwrap_or(Path::new("/")).to_owned();
            let dir = match self.open(&parent) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Seen::Missing { dir: None, name });
                }
                other => other.map_err(failed)?,
            };
            let Some(stat) = dir.try_stat(&name).map_err(failed)? else {
                return Ok(Seen::Missing { dir: Some(dir), name });
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => return self.open(&way).map(Seen::Dir).map_err(failed),
                FileType::Symlink if follow => {
                    way = parent.join(dir.read_link(&name).map_err(failed)?);
                }
                _ => return Ok(Seen::File { dir, name }),
            }
        }
        Err(failed(rustix::io::Errno::LOOP.into()))
    }

    /// Opens a directory as whoever has this root would.
    fn open(&self, path: &Path) -> io::Result<Dir> {
        let beneath = path.strip_prefix("/").unwrap_or(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NONBLOCK;
        Dir::from_fd(self.dir.open_in_root(beneath, flags, Mode::empty())?)
    }
}
