//! Reaching the real file or directory behind a node.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::File;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use rustix::fs::{self, AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;
use sys::Dir;

use super::node::{Body, DirState, FileState, Node, Real, Via, lock};
use super::{Overlay, Result, errno};
use crate::stack::{KEPT_OPEN, OpenMerged, OpenPart, Place};

/// Directories that are kept open, oldest first.
#[derive(Debug)]
pub(super) struct Kept {
    order: VecDeque<(Weak<Node>, usize)>,
    open: usize,
    limit: usize,
}

impl Kept {
    pub(super) fn new(limit: usize) -> Kept {
        /// Well below the soft limit that most processes have.
        const DEFAULT: usize = 512;
        Kept {
            order: VecDeque::new(),
            open: 0,
            limit: if limit == 0 { DEFAULT } else { limit },
        }
    }

    /// Notes that `node` keeps `count` descriptors; the nodes that must give up theirs.
    fn note(&mut self, node: &Arc<Node>, count: usize) -> Vec<Arc<Node>> {
        self.order.push_back((Arc::downgrade(node), count));
        self.open += count;
        let mut excess = Vec::new();
        while self.open > self.limit && self.order.len() > 1 {
            if let Some((node, count)) = self.order.pop_front() {
                self.open -= count;
                excess.extend(node.upgrade());
            }
        }
        excess
    }
}

/// The upper part of a directory, open.
#[derive(Debug)]
pub(super) struct UpperDir(Arc<OpenMerged>);

impl Deref for UpperDir {
    type Target = Dir;

    fn deref(&self) -> &Dir {
        match &self.0.parts[0].dir {
            Some(dir) => dir,
            None => unreachable!("the first part is always kept open"),
        }
    }
}

/// How a real file is reached.
pub(super) enum Entry<'a> {
    /// An entry of a directory.
    At(&'a Dir, &'a OsStr),
    /// A descriptor; `O_PATH` unless it is a directory's.
    Fd(BorrowedFd<'a>),
}

impl Entry<'_> {
    pub(super) fn stat(&self) -> Result<Stat> {
        match self {
            Entry::At(dir, name) => fs::statat(dir, *name, AtFlags::SYMLINK_NOFOLLOW),
            Entry::Fd(fd) => fs::fstat(fd),
        }
    }

    /// An `O_PATH` descriptor of it.
    pub(super) fn pin(&self) -> Result<OwnedFd> {
        match self {
            Entry::At(dir, name) => fs::openat(
                dir,
                *name,
                OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                Mode::empty(),
            ),
            Entry::Fd(fd) => Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?),
        }
    }

    /// An `O_PATH` descriptor of it, whatever kind this one is.
    pub(super) fn pin_again(&self) -> Result<OwnedFd> {
        match self {
            Entry::At(..) => self.pin(),
            Entry::Fd(fd) => fs::open(
                sys::xattr::path_of(*fd).as_os_str(),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
            ),
        }
    }

    pub(super) fn open(&self, flags: OFlags) -> Result<File> {
        let flags = flags | OFlags::CLOEXEC;
        let fd = match self {
            Entry::At(dir, name) => fs::openat(dir, *name, flags | OFlags::NOFOLLOW, Mode::empty()),
            // Through /proc, because the descriptor is O_PATH or of another mode.
            Entry::Fd(fd) => fs::open(sys::xattr::path_of(*fd).as_os_str(), flags, Mode::empty()),
        };
        Ok(File::from(fd?))
    }

    pub(super) fn read_link(&self) -> Result<Vec<u8>> {
        let target = match self {
            Entry::At(dir, name) => fs::readlinkat(dir, *name, Vec::new()),
            Entry::Fd(fd) => fs::readlinkat(fd, "", Vec::new()),
        };
        Ok(target?.into_bytes())
    }
}

impl Overlay {
    /// All parts of a directory, open. Locks the state of the directory, and those of its ancestors.
    pub(super) fn opened(&self, node: &Arc<Node>) -> Result<Arc<OpenMerged>> {
        let mut state = lock(&node.dir()?.state);
        self.opened_in(node, &mut state)
    }

    pub(super) fn opened_in(&self, node: &Arc<Node>, state: &mut DirState) -> Result<Arc<OpenMerged>> {
        if let Some(open) = &state.open {
            return Ok(open.clone());
        }
        if state.removed {
            return Err(Errno::NOENT);
        }
        let mut parts = Vec::with_capacity(state.lower.len() + 1);
        if state.upper {
            let dir = match &state.name {
                None => self.stack.layers()[0].try_clone(),
                Some(name) => self.upper_dir(&name.parent)?.open_dir(&*name.name),
            };
            let place = Place {
                layer: 0,
                path: Default::default(),
            };
            parts.push(OpenPart {
                dir: Some(dir.map_err(errno)?),
                place,
            });
        }
        for place in state.lower.iter() {
            let dir = (parts.len() < KEPT_OPEN).then(|| self.stack.open_place(place));
            parts.push(OpenPart {
                dir: dir.transpose().map_err(errno)?,
                place: place.clone(),
            });
        }
        let count = parts.len().min(KEPT_OPEN);
        let open = Arc::new(OpenMerged { parts });
        state.open = Some(open.clone());
        let excess = lock(&self.kept).note(node, count);
        for other in excess {
            // The root is needed all the time. A state that is locked just now is in use.
            if other.id != super::ROOT
                && let Body::Dir(dir) = &other.body
                && let Ok(mut state) = dir.state.try_lock()
                && !state.removed
            {
                state.open = None;
            }
        }
        Ok(open)
    }

    /// The upper part of a directory that has one.
    pub(super) fn upper_dir(&self, node: &Arc<Node>) -> Result<UpperDir> {
        upper_part(self.opened(node)?)
    }

    pub(super) fn upper_dir_in(&self, node: &Arc<Node>, state: &mut DirState) -> Result<UpperDir> {
        upper_part(self.opened_in(node, state)?)
    }

    /// Has `look` look at the real file of a node.
    pub(super) fn entry<R>(&self, node: &Arc<Node>, look: impl FnOnce(Entry<'_>) -> Result<R>) -> Result<R> {
        match &node.body {
            Body::Dir(_) => match &self.opened(node)?.parts[0].dir {
                Some(dir) => look(Entry::Fd(dir.as_fd())),
                None => Err(Errno::IO),
            },
            Body::File(file) => self.entry_in(&lock(&file.state), look),
        }
    }

    /// As [`Overlay::entry`], of a file whose state is held.
    pub(super) fn entry_in<R>(
        &self,
        state: &FileState,
        look: impl FnOnce(Entry<'_>) -> Result<R>,
    ) -> Result<R> {
        match &state.real {
            Real::Lower {
                layer,
                path: Some(path),
            } => {
                let place = Place {
                    layer: *layer,
                    path: path.to_path_buf(),
                };
                let (dir, name) = self.stack.parent_of(&place).map_err(errno)?;
                look(Entry::At(&dir, &name))
            }
            Real::Lower { layer, path: None } => {
                let name = state.names.first().ok_or(Errno::STALE)?;
                let open = self.opened(&name.parent)?;
                let part = open.parts.iter().find(|part| part.place.layer == *layer);
                let part = part.ok_or(Errno::STALE)?;
                match &part.dir {
                    Some(dir) => look(Entry::At(dir, &name.name)),
                    None => {
                        let dir = self.stack.open_place(&part.place).map_err(errno)?;
                        look(Entry::At(&dir, &name.name))
                    }
                }
            }
            Real::Upper { via, .. } => match via {
                Via::Anchor(fd) => look(Entry::Fd(fd.as_fd())),
                Via::Index(indexed) => look(Entry::At(self.work()?.index()?, &indexed.entry)),
                Via::Name => {
                    let name = state.names.first().ok_or(Errno::STALE)?;
                    look(Entry::At(&*self.upper_dir(&name.parent)?, &name.name))
                }
            },
        }
    }

    /// Where a lower file is.
    pub(super) fn lower_place(&self, state: &FileState) -> Result<Place> {
        match &state.real {
            Real::Lower {
                layer,
                path: Some(path),
            } => Ok(Place {
                layer: *layer,
                path: path.to_path_buf(),
            }),
            Real::Lower { layer, path: None } => {
                let name = state.names.first().ok_or(Errno::STALE)?;
                let parent = lock(&name.parent.dir()?.state);
                let part = parent.lower.iter().find(|part| part.layer == *layer);
                Ok(Place {
                    layer: *layer,
                    path: part.ok_or(Errno::STALE)?.path.join(&*name.name),
                })
            }
            Real::Upper { .. } => Err(Errno::IO),
        }
    }
}

fn upper_part(open: Arc<OpenMerged>) -> Result<UpperDir> {
    match open.parts.first() {
        Some(part) if part.place.layer == 0 && part.dir.is_some() => Ok(UpperDir(open)),
        _ => Err(Errno::IO),
    }
}
