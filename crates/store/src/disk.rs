//! What everything in the store takes on disk: [`Store::disk`], which agrees with `du` to the block.
//!
//! Layers, committed snapshots and blobs never change once they are there. What each takes is measured once, when it is
//! first asked for, and kept in its row; a file system may still move blocks while it writes them back, so the figures
//! counted while something was written are not taken for it. Writable directories are walked every time.

use std::collections::HashSet;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use rustix::fs::FileType;
use sys::Dir;

use crate::db::{Durability, Query, int, unsigned};
use crate::error::Fault;
use crate::layout::{BLOBS, FS, INGEST, LEASES, SNAPSHOTS};
use crate::snapshot::Kind;
use crate::usage::usage_from;
use crate::{Digest, Store, Usage};

/// Everything that lies in the store, and what it takes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disk {
    /// Unpacked layers, by number.
    pub layers: Vec<LayerDisk>,
    /// Blobs, by digest.
    pub blobs: Vec<BlobDisk>,
    /// Directories of snapshots that are no layers: those of containers, and of clients.
    pub snapshots: Vec<SnapshotDisk>,
    /// Volumes.
    pub volumes: Vec<VolumeDisk>,
    /// Manifests, with the layers and blobs that they need.
    pub manifests: Vec<ManifestDisk>,
    /// Numbers of the layers beneath snapshots of clients.
    pub beneath: Vec<u64>,
    /// Directories, blobs and downloads that nothing names: on their way in or out, or left by a crash.
    pub unowned: u64,
    /// The database, the reserve, leases, and the directories that hold all this.
    pub own: u64,
    /// Bytes that files of several layers have on the same blocks, counted once for each file above: so much less is
    /// taken in truth.
    pub cloned: u64,
}

/// An unpacked layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDisk {
    /// Its directory is `snapshots/<n>`.
    pub n: u64,
    /// Digest of its tar.
    pub diff_id: Digest,
    /// What its files take.
    pub usage: Usage,
    /// Bytes on disk of its record and the directory that holds both.
    pub overhead: u64,
}

/// A blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlobDisk {
    /// Its digest.
    pub digest: Digest,
    /// Bytes on disk.
    pub bytes: u64,
}

/// The directory of a snapshot that is no layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDisk {
    /// Its directory is `snapshots/<n>`.
    pub n: u64,
    /// Its namespace.
    pub ns: String,
    /// Its key; a container's has its id.
    pub key: String,
    /// What it is for.
    pub kind: Kind,
    /// What its files take.
    pub usage: Usage,
    /// Bytes on disk of what else lies in its directory.
    pub overhead: u64,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeDisk {
    /// Its directory is `snapshots/<n>`.
    pub n: u64,
    /// Its namespace.
    pub ns: String,
    /// Its name.
    pub name: String,
    /// How many containers use it.
    pub users: u64,
    /// What its files take.
    pub usage: Usage,
    /// Bytes on disk of what else lies in its directory.
    pub overhead: u64,
}

/// What a manifest needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestDisk {
    /// Its digest.
    pub digest: Digest,
    /// Numbers of its layers, each once.
    pub layers: Vec<u64>,
    /// Its blobs, those of names that lead to it, and its layers'; each once, some of which may not be there.
    pub blobs: Vec<Digest>,
}

/// A directory of a row whose figures are not known.
struct Unmeasured {
    n: u64,
    layer: bool,
    /// The number may be another's by the time that it is measured.
    created: i64,
}

impl Store {
    /// What everything takes. What is made or removed meanwhile may be counted or not. In a store that cannot be
    /// written, what was never measured is told as it was counted while it was written.
    pub fn disk(&self) -> Result<Disk, Fault> {
        self.measure()?;
        let mut disk = self.db.read(rows)?;
        let mut named: HashSet<u64> = disk.disk.layers.iter().map(|layer| layer.n).collect();
        named.extend(disk.directories.iter().map(|snapshot| snapshot.n));
        for mut snapshot in disk.directories {
            if snapshot.kind != Kind::Committed {
                let Some((usage, overhead)) = self.walk_number(snapshot.n)? else {
                    continue;
                };
                (snapshot.usage, snapshot.overhead) = (usage, overhead);
            }
            disk.disk.snapshots.push(snapshot);
        }
        let mut disk = disk.disk;
        for volume in self.all_volumes()? {
            named.insert(volume.n);
            if let Some((usage, overhead)) = self.walk_number(volume.n)? {
                disk.volumes.push(VolumeDisk {
                    n: volume.n,
                    ns: volume.ns,
                    name: volume.name,
                    users: volume.users.len() as u64,
                    usage,
                    overhead,
                });
            }
        }
        let blobs: HashSet<String> = disk.blobs.iter().map(|blob| blob.digest.hex()).collect();
        let owned = |name: &str| name.parse::<u64>().is_ok_and(|n| named.contains(&n));
        let root = &self.layout.root;
        let fault = |error| self.layout.fault("measuring", "", error);
        disk.own = own(root, "").map_err(fault)?;
        for rel in ["content", "content/blobs", BLOBS, SNAPSHOTS, INGEST, LEASES] {
            disk.own += own(root, rel).map_err(fault)?;
        }
        for (rel, owned) in [
            (SNAPSHOTS, &owned as &dyn Fn(&str) -> bool),
            (BLOBS, &|name| blobs.contains(name)),
            (INGEST, &|_| false),
        ] {
            disk.unowned += self.besides(rel, owned)?;
        }
        disk.own += self.besides(LEASES, &|_| false)?;
        // What else lies in the root: the database with its log, the reserve, a file system's lost+found.
        disk.own += self.besides("", &|name| ["content", SNAPSHOTS, LEASES].contains(&name))?;
        Ok(disk)
    }

    /// Bytes of the entries of a directory that are not `known`, and of all that lies in them.
    fn besides(&self, rel: &str, known: &dyn Fn(&str) -> bool) -> Result<u64, Fault> {
        let bytes = || -> io::Result<u64> {
            let dir = self.layout.root.open_dir(rel)?;
            let mut bytes = 0;
            for entry in dir.entries()? {
                if entry.name.to_str().is_some_and(known) {
                    continue;
                }
                let Some(stat) = dir.try_stat(&entry.name)? else {
                    continue;
                };
                bytes += match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => match dir.open_dir(&entry.name) {
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        other => Usage::of(&other?)?.bytes,
                    },
                    _ => blocks(&stat),
                };
            }
            Ok(bytes)
        };
        bytes().map_err(|error| self.layout.fault("measuring", rel, error))
    }

    /// What `fs` of a number takes, and what else lies in its directory; `None` when it is gone.
    fn walk_number(&self, n: u64) -> Result<Option<(Usage, u64)>, Fault> {
        let snapshots = self.layout.snapshots()?;
        let walk = || -> io::Result<Option<(Usage, u64)>> {
            let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
            let dir = snapshots.open_dir(n.to_string())?;
            let (mut usage, mut overhead) = (Usage::default(), blocks(&dir.metadata()?));
            for entry in dir.entries()? {
                let Some(stat) = dir.try_stat(&entry.name)? else {
                    continue;
                };
                let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                let measured = match directory.then(|| dir.open_dir(&entry.name)) {
                    None => {
                        overhead += blocks(&stat);
                        continue;
                    }
                    Some(Err(error)) if gone(&error) => continue,
                    Some(inner) => Usage::of(&inner?)?,
                };
                match entry.name == FS {
                    true => usage = measured,
                    false => overhead += measured.bytes,
                }
            }
            Ok(Some((usage, overhead)))
        };
        match walk() {
            // Removed while it was looked at.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map_err(|error| self.number_fault("measuring", n, error)),
        }
    }

    /// Measures what has no figures yet, several directories at once, and keeps them where the store can be written.
    fn measure(&self) -> Result<(), Fault> {
        let (unmeasured, blobs) = self.db.read(|q| {
            let directories = "SELECT n, 1, created FROM layers WHERE overhead IS NULL
                UNION ALL SELECT s.n, 0, s.created FROM snapshots s WHERE s.kind = 3 AND s.overhead IS NULL
                  AND s.n NOT IN (SELECT n FROM layers)";
            let directories = q.all(directories, (), |row| {
                Ok(Unmeasured {
                    n: unsigned(row, 0)?,
                    layer: row.get(1)?,
                    created: row.get(2)?,
                })
            })?;
            let blobs: Vec<Digest> = q.all("SELECT digest FROM blobs WHERE bytes IS NULL", (), |row| {
                row.get(0)
            })?;
            Ok::<_, Fault>((directories, blobs))
        })?;
        if self.is_read_only() || (unmeasured.is_empty() && blobs.is_empty()) {
            return Ok(());
        }
        let next = AtomicUsize::new(0);
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(8);
        let work = || -> Result<Vec<(&Unmeasured, Usage, u64)>, Fault> {
            let mut measured = Vec::new();
            while let Some(one) = unmeasured.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Some((usage, overhead)) = self.walk_number(one.n)? {
                    measured.push((one, usage, overhead));
                }
            }
            Ok(measured)
        };
        let directories = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            workers
                .into_iter()
                .map(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
                })
                .collect::<Result<Vec<_>, Fault>>()
        })?;
        let dir = self.layout.blobs()?;
        let mut sizes = Vec::new();
        for digest in blobs {
            let stat = dir.try_stat(digest.hex());
            if let Some(stat) = stat.map_err(|error| self.blob_fault("measuring", &digest, error))? {
                sizes.push((digest, blocks(&stat)));
            }
        }
        let kept = self.db.write(Durability::Relaxed, |q| {
            for (one, usage, overhead) in directories.iter().flatten() {
                keep(q, one, usage, *overhead)?;
            }
            for (digest, bytes) in &sizes {
                q.run(
                    "UPDATE blobs SET bytes = ? WHERE digest = ?",
                    (int(*bytes), digest),
                )?;
            }
            sum_manifests(q)
        });
        match kept {
            // A full disk keeps nobody from looking at what fills it.
            Err(Fault::Full(..)) | Ok(()) => Ok(()),
            Err(fault) => Err(fault),
        }
    }
}

fn keep(q: &Query<'_>, one: &Unmeasured, usage: &Usage, overhead: u64) -> Result<(), Fault> {
    let sql = match one.layer {
        true => {
            "UPDATE layers SET bytes = ?, apparent = ?, inodes = ?, overhead = ?
            WHERE n = ? AND created = ?"
        }
        false => {
            "UPDATE snapshots SET bytes = ?, apparent = ?, inodes = ?, overhead = ? WHERE n = ? AND created = ? AND kind = 3"
        }
    };
    let Usage {
        bytes,
        apparent,
        inodes,
    } = *usage;
    let figures = (
        int(bytes),
        int(apparent),
        int(inodes),
        int(overhead),
        int(one.n),
        one.created,
    );
    q.run(sql, figures).map(drop)
}

/// What a manifest's layers take follows from theirs.
fn sum_manifests(q: &Query<'_>) -> Result<(), Fault> {
    let sql = "UPDATE manifests SET bytes = sums.bytes FROM (
          SELECT manifest, sum(bytes) AS bytes FROM
            (SELECT DISTINCT m.manifest, l.n, l.bytes FROM manifest_layers m JOIN layers l ON l.n = m.n)
          GROUP BY manifest) AS sums
        WHERE manifests.id = sums.manifest AND manifests.bytes <> sums.bytes";
    q.run(sql, ()).map(drop)
}

struct Rows {
    disk: Disk,
    /// Snapshots that are no layers; the figures of writable ones are not known.
    directories: Vec<SnapshotDisk>,
}

fn rows(q: &Query<'_>) -> Result<Rows, Fault> {
    let layers = q.all(
        "SELECT n, diff_id, bytes, apparent, inodes, ifnull(overhead, 0) FROM layers ORDER BY n",
        (),
        |row| {
            Ok(LayerDisk {
                n: unsigned(row, 0)?,
                diff_id: row.get(1)?,
                usage: usage_from(row, 2)?,
                overhead: unsigned(row, 5)?,
            })
        },
    )?;
    let blobs = q.all(
        "SELECT digest, ifnull(bytes, size) FROM blobs ORDER BY digest",
        (),
        |row| {
            Ok(BlobDisk {
                digest: row.get(0)?,
                bytes: unsigned(row, 1)?,
            })
        },
    )?;
    let directories = q.all(
        "SELECT n, ns, key, kind, ifnull(bytes, 0), ifnull(apparent, 0), ifnull(inodes, 0), ifnull(overhead, 0)
         FROM snapshots WHERE n IS NOT NULL AND n NOT IN (SELECT n FROM layers) ORDER BY id",
        (),
        |row| {
            let snapshot = SnapshotDisk {
                n: unsigned(row, 0)?,
                ns: row.get(1)?,
                key: row.get(2)?,
                kind: row.get(3)?,
                usage: usage_from(row, 4)?,
                overhead: unsigned(row, 7)?,
            };
            Ok(snapshot)
        },
    )?;
    let cloned = q
        .one(
            "SELECT ifnull(sum(every - most), 0)
             FROM (SELECT sum(files * bytes) AS every, max(bytes) AS most FROM layer_clones GROUP BY content)",
            (),
            |row| unsigned(row, 0),
        )?
        .unwrap_or(0);
    let disk = Disk {
        layers,
        blobs,
        manifests: manifests(q)?,
        beneath: beneath(q)?,
        cloned,
        ..Disk::default()
    };
    Ok(Rows { disk, directories })
}

/// Layers that a snapshot stands on which neither an image nor a container holds: these need them themselves.
fn beneath(q: &Query<'_>) -> Result<Vec<u64>, Fault> {
    let sql = "WITH RECURSIVE kept (id) AS (
          SELECT id FROM snapshots s WHERE NOT held_by_image
            AND NOT EXISTS (SELECT 1 FROM containers c WHERE c.ns = s.ns AND c.cid = s.key)
          UNION SELECT s.parent FROM kept JOIN snapshots s ON s.id = kept.id WHERE s.parent IS NOT NULL)
        SELECT DISTINCT l.n FROM kept JOIN snapshots s ON s.id = kept.id JOIN layers l ON l.n = s.n ORDER BY 1";
    q.all(sql, (), |row| unsigned(row, 0))
}

fn manifests(q: &Query<'_>) -> Result<Vec<ManifestDisk>, Fault> {
    let mut manifests = Vec::new();
    let mut place = std::collections::HashMap::new();
    let rows = "SELECT id, digest, config_digest FROM manifests ORDER BY id";
    let rows = q.all(rows, (), |row| {
        Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?))
    })?;
    for (id, digest, config) in rows {
        place.insert(id, manifests.len());
        manifests.push(ManifestDisk {
            digest,
            layers: Vec::new(),
            blobs: vec![digest, config],
        });
    }
    let layers = "SELECT manifest, n, blob_digest FROM manifest_layers";
    let layers = q.all(layers, (), |row| {
        Ok((row.get::<_, i64>(0)?, unsigned(row, 1)?, row.get(2)?))
    })?;
    for (id, n, blob) in layers {
        if let Some(place) = place.get(&id) {
            manifests[*place].layers.push(n);
            manifests[*place].blobs.push(blob);
        }
    }
    let names = "SELECT manifest, target_digest FROM images
        UNION ALL SELECT i.manifest, b.digest FROM images i JOIN image_blobs b ON b.image = i.id";
    let names = q.all(names, (), |row| Ok((row.get::<_, i64>(0)?, row.get(1)?)))?;
    for (id, blob) in names {
        if let Some(place) = place.get(&id) {
            manifests[*place].blobs.push(blob);
        }
    }
    for manifest in &mut manifests {
        manifest.layers.sort_unstable();
        manifest.layers.dedup();
        manifest.blobs.sort_unstable();
        manifest.blobs.dedup();
    }
    Ok(manifests)
}

/// Bytes on disk of one thing.
fn blocks(stat: &rustix::fs::Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// Bytes of a directory itself.
fn own(root: &Dir, rel: &str) -> io::Result<u64> {
    Ok(blocks(&root.open_dir(rel)?.metadata()?))
}
