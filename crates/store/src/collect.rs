//! Collection: frees what nothing holds, and what a crash left.
//!
//! The order is that of docs/format/store.md, "Who keeps what": leases of the dead first, then rows that nothing
//! reaches (in portions, so that nobody waits long for the database), then what is on disk without a row. Any number
//! of collections may run beside each other and beside everything else.

use std::io;
use std::ops::AddAssign;
use std::time::{Duration, SystemTime};

use sys::Dir;

use crate::db::{Durability, Query, int, unsigned};
use crate::error::Fault;
use crate::layout::{BLOBS, INGEST, LEASES, SNAPSHOTS};
use crate::open::now;
use crate::own::Claim;
use crate::{Digest, Store};

/// How long [`Store::collect`] leaves alone what an operation that never ended brought.
pub const GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// Whether a row names a number.
pub(crate) const OF_NUMBER: &str =
    "SELECT 1 FROM layers WHERE n = ?1 UNION ALL SELECT 1 FROM snapshots WHERE n = ?1
    UNION ALL SELECT 1 FROM volumes WHERE n = ?1";

/// Things taken in one transaction, each with a descriptor for its lock.
const PORTION: usize = 64;

/// What a collection freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub blobs: u64,
    /// Layers.
    pub layers: u64,
    /// Snapshots that had been made with an image.
    pub snapshots: u64,
    /// Leases whose owner was dead.
    pub leases: u64,
    /// Directories, blobs and unfinished downloads that no row named.
    pub orphans: u64,
    /// Bytes on disk that blobs, layers and unfinished downloads took. Orphaned directories are not measured.
    pub bytes: u64,
}

impl AddAssign for Collected {
    fn add_assign(&mut self, other: Collected) {
        self.blobs += other.blobs;
        self.layers += other.layers;
        self.snapshots += other.snapshots;
        self.leases += other.leases;
        self.orphans += other.orphans;
        self.bytes += other.bytes;
    }
}

impl Store {
    /// Frees what no image, container, snapshot or living lease holds. What an interrupted operation brought within
    /// the last day ([`GRACE`]) stays, so that it can go on.
    pub fn collect(&self) -> Result<Collected, Fault> {
        self.collect_older_than(GRACE)
    }

    /// As [`Store::collect`], with another grace period; with none, everything unfinished that nobody is busy with
    /// goes too.
    pub fn collect_older_than(&self, grace: Duration) -> Result<Collected, Fault> {
        self.collect_telling(grace, &mut |_| ())
    }

    /// As [`Store::collect_older_than`]; `told` hears, whenever the files of a layer or a blob are gone, of how many they are.
    pub fn collect_telling(&self, grace: Duration, told: &mut dyn FnMut(u64)) -> Result<Collected, Fault> {
        let mut gone = 0;
        let mut one_more = || {
            gone += 1;
            told(gone);
        };
        let mut collected = Collected {
            leases: self.end_leases(grace)?,
            ..Collected::default()
        };
        let (manifests, snapshots) = self.free(Durability::Full, forget_unreachable)?;
        collected.snapshots = snapshots;
        let mut after = 0;
        while let Some((last, freed)) = self.free_layers(after, &mut one_more)? {
            collected += freed;
            after = last;
        }
        let mut after = String::new();
        while let Some((last, freed)) = self.free_blobs(&after, &mut one_more)? {
            collected += freed;
            after = last;
        }
        collected += self.remove_orphans(grace)?;
        self.layout.fill_reserve();
        if manifests > 0 || collected != Collected::default() {
            // The log is at its longest now, and the next one to open the store would have to read it.
            self.db.empty_log();
        }
        Ok(collected)
    }

    /// Forgets leases whose owner is dead, and removes their files.
    fn end_leases(&self, grace: Duration) -> Result<u64, Fault> {
        let dir = self.layout.leases()?;
        let fault = |error| self.layout.fault("looking at leases in", LEASES, error);
        let rows = self.db.read(|q| {
            q.all("SELECT id, created FROM leases", (), |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?))
            })
        })?;
        let newest = now().saturating_sub(i64::try_from(grace.as_nanos()).unwrap_or(i64::MAX));
        let mut ended = 0;
        for (id, _) in rows.iter().filter(|(_, created)| *created <= newest) {
            // Without a file it is dead as well: a power cut took that.
            let claim = Claim::take(dir, id).map_err(fault)?;
            if claim.is_none() && dir.try_stat(id).map_err(fault)?.is_some() {
                continue;
            }
            self.free(Durability::Relaxed, |q| {
                q.run("DELETE FROM leases WHERE id = ?", (id,))
            })?;
            if let Some(claim) = claim {
                claim.remove().map_err(fault)?;
            }
            ended += 1;
        }
        for entry in dir.entries().map_err(fault)? {
            let Some(id) = entry.name.to_str() else { continue };
            if rows.iter().any(|(known, _)| known == id) {
                continue;
            }
            let Some(claim) = Claim::take(dir, id).map_err(fault)? else {
                continue;
            };
            let row = "SELECT 1 FROM leases WHERE id = ?";
            if !self.db.read(|q| exists(q, row, (id,)))? {
                claim.remove().map_err(fault)?;
            }
        }
        Ok(ended)
    }

    /// Frees layers with numbers above `after`; tells the last one looked at.
    fn free_layers(&self, after: u64, one_more: &mut dyn FnMut()) -> Result<Option<(u64, Collected)>, Fault> {
        let fault = |error| self.layout.fault("removing layers from", SNAPSHOTS, error);
        let free = "SELECT n, bytes FROM layers l WHERE n > ?
              AND NOT EXISTS (SELECT 1 FROM manifest_layers m WHERE m.n = l.n)
              AND NOT EXISTS (SELECT 1 FROM snapshots s WHERE s.n = l.n)
              AND NOT EXISTS (SELECT 1 FROM lease_layers h WHERE h.n = l.n)
            ORDER BY n LIMIT ?";
        let find = |q: &Query<'_>| {
            q.all(free, (int(after), PORTION as i64), |row| {
                Ok((unsigned(row, 0)?, unsigned(row, 1)?))
            })
        };
        if self.db.read(find)?.is_empty() {
            return Ok(None);
        }
        let (claims, freed, last) = self.free(Durability::Full, |q| {
            let (mut claims, mut freed, mut last) = (Vec::new(), Collected::default(), after);
            for (n, bytes) in find(q)? {
                last = n;
                // Gone already, or locked for a moment: what has no row is looked for later.
                claims.extend(Claim::of_number(&self.layout, n)?);
                q.run("DELETE FROM layers WHERE n = ?", (int(n),))?;
                freed.layers += 1;
                freed.bytes += bytes;
            }
            Ok::<_, Fault>((claims, freed, last))
        })?;
        for claim in claims {
            claim.remove().map_err(fault)?;
            one_more();
        }
        Ok((last > after).then_some((last, freed)))
    }

    /// Frees blobs with digests after `after`; tells the last one looked at.
    fn free_blobs(
        &self,
        after: &str,
        one_more: &mut dyn FnMut(),
    ) -> Result<Option<(String, Collected)>, Fault> {
        let blobs = self.layout.blobs()?;
        let fault = |error| self.layout.fault("removing blobs from", BLOBS, error);
        let free = "SELECT digest, size FROM blobs WHERE digest > ?
              AND digest NOT IN (
                SELECT target_digest FROM images
                UNION ALL SELECT digest FROM manifests
                UNION ALL SELECT config_digest FROM manifests
                UNION ALL SELECT blob_digest FROM manifest_layers
                UNION ALL SELECT digest FROM image_blobs
                UNION ALL SELECT digest FROM lease_blobs)
            ORDER BY digest LIMIT ?";
        let find = |q: &Query<'_>| {
            q.all(free, (after, PORTION as i64), |row| {
                Ok((row.get::<_, Digest>(0)?, unsigned(row, 1)?))
            })
        };
        if self.db.read(find)?.is_empty() {
            return Ok(None);
        }
        let (claims, freed, last) = self.free(Durability::Full, |q| {
            let (mut claims, mut freed, mut last) = (Vec::new(), Collected::default(), None);
            for (digest, size) in find(q)? {
                last = Some(digest.to_string());
                claims.extend(Claim::take(blobs, &digest.hex()).map_err(fault)?);
                q.run("DELETE FROM blobs WHERE digest = ?", (digest,))?;
                freed.blobs += 1;
                freed.bytes += size;
            }
            Ok::<_, Fault>((claims, freed, last))
        })?;
        for claim in claims {
            claim.remove().map_err(fault)?;
            one_more();
        }
        Ok(last.map(|last| (last, freed)))
    }

    /// Removes directories, blobs and unfinished downloads that neither a row nor a living process owns.
    fn remove_orphans(&self, grace: Duration) -> Result<Collected, Fault> {
        let mut removed = Collected::default();
        let snapshots = self.layout.snapshots()?;
        let of_number = |q: &Query<'_>, name: &str| match name.parse::<u64>() {
            Ok(n) => exists(q, OF_NUMBER, (int(n),)),
            // Nothing that strata makes here; nothing that it removes.
            Err(_) => Ok(true),
        };
        removed += self.orphans(snapshots, SNAPSHOTS, of_number)?;
        let of_digest = |q: &Query<'_>, name: &str| match Digest::from_hex(name) {
            Ok(digest) => exists(q, "SELECT 1 FROM blobs WHERE digest = ?", (digest,)),
            Err(_) => Ok(true),
        };
        removed += self.orphans(self.layout.blobs()?, BLOBS, of_digest)?;

        let ingest = self.layout.ingest()?;
        let fault = |error| self.layout.fault("removing downloads from", INGEST, error);
        let newest = SystemTime::now().checked_sub(grace);
        for entry in ingest.entries().map_err(fault)? {
            let Some(claim) = entry.name.to_str().map(|name| Claim::take(ingest, name)) else {
                continue;
            };
            let Some(claim) = claim.map_err(fault)? else {
                continue;
            };
            if newest.is_some_and(|newest| claim.modified().is_ok_and(|time| time <= newest)) {
                removed.bytes += claim.size().map_err(fault)?;
                removed.orphans += 1;
                claim.remove().map_err(fault)?;
            }
        }
        Ok(removed)
    }

    /// Removes the entries of `dir` that no row names and no living process owns.
    fn orphans(
        &self,
        dir: &Dir,
        rel: &str,
        has_row: impl Fn(&Query<'_>, &str) -> Result<bool, Fault>,
    ) -> Result<Collected, Fault> {
        let fault = |error: io::Error| self.layout.fault("removing what has no owner from", rel, error);
        let entries = dir.entries().map_err(fault)?;
        // One view of the database for all that were there before it: cheap, but only a first look.
        let suspects = self.db.read(|q| {
            let mut suspects = Vec::new();
            for entry in &entries {
                if let Some(name) = entry.name.to_str()
                    && !has_row(q, name)?
                {
                    suspects.push(name);
                }
            }
            Ok::<_, Fault>(suspects)
        })?;
        let (mut removed, mut failed) = (Collected::default(), None);
        for portion in suspects.chunks(PORTION) {
            let mut claims = Vec::new();
            for name in portion {
                let claim = Claim::take(dir, name).map_err(fault)?;
                claims.extend(match rel {
                    SNAPSHOTS => claim.map(|claim| claim.numbered(&self.layout)),
                    _ => claim,
                });
            }
            if claims.is_empty() {
                continue;
            }
            // Now that they are ours, no row can appear any more, and one that a former owner committed is seen.
            let owned = self.free(Durability::Full, |q| {
                q.mark()?;
                claims
                    .iter()
                    .map(|claim| has_row(q, claim.name()))
                    .collect::<Result<Vec<_>, Fault>>()
            })?;
            let orphans = claims.into_iter().zip(owned).filter(|(_, owned)| !owned);
            for (claim, _) in orphans {
                // One that cannot be removed keeps no other from it.
                match claim.remove() {
                    Ok(()) => removed.orphans += 1,
                    Err(error) => failed = failed.or(Some(error)),
                }
            }
        }
        failed.map_or(Ok(removed), |error| Err(fault(error)))
    }
}

/// Whether there is such a row.
fn exists(q: &Query<'_>, sql: &str, params: impl rusqlite::Params) -> Result<bool, Fault> {
    Ok(q.one(sql, params, |_| Ok(()))?.is_some())
}

/// Deletes manifests that no image and no container names, and snapshots made for images that no image of the
/// namespace needs and nothing stands on. They have no directories of their own. How many of each.
fn forget_unreachable(q: &Query<'_>) -> Result<(u64, u64), Fault> {
    let manifests = q.run(
        "DELETE FROM manifests WHERE NOT EXISTS (SELECT 1 FROM images i WHERE i.manifest = manifests.id)
           AND NOT EXISTS (SELECT 1 FROM containers c WHERE c.manifest = manifests.id)",
        (),
    )?;
    // A cross join keeps SQLite to this order; any other visits every pair of images.
    let snapshots = q.run(
        "WITH RECURSIVE kept (id) AS (
           SELECT id FROM snapshots WHERE NOT held_by_image
           UNION
           SELECT s.id FROM images i CROSS JOIN manifest_layers l ON l.manifest = i.manifest
             CROSS JOIN snapshots s ON s.ns = i.ns AND s.key = l.chain_id
           UNION
           SELECT s.parent FROM kept JOIN snapshots s ON s.id = kept.id WHERE s.parent IS NOT NULL)
         DELETE FROM snapshots WHERE held_by_image AND id NOT IN (SELECT id FROM kept)",
        (),
    )?;
    Ok((manifests as u64, snapshots as u64))
}
