//! `save`: images of the store into an archive or a layout directory.
//!
//! - `oci`: an OCI image layout, in which docker's older readers find their `manifest.json` too.
//! - `docker`: what `docker save` wrote before version 25, and podman writes.
//! - `sink`: where the files go: a tar, or a directory.
//!
//! A layer whose blob the store keeps is copied as it is. Of one that it does not keep (it was made here, or the blob
//! was dropped) the tar is written again from the layer's directory, bit for bit that of its diff ID.

mod docker;
mod oci;
mod sink;

use std::collections::HashSet;
use std::io::{self, Read, Write};

use store::{BlobError, Descriptor, Digest, Fault, Hasher, Image, ImageLayer, Lease, Store};
use sys::Dir;

use crate::layer_tar::{self, LayerTarError};
use crate::manifest::MAX_MANIFEST;
use crate::progress::{Event, Progress};
use crate::record::{self, RecordError};
use crate::reference::Reference;
use crate::stored::{Stored, StoredError};
use crate::whole::Whole;

use self::sink::{DirSink, Sink, TarSink};

/// The form of what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// An OCI image layout as a tar, with docker's `manifest.json` in it.
    #[default]
    OciArchive,
    /// The same as a directory.
    OciDir,
    /// docker's archive of old: bare layer tars and `manifest.json`.
    DockerArchive,
}

/// Where it goes.
pub enum Target<'a> {
    /// A stream, for an archive.
    Stream(&'a mut dyn Write),
    /// An empty directory, for [`Format::OciDir`].
    Dir(&'a Dir),
}

/// An image, and the names that it has in the archive.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The image.
    pub image: Image,
    /// Canonical names; none for one that is asked for by its ID.
    pub names: Vec<String>,
    /// What its name leads to is saved, with the builds for other platforms; all of that must be in the store.
    pub all_platforms: bool,
}

/// Why images could not be saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// An image cannot be read.
    #[error("image {name}: {source}")]
    Image {
        /// Which.
        name: String,
        /// Why.
        source: StoredError,
    },
    /// A blob cannot be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A blob is not in the store, and what lies unpacked does not replace it.
    #[error("layer {0} is not in the store")]
    Missing(Digest),
    /// The index is not kept whole.
    #[error(transparent)]
    Incomplete(#[from] Incomplete),
    /// A layer cannot be rebuilt.
    #[error(transparent)]
    Layer(#[from] LayerTarError),
    /// How long a layer's tar is cannot be told.
    #[error("layer {layer}: {}", crate::text::whole(source))]
    Record {
        /// Its diff ID.
        layer: Digest,
        /// What is wrong with its record.
        source: RecordError,
    },
    /// The archive cannot be written.
    #[error("writing the archive failed: {0}")]
    Write(#[source] io::Error),
    /// A form that needs a directory was given a stream, or the other way round.
    #[error("a layout directory cannot be written into a stream")]
    Target,
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Writes images; nothing that they consist of goes away meanwhile. Every blob is compared with its digest on the way:
/// after an error, what was written is of no use.
///
/// # Errors
/// [`SaveError`].
pub fn save(
    store: &Store,
    wanted: &[Wanted],
    format: Format,
    target: Target<'_>,
    progress: &dyn Progress,
) -> Result<(), SaveError> {
    let lease = store.lease("save")?;
    let saved = beneath(store, &lease, wanted, format, target, progress);
    // Nothing was brought: a failure leaves nothing to hold either.
    let released = store.release(lease);
    saved.and_then(|()| Ok(released?))
}

/// All that is done while the lease is held.
fn beneath(
    store: &Store,
    lease: &Lease,
    wanted: &[Wanted],
    format: Format,
    target: Target<'_>,
    progress: &dyn Progress,
) -> Result<(), SaveError> {
    let mut images = Vec::with_capacity(wanted.len());
    for wanted in wanted {
        images.push(held(store, lease, wanted)?);
    }
    let save = |sink: &mut dyn Sink| {
        let mut save = Save {
            store,
            lease,
            sink,
            written: HashSet::new(),
            progress,
        };
        match format {
            Format::DockerArchive => save.docker(&images)?,
            Format::OciArchive | Format::OciDir => save.oci(&images)?,
        }
        save.sink.end().map_err(SaveError::Write)
    };
    match (format, target) {
        (Format::OciDir, Target::Dir(dir)) => save(&mut DirSink::new(dir)),
        (Format::OciArchive | Format::DockerArchive, Target::Stream(stream)) => {
            save(&mut TarSink::new(stream))
        }
        _ => Err(SaveError::Target),
    }
}

/// An image that is being saved.
struct Saved {
    stored: Stored,
    names: Vec<Reference>,
    platform: serde_json::Value,
    /// What the name leads to and everything behind it, of an image that is saved for all platforms.
    whole: Option<(Descriptor, Whole)>,
}

/// Reads an image, and holds what it consists of.
fn held(store: &Store, lease: &Lease, wanted: &Wanted) -> Result<Saved, SaveError> {
    let image = &wanted.image;
    for digest in [&image.manifest.digest, &image.config.digest] {
        store.hold_blob(lease, digest)?;
    }
    let stored = Stored::open(store, &image.manifest.digest).map_err(|source| SaveError::Image {
        name: image.name.clone(),
        source,
    })?;
    for layer in &stored.layers {
        store.hold_blob(lease, &layer.blob.digest)?;
        store.hold_layer(lease, &layer.diff_id, &layer.chain_id)?;
    }
    let mut platform = serde_json::json!({ "os": image.os, "architecture": image.architecture });
    if let Some(variant) = &image.variant {
        platform["variant"] = variant.as_str().into();
    }
    let whole = match wanted.all_platforms {
        true => Some((image.target.clone(), all_of(store, lease, image)?)),
        false => None,
    };
    Ok(Saved {
        stored,
        whole,
        names: wanted
            .names
            .iter()
            .filter_map(|name| Reference::parse(name).ok())
            .collect(),
        platform,
    })
}

/// Why an image cannot be taken with the builds for all platforms.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Incomplete {
    /// Something that the index leads to is not in the store.
    #[error("image {name} is not in the store for all its platforms: {digest} is missing")]
    Missing {
        /// The image.
        name: String,
        /// What is missing.
        digest: Digest,
    },
    /// Something cannot be read.
    #[error(transparent)]
    Blob(BlobError),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Everything that an image's name leads to, held.
pub(crate) fn all_of(store: &Store, lease: &Lease, image: &Image) -> Result<Whole, Incomplete> {
    let missing = |digest| Incomplete::Missing {
        name: Reference::parse(&image.name).map_or_else(|_| image.name.clone(), |name| name.familiar()),
        digest,
    };
    let whole = Whole::gather(&image.target, &mut |document| {
        store.hold_blob(lease, &document.digest)?;
        let read = store.read_blob(&document.digest, MAX_MANIFEST);
        read.map_err(|error| match error {
            BlobError::NotFound(digest) => missing(digest),
            other => Incomplete::Blob(other),
        })
    })?;
    for blob in &whole.blobs {
        if store.hold_blob(lease, &blob.digest)?.is_none() {
            return Err(missing(blob.digest));
        }
    }
    Ok(whole)
}

struct Save<'a> {
    store: &'a Store,
    lease: &'a Lease,
    sink: &'a mut dyn Sink,
    /// Names of files that are written already: images share layers.
    written: HashSet<String>,
    progress: &'a dyn Progress,
}

impl Save<'_> {
    /// Writes a file of known content.
    fn bytes(&mut self, name: &str, bytes: &[u8]) -> Result<(), SaveError> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let mut write = |out: &mut dyn Write| out.write_all(bytes).map_err(SaveError::Write);
        self.sink.file(name, bytes.len() as u64, &mut write)
    }

    /// Copies a blob of the store.
    fn blob(&mut self, name: &str, blob: &Descriptor) -> Result<(), SaveError> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let mut from = self.store.open_blob(&blob.digest)?;
        let (digest, progress) = (&blob.digest, self.progress);
        let mut write = |out: &mut dyn Write| {
            let mut hasher = Hasher::new();
            let mut piece = vec![0; 256 << 10];
            let mut bytes = 0;
            loop {
                let read = match from.read(&mut piece) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    other => other.map_err(|error| {
                        SaveError::Fault(Fault::Io {
                            what: "reading",
                            path: self.store.root().join(digest.to_string()),
                            source: error,
                        })
                    })?,
                };
                if read == 0 {
                    break;
                }
                hasher.update(&piece[..read]);
                out.write_all(&piece[..read]).map_err(SaveError::Write)?;
                bytes += read as u64;
                progress.event(&Event::Sent { digest, bytes });
            }
            match hasher.finish() {
                found if found == *digest => Ok(()),
                found => Err(BlobError::Damaged {
                    digest: *digest,
                    found,
                }
                .into()),
            }
        };
        self.sink.file(name, blob.size, &mut write)
    }

    /// Writes a layer's tar, not compressed.
    fn tar(&mut self, name: &str, layer: &ImageLayer) -> Result<(), SaveError> {
        if !self.written.insert(name.to_owned()) {
            return Ok(());
        }
        let size = self.tar_size(layer)?;
        let (store, lease) = (self.store, self.lease);
        let mut write = |out: &mut dyn Write| {
            let written = layer_tar::write(store, lease, layer, &mut *out);
            written.map(drop).map_err(|error| match error {
                LayerTarError::Write { source, .. } => SaveError::Write(source),
                other => other.into(),
            })
        };
        self.sink.file(name, size, &mut write)?;
        self.progress.event(&Event::Sent {
            digest: &layer.blob.digest,
            bytes: layer.blob.size,
        });
        Ok(())
    }

    /// Bytes of a layer's tar.
    fn tar_size(&self, layer: &ImageLayer) -> Result<u64, SaveError> {
        if layer.blob.digest == layer.diff_id {
            return Ok(layer.blob.size);
        }
        let file = self.store.layer_record(layer.layer_n)?;
        record::size(&file).map_err(|source| SaveError::Record {
            layer: layer.diff_id,
            source,
        })
    }

    /// Whether the store keeps the blob that a manifest names.
    fn keeps(&self, layer: &ImageLayer) -> Result<bool, SaveError> {
        Ok(self.store.blob_size(&layer.blob.digest)?.is_some())
    }

    /// Tells which layers are coming.
    fn announce(&self, image: &Saved) {
        let stored = &image.stored;
        let name = image.names.first().map(Reference::familiar);
        self.progress.event(&Event::Resolved {
            name: name.as_deref().unwrap_or("image"),
            manifest: &stored.descriptor.digest,
            layers: stored.layers.len(),
        });
        for layer in &stored.layers {
            let (digest, size) = (&layer.blob.digest, layer.blob.size);
            let shared = false;
            self.progress.event(&Event::LayerFound { digest, size, shared });
        }
    }
}

/// What is written, by name and in order, of a list that is serialized.
fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
