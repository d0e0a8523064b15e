//! [`Flaw`]: layers that are in the database and do not serve any more, and what takes their place.
//!
//! Whether every file of a layer is as it was is for a check to say, which reads all of them. What it finds it leaves as
//! a mark beside the files, and whoever installs an image looks for that, and for what is plainly gone: a few names a
//! layer. The mark lies in the directory that is damaged, so it goes with it.
//!
//! No layer is replaced beneath a container. Who looks whether one runs on it, and exchanges it then, holds a lock on
//! `snapshots` exclusively; who starts one holds it shared ([`Store::stand`]) until it can be seen to run. It is the
//! outermost lock but for those of bundles.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, flock};
use sys::Dir;

use crate::db::{Durability, int};
use crate::error::Fault;
use crate::fsck::is_gone;
use crate::layout::{DAMAGED, FS, RECORD, SNAPSHOTS};
use crate::own::try_lock;
use crate::{Container, IngestError, LOCK_TIMEOUT, Layer, LayerMeta, NewLayer, Store, Usage};

/// Why a layer that has a row does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// This is not there: its directory, its files or its record.
    Missing(&'static str),
    /// A check found it damaged, and nothing has taken its place since.
    Marked,
}

/// Layers stay where they are while it lives: [`Store::stand`].
#[derive(Debug)]
pub struct Standing {
    _lock: Dir,
}

/// Tells whether a container's process is there.
pub(crate) type IsUp = Arc<dyn Fn(&Container) -> bool + Send + Sync>;

impl Store {
    /// Lets the store ask whether containers run. One that was never told takes all of them for running.
    #[must_use]
    pub fn asking(mut self, is_up: impl Fn(&Container) -> bool + Send + Sync + 'static) -> Store {
        self.is_up = Some(Arc::new(is_up));
        self
    }

    /// The name of a container that runs on layer `n`, if there is one.
    pub fn running_on(&self, n: u64) -> Result<Option<String>, Fault> {
        for holder in self.sharers(n)?.containers {
            let row = match self.find_container(&holder.ns, &holder.name) {
                Ok(row) => row,
                // Removed meanwhile.
                Err(_) => continue,
            };
            if self.is_up.as_ref().is_none_or(|is_up| is_up(&row)) {
                return Ok(Some(row.name));
            }
        }
        Ok(None)
    }

    /// What can be seen to be wrong with layer `n` without looking at its files.
    pub fn flaw(&self, n: u64) -> Result<Option<Flaw>, Fault> {
        let snapshots = self.layout.snapshots()?;
        let look = || -> io::Result<Option<Flaw>> {
            let dir = match snapshots.open_dir(n.to_string()) {
                Err(error) if is_gone(&error) => return Ok(Some(Flaw::Missing("its directory"))),
                other => other?,
            };
            let kind = |name: &str| -> io::Result<Option<FileType>> {
                let stat = dir.try_stat(name)?;
                Ok(stat.map(|stat| FileType::from_raw_mode(stat.st_mode)))
            };
            Ok(match (kind(FS)?, kind(RECORD)?, kind(DAMAGED)?) {
                (Some(FileType::Directory), Some(FileType::RegularFile), None) => None,
                (Some(FileType::Directory), Some(FileType::RegularFile), Some(_)) => Some(Flaw::Marked),
                (Some(FileType::Directory), ..) => Some(Flaw::Missing("its record")),
                _ => Some(Flaw::Missing("its files")),
            })
        };
        look().map_err(|error| self.number_fault("looking at", n, error))
    }

    /// Marks layer `n` as damaged, or as sound again. One whose directory is gone needs no mark.
    pub fn mark(&self, n: u64, damaged: bool) -> Result<(), Fault> {
        let snapshots = self.layout.snapshots()?;
        let mark = || -> io::Result<()> {
            let dir = snapshots.open_dir(n.to_string())?;
            if damaged {
                let flags = OFlags::WRONLY | OFlags::CREATE;
                return dir.open_file(DAMAGED, flags, Mode::RUSR | Mode::WUSR).map(drop);
            }
            dir.unlink(DAMAGED)
        };
        match mark() {
            Err(error) if is_gone(&error) => Ok(()),
            other => other.map_err(|error| self.number_fault("marking", n, error)),
        }
    }

    /// Keeps every layer where it is, as long as what is returned lives: for who mounts layers, until a container can be seen
    /// to run on them.
    pub fn stand(&self) -> Result<Standing, Fault> {
        let dir = self.open_snapshots()?;
        let locked = flock(&dir, FlockOperation::LockShared);
        locked.map_err(|error| self.layout.fault("locking", SNAPSHOTS, error.into()))?;
        Ok(Standing { _lock: dir })
    }

    /// Waits until nobody keeps layers where they are, and lets nobody do so.
    fn stand_alone(&self) -> Result<Standing, Fault> {
        let dir = self.open_snapshots()?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        let fault = |error| self.layout.fault("locking", SNAPSHOTS, error);
        while !try_lock(&dir).map_err(fault)? {
            if Instant::now() > deadline {
                let why = "a container is being started or copied from, and it takes long";
                return Err(fault(io::Error::new(io::ErrorKind::TimedOut, why)));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(Standing { _lock: dir })
    }

    /// A descriptor of its own: what shares one shares its locks.
    fn open_snapshots(&self) -> Result<Dir, Fault> {
        let dir = self.layout.snapshots()?.open_dir(".");
        dir.map_err(|error| self.layout.fault("opening", SNAPSHOTS, error))
    }

    /// Puts a directory that was unpacked anew in the place of layer `n`'s, in one step; what was there is removed. Answers
    /// the name of a container that runs on the layer, if there is one: then nothing was done.
    pub fn replace_layer(&self, n: u64, new: NewLayer) -> Result<Option<String>, Fault> {
        self.sync_disk()?;
        let alone = self.stand_alone()?;
        match self.running_on(n)? {
            Some(container) => Ok(Some(container)),
            None => self.exchange_layer(n, new, alone).map(|()| None),
        }
    }

    /// Puts a layer in the place of one that is there and flawed; gives it back where there is none.
    pub(crate) fn replace_flawed(
        &self,
        new: NewLayer,
        meta: &LayerMeta,
    ) -> Result<Option<NewLayer>, IngestError> {
        let flawed = |old: Option<Layer>| match old {
            Some(old) => Ok(self.flaw(old.n)?.map(|_| old.n)),
            None => Ok(None),
        };
        let (diff_id, chain_id) = (&meta.diff_id, &meta.chain_id);
        if flawed(self.find_layer(diff_id, chain_id)?)
            .map_err(IngestError::Fault)?
            .is_none()
        {
            return Ok(Some(new));
        }
        self.sync_disk()?;
        let alone = self.stand_alone()?;
        // Another may have been faster.
        let Some(n) = flawed(self.find_layer(diff_id, chain_id)?).map_err(IngestError::Fault)? else {
            return Ok(Some(new));
        };
        if let Some(container) = self.running_on(n)? {
            let layer = meta.diff_id;
            return Err(IngestError::InUse { layer, container });
        }
        self.exchange_layer(n, new, alone)?;
        Ok(None)
    }

    /// `new`, whose data is on disk, and the directory of layer `n` change places.
    fn exchange_layer(&self, n: u64, new: NewLayer, alone: Standing) -> Result<(), Fault> {
        let usage = Usage::of(new.fs()).map_err(|error| self.number_fault("measuring", new.n(), error))?;
        let snapshots = self.layout.snapshots()?;
        let fault = |error| self.number_fault("replacing", n, error);
        let (from, to) = (new.n().to_string(), n.to_string());
        match snapshots.exchange(&from, snapshots, &to) {
            Err(error) if is_gone(&error) => {
                snapshots.rename_noreplace(&from, snapshots, &to).map_err(fault)?
            }
            other => other.map_err(fault)?,
        }
        // Who mounts it from now on mounts the new one.
        drop(alone);
        snapshots.sync().map_err(fault)?;
        // `new` is dropped at the end: what lies under its number now, the old directory, goes.
        self.db.write(Durability::Full, |q| {
            q.run("DELETE FROM layer_clones WHERE n = ?", (int(n),))?;
            q.run(
                "UPDATE layers SET bytes = ?, apparent = ?, inodes = ?, overhead = NULL WHERE n = ?",
                (int(usage.bytes), int(usage.apparent), int(usage.inodes), int(n)),
            )
            .map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn what_is_flawed_is_replaced_in_its_place() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let diff_id = Digest::of("layer");
        let meta = LayerMeta {
            diff_id,
            chain_id: Digest::chain(None, &diff_id),
            depends_on_below: false,
            root_listed: true,
            usage: Usage::default(),
        };
        let bring = |name: &str| {
            let new = store.new_layer(&lease).unwrap();
            new.record().unwrap();
            new.subdirectory(name).unwrap();
            let committed = store.commit_layers(&lease, vec![(new, meta.clone())]);
            committed.unwrap().remove(0).n
        };
        let has = |n: u64, name: &str| store.layer_path(n).join(name).exists();
        let n = bring("first");
        assert_eq!(store.flaw(n).unwrap(), None);
        // A sound one stays.
        assert_eq!(bring("second"), n);
        assert!(has(n, "first"));
        let at = store.layer_path(n).parent().unwrap().to_owned();
        let spoil: [(&dyn Fn(), Flaw); 4] = [
            (&|| store.mark(n, true).unwrap(), Flaw::Marked),
            (
                &|| std::fs::remove_file(at.join(RECORD)).unwrap(),
                Flaw::Missing("its record"),
            ),
            (
                &|| std::fs::remove_dir_all(at.join(FS)).unwrap(),
                Flaw::Missing("its files"),
            ),
            (
                &|| std::fs::remove_dir_all(&at).unwrap(),
                Flaw::Missing("its directory"),
            ),
        ];
        for (round, (spoil, flaw)) in spoil.into_iter().enumerate() {
            spoil();
            assert_eq!(store.flaw(n).unwrap(), Some(flaw));
            let name = format!("round {round}");
            assert_eq!(bring(&name), n);
            assert_eq!(store.flaw(n).unwrap(), None);
            assert!(has(n, &name));
            let numbers = crate::own::numbers(store.layout.snapshots().unwrap()).unwrap();
            assert_eq!(numbers, [n]);
        }
        store.mark(n, true).unwrap();
        store.mark(n, false).unwrap();
        store.mark(n, false).unwrap();
        assert_eq!(store.flaw(n).unwrap(), None);
    }

    #[test]
    fn no_layer_is_replaced_while_a_container_is_being_started() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let diff_id = Digest::of("layer");
        let meta = LayerMeta {
            diff_id,
            chain_id: Digest::chain(None, &diff_id),
            depends_on_below: false,
            root_listed: true,
            usage: Usage::default(),
        };
        let made = |store: &Store, name: &str| {
            let new = store.new_layer(&lease).unwrap();
            new.record().unwrap();
            new.subdirectory(name).unwrap();
            new
        };
        let first = vec![(made(&store, "first"), meta.clone())];
        let n = store.commit_layers(&lease, first).unwrap()[0].n;
        let has = |name: &str| store.layer_path(n).join(name).exists();
        store.mark(n, true).unwrap();

        // Two that start do not wait for each other.
        let (one, other) = (store.stand().unwrap(), store.stand().unwrap());
        let (second, third) = (store.reopen().unwrap(), store.reopen().unwrap());
        std::thread::scope(|scope| {
            let new = vec![(made(&second, "second"), meta.clone())];
            let brings = scope.spawn(|| second.commit_layers(&lease, new).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            drop(one);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!brings.is_finished() && has("first"));
            drop(other);
            assert_eq!(brings.join().unwrap()[0].n, n);
        });
        assert!(has("second"));
        // One that was replaced meanwhile stays as it is.
        let late = vec![(made(&third, "third"), meta)];
        assert_eq!(third.commit_layers(&lease, late).unwrap()[0].n, n);
        assert!(has("second") && !has("third"));
        // A check replaces what is not marked, too, and waits as well.
        let standing = store.stand().unwrap();
        std::thread::scope(|scope| {
            let new = made(&third, "fourth");
            let mends = scope.spawn(|| third.replace_layer(n, new).unwrap());
            std::thread::sleep(Duration::from_millis(50));
            assert!(!mends.is_finished() && has("second"));
            drop(standing);
            assert_eq!(mends.join().unwrap(), None);
        });
        assert!(has("fourth"));
    }
}
