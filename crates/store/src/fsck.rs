//! The store held against itself: rows against what is on disk, and what is on disk against rows. What lies inside a
//! layer is for `image` to know.
//!
//! Others may work on the store meanwhile. What is missing is looked for once more after its row was read again, and
//! what has no row must have no living owner: only what stays wrong is told.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use rustix::fs::FileType;

use crate::beside::beside;
use crate::collect::OF_NUMBER;
use crate::db::{Durability, Query, int, unsigned};
use crate::error::Fault;
use crate::flaw::Flaw;
use crate::layout::{BLOBS, FS, LEASES, SNAPSHOTS};
use crate::own::Claim;
use crate::snapshot::Kind;
use crate::{Digest, Hasher, Layer, Store};

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wrong {
    /// The database contradicts itself.
    Database(String),
    /// A blob's file is gone.
    BlobMissing(Digest),
    /// A blob's file is not what its name says.
    BlobDamaged {
        /// The blob.
        digest: Digest,
        /// What is wrong with it.
        how: String,
    },
    /// A layer's directory, or a part of it, is gone.
    LayerMissing {
        /// The layer.
        layer: Layer,
        /// What is gone.
        part: &'static str,
    },
    /// A snapshot's directory is gone.
    SnapshotMissing {
        /// Its namespace.
        ns: String,
        /// Its key; a container's has its id.
        key: String,
        /// Whether a power cut may have taken it, as it was told when it was made.
        ephemeral: bool,
    },
    /// A volume's directory is gone.
    VolumeMissing {
        /// Its namespace.
        ns: String,
        /// Its name.
        name: String,
        /// Whether a power cut may have taken it, as it was told when it was made.
        ephemeral: bool,
    },
    /// A blob that something needs has no row.
    BlobUnknown(Digest),
    /// Something on disk that neither a row nor a living process owns.
    Orphan(String),
    /// Something on disk that strata never makes there.
    Foreign(String),
}

impl Store {
    /// What is wrong with database, directories and blobs; with `deep`, every blob is read too. `told` hears how many of
    /// how many blobs have been looked at.
    pub fn check(&self, deep: bool, told: &(dyn Fn(u64, u64) + Sync)) -> Result<Vec<Wrong>, Fault> {
        let mut wrong = self.check_database()?;
        self.check_blobs(deep, told, &mut wrong)?;
        self.check_layers(&mut wrong)?;
        self.check_snapshots(&mut wrong)?;
        self.check_volumes(&mut wrong)?;
        self.check_orphans(&mut wrong)?;
        Ok(wrong)
    }

    fn check_database(&self) -> Result<Vec<Wrong>, Fault> {
        self.db.read(|q| {
            let lines = q.all("SELECT integrity_check FROM pragma_integrity_check", (), |row| {
                row.get::<_, String>(0)
            })?;
            let tables = q.all("SELECT \"table\" FROM pragma_foreign_key_check", (), |row| {
                row.get::<_, String>(0)
            })?;
            let lines = lines.into_iter().filter(|line| line != "ok");
            let tables = tables
                .into_iter()
                .map(|table| format!("a row of {table} names one that is not there"));
            Ok(lines.chain(tables).map(Wrong::Database).collect())
        })
    }

    fn check_blobs(
        &self,
        deep: bool,
        told: &(dyn Fn(u64, u64) + Sync),
        wrong: &mut Vec<Wrong>,
    ) -> Result<(), Fault> {
        let rows = self.db.read(|q| {
            q.all("SELECT digest, size FROM blobs ORDER BY digest", (), |row| {
                Ok((row.get::<_, Digest>(0)?, unsigned(row, 1)?))
            })
        })?;
        let done = AtomicU64::new(0);
        let check = |(digest, size): &(Digest, u64)| -> Result<Option<Wrong>, Fault> {
            let found = self.check_blob(digest, *size, deep)?;
            told(done.fetch_add(1, Relaxed) + 1, rows.len() as u64);
            Ok(match found {
                Some(found) if self.blob_size(digest)?.is_some() => Some(found),
                _ => None,
            })
        };
        for found in beside(&rows, check) {
            wrong.extend(found?);
        }
        let needed = "SELECT target_digest AS digest FROM images UNION SELECT digest FROM manifests
            UNION SELECT config_digest FROM manifests EXCEPT SELECT digest FROM blobs";
        let needed = self.db.read(|q| q.all(needed, (), |row| row.get(0)))?;
        wrong.extend(needed.into_iter().map(Wrong::BlobUnknown));
        Ok(())
    }

    /// What is wrong with one blob.
    fn check_blob(&self, digest: &Digest, size: u64, deep: bool) -> Result<Option<Wrong>, Fault> {
        let damaged = |how: String| Ok(Some(Wrong::BlobDamaged { digest: *digest, how }));
        let stat = self.layout.blobs()?.try_stat(digest.hex());
        let Some(stat) = stat.map_err(|error| self.blob_fault("looking at", digest, error))? else {
            return Ok(Some(Wrong::BlobMissing(*digest)));
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return damaged("it is no file".to_owned());
        }
        if u64::try_from(stat.st_size) != Ok(size) {
            return damaged(format!("it has {} bytes, not {size}", stat.st_size));
        }
        if !deep {
            return Ok(None);
        }
        let hash = || -> io::Result<Digest> {
            let mut file = match self.open_blob(digest) {
                Ok(file) => file,
                Err(error) => return Err(io::Error::other(error)),
            };
            let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 256 * 1024]);
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.finish()),
                    count => hasher.update(&buffer[..count]),
                }
            }
        };
        match hash() {
            Ok(found) if found == *digest => Ok(None),
            Ok(found) => damaged(format!("its content has the digest {found}")),
            Err(error) => damaged(format!("it cannot be read: {error}")),
        }
    }

    /// Whether a blob's file holds what it should: all of it is read.
    pub fn blob_is_sound(&self, digest: &Digest) -> Result<bool, Fault> {
        Ok(match self.blob_size(digest)? {
            Some(size) => self.check_blob(digest, size, true)?.is_none(),
            None => false,
        })
    }

    fn check_layers(&self, wrong: &mut Vec<Wrong>) -> Result<(), Fault> {
        for layer in self.layers()? {
            if let Some(Flaw::Missing(part)) = self.flaw(layer.n)?
                && self.layer(layer.n)?.is_some()
            {
                wrong.push(Wrong::LayerMissing { layer, part });
            }
        }
        Ok(())
    }

    fn check_snapshots(&self, wrong: &mut Vec<Wrong>) -> Result<(), Fault> {
        let own = "SELECT ns, key, kind, n, ephemeral FROM snapshots
            WHERE n IS NOT NULL AND n NOT IN (SELECT n FROM layers) ORDER BY id";
        let rows = self.db.read(|q| {
            q.all(own, (), |row| {
                let of = (row.get::<_, String>(0)?, row.get::<_, String>(1)?);
                Ok((
                    of,
                    row.get::<_, Kind>(2)?,
                    unsigned(row, 3)?,
                    row.get::<_, bool>(4)?,
                ))
            })
        })?;
        for ((ns, key), kind, n, ephemeral) in rows {
            let parts: &[&str] = if kind == Kind::Active {
                &[FS, crate::layout::WORK]
            } else {
                &[FS]
            };
            let whole = || -> io::Result<bool> {
                let dir = match self.layout.root.open_dir(format!("{SNAPSHOTS}/{n}")) {
                    Err(error) if is_gone(&error) => return Ok(false),
                    other => other?,
                };
                let mut whole = true;
                for part in parts {
                    let stat = dir.try_stat(part)?;
                    whole &=
                        stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
                }
                Ok(whole)
            };
            let still = "SELECT 1 FROM snapshots WHERE ns = ? AND key = ? AND n = ?";
            if !whole().map_err(|error| self.number_fault("looking at", n, error))?
                && self
                    .db
                    .read(|q| q.one(still, (&ns, &key, int(n)), |_| Ok(())))?
                    .is_some()
            {
                wrong.push(Wrong::SnapshotMissing { ns, key, ephemeral });
            }
        }
        Ok(())
    }

    fn check_volumes(&self, wrong: &mut Vec<Wrong>) -> Result<(), Fault> {
        let snapshots = self.layout.snapshots()?;
        for volume in self.all_volumes()? {
            let there = match snapshots.open_dir(format!("{}/{FS}", volume.n)) {
                Err(error) if is_gone(&error) => false,
                other => other
                    .map(|_| true)
                    .map_err(|error| self.number_fault("looking at", volume.n, error))?,
            };
            let still = "SELECT 1 FROM volumes WHERE ns = ? AND name = ? AND n = ?";
            let still = |q: &Query<'_>| q.one(still, (&volume.ns, &volume.name, int(volume.n)), |_| Ok(()));
            if !there && self.db.read(still)?.is_some() {
                wrong.push(Wrong::VolumeMissing {
                    ns: volume.ns,
                    name: volume.name,
                    ephemeral: volume.ephemeral,
                });
            }
        }
        Ok(())
    }

    /// What nobody owns.
    fn check_orphans(&self, wrong: &mut Vec<Wrong>) -> Result<(), Fault> {
        let digest = "SELECT 1 FROM blobs WHERE digest = ?";
        let lease = "SELECT 1 FROM leases WHERE id = ?";
        for rel in [SNAPSHOTS, BLOBS, LEASES] {
            let dir = self.layout.root.open_dir(rel);
            let fault = |error| self.layout.fault("looking at", rel, error);
            let dir = dir.map_err(fault)?;
            for entry in dir.entries().map_err(fault)? {
                let path = format!("{rel}/{}", entry.name.to_string_lossy());
                let Some(name) = entry.name.to_str() else {
                    wrong.push(Wrong::Foreign(path));
                    continue;
                };
                let owned = |q: &Query<'_>| -> Result<Option<bool>, Fault> {
                    let row = match rel {
                        SNAPSHOTS => match name.parse::<u64>() {
                            Ok(n) => q.one(OF_NUMBER, (int(n),), |_| Ok(()))?,
                            Err(_) => return Ok(None),
                        },
                        BLOBS => match Digest::from_hex(name) {
                            Ok(found) => q.one(digest, (found,), |_| Ok(()))?,
                            Err(_) => return Ok(None),
                        },
                        _ => q.one(lease, (name,), |_| Ok(()))?,
                    };
                    Ok(Some(row.is_some()))
                };
                match self.db.read(owned)? {
                    // Of a lease whose owner is dead too: what it brought is kept for a day.
                    Some(true) => continue,
                    None => {
                        wrong.push(Wrong::Foreign(path));
                        continue;
                    }
                    Some(false) => {}
                }
                // A living process may be about to give it its row, or to take it away.
                let Some(_claim) = Claim::take(&dir, name).map_err(fault)? else {
                    continue;
                };
                if self.db.read(owned)? == Some(false) {
                    wrong.push(Wrong::Orphan(path));
                }
            }
        }
        Ok(())
    }

    /// Forgets a blob that is damaged or gone, whoever needs it, so that it can be brought anew: row first, then file.
    pub fn forget_blob(&self, digest: &Digest) -> Result<(), Fault> {
        let blobs = self.layout.blobs()?;
        let claim = self.free(Durability::Full, |q| {
            q.run("DELETE FROM image_blobs WHERE digest = ?", (digest,))?;
            q.run("DELETE FROM lease_blobs WHERE digest = ?", (digest,))?;
            q.run("DELETE FROM blobs WHERE digest = ?", (digest,))?;
            Claim::take(blobs, &digest.hex()).map_err(|error| self.blob_fault("removing", digest, error))
        })?;
        match claim {
            Some(claim) => claim
                .remove()
                .map_err(|error| self.blob_fault("removing", digest, error)),
            None => Ok(()),
        }
    }

    /// The layers beneath layer `n` in an image that has it in the chain it was unpacked in, topmost first; `None` when
    /// no image has.
    pub fn layers_below(&self, n: u64) -> Result<Option<Vec<u64>>, Fault> {
        let place = "SELECT m.manifest, m.position FROM layers l JOIN manifest_layers m ON m.n = l.n
            WHERE l.n = ? AND (m.chain_id = l.chain_id OR NOT l.depends_on_below)
            ORDER BY m.chain_id <> l.chain_id LIMIT 1";
        let below =
            "SELECT n FROM manifest_layers WHERE manifest = ? AND position < ? ORDER BY position DESC";
        self.db.read(|q| {
            let place = q.one(place, (int(n),), |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
            })?;
            place
                .map(|place| q.all(below, place, |row| unsigned(row, 0)))
                .transpose()
        })
    }

    /// The images, by namespace and name, that need a blob or the layer `n`.
    pub fn needing(&self, blob: Option<&Digest>, n: Option<u64>) -> Result<Vec<crate::Holder>, Fault> {
        let sql = "SELECT DISTINCT i.ns, i.name FROM images i JOIN manifests m ON m.id = i.manifest
            WHERE ?1 IN (i.target_digest, m.digest, m.config_digest)
              OR EXISTS (SELECT 1 FROM image_blobs b WHERE b.image = i.id AND b.digest = ?1)
              OR EXISTS (SELECT 1 FROM manifest_layers l WHERE l.manifest = m.id AND (l.blob_digest = ?1 OR l.n = ?2))
            ORDER BY 1, 2";
        self.db.read(|q| {
            q.all(sql, (blob, n.map(int)), |row| {
                Ok(crate::Holder {
                    ns: row.get(0)?,
                    name: row.get(1)?,
                })
            })
        })
    }
}

pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
