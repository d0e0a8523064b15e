//! Open files by the number that the kernel knows them by.

use std::collections::{HashMap, VecDeque};
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
}

/// All open files. Number 0 is none: it stands for a file that was never opened.
#[derive(Debug, Default)]
pub(super) struct Handles(RwLock<Slots>);

impl Handles {
    pub(super) fn insert(&self, handle: Handle) -> u64 {
        let mut slots = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let handle = Some(Arc::new(handle));
        match slots.free.pop() {
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
        }
    }

    pub(super) fn get(&self, fh: u64) -> Option<Arc<Handle>> {
        let index = usize::try_from(fh).ok()?.checked_sub(1)?;
        let slots = self.0.read().unwrap_or_else(PoisonError::into_inner);
        slots.used.get(index)?.clone()
    }

    /// Whether a node is open for writing. Looks at every open file: to be asked seldom.
    pub(super) fn has_writer(&self, node: NodeId) -> bool {
        let slots = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut open = slots.used.iter().flatten();
        open.any(|handle| handle.file.node_id() == node && handle.file.is_writable())
    }

    pub(super) fn remove(&self, fh: u64) -> Option<Arc<Handle>> {
        let index = usize::try_from(fh).ok()?.checked_sub(1)?;
        let mut slots = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let handle = slots.used.get_mut(index)?.take()?;
        slots.free.push(index);
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
