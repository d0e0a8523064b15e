//! Containers: who exists, made from what, with which snapshot. How a container runs is not known here.

use std::os::fd::AsFd;
use std::path::PathBuf;

use jiff::Timestamp;
use mount::Mount;
use rusqlite::Row;
use rustix::fs::Mode;
use sys::Dir;

use crate::db::{Durability, Query, nanoseconds, time};
use crate::error::Fault;
use crate::image::hex_range;
use crate::layout::LOG;
use crate::snapshot::{self, Kind, Labels, PrepareOptions, SnapshotError, labels_from, labels_to};
use crate::snapshotter::{FORGET, durability};
use crate::volume::{self, NewVolume, VolumeError};
use crate::{Digest, Store, mountpoints};

/// A container, as it is put into the store and as it is found there.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// Its namespace.
    pub ns: String,
    /// 64 hex digits; the key of its snapshot, if it has one.
    pub id: String,
    /// Its name, no other container's of the namespace.
    pub name: String,
    /// The image's name that it was made by.
    pub image: Option<String>,
    /// The image's manifest, which is kept as long as the container exists.
    pub manifest: Option<Digest>,
    /// Labels.
    pub labels: Labels,
    /// When it was made.
    pub created: Timestamp,
    /// Goes when its process ends (`--rm`), and need not outlive a power cut: nothing is synced.
    pub ephemeral: bool,
    /// The engine's own.
    pub details: serde_json::Value,
}

/// What [`Store::create_container`] takes.
pub type NewContainer = Container;

/// Why a container operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContainerError {
    /// Another container has the name.
    #[error("the name {name:?} is in use by container {id}")]
    NameInUse {
        /// The name.
        name: String,
        /// The container that has it.
        id: String,
    },
    /// Another container has the id.
    #[error("there is a container {0} already")]
    IdInUse(String),
    /// An id is 64 hex digits in lower case, a name and a namespace are not empty.
    #[error("{0:?} is no container id (64 hex digits), or its name or namespace is empty")]
    Invalid(String),
    /// No container is called that.
    #[error("container {0:?} not found")]
    NotFound(String),
    /// Several ids begin like that.
    #[error("{prefix:?} is the beginning of {count} container ids")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// How many it fits.
        count: usize,
    },
    /// Its image is gone: removed and collected since it was looked up.
    #[error("the image manifest {0} is not in the store")]
    ManifestGone(Digest),
    /// Its snapshot could not be made or removed.
    #[error(transparent)]
    Snapshot(SnapshotError),
    /// One of its volumes could not be made.
    #[error(transparent)]
    Volume(VolumeError),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<VolumeError> for ContainerError {
    fn from(error: VolumeError) -> ContainerError {
        match error {
            VolumeError::Fault(fault) => ContainerError::Fault(fault),
            other => ContainerError::Volume(other),
        }
    }
}

impl From<SnapshotError> for ContainerError {
    fn from(error: SnapshotError) -> ContainerError {
        match error {
            SnapshotError::Fault(fault) => ContainerError::Fault(fault),
            other => ContainerError::Snapshot(other),
        }
    }
}

impl Store {
    /// Puts a container into the store, in one transaction with its snapshot: an active one on the committed
    /// snapshot named (an image's topmost chain ID), or on nothing but [`PrepareOptions::lower`]. The snapshot's key
    /// is the container's id, and it is as ephemeral as the container. Tells what to mount; nothing without a
    /// snapshot.
    pub fn create_container(
        &self,
        new: &NewContainer,
        snapshot: Option<(Option<&str>, &PrepareOptions)>,
    ) -> Result<Vec<Mount>, ContainerError> {
        self.create_container_with(new, snapshot, &[])
            .map(|(mounts, _)| mounts)
    }

    /// As [`Store::create_container`], with volumes that the container uses, each of which is made in the same transaction
    /// if the namespace has none of that name. As long as the container exists they are not removed. Tells which were made,
    /// too.
    pub fn create_container_with(
        &self,
        new: &NewContainer,
        snapshot: Option<(Option<&str>, &PrepareOptions)>,
        volumes: &[NewVolume],
    ) -> Result<(Vec<Mount>, Vec<String>), ContainerError> {
        let hex = hex_range(&new.id).is_some() && new.id.len() == 64;
        if !hex || new.name.is_empty() || new.ns.is_empty() {
            return Err(ContainerError::Invalid(new.id.clone()));
        }
        let options;
        let draft = match snapshot {
            None => None,
            Some((parent, wanted)) => {
                options = PrepareOptions {
                    ephemeral: new.ephemeral,
                    ..wanted.clone()
                };
                let mut draft = self.draft(&new.ns, &new.id, Kind::Active, parent, &options)?;
                draft.put_on_mount_points(self);
                Some(draft)
            }
        };
        let wanted = volume::drafts(self, &new.ns, volumes, new.ephemeral)?;
        // What is made to last is on disk when this returns, and what it was made with.
        let lasts = !new.ephemeral || wanted.iter().any(|volume| volume.lasts());
        let written = self.db.write(durability(!lasts), |q| {
            let id = insert(q, new)?;
            if let Some(draft) = &draft {
                draft.insert(q)?;
            }
            Ok::<_, ContainerError>(volume::use_all(q, id, &wanted)?)
        });
        match (written, draft) {
            (Ok(made), draft) => {
                let made = volume::keep(wanted, &made);
                Ok((draft.map(|draft| draft.finish(self)).unwrap_or_default(), made))
            }
            (Err(ContainerError::Fault(fault)), draft) => {
                volume::give_up(wanted);
                match draft {
                    Some(draft) => Err(draft.give_up(fault).into()),
                    None => Err(fault.into()),
                }
            }
            (Err(error), _) => Err(error),
        }
    }

    /// What the root of a container is mounted by: its snapshot on the mount points.
    pub fn root_mounts(&self, ns: &str, id: &str) -> Result<Vec<Mount>, SnapshotError> {
        self.mounts_on(ns, id, |lowers| mountpoints::beneath(&self.layout, lowers))
    }

    /// All containers of a namespace, the newest first.
    pub fn containers(&self, ns: &str) -> Result<Vec<Container>, Fault> {
        let sql = format!("{CONTAINER} WHERE c.ns = ? ORDER BY c.created DESC, c.id DESC");
        self.db.read(|q| q.all(&sql, (ns,), container))
    }

    /// The containers of a namespace that were made from an image, the newest first.
    pub fn containers_of(&self, ns: &str, manifest: &Digest) -> Result<Vec<Container>, Fault> {
        let sql = format!("{CONTAINER} WHERE m.digest = ? AND c.ns = ? ORDER BY c.created DESC, c.id DESC");
        self.db.read(|q| q.all(&sql, (manifest, ns), container))
    }

    /// The container with that name, that id, or an id that begins so and is the only one.
    pub fn find_container(&self, ns: &str, wanted: &str) -> Result<Container, ContainerError> {
        self.db.read(|q| {
            let by_name = format!("{CONTAINER} WHERE c.ns = ? AND c.name = ?");
            if let Some(found) = q.one(&by_name, (ns, wanted), container)? {
                return Ok(found);
            }
            let not_found = || ContainerError::NotFound(wanted.to_owned());
            let (low, high) = hex_range(wanted).ok_or_else(not_found)?;
            let by_id = format!("{CONTAINER} WHERE c.ns = ? AND c.cid >= ? AND c.cid < ?");
            let mut found = q.all(&by_id, (ns, low, high), container)?;
            match found.len() {
                0 => Err(not_found()),
                1 => Ok(found.remove(0)),
                count => Err(ContainerError::Ambiguous {
                    prefix: wanted.to_owned(),
                    count,
                }),
            }
        })
    }

    /// Changes the details of containers, by id, as they are at that moment, so that nobody undoes what somebody else
    /// changes; one that is gone is passed over. Not synced, so that a power cut may undo it.
    pub fn edit_details<'a>(
        &self,
        ns: &str,
        ids: impl IntoIterator<Item = &'a str>,
        mut edit: impl FnMut(&str, &mut serde_json::Map<String, serde_json::Value>),
    ) -> Result<(), Fault> {
        self.db.write(Durability::Relaxed, |q| {
            for id in ids {
                let text = "SELECT details FROM containers WHERE ns = ? AND cid = ?";
                let Some(text) = q.one(text, (ns, id), |row| row.get::<_, String>(0))? else {
                    continue;
                };
                let mut details = serde_json::from_str(&text).unwrap_or_default();
                edit(id, &mut details);
                let text = serde_json::Value::Object(details).to_string();
                let sql = "UPDATE containers SET details = ? WHERE ns = ? AND cid = ?";
                q.run(sql, (text, ns, id))?;
            }
            Ok(())
        })
    }

    /// Gives the container `id` another name. Its own is no error; one that another has is.
    pub fn rename_container(&self, ns: &str, id: &str, name: &str) -> Result<(), ContainerError> {
        if name.is_empty() {
            return Err(ContainerError::Invalid(id.to_owned()));
        }
        self.db.write(Durability::Full, |q| {
            let other = "SELECT cid FROM containers WHERE ns = ? AND name = ?";
            match q.one(other, (ns, name), |row| row.get::<_, String>(0))? {
                Some(other) if other != id => {
                    return Err(ContainerError::NameInUse {
                        name: name.to_owned(),
                        id: other,
                    });
                }
                _ => {}
            }
            let renamed = q.run(
                "UPDATE containers SET name = ? WHERE ns = ? AND cid = ?",
                (name, ns, id),
            )?;
            match renamed {
                0 => Err(ContainerError::NotFound(id.to_owned())),
                _ => Ok(()),
            }
        })
    }

    /// Forgets a container and its snapshot, then removes the snapshot's directory. What is mounted of it must have
    /// been unmounted.
    pub fn remove_container(&self, ns: &str, id: &str) -> Result<(), ContainerError> {
        self.remove_container_with(ns, id, false).map(drop)
    }

    /// Gets ready for removing a container, by whoever has nothing else to do until it ends: what SQLite makes of the
    /// statements is kept for them.
    pub fn expect_removal(&self) -> Result<(), Fault> {
        self.db.read(|q| {
            let by_id = by_id();
            let mut statements = [&*by_id, DELETE, snapshot::FIND].into_iter().chain(FORGET);
            statements.try_for_each(|sql| q.expect(sql))
        })
    }

    /// As [`Store::remove_container`], and if `volumes` says so with the anonymous volumes that no other container uses.
    /// Tells what it was, and which volumes went with it.
    pub fn remove_container_with(
        &self,
        ns: &str,
        id: &str,
        volumes: bool,
    ) -> Result<(Container, Vec<String>), ContainerError> {
        let not_found = || ContainerError::NotFound(id.to_owned());
        let row = self
            .db
            .read(|q| q.one(&by_id(), (ns, id), container)?.ok_or_else(not_found))?;
        let ephemeral = row.ephemeral;
        let (claim, own, gone) = self.free(durability(ephemeral), |q| {
            let own = if volumes {
                volume::own(q, ns, id)?
            } else {
                Vec::new()
            };
            if q.run(DELETE, (ns, id))? == 0 {
                return Err(not_found());
            }
            let (mut claims, mut gone) = (Vec::new(), Vec::new());
            for (id, n, name) in own {
                claims.extend(self.forget_volume(q, id, n)?);
                gone.push(name);
            }
            match snapshot::find(q, ns, id)? {
                Some(row) => Ok((self.forget(q, &row, id)?, claims, gone)),
                None => Ok((None, claims, gone)),
            }
        })?;
        for claim in own.into_iter().map(Some).chain([claim]) {
            self.take_away(claim)?;
        }
        Ok((row, gone))
    }

    /// Where an active snapshot keeps what was written: `snapshots/<n>/fs`. A container's has its id as key.
    pub fn upper_path(&self, ns: &str, key: &str) -> Result<PathBuf, SnapshotError> {
        let row = self.db.read(|q| snapshot::get(q, ns, key))?;
        match (row.kind, row.n) {
            (Kind::Active, Some(n)) => Ok(self.layout.of_number(n, crate::layout::FS)),
            _ => Err(SnapshotError::precondition(
                key,
                "only an active snapshot is written to",
            )),
        }
    }

    /// Where what a container prints is kept, whether there is anything or not: see [`Store::log_dir`].
    pub fn log_path(&self, ns: &str, id: &str) -> Result<PathBuf, SnapshotError> {
        Ok(self.upper_path(ns, id)?.with_file_name(LOG))
    }

    /// The directory in which what a container prints is kept, `snapshots/<n>/log`; made when it is missing. What it
    /// holds goes with the container, and is not counted among what that may write.
    pub fn log_dir(&self, ns: &str, id: &str) -> Result<Dir, SnapshotError> {
        let path = self.upper_path(ns, id)?;
        let own = path.parent().unwrap_or(&path);
        let open = || -> std::io::Result<Dir> {
            let own = Dir::open_ambient(own)?;
            match own.mkdir(LOG, Mode::RWXU) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
            let log = own.open_dir(LOG)?;
            // A file system that counts nothing has nobody's to take it from.
            if sys::quota::project(log.as_fd()).is_ok_and(|project| project != 0) {
                sys::quota::set_project(log.as_fd(), 0)?;
            }
            Ok(log)
        };
        Ok(open().map_err(|error| self.layout.fault("making the log in", own, error))?)
    }
}

/// Puts in the row; its number.
fn insert(q: &Query<'_>, new: &NewContainer) -> Result<i64, ContainerError> {
    let manifest: Option<i64> = match new.manifest {
        None => None,
        Some(digest) => {
            let sql = "SELECT id FROM manifests WHERE digest = ?";
            let id = q.one(sql, (digest,), |row| row.get(0))?;
            Some(id.ok_or(ContainerError::ManifestGone(digest))?)
        }
    };
    let inserted = q.one(
        "INSERT INTO containers (ns, cid, name, image, manifest, ephemeral, created, labels, details)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
        (
            &new.ns,
            &new.id,
            &new.name,
            &new.image,
            manifest,
            new.ephemeral,
            nanoseconds(new.created),
            labels_to(&new.labels),
            new.details.to_string(),
        ),
        |row| row.get(0),
    )?;
    if let Some(id) = inserted {
        if let Some(image) = &new.image {
            crate::image::used::<ContainerError>(q, &new.ns, image)?;
        }
        return Ok(id);
    }
    let other = "SELECT cid FROM containers WHERE ns = ? AND name = ?";
    match q.one(other, (&new.ns, &new.name), |row| row.get::<_, String>(0))? {
        Some(id) if id != new.id => Err(ContainerError::NameInUse {
            name: new.name.clone(),
            id,
        }),
        _ => Err(ContainerError::IdInUse(new.id.clone())),
    }
}

/// Columns for [`container`].
const CONTAINER: &str =
    "SELECT c.ns, c.cid, c.name, c.image, m.digest, c.labels, c.created, c.ephemeral, c.details
  FROM containers c LEFT JOIN manifests m ON m.id = c.manifest";

const DELETE: &str = "DELETE FROM containers WHERE ns = ? AND cid = ?";

fn by_id() -> String {
    format!("{CONTAINER} WHERE c.ns = ? AND c.cid = ?")
}

fn container(row: &Row<'_>) -> rusqlite::Result<Container> {
    let details = serde_json::from_str(row.get_ref(8)?.as_str()?).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(8, rusqlite::types::Type::Text, Box::new(error))
    })?;
    Ok(Container {
        ns: row.get(0)?,
        id: row.get(1)?,
        name: row.get(2)?,
        image: row.get(3)?,
        manifest: row.get(4)?,
        labels: labels_from(row, 5)?,
        created: time(row, 6)?,
        ephemeral: row.get(7)?,
        details,
    })
}
