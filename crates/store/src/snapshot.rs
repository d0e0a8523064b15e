//! Snapshots: what they are called, what can be asked of them, and how asking fails.
//!
//! containerd's model (`core/snapshots/snapshotter.go`), by the words of docs/format/store.md:
//!
//! A snapshot has a **key**, and is **active** (writable, has mounts), a **view** (read-only, has mounts) or
//! **committed** (a parent for others, has none). To import a layer: `prepare` an active snapshot on the layer below
//! it, mount what is answered, unpack into it, unmount, `commit` it under a name. To run: `prepare` one on the
//! topmost layer, mount, run; `remove` it afterwards, or `commit` it to keep what changed. Active, view and
//! committed share one space of keys within a namespace.
//!
//! [`Store::put_image`](crate::Store::put_image) makes an image's layers committed snapshots whose keys are their
//! chain IDs.
//!
//! The operations stand in `snapshotter.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::Row;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

use crate::Fault;
use crate::db::{Query, time};

/// Names given to a snapshot or container, with their values.
pub type Labels = BTreeMap<String, String>;

/// Bytes that a label's key and value have together at most (containerd's limit).
pub const MAX_LABEL: usize = 4096;

/// What a snapshot is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Read-only, with mounts.
    View,
    /// Writable, with mounts.
    Active,
    /// A parent for others, without mounts.
    Committed,
}

/// The numbers are those of containerd's API.
impl ToSql for Kind {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        let number = match self {
            Kind::View => 1,
            Kind::Active => 2,
            Kind::Committed => 3,
        };
        Ok(number.into())
    }
}

impl FromSql for Kind {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Kind> {
        match value.as_i64()? {
            1 => Ok(Kind::View),
            2 => Ok(Kind::Active),
            3 => Ok(Kind::Committed),
            other => Err(FromSqlError::OutOfRange(other)),
        }
    }
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its key; for a committed one, the name it was committed by.
    pub key: String,
    /// Key of the committed snapshot it stands on.
    pub parent: Option<String>,
    /// What it is for.
    pub kind: Kind,
    /// When it was made, or committed.
    pub created: Timestamp,
    /// When its labels were changed last.
    pub updated: Timestamp,
    /// Its labels.
    pub labels: Labels,
    /// Number of its own directory; none for a view of something.
    pub n: Option<u64>,
    /// An image or a container of ours holds it: it is no client's to remove.
    pub held: bool,
}

/// How a snapshot is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PrepareOptions {
    /// Labels to begin with.
    pub labels: Labels,
    /// Nothing is synced: a power cut may take the snapshot, and it is asked for only where that ends what it is for
    /// (`run --rm`).
    pub ephemeral: bool,
    /// Its directory is not synced, since nothing is in it: where a power cut takes it, [`Store::mounts_again`] makes it
    /// once more. Its row is on disk all the same. Without meaning where owner or size are set, which would not come back.
    ///
    /// [`Store::mounts_again`]: crate::Store::mounts_again
    pub remade: bool,
    /// A directory outside the store that lies beneath everything, such as the host's root. Only without a parent.
    pub lower: Option<PathBuf>,
    /// Where nothing is beneath it, tell an overlay on an empty directory all the same, not a bind: who unpacks a layer
    /// into what is mounted writes whiteouts to an overlay only. For a layer that gets its parent when it is committed.
    pub apart: bool,
    /// User and group of its root directory; otherwise those of the root below it.
    pub owner: Option<(u32, u32)>,
    /// Mount with `volatile`: what is written is not synced, and the kernel refuses a second mount.
    pub volatile: bool,
    /// Mount with `userxattr`, as an unprivileged user must.
    pub userxattr: bool,
    /// Who makes its overlay real: whoever mounts it again takes the same.
    pub driver: mount::fuse::Driver,
    /// Whether renamed directories are redirected; `None` leaves it to the kernel's default.
    pub redirect_dir: Option<bool>,
    /// Whether a change of attributes copies only these up; `None` leaves it to the kernel's default.
    pub metacopy: Option<bool>,
    /// User id mapping of the mount, as containerd spells it: `0:100000:65536`.
    pub uid_map: Option<String>,
    /// Group id mapping of the mount.
    pub gid_map: Option<String>,
    /// Bytes on disk that the directory may take, kept by the file system: see [`Store::quota`](crate::Store::quota).
    pub size: Option<u64>,
}

/// How a snapshot becomes a committed one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitOptions {
    /// Labels of the committed snapshot; those it had are not kept.
    pub labels: Labels,
    /// A committed snapshot to stand on, for one that was prepared without parent (containerd's `rebase`).
    pub parent: Option<String>,
}

/// Why something could not be done with a snapshot. The variants are containerd's status codes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// No snapshot has this key.
    #[error("snapshot {0:?} not found")]
    NotFound(String),
    /// A snapshot has this key already.
    #[error("snapshot {0:?} already exists")]
    AlreadyExists(String),
    /// What is asked can never be.
    #[error("snapshot {key:?}: {why}")]
    InvalidArgument {
        /// The key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// What is asked cannot be now.
    #[error("snapshot {key:?}: {why}")]
    FailedPrecondition {
        /// The key.
        key: String,
        /// What is in the way.
        why: String,
    },
    /// A limit was asked for ([`PrepareOptions::size`]) where the file system keeps none.
    #[error("a size cannot be limited: the file system of {} keeps no project quotas", .0.display())]
    NoQuota(PathBuf),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl SnapshotError {
    pub(crate) fn invalid(key: &str, why: impl Into<String>) -> SnapshotError {
        SnapshotError::InvalidArgument {
            key: key.to_owned(),
            why: why.into(),
        }
    }

    pub(crate) fn precondition(key: &str, why: impl Into<String>) -> SnapshotError {
        SnapshotError::FailedPrecondition {
            key: key.to_owned(),
            why: why.into(),
        }
    }
}

/// How a snapshot is written, as its row records it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct How {
    pub(crate) userxattr: bool,
    pub(crate) redirect_dir: Option<bool>,
    pub(crate) metacopy: Option<bool>,
    pub(crate) volatile: bool,
    pub(crate) uid_map: Option<String>,
    pub(crate) gid_map: Option<String>,
}

impl From<&PrepareOptions> for How {
    fn from(options: &PrepareOptions) -> How {
        How {
            userxattr: options.userxattr,
            redirect_dir: options.redirect_dir,
            metacopy: options.metacopy,
            volatile: options.volatile,
            uid_map: options.uid_map.clone(),
            gid_map: options.gid_map.clone(),
        }
    }
}

/// A snapshot's row, without what only [`Info`] tells.
#[derive(Debug, Clone)]
pub(crate) struct SnapshotRow {
    pub(crate) id: i64,
    /// With the id, tells the row from a later one: ids of deleted rows are used again.
    pub(crate) created: i64,
    pub(crate) kind: Kind,
    pub(crate) parent: Option<i64>,
    pub(crate) n: Option<u64>,
    pub(crate) lower: Option<String>,
    pub(crate) held_by_image: bool,
    pub(crate) ephemeral: bool,
    pub(crate) how: How,
}

/// The row of a key.
pub(crate) const FIND: &str = "SELECT id, kind, parent, n, lower, held_by_image, ephemeral,
                userxattr, redirect_dir, metacopy, volatile, uidmap, gidmap, created
         FROM snapshots WHERE ns = ? AND key = ?";

pub(crate) fn find(q: &Query<'_>, ns: &str, key: &str) -> Result<Option<SnapshotRow>, Fault> {
    q.one(FIND, (ns, key), |row| {
        Ok(SnapshotRow {
            id: row.get(0)?,
            created: row.get(13)?,
            kind: row.get(1)?,
            parent: row.get(2)?,
            n: row.get::<_, Option<i64>>(3)?.and_then(|n| u64::try_from(n).ok()),
            lower: row.get(4)?,
            held_by_image: row.get(5)?,
            ephemeral: row.get(6)?,
            how: How {
                userxattr: row.get(7)?,
                redirect_dir: row.get(8)?,
                metacopy: row.get(9)?,
                volatile: row.get(10)?,
                uid_map: row.get(11)?,
                gid_map: row.get(12)?,
            },
        })
    })
}

/// As [`find`], where a missing row is an error.
pub(crate) fn get(q: &Query<'_>, ns: &str, key: &str) -> Result<SnapshotRow, SnapshotError> {
    find(q, ns, key)?.ok_or_else(|| SnapshotError::NotFound(key.to_owned()))
}

/// Columns for [`info`].
pub(crate) const INFO: &str = "SELECT s.key, p.key, s.kind, s.created, s.updated, s.labels, s.n,
      s.held_by_image OR EXISTS (SELECT 1 FROM containers c WHERE c.ns = s.ns AND c.cid = s.key)
    FROM snapshots s LEFT JOIN snapshots p ON p.id = s.parent";

pub(crate) fn info(row: &Row<'_>) -> rusqlite::Result<Info> {
    Ok(Info {
        key: row.get(0)?,
        parent: row.get(1)?,
        kind: row.get(2)?,
        created: time(row, 3)?,
        updated: time(row, 4)?,
        labels: labels_from(row, 5)?,
        n: row.get::<_, Option<i64>>(6)?.and_then(|n| u64::try_from(n).ok()),
        held: row.get(7)?,
    })
}

/// The labels of a row.
pub(crate) fn labels_of(q: &Query<'_>, id: i64) -> Result<Labels, Fault> {
    let labels = q.one("SELECT labels FROM snapshots WHERE id = ?", (id,), |row| {
        labels_from(row, 0)
    })?;
    Ok(labels.unwrap_or_default())
}

/// Column `index` as labels.
pub(crate) fn labels_from(row: &Row<'_>, index: usize) -> rusqlite::Result<Labels> {
    serde_json::from_str(row.get_ref(index)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Text, Box::new(error))
    })
}

/// Labels as a column holds them.
pub(crate) fn labels_to(labels: &Labels) -> String {
    let object = labels
        .iter()
        .map(|(k, v)| (k.clone(), v.clone().into()))
        .collect();
    serde_json::Value::Object(object).to_string()
}
