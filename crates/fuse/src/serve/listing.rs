//! Listings. A directory needs no open and a handle no state: a cookie says where to go on.

use overlay::live::DirEntry;
use rustix::io::Errno;

use super::Shared;
use super::worker::Out;
use crate::session::MAX_WRITE;

type Done = Result<(), Errno>;

/// Of a directory with more entries only the first piece is looked up: whoever only wants names should not have us, and
/// the kernel, remember a million files.
const CROWD: usize = 100_000;

impl Shared {
    pub(super) fn readdir(&self, node: u64, offset: u64, size: u32, out: &mut Out) -> Done {
        let limit = (size as usize).min(MAX_WRITE);
        let reply = &mut out.reply;
        self.overlay.list(node, offset, &mut |entry: &DirEntry<'_>| {
            reply.dirent(limit, entry.name, entry.ino, entry.file_type, entry.next)
        })
    }

    /// A listing with each name looked up. First the names that fit, then their nodes: the overlay is not asked for
    /// one while it lists. A name that is gone by then stays without a node, and the kernel asks when it needs one.
    pub(super) fn readdir_plus(&self, node: u64, offset: u64, size: u32, out: &mut Out) -> Done {
        let limit = (size as usize).min(MAX_WRITE);
        let (reply, layers) = (&mut out.reply, &mut out.layers);
        let mut among = 0;
        layers.clear();
        self.overlay.list(node, offset, &mut |entry: &DirEntry<'_>| {
            let fits = reply.dirent_plus(limit, entry.name, entry.ino, entry.file_type, entry.next);
            if fits {
                layers.push(entry.layer);
                among = entry.among;
            }
            fits
        })?;
        if among > CROWD && offset > 0 {
            return Ok(());
        }
        let mut at = 0;
        let mut layers = layers.iter();
        while let Some((name, next)) = reply.name_at(at) {
            let layer = layers.next().copied().unwrap_or(0);
            if name != "."
                && name != ".."
                && let Ok(found) = self.overlay.lookup_listed(node, name, layer)
            {
                out.granted.nodes.push(found.node);
                reply.fill_entry(at, found.node, &found.attr, self.timeouts(found.node));
            }
            at = next;
        }
        Ok(())
    }
}
