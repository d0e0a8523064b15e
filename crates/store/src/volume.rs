//! Volumes: directories with a name that outlive the containers which use them.
//!
//! A volume's content is `snapshots/<n>/fs`, which containers bind as it lies. While a row of `container_volumes` names
//! it, it cannot be removed.
//!
//! The first container that uses a volume may fill it with what its image has at that place ([`Filling`]). A volume that is
//! filled halfway must not be taken for one that holds something: all is copied into `filling` beside `fs`; once it is on
//! disk that is called `filled`; and from there each entry is moved into `fs`. Whoever comes after one that was killed begins
//! anew with `filling`, and goes on with `filled`. The directory `fs` itself is never replaced, since others may have it
//! mounted.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use jiff::Timestamp;
use rusqlite::Row;
use rustix::fs::{FlockOperation, Mode, flock};
use sys::Dir;

use crate::Store;
use crate::db::{Durability, Query, int, time, unsigned};
use crate::error::Fault;
use crate::layer::next_number;
use crate::layout::{FILLED, FILLING, FS};
use crate::open::now;
use crate::own::{Claim, Slot};
use crate::snapshot::{Labels, SnapshotError, labels_from, labels_to};

/// A volume.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// Its namespace.
    pub ns: String,
    /// Its name, no other volume's of the namespace.
    pub name: String,
    /// Its directory is `snapshots/<n>`.
    pub n: u64,
    /// It was made for one container, which gave it no name.
    pub anonymous: bool,
    /// It was made with an ephemeral container, and need not outlive a power cut.
    pub ephemeral: bool,
    /// It takes nothing of an image any more.
    pub settled: bool,
    /// When it was made.
    pub created: Timestamp,
    /// Labels.
    pub labels: Labels,
    /// What it was made with; the engine's own.
    pub options: BTreeMap<String, String>,
    /// Where its content lies.
    pub path: PathBuf,
    /// Ids of the containers that use it.
    pub users: Vec<String>,
}

/// A volume that is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name: letters, digits, `_`, `.` and `-`, the first a letter or a digit.
    pub name: String,
    /// It is made for one container, and goes with it where that is asked.
    pub anonymous: bool,
    /// Labels.
    pub labels: Labels,
    /// The engine's own.
    pub options: BTreeMap<String, String>,
}

/// Why an operation on a volume failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// No volume is called that.
    #[error("there is no volume {0:?}")]
    NotFound(String),
    /// There is one already.
    #[error("there is a volume {0:?} already")]
    Exists(String),
    /// The name is none.
    #[error("{0:?} is no name of a volume")]
    Invalid(String),
    /// Containers use it.
    #[error("volume {name:?} is in use by {}", users(.containers))]
    InUse {
        /// The volume.
        name: String,
        /// Names of the containers.
        containers: Vec<String>,
    },
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

fn users(containers: &[String]) -> String {
    match containers {
        [one] => format!("container {one}"),
        several => format!("containers {}", several.join(", ")),
    }
}

/// The longest name: it may be a file's.
const MAX_NAME: usize = 255;

impl NewVolume {
    /// Whether a text can be a volume's name.
    pub fn is_name(text: &str) -> bool {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        text.len() <= MAX_NAME
            && text
                .bytes()
                .next()
                .is_some_and(|first| first.is_ascii_alphanumeric())
            && text.bytes().all(inner)
    }
}

impl Store {
    /// Makes a volume, empty.
    pub fn create_volume(&self, ns: &str, new: &NewVolume) -> Result<Volume, VolumeError> {
        let draft = Draft::new(self, ns, new, false)?;
        let written = self.db.write(Durability::Full, |q| draft.insert(q));
        match written {
            Ok(true) => draft.keep(),
            Ok(false) => return Err(VolumeError::Exists(new.name.clone())),
            Err(error) => {
                draft.keep();
                return Err(error);
            }
        }
        self.find_volume(ns, &new.name)
    }

    /// The volume of that name.
    pub fn find_volume(&self, ns: &str, name: &str) -> Result<Volume, VolumeError> {
        let sql = format!("{VOLUME} WHERE v.ns = ? AND v.name = ?");
        let found = self.db.read(|q| {
            let found = q.one(&sql, (ns, name), |row| self.volume(row))?;
            found.map(|volume| with_users(q, volume)).transpose()
        });
        found?.ok_or_else(|| VolumeError::NotFound(name.to_owned()))
    }

    /// The volumes of a namespace, by name.
    pub fn volumes(&self, ns: &str) -> Result<Vec<Volume>, Fault> {
        let sql = format!("{VOLUME} WHERE v.ns = ? ORDER BY v.name");
        self.db.read(|q| {
            let found = q.all(&sql, (ns,), |row| self.volume(row))?;
            found.into_iter().map(|volume| with_users(q, volume)).collect()
        })
    }

    /// The volumes of all namespaces.
    pub(crate) fn all_volumes(&self) -> Result<Vec<Volume>, Fault> {
        let sql = format!("{VOLUME} ORDER BY v.n");
        self.db.read(|q| {
            let found = q.all(&sql, (), |row| self.volume(row))?;
            found.into_iter().map(|volume| with_users(q, volume)).collect()
        })
    }

    /// Removes a volume that no container uses, and what is in it.
    pub fn remove_volume(&self, ns: &str, name: &str) -> Result<(), VolumeError> {
        let claim = self.free(Durability::Full, |q| {
            let sql = "SELECT id, n FROM volumes WHERE ns = ? AND name = ?";
            let row = q.one(sql, (ns, name), |row| {
                Ok((row.get::<_, i64>(0)?, unsigned(row, 1)?))
            })?;
            let (id, n) = row.ok_or_else(|| VolumeError::NotFound(name.to_owned()))?;
            let users = "SELECT c.name FROM container_volumes u JOIN containers c ON c.id = u.container
                WHERE u.volume = ? ORDER BY 1";
            let containers = q.all(users, (id,), |row| row.get(0))?;
            if !containers.is_empty() {
                let name = name.to_owned();
                return Err(VolumeError::InUse { name, containers });
            }
            Ok(self.forget_volume(q, id, n)?)
        })?;
        self.take_away(claim).map_err(|error| match error {
            SnapshotError::Fault(fault) => VolumeError::Fault(fault),
            // A directory that is taken away has no other failure.
            _ => VolumeError::NotFound(name.to_owned()),
        })
    }

    /// Deletes a volume's row, and answers its directory, locked, for [`Store::take_away`].
    pub(crate) fn forget_volume(&self, q: &Query<'_>, id: i64, n: u64) -> Result<Option<Claim<'_>>, Fault> {
        q.run("DELETE FROM volumes WHERE id = ?", (id,))?;
        Claim::of_number(&self.layout, n)
    }

    /// Begins to fill a volume that nothing was in yet; `None` for any other. Waits for who is filling it.
    pub fn fill_volume(&self, ns: &str, name: &str) -> Result<Option<Filling<'_>>, VolumeError> {
        let volume = self.find_volume(ns, name)?;
        if volume.settled {
            return Ok(None);
        }
        let fault = |error| self.number_fault("filling volume", volume.n, error);
        let dir = self
            .layout
            .snapshots()?
            .open_dir(volume.n.to_string())
            .map_err(fault)?;
        flock(&dir, FlockOperation::LockExclusive).map_err(|errno| fault(errno.into()))?;
        let filling = Filling {
            store: self,
            volume,
            dir,
            into: None,
        };
        filling.begin()
    }

    fn volume(&self, row: &Row<'_>) -> rusqlite::Result<Volume> {
        let n = unsigned(row, 2)?;
        Ok(Volume {
            ns: row.get(0)?,
            name: row.get(1)?,
            n,
            anonymous: row.get(3)?,
            ephemeral: row.get(4)?,
            settled: row.get(5)?,
            created: time(row, 6)?,
            labels: labels_from(row, 7)?,
            options: labels_from(row, 8)?,
            path: self.layout.of_number(n, FS),
            users: Vec::new(),
        })
    }
}

/// Columns for [`Store::volume`].
const VOLUME: &str =
    "SELECT v.ns, v.name, v.n, v.anonymous, v.ephemeral, v.settled, v.created, v.labels, v.options
  FROM volumes v";

fn with_users(q: &Query<'_>, volume: Volume) -> Result<Volume, Fault> {
    let sql = "SELECT c.cid FROM volumes v JOIN container_volumes u ON u.volume = v.id JOIN containers c ON c.id = u.container
        WHERE v.ns = ? AND v.name = ? ORDER BY c.created, c.id";
    let users = q.all(sql, (&volume.ns, &volume.name), |row| row.get(0))?;
    Ok(Volume { users, ..volume })
}

/// A volume that is being filled. Dropped before [`Filling::finish`], it is as empty as before.
pub struct Filling<'a> {
    store: &'a Store,
    volume: Volume,
    /// `snapshots/<n>`, locked.
    dir: Dir,
    into: Option<Dir>,
}

impl<'a> Filling<'a> {
    /// Looks at how far others came; answers itself if there is something to do.
    fn begin(mut self) -> Result<Option<Filling<'a>>, VolumeError> {
        // Whoever had the lock before may have done all, or removed it.
        if self
            .store
            .find_volume(&self.volume.ns, &self.volume.name)?
            .settled
        {
            return Ok(None);
        }
        let begun = || -> io::Result<Option<Dir>> {
            if self.dir.try_stat(FILLED)?.is_some() || !self.dir.open_dir(FS)?.entries()?.is_empty() {
                return Ok(None);
            }
            if self.dir.try_stat(FILLING)?.is_some() {
                self.dir.remove_tree(FILLING)?;
            }
            self.dir.mkdir(FILLING, Mode::RWXU)?;
            self.dir.open_dir(FILLING).map(Some)
        };
        match begun().map_err(|error| self.fault(error))? {
            Some(into) => {
                self.into = Some(into);
                Ok(Some(self))
            }
            None => {
                self.settle()?;
                Ok(None)
            }
        }
    }

    /// Where everything is to be put, the attributes of the directory itself too.
    pub fn place(&self) -> &Dir {
        // There is one whenever a `Filling` is handed out.
        self.into.as_ref().unwrap_or(&self.dir)
    }

    /// What was put there becomes the volume's content.
    pub fn finish(self) -> Result<(), VolumeError> {
        if !self.volume.ephemeral {
            self.store.sync_disk()?;
        }
        self.dir
            .rename(FILLING, &self.dir, FILLED)
            .map_err(|error| self.fault(error))?;
        self.settle()
    }

    /// Moves what is `filled` into the volume, and notes that it takes no more.
    fn settle(&self) -> Result<(), VolumeError> {
        let moved = || -> io::Result<()> {
            if self.dir.try_stat(FILLED)?.is_none() {
                return Ok(());
            }
            let (from, fs) = (self.dir.open_dir(FILLED)?, self.dir.open_dir(FS)?);
            // Before anything is moved out, which changes the time of `from`.
            sys::attributes::copy(&from, &fs, is_copied)?;
            let times = fs.metadata()?;
            for entry in from.entries()? {
                match from.rename_noreplace(&entry.name, &fs, &entry.name) {
                    // Whoever uses the volume already has put something of that name there: it stays.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    other => other?,
                }
            }
            rustix::fs::futimens(&fs, &times_of(&times))?;
            self.dir.remove_tree(FILLED)
        };
        moved().map_err(|error| self.fault(error))?;
        self.store.db.write(Durability::Relaxed, |q| {
            let sql = "UPDATE volumes SET settled = 1 WHERE ns = ? AND name = ? AND n = ?";
            q.run(sql, (&self.volume.ns, &self.volume.name, int(self.volume.n)))
        })?;
        Ok(())
    }

    fn fault(&self, error: io::Error) -> Fault {
        self.store.number_fault("filling volume", self.volume.n, error)
    }
}

/// SELinux labels new directories itself, by the policy's rules.
fn is_copied(name: &OsStr) -> bool {
    name.as_bytes() != b"security.selinux"
}

fn times_of(stat: &rustix::fs::Stat) -> rustix::fs::Timestamps {
    let at = |seconds, nanoseconds| rustix::fs::Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds as _,
    };
    rustix::fs::Timestamps {
        last_access: at(stat.st_atime, stat.st_atime_nsec),
        last_modification: at(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// A volume that a container is to use: one that is there, or one that lacks only its row.
pub(crate) struct Draft<'a> {
    ns: &'a str,
    new: &'a NewVolume,
    ephemeral: bool,
    slot: Option<Slot>,
}

impl<'a> Draft<'a> {
    fn new(
        store: &Store,
        ns: &'a str,
        new: &'a NewVolume,
        ephemeral: bool,
    ) -> Result<Draft<'a>, VolumeError> {
        if !NewVolume::is_name(&new.name) || ns.is_empty() {
            return Err(VolumeError::Invalid(new.name.clone()));
        }
        let ephemeral = ephemeral && new.anonymous;
        let slot = Slot::allot(&store.layout, store.db.read(next_number)?)?;
        let make = || -> io::Result<()> {
            slot.dir().mkdir(FS, Mode::from_raw_mode(0o755))?;
            if !ephemeral {
                slot.dir().open_dir(FS)?.sync()?;
                slot.dir().sync()?;
                store.layout.snapshots().map_err(io::Error::other)?.sync()?;
            }
            Ok(())
        };
        make().map_err(|error| store.number_fault("making a volume in", slot.n(), error))?;
        let slot = Some(slot);
        Ok(Draft {
            ns,
            new,
            ephemeral,
            slot,
        })
    }

    /// Whether it is to outlive a power cut, and is made now.
    pub(crate) fn lasts(&self) -> bool {
        self.slot.is_some() && !self.ephemeral
    }

    /// Writes the row; whether the name was free.
    fn insert(&self, q: &Query<'_>) -> Result<bool, VolumeError> {
        let Some(slot) = &self.slot else { return Ok(false) };
        let inserted = q.run(
            "INSERT INTO volumes (ns, name, n, anonymous, ephemeral, settled, created, labels, options)
             VALUES (?, ?, ?, ?, ?, 0, ?, ?, ?) ON CONFLICT (ns, name) DO NOTHING",
            (
                self.ns,
                &self.new.name,
                int(slot.n()),
                self.new.anonymous,
                self.ephemeral,
                now(),
                labels_to(&self.new.labels),
                labels_to(&self.new.options),
            ),
        )?;
        Ok(inserted > 0)
    }

    fn keep(self) {
        if let Some(slot) = self.slot {
            slot.keep();
        }
    }
}

/// What is wanted, with a directory for each that is not there.
pub(crate) fn drafts<'a>(
    store: &Store,
    ns: &'a str,
    wanted: &'a [NewVolume],
    ephemeral: bool,
) -> Result<Vec<Draft<'a>>, VolumeError> {
    let there = |new: &NewVolume| {
        let sql = "SELECT 1 FROM volumes WHERE ns = ? AND name = ?";
        store.db.read(|q| q.one(sql, (ns, &new.name), |_| Ok(())))
    };
    wanted
        .iter()
        .map(|new| match there(new)? {
            Some(()) => Ok(Draft {
                ns,
                new,
                ephemeral,
                slot: None,
            }),
            None => Draft::new(store, ns, new, ephemeral),
        })
        .collect()
}

/// Writes the rows of what is not there yet, and that the container uses all of them; which were made.
pub(crate) fn use_all(q: &Query<'_>, container: i64, wanted: &[Draft<'_>]) -> Result<Vec<bool>, VolumeError> {
    let mut made = Vec::new();
    for draft in wanted {
        made.push(draft.insert(q)?);
        let sql = "INSERT INTO container_volumes (container, volume)
            SELECT ?, id FROM volumes WHERE ns = ? AND name = ? ON CONFLICT DO UPDATE SET volume = volume";
        if q.run(sql, (container, draft.ns, &draft.new.name))? == 0 {
            return Err(VolumeError::NotFound(draft.new.name.clone()));
        }
    }
    Ok(made)
}

/// Leaves the directories of those that were made where they are; their names.
pub(crate) fn keep(drafts: Vec<Draft<'_>>, made: &[bool]) -> Vec<String> {
    let made = drafts.into_iter().zip(made).filter(|(_, made)| **made);
    made.map(|(draft, _)| {
        let name = draft.new.name.clone();
        draft.keep();
        name
    })
    .collect()
}

/// Leaves them to the collector after a fault: nobody knows whether the rows were written.
pub(crate) fn give_up(drafts: Vec<Draft<'_>>) {
    drafts.into_iter().for_each(Draft::keep);
}

/// Id, number and name of the anonymous volumes that a container uses and no other does; these rows let go of them.
pub(crate) fn own(q: &Query<'_>, ns: &str, id: &str) -> Result<Vec<(i64, u64, String)>, Fault> {
    let sql = "SELECT v.id, v.n, v.name FROM containers c JOIN container_volumes u ON u.container = c.id
          JOIN volumes v ON v.id = u.volume
        WHERE c.ns = ? AND c.cid = ? AND v.anonymous
          AND NOT EXISTS (SELECT 1 FROM container_volumes o WHERE o.volume = v.id AND o.container <> c.id)";
    q.all(sql, (ns, id), |row| {
        Ok((row.get(0)?, unsigned(row, 1)?, row.get(2)?))
    })
}
