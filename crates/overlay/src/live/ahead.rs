//! Reading ahead: a directory that somebody will list soon is read before it is asked for, with the status of its files.
//!
//! Only directories that lie in lower layers alone: nothing there ever changes, and whoever changes one in the view gives
//! it a part in the upper layer first, which stays. So what was read holds for as long as there is no such part, and
//! looking for one is all that has to be done when it is used.

use std::sync::Arc;

use rustix::fs::{FileType, Stat};

use super::list::DirEntry;
use super::lookup::file_body;
use super::node::{DirBody, Name, Node, Real, lock, read, write};
use super::{NodeId, Overlay, Result};

/// A directory with more entries is left to who lists it: nobody knows that all will be asked for, and several that are
/// read ahead are kept at a time.
const MOST: usize = 1024;

impl DirBody {
    /// Whether it lies in lower layers alone, and always did.
    fn is_untouched(&self) -> bool {
        let state = lock(&self.state);
        !state.upper && !state.removed
    }
}

impl Overlay {
    /// Reads a directory for who will list it. One that has a part in the upper layer is left alone, and a very large one.
    pub fn read_ahead(&self, node: NodeId) -> Result<()> {
        let node = self.nodes.get(node)?;
        let dir = node.dir()?;
        if !dir.is_untouched() || read(&dir.listing).is_some() {
            return Ok(());
        }
        let mut fresh = self.read_listing(&node)?;
        if fresh.len() > MOST {
            return Ok(());
        }
        let open = self.opened(&node)?;
        fresh.read_statuses(|name, kind, layer| {
            let part = open.parts.iter().find(|part| part.place.layer == layer)?;
            let stat = match kind {
                // Which parts it has is still to be found out.
                FileType::Directory => return None,
                _ => self.stack.with(part, |dir| dir.stat(name)).ok()?,
            };
            // One with several names may be known by another.
            (stat.st_nlink == 1).then_some(stat)
        });
        let mut listing = write(&dir.listing);
        // It was read without its lock.
        if listing.is_some() || !dir.is_untouched() {
            return Ok(());
        }
        *listing = Some(fresh);
        drop(listing);
        self.note_listing(node.id);
        Ok(())
    }

    /// The node of an entry whose status was read ahead, as [`Overlay::child`] gives it; none where it has to be looked up.
    pub(super) fn child_ahead(
        &self,
        parent: &Arc<Node>,
        entry: &DirEntry<'_>,
    ) -> Result<Option<(Arc<Node>, Option<Stat>)>> {
        let Some(stat) = entry.stat else {
            return Ok(None);
        };
        let dir = parent.dir()?;
        let _listing = read(&dir.listing);
        let (known, version) = self.find(dir, entry.name);
        if let Some(node) = known {
            return Ok(Some((node, None)));
        }
        // Looked at after the version: whatever is changed from here on is known, or was and has changed that.
        if !dir.is_untouched() {
            return Ok(None);
        }
        let named = Name {
            parent: parent.clone(),
            name: Arc::from(entry.name),
        };
        let real = Real::Lower {
            layer: entry.layer,
            path: None,
        };
        let ino = self.devices.ino(entry.layer, stat.st_ino);
        let kind = FileType::from_raw_mode(stat.st_mode);
        let body = |named| file_body(kind, false, named, real, Vec::new());
        let entered = self.enter_found(&named, version, ino, &[], body)?;
        Ok(entered.map(|(node, new)| (node, new.then_some(*stat))))
    }
}
