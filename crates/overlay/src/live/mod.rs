//! [`Overlay`]: a stack of layers that is in use: looked up, listed, opened, copied up and changed.
//!
//! What the kernel's overlayfs does inside the kernel, as a value that any front end can drive: a FUSE server, or a
//! test without one. Calls name a node (what a front end calls an inode) and a name beneath it; they answer with an
//! errno, because that is what every front end replies. All of it is `Sync`: several threads call at once.
//!
//! Lock order: a rename between directories; a directory's own lock, around its listing (of two directories, the one
//! that is above the other first, else the one with the smaller node number; then a directory that is replaced); files
//! that are being found under several names; a file's state; directories' states, from one to those above it; the
//! [`tree`], and other tables. None of them is held while the data of a file is copied up: who would change the same
//! file waits at its gate, others do not.
//!
//! Start reading at [`node`], then [`tree`], [`lookup`] and [`copy_up`].

mod ahead;
mod attr;
mod copy_up;
mod create;
mod flags;
mod front_end;
mod index;
mod list;
mod lookup;
mod node;
mod open;
mod options;
mod origin;
mod owner;
mod place;
mod remove;
mod rename;
mod tree;
mod work;
mod xattrs;

use std::ffi::OsStr;
use std::io;
use std::sync::{Mutex, RwLock};

use foldhash::fast::RandomState;
use rustix::fs::{Stat, StatVfs};
use rustix::io::Errno;
use sys::Dir;

pub use attr::{SetAttr, SetTime};
pub use front_end::FrontEnd;
pub use list::DirEntry;
pub use open::OpenFile;
pub use options::{IdRange, Ids, Layers, OpenError, Options, OwnersIn, RedirectDir, Sync};
pub use rustix::fs::RenameFlags;

use crate::stack::Stack;
use node::{Body, DirBody, DirState, Nodes};
use tree::Tree;
use work::Work;

/// What a call answers: the errno that a program shall see.
pub type Result<T> = std::result::Result<T, Errno>;

/// Names a node to a front end. Never reused while the overlay is served.
pub type NodeId = u64;

/// The root directory's node.
pub const ROOT: NodeId = 1;

/// Who makes something new: it will own it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Caller {
    /// File system user id.
    pub uid: u32,
    /// File system group id.
    pub gid: u32,
    /// A supplementary group that counts: the directory's, if the caller is in it.
    pub group: Option<u32>,
    /// File creation mask; it counts only where the parent has no default ACL.
    pub umask: u32,
}

/// A node with its status as the merged view shows it: `st_ino` and `st_nlink` are the overlay's, `st_dev` is a
/// layer's and means nothing.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// The node. A front end that is given one holds a reference to it until it says [`Overlay::forget`].
    pub node: NodeId,
    /// Its status.
    pub attr: Stat,
}

/// An overlay in use.
#[derive(Debug)]
pub struct Overlay {
    /// All layers; with the upper one first when there is one.
    stack: Stack<Dir>,
    /// Where changes are prepared; `None` when read-only.
    work: Option<Work>,
    options: Options,
    /// The file systems that the layers are on.
    devices: origin::Devices,
    /// Where owners are kept in an attribute.
    owners: owner::Owners,
    nodes: Nodes,
    /// Who is found under which name.
    tree: RwLock<Tree>,
    /// Held while a file with several names is looked up in the index and entered.
    linking: Mutex<()>,
    /// Held by a rename between directories: while it is, no directory changes its parent otherwise.
    renames: Mutex<()>,
    kept: Mutex<place::Kept>,
    /// Directories with a listing in progress, oldest first.
    listed: Mutex<std::collections::VecDeque<NodeId>>,
    /// For the cookies of listings.
    hasher: RandomState,
    /// Longest name, in bytes.
    name_max: usize,
}

/// The errno of an error; one that came from no system call says what it is by its kind.
fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(match error.kind() {
        io::ErrorKind::PermissionDenied => Errno::PERM,
        io::ErrorKind::InvalidInput => Errno::INVAL,
        _ => Errno::IO,
    })
}

impl Overlay {
    /// An overlay of `layers`. What a crash left in the work directory is removed; the upper directory is left as it
    /// is. Upper and work directory stay locked until the overlay is dropped.
    pub fn new(layers: Layers, mut options: Options) -> std::result::Result<Overlay, OpenError> {
        if layers.lower.is_empty() {
            return Err(OpenError::NoLower);
        }
        let reading = |what| move |source| OpenError::Io { what, source };
        let work = match (&layers.upper, layers.work) {
            (None, None) => None,
            (Some(upper), Some(work)) => {
                let work = Work::prepare(upper, work, &layers.lower[0], &options)?;
                options.whiteouts = work.whiteouts();
                if !work.keeps_attributes() {
                    options.index = false;
                    options.metacopy = false;
                    options.redirect_dir = match options.redirect_dir {
                        RedirectDir::On => RedirectDir::Follow,
                        other => other,
                    };
                }
                Some(work)
            }
            _ => return Err(OpenError::HalfWritable),
        };
        let writable = layers.upper.is_some();
        let all: Vec<Dir> = layers.upper.into_iter().chain(layers.lower).collect();
        let devices = origin::Devices::of(&all).map_err(reading("a layer's root cannot be read"))?;
        let name_max = rustix::fs::fstatvfs(&all[0])
            .map_err(|errno| reading("the file system's limits cannot be read")(errno.into()))?
            .f_namemax as usize;
        let owners = match options.owners {
            OwnersIn::Inodes => owner::Owners::default(),
            OwnersIn::AttributesOfLayers => {
                owner::Owners::of(&all, None).map_err(reading("a layer's root cannot be read"))?
            }
            OwnersIn::Attribute(name) => owner::Owners::of(&all, Some(name).filter(|_| writable))
                .map_err(reading("owners cannot be kept in an attribute"))?,
        };
        // Who serves the overlay reads no more than its layers: redirects are followed under either prefix.
        let follow = options.redirect_dir != RedirectDir::NoFollow;
        let stack = Stack::new(all, options.prefix)
            .with_redirects(follow)
            .with_named_whiteouts(options.named_whiteouts);
        let merged = stack.root().map_err(reading("a layer's root cannot be read"))?;
        let mut lower = merged.map(|merged| merged.parts).unwrap_or_default();
        if writable {
            lower.remove(0);
        }
        let top = stack.layers()[usize::from(writable)].metadata();
        let ino = devices.ino(
            usize::from(writable),
            top.map_err(reading("a layer's root cannot be read"))?.st_ino,
        );
        let nodes = Nodes::new();
        let root = nodes.insert(
            ino,
            Body::Dir(Box::new(DirBody {
                state: Mutex::new(DirState {
                    name: None,
                    upper: writable,
                    lower: lower.into(),
                    impure: None,
                    open: None,
                    removed: false,
                }),
                listing: RwLock::default(),
                protection: Default::default(),
                known: RwLock::default(),
            })),
        );
        root.refer();
        let kept = place::Kept::new(options.kept_open);
        Ok(Overlay {
            stack,
            work,
            options,
            devices,
            owners,
            nodes,
            tree: RwLock::default(),
            linking: Mutex::default(),
            renames: Mutex::default(),
            kept: Mutex::new(kept),
            listed: Mutex::default(),
            hasher: RandomState::default(),
            name_max,
        })
    }

    /// Whether anything can be changed.
    pub fn is_writable(&self) -> bool {
        self.work.is_some()
    }

    /// How many nodes the front end knows.
    pub fn known(&self) -> usize {
        self.nodes.len()
    }

    /// Whether attributes can be kept in the upper directory.
    fn keeps_attributes(&self) -> bool {
        self.work.as_ref().is_some_and(Work::keeps_attributes)
    }

    /// The work directory, or `EROFS`.
    fn work(&self) -> Result<&Work> {
        self.work.as_ref().ok_or(Errno::ROFS)
    }

    /// Size and room of the file system that changes go to, or that the topmost layer is on.
    pub fn statfs(&self) -> Result<StatVfs> {
        rustix::fs::fstatvfs(&self.stack.layers()[0])
    }

    /// Makes everything written durable, unless the overlay is volatile.
    pub fn syncfs(&self) -> Result<()> {
        match &self.work {
            Some(_) if self.options.sync != Sync::Volatile => {
                let _long = self.long();
                self.stack.layers()[0].syncfs().map_err(errno)
            }
            _ => Ok(()),
        }
    }

    fn is_upper(&self, layer: usize) -> bool {
        layer == 0 && self.is_writable()
    }

    /// Checks a name that a front end gives.
    fn check(&self, name: &OsStr) -> Result<()> {
        if name.len() > self.name_max {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(())
    }

    /// Checks a name that something is to be given: what would be read as a whiteout is none.
    fn check_new(&self, name: &OsStr) -> Result<()> {
        self.check(name)?;
        match self.options.named_whiteouts && crate::whiteout::named(name).is_some() {
            true => Err(Errno::INVAL),
            false => Ok(()),
        }
    }
}
