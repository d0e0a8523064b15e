//! [`Node`]: one file or directory of the view that a front end knows, and the tables that find it again.
//!
//! A node keeps no descriptor: it knows where the real thing is. A directory's lower parts never move, so they are
//! paths; where its upper part is follows from its name and its parent, which do. What has no name any more but is
//! still known is held by a descriptor, its *anchor*.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use foldhash::fast::RandomState;
use rustix::fs::FileType;
use rustix::io::Errno;
use smallvec::SmallVec;

use super::flags::Protection;
use super::list::Listing;
use super::{NodeId, ROOT, Result};
use crate::stack::{OpenMerged, Place};

/// A lock whose holder panicked still guards whole values: every change below is a plain assignment.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// A file or directory of the view.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) id: NodeId,
    /// What `st_ino` shows, for as long as the node is known.
    pub(super) ino: u64,
    /// References that the front end holds.
    refs: AtomicU64,
    pub(super) body: Body,
}

#[derive(Debug)]
pub(super) enum Body {
    Dir(Box<DirBody>),
    File(FileBody),
}

/// A name in a directory.
#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) parent: Arc<Node>,
    pub(super) name: Arc<OsStr>,
}

#[derive(Debug)]
pub(super) struct DirBody {
    pub(super) state: Mutex<DirState>,
    /// The directory's own lock, around a listing in progress, kept true by every change. Held for writing by whoever
    /// changes its entries, from the first look to the last note, and for reading by whoever looks a name up in the
    /// layers. Not held while the data of a file is copied.
    pub(super) listing: RwLock<Option<Listing>>,
    pub(super) protection: Protection,
    /// Which of its entries are known. Changed and read by [`Tree`](super::tree) alone.
    pub(super) known: RwLock<Known>,
}

#[derive(Debug)]
pub(super) struct DirState {
    /// Where it is; `None` for the root, and for a directory that was removed.
    pub(super) name: Option<Name>,
    /// Whether it has a part in the upper layer.
    pub(super) upper: bool,
    /// Its parts in lower layers, topmost first.
    pub(super) lower: Arc<[Place]>,
    /// Whether the upper part may hold what was copied up; `None` when that was not read yet.
    pub(super) impure: Option<bool>,
    /// All its parts, opened, while there is room for them.
    pub(super) open: Option<Arc<OpenMerged>>,
    /// It was removed; `open` stays as it is.
    pub(super) removed: bool,
}

/// The entries of a directory that have nodes.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) nodes: HashMap<Arc<OsStr>, Arc<Node>, RandomState>,
    /// How often one was taken away or replaced: what was looked up before is not entered after.
    pub(super) version: u64,
}

#[derive(Debug)]
pub(super) struct FileBody {
    pub(super) kind: FileType,
    /// Whether its data is in the upper layer. Never goes back.
    pub(super) upper_data: AtomicBool,
    /// Whether it was made here and never given capabilities. The kernel asks for them at the first write and at every
    /// change of owner.
    pub(super) incapable: AtomicBool,
    pub(super) protection: Protection,
    /// Whether its data was once opened in a lower layer: that can be put off until it is read.
    pub(super) opened: AtomicBool,
    pub(super) state: Mutex<FileState>,
}

#[derive(Debug)]
pub(super) struct FileState {
    /// The names it is known by; the real thing is reached by the first.
    pub(super) names: SmallVec<[Name; 1]>,
    pub(super) real: Real,
    /// Its keys in the table of files with several names.
    pub(super) keys: Vec<(u64, u64)>,
    /// Someone copies it up just now.
    pub(super) copying: Option<Arc<Gate>>,
}

/// Where the real file is.
#[derive(Debug)]
pub(super) enum Real {
    /// In a lower layer: under its name in its parent's part there, or at a path where that name is gone.
    Lower { layer: usize, path: Option<Box<Path>> },
    /// In the upper layer.
    Upper {
        via: Via,
        /// Of a metadata-only file: where its data is.
        data: Option<Box<Place>>,
    },
}

impl Real {
    /// A whole file in the upper layer, under any of its names.
    pub(super) const BY_NAME: Real = Real::Upper {
        via: Via::Name,
        data: None,
    };
}

/// How a file of the upper layer is reached.
#[derive(Debug)]
pub(super) enum Via {
    /// By any of its names.
    Name,
    /// By its entry in the index: some of its names are only in lower layers.
    Index(Box<Indexed>),
    /// By a descriptor: it has no name, or none that is known.
    Anchor(OwnedFd),
}

/// A hard-linked lower file that was copied up.
#[derive(Debug)]
pub(super) struct Indexed {
    /// Its entry in the index directory.
    pub(super) entry: Box<OsStr>,
    /// Links in the view.
    pub(super) nlink: i64,
    /// Links of the lower file.
    pub(super) lower_nlink: i64,
}

/// How often who waits looks whether that is still wanted.
const LOOK_UP: Duration = Duration::from_millis(100);

/// What others wait at while a file is copied up.
#[derive(Debug, Default)]
pub(super) struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub(super) fn open(&self) {
        *lock(&self.open) = true;
        self.changed.notify_all();
    }

    /// Waits until it is opened; `EINTR` if `given_up` says before that nobody needs to.
    pub(super) fn wait(&self, given_up: impl Fn() -> bool) -> Result<()> {
        let mut open = lock(&self.open);
        while !*open {
            if given_up() {
                return Err(Errno::INTR);
            }
            let waited = self.changed.wait_timeout(open, LOOK_UP);
            (open, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }
}

impl Node {
    pub(super) fn dir(&self) -> Result<&DirBody> {
        match &self.body {
            Body::Dir(dir) => Ok(dir),
            Body::File(_) => Err(Errno::NOTDIR),
        }
    }

    pub(super) fn file(&self) -> Result<&FileBody> {
        match &self.body {
            Body::File(file) => Ok(file),
            Body::Dir(_) => Err(Errno::ISDIR),
        }
    }

    pub(super) fn protection(&self) -> &Protection {
        match &self.body {
            Body::Dir(dir) => &dir.protection,
            Body::File(file) => &file.protection,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    /// One more reference for the front end.
    pub(super) fn refer(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes references back; what remains.
    pub(super) fn release(&self, count: u64) -> u64 {
        let before = self
            .refs
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                Some(refs.saturating_sub(count))
            });
        before.unwrap_or(0).saturating_sub(count)
    }

    pub(super) fn is_referred(&self) -> bool {
        self.refs.load(Ordering::Acquire) > 0
    }
}

const SHARDS: usize = 16;

/// Every node by its number.
#[derive(Debug)]
pub(super) struct Nodes {
    shards: [RwLock<HashMap<NodeId, Arc<Node>, RandomState>>; SHARDS],
    next: AtomicU64,
}

impl Nodes {
    pub(super) fn new() -> Nodes {
        Nodes {
            shards: Default::default(),
            next: AtomicU64::new(ROOT),
        }
    }

    /// A new node, without references.
    pub(super) fn insert(&self, ino: u64, body: Body) -> Arc<Node> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let node = Arc::new(Node {
            id,
            ino,
            refs: AtomicU64::new(0),
            body,
        });
        write(self.shard(id)).insert(id, node.clone());
        node
    }

    pub(super) fn get(&self, id: NodeId) -> Result<Arc<Node>> {
        read(self.shard(id)).get(&id).cloned().ok_or(Errno::STALE)
    }

    pub(super) fn remove(&self, id: NodeId) {
        write(self.shard(id)).remove(&id);
    }

    /// How many are known.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| read(shard).len()).sum()
    }

    fn shard(&self, id: NodeId) -> &RwLock<HashMap<NodeId, Arc<Node>, RandomState>> {
        &self.shards[id as usize % SHARDS]
    }
}

impl Drop for Nodes {
    /// A directory holds what is in it, which holds the directory: nothing would let go of them, and of the descriptors
    /// that they keep.
    fn drop(&mut self) {
        for shard in &self.shards {
            for node in read(shard).values() {
                if let Body::Dir(dir) = &node.body {
                    write(&dir.known).nodes.clear();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a front end that knows a million files pays for: besides this a name (16 bytes and its letters), an
    /// entry in its directory (24) and one in the table of nodes (16), each with the slack of a hash table.
    #[test]
    fn a_node_is_small() {
        assert!(size_of::<Node>() <= 152, "{} bytes", size_of::<Node>());
    }
}
