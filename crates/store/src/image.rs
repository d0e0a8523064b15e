//! Images: names in a namespace, and the manifests and layers they lead to.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rusqlite::Row;

use crate::db::{Durability, Query, int, nanoseconds, time, timestamp, unsigned};
use crate::error::Fault;
use crate::open::now;
use crate::snapshot::{self, Kind};
use crate::usage::usage_from;
use crate::{Descriptor, Digest, IngestError, Lease, Store, Usage};

/// What an image consists of, for [`Store::put_image`]. Its blobs and layers are in the store already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRecord {
    /// What the name leads to: an index, or the manifest itself.
    pub target: Descriptor,
    /// The manifest for one platform.
    pub manifest: Descriptor,
    /// The config; its digest is the image's ID.
    pub config: Descriptor,
    /// Operating system, such as `linux`.
    pub os: String,
    /// Architecture as Go names it, such as `arm64`.
    pub architecture: String,
    /// Variant of the architecture, such as `v8`.
    pub variant: Option<String>,
    /// When the image was built, as its config says.
    pub created: Option<Timestamp>,
    /// Layers, the base first.
    pub layers: Vec<ImageLayer>,
}

/// One layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageLayer {
    /// The archive as the manifest names it. The blob itself may be absent.
    pub blob: Descriptor,
    /// Digest of the uncompressed archive.
    pub diff_id: Digest,
    /// Names this layer with all below it; see [`Digest::chain`].
    pub chain_id: Digest,
    /// Where it is unpacked: `snapshots/<layer_n>`.
    pub layer_n: u64,
    /// The build step that made it, from the config's history.
    pub created_by: Option<String>,
}

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its namespace.
    pub ns: String,
    /// Its name, canonical and full.
    pub name: String,
    /// The image ID: the config's digest.
    pub id: Digest,
    /// What the name leads to.
    pub target: Descriptor,
    /// The manifest.
    pub manifest: Descriptor,
    /// The config.
    pub config: Descriptor,
    /// Operating system.
    pub os: String,
    /// Architecture.
    pub architecture: String,
    /// Variant of the architecture.
    pub variant: Option<String>,
    /// When the image was built.
    pub created: Option<Timestamp>,
    /// When the name was given to it.
    pub updated: Timestamp,
    /// When a container was last made from it, to the minute, or the name was given to it.
    pub used: Timestamp,
    /// Its name is the one that it was pulled by, so that its registry has all of it; or nobody knows.
    pub pulled: bool,
    /// How many layers it has.
    pub layers: u64,
    /// What its layers take unpacked, each directory once; others may share them.
    pub usage: Usage,
    /// Key of the committed snapshot to prepare containers on; none for an image without layers.
    pub top_chain: Option<Digest>,
}

/// What [`Store::put_image`] did besides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Put {
    /// ID of another image that had the name before.
    pub replaced: Option<Digest>,
}

/// What [`Store::remove_image`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removed {
    /// The name that is gone.
    pub name: String,
    /// The image's ID.
    pub id: Digest,
    /// Whether no other name of the namespace leads to it: with [`Store::collect`] it goes, as far as nobody else
    /// needs it.
    pub last: bool,
}

/// Why an image operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The namespace has no image of that name.
    #[error("image {0:?} not found")]
    NotFound(String),
    /// A name may not be empty.
    #[error("an image and its namespace need a name")]
    NoName,
    /// The image's target, manifest or config is not in the store.
    #[error("image {name:?}: blob {digest} is not in the store")]
    MissingBlob {
        /// The image.
        name: String,
        /// The blob.
        digest: Digest,
    },
    /// A layer is not in the store, or not where it was said to be.
    #[error("image {name:?}: layer {diff_id} is not in the store as {n}")]
    MissingLayer {
        /// The image.
        name: String,
        /// The layer.
        diff_id: Digest,
        /// Number it was said to have.
        n: u64,
    },
    /// A snapshot that is not committed has a chain ID of the image as key.
    #[error("image {name:?}: the snapshot {key} exists and is not committed")]
    KeyTaken {
        /// The image.
        name: String,
        /// The snapshot's key.
        key: Digest,
    },
    /// What has arrived under the lease could not be made blobs.
    #[error(transparent)]
    Arrived(#[from] IngestError),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Store {
    /// Gives an image its name, in one durable transaction with everything that must hold for it: the manifest, its
    /// layers, and a committed snapshot for each layer, by chain ID. A name that leads elsewhere is moved.
    ///
    /// What the record names should be held by the lease ([`Store::arrived`], [`Store::hold_blob`],
    /// [`Store::commit_layers`], [`Store::hold_layer`]): what is not can be gone, which is an error here.
    pub fn put_image(
        &self,
        lease: &Lease,
        ns: &str,
        name: &str,
        record: &ImageRecord,
    ) -> Result<Put, ImageError> {
        self.put_image_keeping(lease, ns, name, record, &[])
    }

    /// As [`Store::put_image`]; the name also keeps the blobs `others`, such as those of the other platforms of an
    /// index that is kept whole.
    pub fn put_image_keeping(
        &self,
        lease: &Lease,
        ns: &str,
        name: &str,
        record: &ImageRecord,
        others: &[Digest],
    ) -> Result<Put, ImageError> {
        if ns.is_empty() || name.is_empty() {
            return Err(ImageError::NoName);
        }
        if lease.waiting() > 0 {
            self.settle(lease)?;
        }
        self.db.write(Durability::Full, |q| {
            let own = [&record.target, &record.manifest, &record.config].map(|blob| blob.digest);
            for digest in own.iter().chain(others) {
                if crate::blob::size(q, digest)?.is_none() {
                    return Err(ImageError::MissingBlob {
                        name: name.to_owned(),
                        digest: *digest,
                    });
                }
            }
            let manifest = put_manifest(q, name, record)?;
            put_snapshots(q, ns, name, record, self.format.userxattr())?;
            let (image, put) = name_image(q, ns, name, &record.target, manifest)?;
            keep(q, image, others)?;
            Ok(put)
        })
    }

    /// Notes that an image has its name from where it was pulled: its registry has all of it. A name that is given to
    /// something else is none of that kind any more.
    pub fn note_pulled(&self, ns: &str, name: &str) -> Result<(), Fault> {
        let sql = "UPDATE images SET pulled = 1 WHERE ns = ? AND name = ?";
        self.db
            .write(Durability::Relaxed, |q| q.run(sql, (ns, name)).map(drop))
    }

    /// All images of a namespace, by name.
    pub fn images(&self, ns: &str) -> Result<Vec<Image>, Fault> {
        let sql = format!("{IMAGE} WHERE i.ns = ? ORDER BY i.name");
        self.db.read(|q| q.all(&sql, (ns,), image))
    }

    /// The image of that very name.
    pub fn find_image(&self, ns: &str, name: &str) -> Result<Option<Image>, Fault> {
        let sql = format!("{IMAGE} WHERE i.ns = ? AND i.name = ?");
        self.db.read(|q| q.one(&sql, (ns, name), image))
    }

    /// Images whose ID begins with these hex digits, one for each name that leads to them. No ID begins with
    /// nothing, or with what is no hex digit.
    pub fn images_by_id_prefix(&self, ns: &str, hex: &str) -> Result<Vec<Image>, Fault> {
        let Some((low, high)) = hex_range(hex) else {
            return Ok(Vec::new());
        };
        let sql = format!(
            "{IMAGE} WHERE i.ns = ? AND m.config_digest >= ? AND m.config_digest < ? ORDER BY m.config_digest, i.name"
        );
        let range = (ns, format!("sha256:{low}"), format!("sha256:{high}"));
        self.db.read(|q| q.all(&sql, range, image))
    }

    /// The layers of a manifest, the base first; empty when it is not in the store.
    pub fn manifest_layers(&self, manifest: &Digest) -> Result<Vec<ImageLayer>, Fault> {
        let sql = format!(
            "{LAYER} FROM manifests m JOIN manifest_layers l ON l.manifest = m.id
             WHERE m.digest = ? ORDER BY l.position"
        );
        self.db.read(|q| q.all(&sql, (manifest,), layer))
    }

    /// Gives the image `from` the further name `to`, which is moved if it leads elsewhere. The image's own ID, which is
    /// the name of one that came without, is a name no longer.
    pub fn tag(&self, ns: &str, from: &str, to: &str) -> Result<Put, ImageError> {
        if to.is_empty() {
            return Err(ImageError::NoName);
        }
        self.db.write(Durability::Full, |q| {
            let sql = "SELECT target_media_type, target_digest, target_size, manifest, id FROM images
                       WHERE ns = ? AND name = ?";
            let (target, manifest, id): (_, _, i64) = q
                .one(sql, (ns, from), |row| {
                    Ok((descriptor(row, 0)?, row.get(3)?, row.get(4)?))
                })?
                .ok_or_else(|| ImageError::NotFound(from.to_owned()))?;
            let others = "SELECT digest FROM image_blobs WHERE image = ?";
            let others: Vec<Digest> = q.all(others, (id,), |row| row.get(0))?;
            let (image, put) = name_image(q, ns, to, &target, manifest)?;
            keep(q, image, &others)?;
            let nameless = "DELETE FROM images WHERE ns = ? AND name = ? AND name <> ?";
            q.run(nameless, (ns, image_id(q, manifest)?, to))?;
            Ok(put)
        })
    }

    /// Takes a name away. Containers made from the image keep what they need. Blobs and layers that nobody needs
    /// any more go with the next [`Store::collect`].
    pub fn remove_image(&self, ns: &str, name: &str) -> Result<Removed, ImageError> {
        self.free(Durability::Full, |q| {
            let sql = "DELETE FROM images WHERE ns = ? AND name = ? RETURNING manifest";
            let manifest: i64 = q
                .one(sql, (ns, name), |row| row.get(0))?
                .ok_or_else(|| ImageError::NotFound(name.to_owned()))?;
            let id = image_id(q, manifest)?;
            let other = "SELECT 1 FROM images WHERE manifest = ? AND ns = ?";
            let last = q.one(other, (manifest, ns), |_| Ok(()))?.is_none();
            Ok(Removed {
                name: name.to_owned(),
                id,
                last,
            })
        })
    }
}

/// Hex digits as the bounds of what begins with them.
pub(crate) fn hex_range(hex: &str) -> Option<(String, String)> {
    let digits = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
    // `g` comes after every hex digit.
    (!hex.is_empty() && hex.bytes().all(digits)).then(|| (hex.to_owned(), format!("{hex}g")))
}

fn image_id(q: &Query<'_>, manifest: i64) -> Result<Digest, Fault> {
    q.one(
        "SELECT config_digest FROM manifests WHERE id = ?",
        (manifest,),
        |row| row.get(0),
    )?
    .ok_or_else(|| q.corrupt(format!("manifest {manifest} has no row")))
}

/// The manifest's row, with its layers, made if it is not there. Equal digests mean equal content.
fn put_manifest(q: &Query<'_>, name: &str, record: &ImageRecord) -> Result<i64, ImageError> {
    for layer in &record.layers {
        let sql = "SELECT 1 FROM layers WHERE n = ? AND diff_id = ?";
        if q.one(sql, (int(layer.layer_n), layer.diff_id), |_| Ok(()))?
            .is_none()
        {
            let (diff_id, n) = (layer.diff_id, layer.layer_n);
            return Err(ImageError::MissingLayer {
                name: name.to_owned(),
                diff_id,
                n,
            });
        }
    }
    let known = "SELECT id FROM manifests WHERE digest = ?";
    if let Some(id) = q.one(known, (record.manifest.digest,), |row| row.get(0))? {
        return Ok(id);
    }
    let mut usage = Usage::default();
    let numbers: BTreeSet<u64> = record.layers.iter().map(|layer| layer.layer_n).collect();
    for n in numbers {
        usage += q
            .one(
                "SELECT bytes, apparent, inodes FROM layers WHERE n = ?",
                (int(n),),
                |row| usage_from(row, 0),
            )?
            .unwrap_or_default();
    }
    let id = q.insert(
        "INSERT INTO manifests (digest, media_type, size, config_digest, config_media_type, config_size,
           os, architecture, variant, created, layers, top_chain, bytes, apparent, inodes)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            record.manifest.digest,
            &record.manifest.media_type,
            int(record.manifest.size),
            record.config.digest,
            &record.config.media_type,
            int(record.config.size),
            &record.os,
            &record.architecture,
            &record.variant,
            record.created.map(nanoseconds),
            int(record.layers.len() as u64),
            record.layers.last().map(|layer| layer.chain_id),
            int(usage.bytes),
            int(usage.apparent),
            int(usage.inodes),
        ),
    )?;
    for (position, layer) in record.layers.iter().enumerate() {
        q.run(
            "INSERT INTO manifest_layers (manifest, position, blob_digest, blob_media_type, blob_size,
               diff_id, chain_id, n, created_by) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                id,
                int(position as u64),
                layer.blob.digest,
                &layer.blob.media_type,
                int(layer.blob.size),
                layer.diff_id,
                layer.chain_id,
                int(layer.layer_n),
                &layer.created_by,
            ),
        )?;
    }
    Ok(id)
}

/// A committed snapshot for each layer, where the namespace has none by that key.
fn put_snapshots(
    q: &Query<'_>,
    ns: &str,
    name: &str,
    record: &ImageRecord,
    userxattr: bool,
) -> Result<(), ImageError> {
    let mut parent = None;
    for layer in &record.layers {
        let key = layer.chain_id.to_string();
        let id = match snapshot::find(q, ns, &key)? {
            Some(row) if row.kind == Kind::Committed => row.id,
            Some(_) => {
                return Err(ImageError::KeyTaken {
                    name: name.to_owned(),
                    key: layer.chain_id,
                });
            }
            None => q.insert(
                "INSERT INTO snapshots (ns, key, kind, parent, n, held_by_image, ephemeral, created, updated,
                   labels, driver, userxattr, volatile)
                 VALUES (?, ?, ?, ?, ?, 1, 0, ?6, ?6, '{}', 'auto', ?7, 0)",
                (
                    ns,
                    key,
                    Kind::Committed,
                    parent,
                    int(layer.layer_n),
                    now(),
                    userxattr,
                ),
            )?,
        };
        parent = Some(id);
    }
    Ok(())
}

/// The name's row, which keeps no further blobs, and what became of what it led to before.
fn name_image(
    q: &Query<'_>,
    ns: &str,
    name: &str,
    target: &Descriptor,
    manifest: i64,
) -> Result<(i64, Put), ImageError> {
    let before = "SELECT manifest FROM images WHERE ns = ? AND name = ?";
    let before: Option<i64> = q.one(before, (ns, name), |row| row.get(0))?;
    let image: i64 = q
        .one(
            "INSERT INTO images
               (ns, name, target_digest, target_media_type, target_size, manifest, created, updated, used, pulled)
             VALUES (?, ?, ?, ?, ?, ?, ?7, ?7, ?7, 0)
             ON CONFLICT (ns, name) DO UPDATE SET target_digest = excluded.target_digest,
               target_media_type = excluded.target_media_type, target_size = excluded.target_size,
               manifest = excluded.manifest, updated = excluded.updated, used = excluded.used, pulled = 0
             RETURNING id",
            (
                ns,
                name,
                target.digest,
                &target.media_type,
                int(target.size),
                manifest,
                now(),
            ),
            |row| row.get(0),
        )?
        .ok_or_else(|| q.corrupt(format!("image {name} has no row")))?;
    q.run("DELETE FROM image_blobs WHERE image = ?", (image,))?;
    let (now_id, was) = (
        image_id(q, manifest)?,
        before.map(|id| image_id(q, id)).transpose()?,
    );
    let put = Put {
        replaced: was.filter(|was| *was != now_id),
    };
    Ok((image, put))
}

/// Lets a name keep further blobs.
fn keep(q: &Query<'_>, image: i64, blobs: &[Digest]) -> Result<(), Fault> {
    let sql = "INSERT INTO image_blobs (image, digest) VALUES (?, ?) ON CONFLICT DO NOTHING";
    blobs
        .iter()
        .try_for_each(|digest| q.run(sql, (image, digest)).map(drop))
}

/// Notes that an image is used now: to the minute, so that most containers need not write it.
pub(crate) fn used<E: From<Fault>>(q: &Query<'_>, ns: &str, name: &str) -> Result<(), E> {
    const MINUTE: i64 = 60_000_000_000;
    let sql = "UPDATE images SET used = ?3 WHERE ns = ?1 AND name = ?2 AND used < ?3 - ?4";
    Ok(q.run(sql, (ns, name, now(), MINUTE)).map(drop)?)
}

/// Columns for [`image`].
const IMAGE: &str = "SELECT i.ns, i.name, i.target_media_type, i.target_digest, i.target_size,
  m.media_type, m.digest, m.size, m.config_media_type, m.config_digest, m.config_size,
  m.os, m.architecture, m.variant, m.created, i.updated,
  m.layers, m.top_chain, m.bytes, m.apparent, m.inodes, i.used, i.pulled
  FROM images i JOIN manifests m ON m.id = i.manifest";

fn image(row: &Row<'_>) -> rusqlite::Result<Image> {
    let config = descriptor(row, 8)?;
    Ok(Image {
        ns: row.get(0)?,
        name: row.get(1)?,
        id: config.digest,
        target: descriptor(row, 2)?,
        manifest: descriptor(row, 5)?,
        config,
        os: row.get(11)?,
        architecture: row.get(12)?,
        variant: row.get(13)?,
        created: row.get::<_, Option<i64>>(14)?.map(timestamp),
        updated: time(row, 15)?,
        layers: unsigned(row, 16)?,
        top_chain: row.get(17)?,
        usage: usage_from(row, 18)?,
        used: time(row, 21)?,
        pulled: row.get(22)?,
    })
}

/// Columns for [`layer`], of `manifest_layers` as `l`.
pub(crate) const LAYER: &str =
    "SELECT l.blob_media_type, l.blob_digest, l.blob_size, l.diff_id, l.chain_id, l.n, l.created_by";

pub(crate) fn layer(row: &Row<'_>) -> rusqlite::Result<ImageLayer> {
    Ok(ImageLayer {
        blob: descriptor(row, 0)?,
        diff_id: row.get(3)?,
        chain_id: row.get(4)?,
        layer_n: unsigned(row, 5)?,
        created_by: row.get(6)?,
    })
}

/// Columns `index` to `index + 2`: media type, digest, size.
fn descriptor(row: &Row<'_>, index: usize) -> rusqlite::Result<Descriptor> {
    Ok(Descriptor {
        media_type: row.get(index)?,
        digest: row.get(index + 1)?,
        size: unsigned(row, index + 2)?,
    })
}
