//! Who stands on what: the stack beneath a snapshot, and who shares a layer.

use std::path::PathBuf;

use crate::db::{int, unsigned};
use crate::error::Fault;
use crate::snapshot::{self, Kind, SnapshotError};
use crate::stack::{self, Lower};
use crate::{Layer, Store, layout};

/// The directories that make up a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// Number of the directory that is written to; none in a view of something, or a committed snapshot.
    pub upper: Option<u64>,
    /// The directories below, topmost first, each once.
    pub lowers: Vec<StackDir>,
}

/// One read-only directory of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StackDir {
    /// Its absolute path.
    pub path: PathBuf,
    /// Its number; none for a directory outside the store.
    pub n: Option<u64>,
    /// What it holds, if strata unpacked it.
    pub layer: Option<Layer>,
}

/// An image or container, for people.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Holder {
    /// Its namespace.
    pub ns: String,
    /// Its name.
    pub name: String,
}

/// Everything that stands on a directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sharers {
    /// Images that have it as a layer.
    pub images: Vec<Holder>,
    /// Containers whose root has it beneath.
    pub containers: Vec<Holder>,
}

/// How much there is in the store, in all namespaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Names of images.
    pub images: u64,
    /// Containers.
    pub containers: u64,
    /// Snapshots of any kind.
    pub snapshots: u64,
    /// Unpacked layers.
    pub layers: u64,
    /// Blobs.
    pub blobs: u64,
    /// Volumes.
    pub volumes: u64,
}

impl Store {
    /// The directories of a snapshot: an active one's own and those below, a committed one's own included below.
    pub fn stack(&self, ns: &str, key: &str) -> Result<Stack, SnapshotError> {
        let (upper, lowers) = self.db.read(|q| {
            let row = snapshot::get(q, ns, key)?;
            // A view has no directory of its own, but for the empty one that stands on nothing.
            let (upper, from) = match row.kind {
                Kind::Active => (row.n, row.parent),
                Kind::View | Kind::Committed => (None, Some(row.id)),
            };
            let mut lowers = from.map_or(Ok(Vec::new()), |id| stack::lowers(q, id))?;
            if row.kind == Kind::Active {
                lowers.extend(row.lower.map(Lower::from));
            }
            Ok::<_, SnapshotError>((upper, lowers))
        })?;
        let lowers = lowers.into_iter().map(|lower| {
            let path = lower.path(&self.layout);
            match lower {
                Lower::Foreign(_) | Lower::Nothing => Ok(StackDir {
                    path,
                    n: None,
                    layer: None,
                }),
                Lower::Number { n, .. } => Ok(StackDir {
                    path,
                    n: Some(n),
                    layer: self.layer(n)?,
                }),
            }
        });
        Ok(Stack {
            upper,
            lowers: lowers.collect::<Result<_, Fault>>()?,
        })
    }

    /// The images and containers of all namespaces that have directory `n` in their stack, each sorted.
    pub fn sharers(&self, n: u64) -> Result<Sharers, Fault> {
        let holder = |row: &rusqlite::Row<'_>| {
            Ok(Holder {
                ns: row.get(0)?,
                name: row.get(1)?,
            })
        };
        self.db.read(|q| {
            let images = "SELECT DISTINCT i.ns, i.name
                FROM manifest_layers l JOIN images i ON i.manifest = l.manifest WHERE l.n = ? ORDER BY 1, 2";
            let containers = "WITH RECURSIVE above (id) AS (
                  SELECT id FROM snapshots WHERE n = ?
                  UNION SELECT s.id FROM snapshots s JOIN above ON s.parent = above.id)
                SELECT c.ns, c.name FROM above CROSS JOIN snapshots s ON s.id = above.id
                CROSS JOIN containers c ON c.ns = s.ns AND c.cid = s.key ORDER BY 1, 2";
            Ok(Sharers {
                images: q.all(images, (int(n),), holder)?,
                containers: q.all(containers, (int(n),), holder)?,
            })
        })
    }

    /// Every namespace that has something, sorted.
    pub fn namespaces(&self) -> Result<Vec<String>, Fault> {
        let sql = "SELECT ns FROM images UNION SELECT ns FROM containers UNION SELECT ns FROM snapshots
            UNION SELECT ns FROM volumes ORDER BY 1";
        self.db.read(|q| q.all(sql, (), |row| row.get(0)))
    }

    /// How much there is.
    pub fn counts(&self) -> Result<Counts, Fault> {
        let sql = "SELECT (SELECT count(*) FROM images), (SELECT count(*) FROM containers),
            (SELECT count(*) FROM snapshots), (SELECT count(*) FROM layers), (SELECT count(*) FROM blobs),
            (SELECT count(*) FROM volumes)";
        let counts = self.db.read(|q| {
            q.one(sql, (), |row| {
                Ok(Counts {
                    images: unsigned(row, 0)?,
                    containers: unsigned(row, 1)?,
                    snapshots: unsigned(row, 2)?,
                    layers: unsigned(row, 3)?,
                    blobs: unsigned(row, 4)?,
                    volumes: unsigned(row, 5)?,
                })
            })
        })?;
        Ok(counts.unwrap_or_default())
    }

    /// The absolute path of the directory that all layers and writable directories lie in.
    pub fn layers_dir(&self) -> PathBuf {
        self.layout.path.join(layout::SNAPSHOTS)
    }

    /// The absolute path of directory `n`'s content, for messages and mounts.
    pub fn layer_path(&self, n: u64) -> PathBuf {
        self.layout.of_number(n, layout::FS)
    }
}
