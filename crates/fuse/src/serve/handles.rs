//! Open files by the number that the kernel knows them by.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use overlay::live::{NodeId, OpenFile, Overlay};
use rustix::fs::OFlags;
use rustix::io::Errno;

/// An open file.
#[derive(Debug)]
pub(super) struct Handle {
    /// The overlay's open file.
    pub(super) file: OpenFile,
    /// Whether the kernel passes its data through to the backing file.
    pub(super) passthrough: bool,
}

#[derive(Debug, Default)]
struct Slots {
    used: Vec<Option<Arc<Handle>>>,
    free: Vec<usize>,
    /// Those that are open for writing, by their nodes.
    writers: BTreeSet<(NodeId, u64)>,
}

/// All open files. Number 0 is none: it stands for a file that was never opened.
#[derive(Debug, Default)]
pub(super) struct Handles(RwLock<Slots>);

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let mut slots = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let writes = handle.file.is_writable().then(|| handle.file.node_id());
        let handle = Some(Arc::new(handle));
        let fh = match slots.free.pop() {
            Some(index) => {
                if let Some(slot) = slots.used.get_mut(index) {
                    *slot = handle;
                }
                index as u64 + 1
            }
            None => {
                slots.used.push(handle);
                slots.used.len() as u64
            }
        };
        slots.writers.extend(writes.map(|node| (node, fh)));
        fh
    }

    pub(super) fn get(&self, fh: u64) -> Option<Arc<Handle>> {
        let index = usize::try_from(fh).ok()?.checked_sub(1)?;
        let slots = self.0.read().unwrap_or_else(PoisonError::into_inner);
        slots.used.get(index)?.clone()
    }

    /// A file that is open for writing, of a node.
    pub(super) fn writer(&self, node: NodeId) -> Option<Arc<Handle>> {
        let slots = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let (_, fh) = slots.writers.range((node, 0)..=(node, u64::MAX)).next()?;
        let slot = slots.used.get(usize::try_from(*fh).ok()?.checked_sub(1)?);
        slot.cloned().flatten()
    }

    pub(super) fn remove(&self, fh: u64) -> Option<Arc<Handle>> {
        let index = usize::try_from(fh).ok()?.checked_sub(1)?;
        let mut slots = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let handle = slots.used.get_mut(index)?.take()?;
        slots.free.push(index);
        slots.writers.remove(&(handle.file.node_id(), fh));
        Some(handle)
    }
}

/// Files that are read without having been opened, on a read-only mount: the last ones read stay open.
#[derive(Debug, Default)]
pub(super) struct Unopened(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    files: HashMap<NodeId, Arc<File>>,
    order: VecDeque<NodeId>,
}

/// Files that stay open at most.
const RECENT: usize = 256;

impl Unopened {
    /// The file of a node, opened if it is not.
    pub(super) fn get(&self, overlay: &Overlay, node: NodeId) -> Result<Arc<File>, Errno> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = lock().files.get(&node) {
            return Ok(file.clone());
        }
        let file = overlay.open(node, OFlags::RDONLY, false)?.file(overlay)?;
        let mut recent = lock();
        if recent.files.insert(node, file.clone()).is_none() {
            recent.order.push_back(node);
        }
        if recent.order.len() > RECENT
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.files.remove(&oldest);
        }
        Ok(file)
    }
}
