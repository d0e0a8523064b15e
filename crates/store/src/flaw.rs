//! [`Flaw`]: layers that are in the database and do not serve any more, and what takes their place.
//!
//! Whether every file of a layer is as it was is for a check to say, which reads all of them. What it finds it leaves as
//! a mark beside the files, and whoever installs an image looks for that, and for what is plainly gone: a few names a
//! layer. The mark lies in the directory that is damaged, so it goes with it.

use std::io;
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags};

use crate::db::{Durability, int};
use crate::error::Fault;
use crate::fsck::is_gone;
use crate::layout::{DAMAGED, FS, RECORD};
use crate::{Container, NewLayer, Store, Usage};

/// Why a layer that has a row does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// This is not there: its directory, its files or its record.
    Missing(&'static str),
    /// A check found it damaged, and nothing has taken its place since.
    Marked,
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

    /// Puts a directory that was unpacked anew in the place of layer `n`'s, in one step; what was there is removed.
    /// Nothing may have it mounted.
    pub fn replace_layer(&self, n: u64, new: NewLayer) -> Result<(), Fault> {
        let usage = Usage::of(new.fs()).map_err(|error| self.number_fault("measuring", new.n(), error))?;
        self.sync_disk()?;
        let snapshots = self.layout.snapshots()?;
        let fault = |error| self.number_fault("replacing", n, error);
        let (from, to) = (new.n().to_string(), n.to_string());
        match snapshots.exchange(&from, snapshots, &to) {
            Err(error) if is_gone(&error) => {
                snapshots.rename_noreplace(&from, snapshots, &to).map_err(fault)?
            }
            other => other.map_err(fault)?,
        }
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
    use crate::{Digest, LayerMeta};

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
}
