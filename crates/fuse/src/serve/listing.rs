//! Listings. A directory needs no open and a handle no state: a cookie says where to go on.

use overlay::live::DirEntry;
use rustix::fs::FileType;
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

    /// A listing with each name looked up. A name that is gone by then stays without a node, and the kernel asks when it
    /// needs one.
    pub(super) fn readdir_plus(&self, node: u64, offset: u64, size: u32, out: &mut Out) -> Done {
        let limit = (size as usize).min(MAX_WRITE);
        let (reply, nodes, directories) = (&mut out.reply, &mut out.granted.nodes, &mut out.directories);
        if offset == 0 {
            self.ahead.listed(node);
        }
        directories.clear();
        let listed = self.overlay.list(node, offset, &mut |entry: &DirEntry<'_>| {
            let at = reply.body_len();
            if !reply.dirent_plus(limit, entry.name, entry.ino, entry.file_type, entry.next) {
                return false;
            }
            let dots = entry.name == "." || entry.name == "..";
            if !dots
                && (entry.among <= CROWD || offset == 0)
                && let Ok(found) = self.overlay.lookup_listed(node, entry)
            {
                nodes.push(found.node);
                reply.fill_entry(at, found.node, &found.attr, self.timeouts(found.node));
                if entry.file_type == FileType::Directory {
                    directories.push(found.node);
                }
            }
            true
        });
        self.ahead.expect(node, directories);
        match listed {
            // What comes next cannot be read; what was is told first, for the kernel has nodes of it.
            Err(_) if !nodes.is_empty() => Ok(()),
            listed => listed,
        }
    }
}
