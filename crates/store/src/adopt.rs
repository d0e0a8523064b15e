//! Layers that are here already, for who would unpack them: a committed snapshot of a client's that is one of ours.
//!
//! containerd asks before it fetches a layer: it prepares a snapshot with the label [`REF`], which names the chain that
//! is to be committed, and takes `ALREADY_EXISTS` for an answer. Then it looks for a committed snapshot with that label
//! and the parent that it named. [`Store::adopt`] makes one: a row of the client's own namespace that stands for the
//! directory of a layer which strata unpacked and verified for an image, in whatever namespace. Nothing is copied, and
//! the directory stays as long as either needs it. What a client unpacked itself is shared with nobody: that it calls
//! it by a chain's name is no proof of what is in it.

use crate::Store;
use crate::db::{Durability, Query, int};
use crate::error::Fault;
use crate::open::now;
use crate::snapshot::{self, Kind, Labels, SnapshotError, SnapshotRow, labels_to};
use crate::snapshotter::check_labels;

/// The label that names the chain which a snapshot is to be committed as.
pub const REF: &str = "containerd.io/snapshot.ref";

/// Every namespace that has a snapshot: one step of the index for each.
const NAMESPACES: &str = "WITH RECURSIVE each (ns) AS (
      SELECT min(ns) FROM snapshots
      UNION ALL SELECT (SELECT min(ns) FROM snapshots WHERE ns > each.ns) FROM each WHERE each.ns IS NOT NULL)
    SELECT ns FROM each WHERE ns IS NOT NULL";

impl Store {
    /// Every namespace that has a snapshot, sorted.
    pub fn snapshot_namespaces(&self) -> Result<Vec<String>, Fault> {
        self.db.read(namespaces)
    }

    /// Gives a client a committed snapshot of the layer with this chain ID, on `parent`, if the store has that layer,
    /// sound, for an image; its key, or `None` where it has not, or `parent` is not what the chain stands on. One that
    /// was given before is given again.
    pub fn adopt(
        &self,
        ns: &str,
        chain: &str,
        parent: Option<&str>,
        labels: &Labels,
    ) -> Result<Option<String>, SnapshotError> {
        check_labels(chain, labels)?;
        let found = |q: &Query<'_>| -> Result<Option<(u64, Option<i64>)>, SnapshotError> {
            let Some(layer) = of_image(q, chain)? else {
                return Ok(None);
            };
            let below = layer.parent.map(|id| key_of(q, id)).transpose()?.flatten();
            match (below, parent) {
                (None, None) => Ok(layer.n.map(|n| (n, None))),
                (Some(below), Some(parent)) => {
                    let Some(row) = snapshot::find(q, ns, parent)? else {
                        return Ok(None);
                    };
                    let named = snapshot::labels_of(q, row.id)?.remove(REF);
                    let is_it =
                        row.kind == Kind::Committed && (named.as_deref() == Some(&*below) || parent == below);
                    Ok(layer.n.filter(|_| is_it).map(|n| (n, Some(row.id))))
                }
                _ => Ok(None),
            }
        };
        // Nearly every layer that is asked for is not here: no lock for those, and no look at the disk within one.
        let Some((n, _)) = self.db.read(found)? else {
            return Ok(None);
        };
        if self.flaw(n)?.is_some() {
            return Ok(None);
        }
        self.db.write(Durability::Full, |q| {
            let Some((n, parent)) = found(q)? else { return Ok(None) };
            let mut labels = labels.clone();
            labels.insert(REF.to_owned(), chain.to_owned());
            // containerd's own keys count from one. A chain may stand on several snapshots of the same chain below it.
            for nth in 0.. {
                let key = match nth {
                    0 => format!("{ns}/0/{chain}"),
                    _ => format!("{ns}/0/{chain}.{nth}"),
                };
                match snapshot::find(q, ns, &key)? {
                    Some(row) if row.n == Some(n) && row.parent == parent => {
                        // Whoever removes what containerd does not know is told that it is about to.
                        q.run("UPDATE snapshots SET updated = max(?, created) WHERE id = ?", (now(), row.id))?;
                        return Ok(Some(key));
                    }
                    Some(_) => continue,
                    None => {}
                }
                let sql = "INSERT INTO snapshots (ns, key, kind, parent, n, held_by_image, ephemeral, created, updated,
                             labels, driver, userxattr, volatile)
                           VALUES (?, ?, ?, ?, ?, 0, 0, ?6, ?6, ?, 'auto', ?, 0)";
                let values = (
                    ns,
                    &key,
                    Kind::Committed,
                    parent,
                    int(n),
                    now(),
                    labels_to(&labels),
                    self.format.userxattr(),
                );
                q.run(sql, values)?;
                return Ok(Some(key));
            }
            Ok(None)
        })
    }
}

pub(crate) fn namespaces(q: &Query<'_>) -> Result<Vec<String>, Fault> {
    q.all(NAMESPACES, (), |row| row.get(0))
}

/// The snapshot that an image of some namespace has of a chain.
fn of_image(q: &Query<'_>, chain: &str) -> Result<Option<SnapshotRow>, SnapshotError> {
    for ns in namespaces(q)? {
        let row = snapshot::find(q, &ns, chain)?;
        if let Some(row) = row.filter(|row| row.held_by_image && row.kind == Kind::Committed) {
            return Ok(Some(row));
        }
    }
    Ok(None)
}

fn key_of(q: &Query<'_>, id: i64) -> Result<Option<String>, Fault> {
    q.one("SELECT key FROM snapshots WHERE id = ?", (id,), |row| row.get(0))
}
