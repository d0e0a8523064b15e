//! Where things lie beneath the store's root.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64};

use rustix::fs::{Mode, OFlags};
use sys::Dir;

use crate::error::Fault;

/// The database file.
pub(crate) const DATABASE: &str = "metadata.db";
/// One directory a layer or snapshot, named by its number.
pub(crate) const SNAPSHOTS: &str = "snapshots";
/// Blobs by digest.
pub(crate) const BLOBS: &str = "content/blobs/sha256";
/// Blobs on their way.
pub(crate) const INGEST: &str = "content/ingest";
/// Lock files of operations under way.
pub(crate) const LEASES: &str = "leases";
/// What is mounted upon in containers, as their lowest layer.
pub(crate) const MOUNT_POINTS: &str = "mountpoints";
/// A sparse file, longer in bytes than any number whose directory was removed since the machine came up.
pub(crate) const NUMBERS: &str = "numbers";
/// An empty directory, which lies beneath a layer that is unpacked apart from those below it.
pub(crate) const NOTHING: &str = "nothing";
/// What a layer or snapshot has of its own, beneath its number.
pub(crate) const FS: &str = "fs";
/// The overlay's work directory, beneath a writable snapshot's number.
pub(crate) const WORK: &str = "work";
/// What is to be a volume's content and is not wholly there yet, beneath its number.
pub(crate) const FILLING: &str = "filling";
/// What was to be a volume's content and is wholly there, on its way into the volume; beneath its number.
pub(crate) const FILLED: &str = "filled";
/// What a container prints, beneath its writable snapshot's number.
pub(crate) const LOG: &str = "log";
/// The content record, beneath a layer's number.
pub(crate) const RECORD: &str = "record";
/// Empty: a check found the layer damaged; beneath its number.
pub(crate) const DAMAGED: &str = "damaged";

const PRIVATE: Mode = Mode::RWXU;

/// The root, and the directories beneath it, opened when first used.
pub(crate) struct Layout {
    pub(crate) path: PathBuf,
    pub(crate) root: Dir,
    /// The reserve was given to the disk, and is to be taken back.
    pub(crate) spent: AtomicBool,
    /// The number after the last that this process allotted; a place to look, no more.
    pub(crate) next: AtomicU64,
    snapshots: OnceLock<Dir>,
    blobs: OnceLock<Dir>,
    ingest: OnceLock<Dir>,
    leases: OnceLock<Dir>,
}

impl Layout {
    pub(crate) fn new(path: PathBuf, root: Dir) -> Layout {
        let (snapshots, blobs, ingest, leases) = Default::default();
        Layout {
            path,
            root,
            spent: AtomicBool::new(false),
            next: AtomicU64::new(0),
            snapshots,
            blobs,
            ingest,
            leases,
        }
    }

    /// Makes what is missing, durably.
    pub(crate) fn make(&self) -> Result<(), Fault> {
        for rel in [BLOBS, INGEST, LEASES, SNAPSHOTS] {
            self.root
                .mkdir_all(rel, PRIVATE)
                .map_err(|e| self.fault("making", rel, e))?;
        }
        // Now, since what is to make room on a full disk cannot make a file.
        self.root
            .open_file(NUMBERS, OFlags::WRONLY | OFlags::CREATE, Mode::RUSR | Mode::WUSR)
            .map_err(|e| self.fault("making", NUMBERS, e))?;
        for rel in ["content/blobs", "content", ""] {
            let dir = self.root.open_dir(rel);
            dir.and_then(|dir| dir.sync())
                .map_err(|e| self.fault("syncing", rel, e))?;
        }
        Ok(())
    }

    pub(crate) fn snapshots(&self) -> Result<&Dir, Fault> {
        self.open(&self.snapshots, SNAPSHOTS)
    }

    pub(crate) fn blobs(&self) -> Result<&Dir, Fault> {
        self.open(&self.blobs, BLOBS)
    }

    pub(crate) fn ingest(&self) -> Result<&Dir, Fault> {
        self.open(&self.ingest, INGEST)
    }

    pub(crate) fn leases(&self) -> Result<&Dir, Fault> {
        self.open(&self.leases, LEASES)
    }

    fn open<'a>(&'a self, cell: &'a OnceLock<Dir>, rel: &str) -> Result<&'a Dir, Fault> {
        if let Some(dir) = cell.get() {
            return Ok(dir);
        }
        let dir = self
            .root
            .open_dir(rel)
            .map_err(|e| self.fault("opening", rel, e))?;
        Ok(cell.get_or_init(|| dir))
    }

    /// The path of `rel`, for mounts and for messages.
    pub(crate) fn at(&self, rel: impl AsRef<Path>) -> PathBuf {
        self.path.join(rel)
    }

    /// The directory of number `n`, or what lies in it.
    pub(crate) fn of_number(&self, n: u64, rel: &str) -> PathBuf {
        let mut path = self.path.join(SNAPSHOTS);
        path.push(n.to_string());
        path.push(rel);
        path
    }

    pub(crate) fn fault(&self, what: &'static str, rel: impl AsRef<Path>, error: std::io::Error) -> Fault {
        Fault::io(what, self.at(rel), error)
    }
}
