//! Backing files: reads, writes and maps of a file in the writable layer go to that file itself.
//!
//! The kernel fixes an inode's mode of I/O while it is open: all opens through the page cache, or all passed through to
//! one and the same backing file; whatever does not fit is answered EIO. So opens of each kind are counted a node. The
//! kernel counts a file as closed before it sends RELEASE, so these counts are never below its own, and going by them
//! is safe.
//!
//! A map of a backing file changes its time of modification without a word to the kernel's FUSE client. So attributes of
//! a node that is passed through for writing are not to be believed for any time ([`Backings::is_written`]).
//!
//! Only a file whose data lies in the writable layer is ever given to the kernel: a backing id is write access.
//! A backing id outlives RELEASE for a while, because files are opened again; FORGET of its node ends it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use overlay::live::NodeId;
use rustix::io::Errno;

/// Backing ids that are kept beyond their last RELEASE at most.
const IDLE: usize = 512;

#[derive(Debug, Default)]
struct Io {
    cached: u32,
    passthrough: u32,
    /// Those of `passthrough` that are open for writing.
    writers: u32,
    backing: Option<u32>,
    /// Counts how often the node became idle: tells a stale place in the queue.
    turn: u64,
}

#[derive(Debug, Default)]
struct Table {
    nodes: HashMap<NodeId, Io>,
    /// Nodes in the order in which their backing ids became idle.
    idle: VecDeque<(NodeId, u64)>,
    turns: u64,
}

/// Modes of I/O of all nodes that are open, and the backing ids.
#[derive(Debug)]
pub(super) struct Backings {
    table: Mutex<Table>,
    enabled: AtomicBool,
    /// Opens for writing that are passed through, of all nodes.
    writers: AtomicU32,
}

/// How the data of an open file travels: through this backing id.
#[derive(Debug, Clone, Copy)]
pub(super) struct Through {
    pub(super) id: u32,
    /// It is the node's first open for writing: what the kernel believes of its attributes holds no longer.
    pub(super) first_writer: bool,
}

impl Backings {
    pub(super) fn new(enabled: bool) -> Backings {
        Backings {
            table: Mutex::default(),
            enabled: AtomicBool::new(enabled),
            writers: AtomicU32::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an open of `node` and gives the backing id to pass it through to, or none for the page cache. `file`
    /// is its file if that lies in the writable layer.
    pub(super) fn open<F: AsFd>(
        &self,
        device: BorrowedFd<'_>,
        node: NodeId,
        writes: bool,
        file: impl FnOnce() -> Option<F>,
    ) -> Option<Through> {
        if !self.enabled.load(Ordering::Relaxed) && self.lock().nodes.is_empty() {
            return None;
        }
        let mut table = self.lock();
        let io = table.nodes.entry(node).or_default();
        if io.cached == 0 && io.backing.is_none() && self.enabled.load(Ordering::Relaxed) {
            io.backing = file().and_then(|file| self.register(device, file.as_fd()));
        }
        match io.backing {
            Some(id) if io.cached == 0 => {
                io.passthrough += 1;
                if writes {
                    io.writers += 1;
                    self.writers.fetch_add(1, Ordering::Relaxed);
                }
                let first_writer = writes && io.writers == 1;
                Some(Through { id, first_writer })
            }
            _ => {
                io.cached += 1;
                None
            }
        }
    }

    fn register(&self, device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Option<u32> {
        match sys::fuse::backing_open(device, file) {
            Ok(id) => Some(id),
            Err(error) => {
                // Not for us, or not on this file system: it will not be otherwise for the next file.
                if let Some(Errno::PERM | Errno::LOOP | Errno::OPNOTSUPP | Errno::NOTTY) =
                    Errno::from_io_error(&error)
                {
                    self.enabled.store(false, Ordering::Relaxed);
                }
                None
            }
        }
    }

    /// Whether a node is passed through for writing.
    pub(super) fn is_written(&self, node: NodeId) -> bool {
        self.writers.load(Ordering::Relaxed) > 0
            && self.lock().nodes.get(&node).is_some_and(|io| io.writers > 0)
    }

    /// Counts a RELEASE of an open that was passed through or not, and was for writing or not.
    pub(super) fn close(&self, device: BorrowedFd<'_>, node: NodeId, passthrough: bool, writes: bool) {
        let mut table = self.lock();
        let table = &mut *table;
        let Some(io) = table.nodes.get_mut(&node) else {
            return;
        };
        if !passthrough {
            io.cached = io.cached.saturating_sub(1);
            if io.cached == 0 && io.passthrough == 0 && io.backing.is_none() {
                table.nodes.remove(&node);
            }
            return;
        }
        io.passthrough = io.passthrough.saturating_sub(1);
        if writes && io.writers > 0 {
            io.writers -= 1;
            self.writers.fetch_sub(1, Ordering::Relaxed);
        }
        if io.passthrough > 0 {
            return;
        }
        table.turns += 1;
        io.turn = table.turns;
        table.idle.push_back((node, io.turn));
        while table.idle.len() > IDLE {
            let Some((node, turn)) = table.idle.pop_front() else {
                break;
            };
            if table.nodes.get(&node).is_some_and(|io| io.turn == turn) {
                retire(&mut table.nodes, device, node);
            }
        }
    }

    /// The kernel has let go of `node`: nothing keeps a removed file's space any longer.
    pub(super) fn forget(&self, device: BorrowedFd<'_>, node: NodeId) {
        let mut table = self.lock();
        retire(&mut table.nodes, device, node);
    }
}

/// Gives the backing id of `node` back, unless it is in use.
fn retire(nodes: &mut HashMap<NodeId, Io>, device: BorrowedFd<'_>, node: NodeId) {
    let Some(io) = nodes.get(&node) else { return };
    if io.passthrough > 0 || io.cached > 0 {
        return;
    }
    if let Some(id) = io.backing {
        // It fails when the connection has ended, which takes all of them.
        let _ = sys::fuse::backing_close(device, id);
    }
    nodes.remove(&node);
}
