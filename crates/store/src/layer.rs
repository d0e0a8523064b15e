//! Layers: directories that strata unpacked and verified, shared by everything that has the same content.

use std::fs::File;

use jiff::Timestamp;
use rustix::fs::{Mode, OFlags};
use sys::Dir;

use crate::db::{Durability, Query, int, time, unsigned};
use crate::error::Fault;
use crate::layout::{FS, RECORD, SNAPSHOTS};
use crate::lease::hold_layer;
use crate::open::now;
use crate::own::Slot;
use crate::usage::usage_from;
use crate::{Digest, IngestError, Lease, Store, Usage};

/// A layer in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Its directory is `snapshots/<n>`.
    pub n: u64,
    /// Digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Chain ID of the chain it was unpacked in first.
    pub chain_id: Digest,
    /// See [`LayerMeta::depends_on_below`].
    pub depends_on_below: bool,
    /// See [`LayerMeta::root_listed`].
    pub root_listed: bool,
    /// What its `fs` takes.
    pub usage: Usage,
    /// When it was committed.
    pub created: Timestamp,
}

/// What is known of a layer once it is unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerMeta {
    /// Digest of the uncompressed archive, as it was read: the caller has compared it with the image's.
    pub diff_id: Digest,
    /// Chain ID of the chain it was unpacked in; see [`Digest::chain`].
    pub chain_id: Digest,
    /// Whether its directory depends on what lay below: directories that hold something but are not listed (other
    /// than the root), hard links to lower files. Then it is shared by chain ID, otherwise by diff ID alone.
    pub depends_on_below: bool,
    /// Whether the archive lists the root directory, so that its attributes are the layer's.
    pub root_listed: bool,
    /// What `fs` takes.
    pub usage: Usage,
}

/// A layer being unpacked. Dropped without [`Store::commit_layers`], it is removed.
pub struct NewLayer {
    slot: Slot,
    fs: Dir,
    fault_path: std::path::PathBuf,
}

impl NewLayer {
    /// The number of its directory, as [`Store::layer_dir`] takes it.
    pub fn n(&self) -> u64 {
        self.slot.n()
    }

    /// The directory to unpack into: empty, 0755.
    pub fn fs(&self) -> &Dir {
        &self.fs
    }

    /// Makes an empty directory in it.
    pub fn subdirectory(&self, name: &str) -> Result<Dir, Fault> {
        let made = self.fs.mkdir(name, Mode::RWXU);
        made.and_then(|()| self.fs.open_dir(name))
            .map_err(|e| Fault::io("making", self.fault_path.join(name), e))
    }

    /// Makes the file for the content record, empty.
    pub fn record(&self) -> Result<File, Fault> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::TRUNC;
        self.slot
            .dir()
            .open_file(RECORD, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| Fault::io("making", self.fault_path.join(RECORD), e))
    }
}

const COLUMNS: &str =
    "n, diff_id, chain_id, depends_on_below, root_listed, bytes, apparent, inodes, created FROM layers";

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Layer> {
    Ok(Layer {
        n: unsigned(row, 0)?,
        diff_id: row.get(1)?,
        chain_id: row.get(2)?,
        depends_on_below: row.get(3)?,
        root_listed: row.get(4)?,
        usage: usage_from(row, 5)?,
        created: time(row, 8)?,
    })
}

/// The layer that serves for `diff_id` on top of the chain that gives `chain_id`.
pub(crate) fn find(q: &Query<'_>, diff_id: &Digest, chain_id: &Digest) -> Result<Option<Layer>, Fault> {
    q.one(
        &format!("SELECT {COLUMNS} WHERE diff_id = ?1 AND (NOT depends_on_below OR chain_id = ?2)"),
        (diff_id, chain_id),
        from_row,
    )
}

/// One more than the largest number that a row names.
pub(crate) fn next_number(q: &Query<'_>) -> Result<u64, Fault> {
    let sql =
        "SELECT 1 + max((SELECT ifnull(max(n), 0) FROM layers), (SELECT ifnull(max(n), 0) FROM snapshots),
        (SELECT ifnull(max(n), 0) FROM volumes))";
    Ok(q.one(sql, (), |row| unsigned(row, 0))?.unwrap_or(1))
}

impl Store {
    /// The layer that serves for an archive with this diff ID on top of a chain that then has this chain ID.
    /// Whoever relies on it asks [`Store::hold_layer`] instead.
    pub fn find_layer(&self, diff_id: &Digest, chain_id: &Digest) -> Result<Option<Layer>, Fault> {
        self.db.read(|q| find(q, diff_id, chain_id))
    }

    /// The layer in `snapshots/<n>`.
    pub fn layer(&self, n: u64) -> Result<Option<Layer>, Fault> {
        let sql = format!("SELECT {COLUMNS} WHERE n = ?");
        self.db.read(|q| q.one(&sql, (int(n),), from_row))
    }

    /// Every layer, by number.
    pub fn layers(&self) -> Result<Vec<Layer>, Fault> {
        let sql = format!("SELECT {COLUMNS} ORDER BY n");
        self.db.read(|q| q.all(&sql, (), from_row))
    }

    /// The directory `snapshots/<n>/fs`, for reading.
    pub fn layer_dir(&self, n: u64) -> Result<Dir, Fault> {
        let rel = format!("{n}/{FS}");
        self.layout
            .snapshots()?
            .open_dir(&rel)
            .map_err(|e| self.layout.fault("opening", format!("{SNAPSHOTS}/{rel}"), e))
    }

    /// The content record of layer `n`, for reading.
    pub fn layer_record(&self, n: u64) -> Result<File, Fault> {
        let rel = format!("{n}/{RECORD}");
        self.layout
            .snapshots()?
            .open_file(&rel, OFlags::RDONLY, Mode::empty())
            .map_err(|e| self.layout.fault("opening", format!("{SNAPSHOTS}/{rel}"), e))
    }

    /// Makes a directory for a layer to be unpacked into. The lease is that of the operation which will commit it.
    pub fn new_layer(&self, _lease: &Lease) -> Result<NewLayer, Fault> {
        let first = self.db.read(next_number)?;
        let slot = Slot::allot(&self.layout, first)?;
        let fault_path = self.layout.of_number(slot.n(), "");
        let make = || {
            slot.dir().mkdir(FS, Mode::from_raw_mode(0o755))?;
            slot.dir().open_dir(FS)
        };
        let fs = make().map_err(|e| Fault::io("making", fault_path.join(FS), e))?;
        Ok(NewLayer { slot, fs, fault_path })
    }

    /// Makes unpacked layers visible, and blobs of what has arrived under the lease, once everything on the store's file
    /// system is on disk: one sync for all. Where another was faster with the same layer, its directory is answered and
    /// ours removed; where that layer has a [`Flaw`](crate::Flaw), ours takes its place. All are held by the lease. Their
    /// rows outlive a power cut with the next durable transaction, such as [`Store::put_image`]; what they name is there
    /// in either case.
    pub fn commit_layers(
        &self,
        lease: &Lease,
        layers: Vec<(NewLayer, LayerMeta)>,
    ) -> Result<Vec<Layer>, IngestError> {
        let mut left = Vec::with_capacity(layers.len());
        for (new, meta) in layers {
            left.push((self.replace_flawed(new, &meta)?, meta));
        }
        let arrived = lease.take_arrived();
        if left.is_empty() && arrived.is_empty() {
            return Ok(Vec::new());
        }
        self.sync_disk()?;
        let placed = self.place(arrived)?;
        let committed: Result<Vec<Layer>, Fault> = self.db.write(Durability::Relaxed, |q| {
            placed.insert(q, lease)?;
            left.iter()
                .map(|(new, meta)| {
                    let layer = match (find(q, &meta.diff_id, &meta.chain_id)?, new) {
                        (Some(layer), _) => layer,
                        (None, Some(new)) => insert(q, new.n(), meta)?,
                        (None, None) => return Err(q.corrupt(format!("layer {} vanished", meta.diff_id))),
                    };
                    hold_layer(q, lease, layer.n)?;
                    Ok(layer)
                })
                .collect()
        });
        for (index, (new, _)) in left.into_iter().enumerate() {
            // After a fault nobody knows whether the rows were written: the directories are left to the collector.
            if let Some(new) = new
                && committed
                    .as_ref()
                    .map_or(true, |committed| committed[index].n == new.n())
            {
                new.slot.keep();
            }
        }
        Ok(committed?)
    }

    /// Everything written to the store's file system is on disk when this returns.
    pub(crate) fn sync_disk(&self) -> Result<(), Fault> {
        self.layout
            .snapshots()?
            .syncfs()
            .map_err(|e| self.layout.fault("syncing", SNAPSHOTS, e))
    }
}

fn insert(q: &Query<'_>, n: u64, meta: &LayerMeta) -> Result<Layer, Fault> {
    let Usage {
        bytes,
        apparent,
        inodes,
    } = meta.usage;
    q.run(
        "INSERT INTO layers
           (n, diff_id, chain_id, depends_on_below, root_listed, bytes, apparent, inodes, created)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            int(n),
            meta.diff_id,
            meta.chain_id,
            meta.depends_on_below,
            meta.root_listed,
            int(bytes),
            int(apparent),
            int(inodes),
            now(),
        ),
    )?;
    q.one(&format!("SELECT {COLUMNS} WHERE n = ?"), (int(n),), from_row)?
        .ok_or_else(|| q.corrupt(format!("layer {n} vanished")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta(diff: &str, below: Option<&str>, depends: bool) -> LayerMeta {
        let diff_id = Digest::of(diff);
        LayerMeta {
            diff_id,
            chain_id: Digest::chain(below.map(Digest::of).as_ref(), &diff_id),
            depends_on_below: depends,
            root_listed: true,
            usage: Usage {
                bytes: 4096,
                apparent: 7,
                inodes: 2,
            },
        }
    }

    #[test]
    fn a_layer_is_shared_by_diff_id_or_by_chain_id() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let new = || store.new_layer(&lease).unwrap();
        let free = meta("free", Some("x"), false);
        let bound = meta("bound", Some("x"), true);
        let layers = store
            .commit_layers(&lease, vec![(new(), free.clone()), (new(), bound.clone())])
            .unwrap();
        assert_eq!(layers.iter().map(|l| l.n).collect::<Vec<_>>(), [1, 2]);

        let find = |m: &LayerMeta| store.find_layer(&m.diff_id, &m.chain_id).unwrap().map(|l| l.n);
        assert_eq!(find(&free), Some(1));
        assert_eq!(find(&meta("free", Some("y"), false)), Some(1));
        assert_eq!(find(&bound), Some(2));
        assert_eq!(find(&meta("bound", Some("y"), true)), None);

        // Committed twice: the first stays, the second's directory goes.
        let other = meta("bound", Some("y"), true);
        let again = store
            .commit_layers(
                &lease,
                vec![
                    (new(), free),
                    (new(), bound),
                    (new(), other.clone()),
                    (new(), other),
                ],
            )
            .unwrap();
        assert_eq!(again.iter().map(|l| l.n).collect::<Vec<_>>(), [1, 2, 5, 5]);
        let mut on_disk = crate::own::numbers(store.layout.snapshots().unwrap()).unwrap();
        on_disk.sort();
        assert_eq!(on_disk, [1, 2, 5]);
    }

    #[test]
    fn a_layer_that_is_not_committed_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let new = store.new_layer(&lease).unwrap();
        assert_eq!(new.fs().metadata().unwrap().st_mode & 0o7777, 0o755);
        new.record().unwrap();
        new.fs().mkdir_all("a/b", Mode::RWXU).unwrap();
        drop(new);
        assert_eq!(store.layout.snapshots().unwrap().entries().unwrap(), []);
    }

    #[test]
    fn numbers_skip_directories_that_a_lost_transaction_left() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let snapshots = store.layout.snapshots().unwrap();
        for n in (1..=40).chain([100]) {
            snapshots.mkdir(n.to_string(), Mode::RWXU).unwrap();
        }
        assert_eq!(store.new_layer(&lease).unwrap().n(), 101);
    }
}
