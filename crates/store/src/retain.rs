//! Which blobs are kept: those of unpacked layers may be dropped, for directory and record give the tar back.

use crate::db::{Durability, Query, unsigned};
use crate::error::Fault;
use crate::image::{LAYER, layer};
use crate::layout::BLOBS;
use crate::own::Claim;
use crate::{Collected, Digest, ImageLayer, Store};

/// Not needed but as the packed form of a layer, which every row of `manifest_layers` has unpacked.
const SPARE: &str = "b.digest NOT IN (
    SELECT target_digest FROM images
    UNION ALL SELECT digest FROM manifests
    UNION ALL SELECT config_digest FROM manifests
    UNION ALL SELECT digest FROM image_blobs
    UNION ALL SELECT digest FROM lease_blobs)";

/// Blobs taken in one transaction, each with a descriptor for its lock.
const PORTION: usize = 64;

impl Store {
    /// The layers whose blob is there and could be dropped, each blob once.
    pub fn spare_blobs(&self) -> Result<Vec<ImageLayer>, Fault> {
        let sql = format!(
            "{LAYER} FROM blobs b JOIN manifest_layers l ON l.blob_digest = b.digest
             WHERE {SPARE} GROUP BY b.digest ORDER BY b.digest"
        );
        self.db.read(|q| q.all(&sql, (), layer))
    }

    /// Drops the blobs of unpacked layers: of `digests`, those that are not needed for anything else, now that they
    /// are dropped. Whoever calls has seen that directory and record give the layer back.
    pub fn drop_blobs(&self, digests: &[Digest]) -> Result<Collected, Fault> {
        let blobs = self.layout.blobs()?;
        let fault = |error| self.layout.fault("removing blobs from", BLOBS, error);
        let delete = format!(
            "DELETE FROM blobs AS b WHERE b.digest = ? AND {SPARE}
               AND EXISTS (SELECT 1 FROM manifest_layers l WHERE l.blob_digest = b.digest) RETURNING size"
        );
        let mut dropped = Collected::default();
        for portion in digests.chunks(PORTION) {
            let (claims, freed) = self.free(Durability::Full, |q: &Query<'_>| {
                let (mut claims, mut freed) = (Vec::new(), Collected::default());
                for digest in portion {
                    let Some(size) = q.one(&delete, (digest,), |row| unsigned(row, 0))? else {
                        continue;
                    };
                    claims.extend(Claim::take(blobs, &digest.hex()).map_err(fault)?);
                    freed.blobs += 1;
                    freed.bytes += size;
                }
                Ok::<_, Fault>((claims, freed))
            })?;
            for claim in claims {
                claim.remove().map_err(fault)?;
            }
            dropped += freed;
        }
        self.layout.refill_reserve();
        Ok(dropped)
    }
}
