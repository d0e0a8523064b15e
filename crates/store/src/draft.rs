//! [`Draft`]: a new snapshot that lacks only its row.
//!
//! Everything that takes time or can fail on disk is done before the write lock is taken: the stack is looked up, the
//! directory made, given its root's attributes and, unless ephemeral or made again where it is lost, synced. The transaction then checks that what
//! was looked up still holds.

use std::path::Path;

use mount::Mount;
use mount::fuse::Driver;
use rustix::fs::{Gid, Mode, Uid};

use crate::db::{Query, int};
use crate::error::Fault;
use crate::layer::next_number;
use crate::layout::NOTHING;
use crate::open::now;
use crate::own::Slot;
use crate::snapshot::{self, How, Kind, PrepareOptions, SnapshotError, labels_to};
use crate::snapshotter::{check_key, check_labels};
use crate::stack::{self, Lower};
use crate::{Store, mountpoints, quota, root};

impl Store {
    /// Everything about a new view or active snapshot that needs no write lock: its parent found, its directory made
    /// and, unless ephemeral, on disk.
    pub(crate) fn draft<'a>(
        &'a self,
        ns: &'a str,
        key: &'a str,
        kind: Kind,
        parent: Option<&str>,
        options: &'a PrepareOptions,
    ) -> Result<Draft<'a>, SnapshotError> {
        check_key(ns, key)?;
        check_labels(key, &options.labels)?;
        if parent.is_some() && options.lower.is_some() {
            return Err(SnapshotError::invalid(
                key,
                "it can have a parent or a directory beneath it, not both",
            ));
        }
        let lower = options
            .lower
            .as_deref()
            .map(|path| foreign(key, path))
            .transpose()?;
        let lower = match options.apart && parent.is_none() && lower.is_none() && kind == Kind::Active {
            true => {
                self.make_nothing()?;
                Some(NOTHING.to_owned())
            }
            false => lower,
        };
        let (parent, mut lowers, first) = self.db.read(|q| {
            let Some(parent) = parent else {
                return Ok((None, Vec::new(), next_number(q)?));
            };
            let row = snapshot::get(q, ns, parent)?;
            if row.kind != Kind::Committed {
                return Err(SnapshotError::invalid(
                    key,
                    format!("its parent {parent:?} is not committed"),
                ));
            }
            let lowers = stack::lowers(q, row.id)?;
            let parent = Parent {
                id: row.id,
                created: row.created,
                key: parent.to_owned(),
            };
            Ok((Some(parent), lowers, next_number(q)?))
        })?;
        lowers.extend(lower.clone().map(Lower::from));
        // A view of something is made of that alone.
        let slot = match kind == Kind::View && !lowers.is_empty() {
            true => None,
            false => match (self.directory(first, &lowers, options), &parent) {
                // The parent may have been removed since it was looked up, and its directory with it.
                (Err(error), Some(parent)) => {
                    self.db.read(|q| parent.check(q))?;
                    return Err(error);
                }
                (slot, _) => Some(slot?),
            },
        };
        Ok(Draft {
            ns,
            key,
            kind,
            options,
            parent,
            lower,
            lowers,
            slot,
            userxattr: self.format.userxattr(),
        })
    }

    /// Makes the directory that is beneath what has nothing beneath it.
    pub(crate) fn make_nothing(&self) -> Result<(), Fault> {
        match self.layout.root.mkdir(NOTHING, Mode::from_raw_mode(0o755)) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(self.layout.fault("making", NOTHING, error))
            }
            _ => Ok(()),
        }
    }

    /// A directory with `fs` and `work`, `fs` with the attributes that the root of `lowers` has.
    fn directory(
        &self,
        first: u64,
        lowers: &[Lower],
        options: &PrepareOptions,
    ) -> Result<Slot, SnapshotError> {
        let slot = Slot::allot(&self.layout, first)?;
        if let Some(bytes) = options.size {
            // Before there is anything in it: what is made there inherits the project.
            let limited = quota::limit(slot.dir(), bytes);
            if !limited.map_err(|e| self.number_fault("limiting the size of", slot.n(), e))? {
                return Err(SnapshotError::NoQuota(self.layout.path.clone()));
            }
        }
        let fs = root::make(&self.layout, slot.dir(), lowers)?;
        if let Some((user, group)) = options.owner {
            let (user, group) = (Uid::from_raw(user), Gid::from_raw(group));
            rustix::fs::fchown(&fs, Some(user), Some(group))
                .map_err(|e| self.number_fault("giving away", slot.n(), e.into()))?;
        }
        let comes_back = options.remade && options.owner.is_none() && options.size.is_none();
        if !options.ephemeral && !comes_back {
            let snapshots = self.layout.snapshots()?;
            let sync = || {
                fs.sync()
                    .and_then(|()| slot.dir().sync())
                    .and_then(|()| snapshots.sync())
            };
            sync().map_err(|e| self.number_fault("syncing", slot.n(), e))?;
        }
        Ok(slot)
    }
}

/// A committed snapshot, as it was when the draft was made.
struct Parent {
    id: i64,
    created: i64,
    key: String,
}

impl Parent {
    /// Whether it is still there.
    fn check(&self, q: &Query<'_>) -> Result<(), SnapshotError> {
        let sql = "SELECT 1 FROM snapshots WHERE id = ? AND created = ?";
        q.one(sql, (self.id, self.created), |_| Ok(()))?
            .ok_or_else(|| SnapshotError::NotFound(self.key.clone()))
    }
}

/// A view or active snapshot that lacks only its row.
pub(crate) struct Draft<'a> {
    ns: &'a str,
    key: &'a str,
    kind: Kind,
    options: &'a PrepareOptions,
    parent: Option<Parent>,
    lower: Option<String>,
    lowers: Vec<Lower>,
    slot: Option<Slot>,
    /// The store's format asks for it.
    userxattr: bool,
}

impl Draft<'_> {
    fn how(&self) -> How {
        let asked = How::from(self.options);
        How {
            userxattr: asked.userxattr || self.userxattr,
            ..asked
        }
    }

    /// Writes the row, if the key is free and the parent still there.
    pub(crate) fn insert(&self, q: &Query<'_>) -> Result<(), SnapshotError> {
        if let Some(parent) = &self.parent {
            parent.check(q)?;
        }
        let how = self.how();
        let inserted = q.run(
            "INSERT INTO snapshots (ns, key, kind, parent, n, held_by_image, ephemeral, created, updated, labels,
               lower, driver, userxattr, redirect_dir, metacopy, volatile, uidmap, gidmap)
             VALUES (?, ?, ?, ?, ?, 0, ?, ?7, ?7, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            rusqlite::params![
                self.ns,
                self.key,
                self.kind,
                self.parent.as_ref().map(|parent| parent.id),
                self.slot.as_ref().map(|slot| int(slot.n())),
                self.options.ephemeral,
                now(),
                labels_to(&self.options.labels),
                self.lower,
                driver(self.options),
                how.userxattr,
                how.redirect_dir,
                how.metacopy,
                how.volatile,
                how.uid_map,
                how.gid_map,
            ],
        )?;
        match inserted {
            0 => Err(SnapshotError::AlreadyExists(self.key.to_owned())),
            _ => Ok(()),
        }
    }

    /// Puts the mount points beneath it, for what is to be the root of a container.
    pub(crate) fn put_on_mount_points(&mut self, store: &Store) {
        mountpoints::beneath(&store.layout, &mut self.lowers);
    }

    /// Leaves the directory to the collector after a fault: nobody knows whether the row was written.
    pub(crate) fn give_up(self, fault: Fault) -> Fault {
        if let Some(slot) = self.slot {
            slot.keep();
        }
        fault
    }

    /// Keeps the directory, once the row is committed, and tells the mounts.
    pub(crate) fn finish(self, store: &Store) -> Vec<Mount> {
        let (n, how) = (self.slot.as_ref().map(Slot::n), self.how());
        if let Some(slot) = self.slot {
            slot.keep();
        }
        stack::mounts(&store.layout, self.kind, n, &how, &self.lowers)
    }
}

fn foreign(key: &str, path: &Path) -> Result<String, SnapshotError> {
    let path = std::path::absolute(path).map_err(|e| Fault::io("resolving", path, e))?;
    match path.to_str() {
        Some(text) => Ok(text.to_owned()),
        None => Err(SnapshotError::invalid(
            key,
            format!("the path {path:?} is not UTF-8"),
        )),
    }
}

/// What column `driver` says.
fn driver(options: &PrepareOptions) -> &'static str {
    match options.driver {
        Driver::Auto => "auto",
        Driver::Kernel => "kernel",
        Driver::Fuse => "fuse",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CommitOptions;
    use crate::db::Durability;

    fn committed(store: &Store, name: &str) {
        let options = PrepareOptions {
            ephemeral: true,
            ..PrepareOptions::default()
        };
        store.prepare("ns", "work", None, &options).unwrap();
        store
            .commit("ns", name, "work", &CommitOptions::default())
            .unwrap();
    }

    #[test]
    fn the_row_tells_who_makes_the_overlay_real() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        for (key, driver) in [
            ("auto", Driver::Auto),
            ("kernel", Driver::Kernel),
            ("fuse", Driver::Fuse),
        ] {
            let options = PrepareOptions {
                driver,
                ..PrepareOptions::default()
            };
            store.prepare("ns", key, None, &options).unwrap();
            let told = store.db.read(|q| {
                let row = q.one("SELECT driver FROM snapshots WHERE key = ?", [key], |row| {
                    row.get(0)
                })?;
                Ok::<Option<String>, Fault>(row)
            });
            assert_eq!(told.unwrap().as_deref(), Some(key));
        }
    }

    #[test]
    fn a_row_id_used_again_is_not_the_same_parent() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        committed(&store, "parent");
        let options = PrepareOptions::default();
        let draft = store
            .draft("ns", "child", Kind::Active, Some("parent"), &options)
            .unwrap();
        let id = || store.db.read(|q| snapshot::get(q, "ns", "parent")).unwrap().id;
        let before = id();
        store.remove("ns", "parent").unwrap();
        committed(&store, "parent");
        assert_eq!(id(), before);
        let refused = store.db.write(Durability::Full, |q| draft.insert(q));
        assert!(matches!(refused, Err(SnapshotError::NotFound(_))), "{refused:?}");
    }

    #[test]
    fn a_parent_that_goes_meanwhile_is_not_found_and_one_that_is_broken_is_a_fault() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        committed(&store, "parent");
        let fs = store.layout.of_number(1, crate::layout::FS);
        std::fs::remove_dir(fs).unwrap();
        let error = store
            .prepare("ns", "child", Some("parent"), &PrepareOptions::default())
            .unwrap_err();
        assert!(
            matches!(&error, SnapshotError::Fault(Fault::Io { .. })),
            "{error:?}"
        );
        assert!(error.to_string().contains("snapshots/1/fs"), "{error}");

        let row = store.db.read(|q| snapshot::get(q, "ns", "parent")).unwrap();
        let parent = Parent {
            id: row.id,
            created: row.created,
            key: "parent".into(),
        };
        store.db.read(|q| parent.check(q)).unwrap();
        store.remove("ns", "parent").unwrap();
        let gone = store.db.read(|q| parent.check(q)).unwrap_err();
        assert!(matches!(gone, SnapshotError::NotFound(key) if key == "parent"));
    }
}
