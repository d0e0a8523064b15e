//! The shared end of pull, load and import: blobs and layers that are missing come into the store, and the image
//! gets its names.
//!
//! [`plan`] says what is there already: a layer that some image brought is neither fetched nor unpacked again.
//! [`install`] lets a [`BlobSource`] bring what is missing, several blobs at once, and unpacks each layer as soon
//! as its blob and the layers below are there. Nothing is visible before [`store::Store::put_image`], which comes
//! after everything is on disk for good. A failure at any point leaves only what the lease's end gives back.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::PathBuf;

use store::{
    BlobError, Descriptor, Digest, Fault, ImageError, ImageLayer, ImageRecord, IngestError, LayerMeta, Lease,
    NewLayer, Store,
};
use sys::Dir;

use crate::bring::{BlobSource, Bring};
use crate::compression::decoder;
use crate::config::ImageConfig;
use crate::manifest;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::unpack::{Limits, UnpackError, unpack};

/// Bytes of a blob read at once.
const PIECE: usize = 128 << 10;

/// Why an image could not be installed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// A layer's archive cannot be unpacked.
    #[error("layer {layer} cannot be unpacked: {}", crate::text::whole(source))]
    Unpack {
        /// Digest of the layer's blob.
        layer: Digest,
        /// What is wrong with it.
        source: UnpackError,
    },
    /// The disk is full.
    #[error("no space left on the disk for {} to unpack layer {layer}: {}", store.display(), crate::text::whole(source))]
    Full {
        /// Where the store lies.
        store: PathBuf,
        /// Digest of the layer's blob.
        layer: Digest,
        /// What did not fit.
        source: UnpackError,
    },
    /// A layer holds something else than the image's configuration says.
    #[error(
        "layer {layer} is not what the image's configuration says: its content has the diff ID {got}, not {expected}"
    )]
    DiffId {
        /// Digest of the layer's blob.
        layer: Digest,
        /// What the configuration says.
        expected: Digest,
        /// What it is.
        got: Digest,
    },
    /// What arrived is not the blob.
    #[error("blob {blob} is damaged where it comes from: what arrived has the digest {got}")]
    Digest {
        /// Which blob.
        blob: Digest,
        /// The digest of what arrived.
        got: Digest,
    },
    /// A blob is in the store, but not with the size that the manifest says.
    #[error("blob {blob} has {got} bytes, the manifest says {expected}")]
    Size {
        /// Which blob.
        blob: Digest,
        /// What the manifest says, in bytes.
        expected: u64,
        /// What it has, in bytes.
        got: u64,
    },
    /// A blob could not be brought in.
    #[error(transparent)]
    Ingest(#[from] IngestError),
    /// A blob could not be read.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The image could not be recorded.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What an image consists of, checked against each other: as many diff IDs as layers.
#[derive(Debug, Clone)]
pub struct Parts {
    /// What the name leads to: an index, or the manifest itself.
    pub target: Descriptor,
    /// The manifest for one platform.
    pub manifest: Descriptor,
    /// The configuration.
    pub config: Descriptor,
    /// What it says.
    pub parsed: ImageConfig,
    /// Layers as the manifest lists them, bottom first.
    pub layers: Vec<manifest::Layer>,
}

/// One layer of a [`Plan`].
#[derive(Debug, Clone)]
pub struct PlannedLayer {
    /// The blob.
    pub layer: manifest::Layer,
    /// Digest of its content.
    pub diff_id: Digest,
    /// Names it with all below it.
    pub chain_id: Digest,
    /// Where it is already unpacked, held by the lease.
    pub found: Option<u64>,
}

/// An image's parts, and which of its layers are there.
#[derive(Debug)]
pub struct Plan {
    /// The image.
    pub parts: Parts,
    /// Its layers, bottom first.
    pub layers: Vec<PlannedLayer>,
}

/// An image that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its names, canonical.
    pub names: Vec<String>,
    /// Its ID: the digest of its configuration.
    pub id: Digest,
    /// What the names lead to.
    pub target: Digest,
    /// What it is built for.
    pub platform: Platform,
    /// Number of layers.
    pub layers: usize,
    /// How many of them were there already.
    pub shared: usize,
    /// IDs of other images that had one of the names before.
    pub replaced: Vec<Digest>,
}

/// Under which namespace and names an image is put, and how.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The namespace.
    pub ns: &'a str,
    /// Canonical names; with none the image's name is its ID.
    pub names: &'a [String],
    /// Most blobs brought at once.
    pub parallel: usize,
    /// What a layer may do to us.
    pub limits: &'a Limits,
}

/// Does something under a lease. When that fails, what it brought goes at once: its source can be read again from the
/// beginning, unlike a registry's, for which what has arrived is kept.
pub(crate) fn leased<T, E>(
    store: &Store,
    purpose: &str,
    fault: impl Fn(Fault) -> E,
    operation: impl FnOnce(&Lease) -> Result<T, E>,
) -> Result<T, E> {
    let lease = store.lease(purpose).map_err(&fault)?;
    let done = operation(&lease);
    let released = store.release(lease);
    match done {
        Ok(value) => released.map(|()| value).map_err(fault),
        Err(error) => {
            // Where that fails too, the next collection makes up for it.
            let _ = store.collect();
            Err(error)
        }
    }
}

/// Looks up, and holds, what is there of an image.
///
/// # Errors
/// [`Fault`]; the diff IDs were checked with the configuration.
pub fn plan(store: &Store, lease: &Lease, parts: Parts, progress: &dyn Progress) -> Result<Plan, Fault> {
    let diff_ids = parts.parsed.diff_ids().unwrap_or_default();
    let mut layers = Vec::with_capacity(parts.layers.len());
    let mut below = None;
    for (layer, diff_id) in parts.layers.iter().zip(diff_ids) {
        let chain_id = Digest::chain(below.as_ref(), &diff_id);
        below = Some(chain_id);
        let found = store.hold_layer(lease, &diff_id, &chain_id)?.map(|layer| layer.n);
        let (digest, size) = (&layer.blob.digest, layer.blob.size);
        progress.event(&Event::LayerFound {
            digest,
            size,
            shared: found.is_some(),
        });
        layers.push(PlannedLayer {
            layer: layer.clone(),
            diff_id,
            chain_id,
            found,
        });
    }
    Ok(Plan { parts, layers })
}

/// Brings and unpacks what is missing, and gives the image its names. Manifest, target and configuration are in
/// the store already, held by the lease.
///
/// # Errors
/// Those of the source, and [`InstallError`].
pub fn install<S: BlobSource>(
    store: &Store,
    lease: &Lease,
    place: Place<'_>,
    plan: Plan,
    source: &S,
    progress: &dyn Progress,
) -> Result<Installed, S::Error> {
    let failed = |error| source.failed(error);
    let missing: Vec<&manifest::Layer> = plan
        .layers
        .iter()
        .filter(|l| l.found.is_none())
        .map(|l| &l.layer)
        .collect();
    let bring = Bring::new(store, lease, source, missing, progress);
    let numbers = bring.run(place.parallel, |bring| {
        let mut stack = Stack {
            store,
            lease,
            limits: place.limits,
            progress,
            numbers: Vec::with_capacity(plan.layers.len()),
            below: Vec::new(),
            new: Vec::new(),
        };
        for layer in &plan.layers {
            let n = match layer.found.or_else(|| stack.equal(layer)) {
                Some(n) => n,
                None => {
                    bring.wait_for(&layer.layer.blob.digest)?;
                    stack.add(layer).map_err(failed)?
                }
            };
            stack.numbers.push(n);
        }
        stack.commit().map_err(|e| failed(e.into()))
    })?;
    record(store, lease, place, &plan, &numbers, progress).map_err(failed)
}

/// A layer just unpacked, not yet visible.
struct Fresh {
    new: NewLayer,
    meta: LayerMeta,
}

/// The layers of one image on their way into the store.
struct Stack<'a> {
    store: &'a Store,
    lease: &'a Lease,
    limits: &'a Limits,
    progress: &'a dyn Progress,
    /// Where each layer is, so far; the base first.
    numbers: Vec<u64>,
    /// Directories of the lowest of them, top first; opened when the first layer is unpacked on top.
    below: Vec<Dir>,
    new: Vec<Fresh>,
}

impl Stack<'_> {
    /// An equal layer further down in the same image.
    fn equal(&self, layer: &PlannedLayer) -> Option<u64> {
        let same = |fresh: &&Fresh| fresh.meta.diff_id == layer.diff_id && !fresh.meta.depends_on_below;
        self.new.iter().find(same).map(|fresh| fresh.new.n())
    }

    /// Unpacks a layer whose blob is in the store.
    fn add(&mut self, layer: &PlannedLayer) -> Result<u64, InstallError> {
        let digest = layer.layer.blob.digest;
        for n in &self.numbers[self.below.len()..] {
            self.below.insert(0, self.store.layer_dir(*n)?);
        }
        let from = self.store.open_blob(&digest)?;
        let counted = Counted {
            from,
            digest: &digest,
            bytes: 0,
            progress: self.progress,
        };
        let new = self.store.new_layer(self.lease)?;
        let record = new.record()?;
        let archive = decoder(BufReader::with_capacity(PIECE, counted));
        let unpacked =
            unpack(archive, new.fs(), &self.below, record, self.limits, &|_| {}).map_err(|source| {
                match source.is_full() {
                    true => InstallError::Full {
                        store: self.store.root().to_owned(),
                        layer: digest,
                        source,
                    },
                    false => InstallError::Unpack {
                        layer: digest,
                        source,
                    },
                }
            })?;
        if unpacked.diff_id != layer.diff_id {
            let (expected, got) = (layer.diff_id, unpacked.diff_id);
            return Err(InstallError::DiffId {
                layer: digest,
                expected,
                got,
            });
        }
        let meta = LayerMeta {
            diff_id: layer.diff_id,
            chain_id: layer.chain_id,
            depends_on_below: unpacked.depends_on_below,
            root_listed: unpacked.root_listed,
            usage: unpacked.usage,
        };
        self.progress.event(&Event::LayerDone { digest: &digest });
        let n = new.n();
        self.new.push(Fresh { new, meta });
        Ok(n)
    }

    /// Makes the new layers durable and visible; answers where each layer is, which is elsewhere for one that
    /// another process committed in the meantime.
    fn commit(self) -> Result<Vec<u64>, Fault> {
        let ours: Vec<u64> = self.new.iter().map(|fresh| fresh.new.n()).collect();
        let new = self
            .new
            .into_iter()
            .map(|fresh| (fresh.new, fresh.meta))
            .collect();
        let committed = self.store.commit_layers(self.lease, new)?;
        let place = |n: u64| {
            ours.iter()
                .position(|our| *our == n)
                .and_then(|place| committed.get(place))
        };
        Ok(self
            .numbers
            .into_iter()
            .map(|n| place(n).map_or(n, |layer| layer.n))
            .collect())
    }
}

fn record(
    store: &Store,
    lease: &Lease,
    place: Place<'_>,
    plan: &Plan,
    numbers: &[u64],
    progress: &dyn Progress,
) -> Result<Installed, InstallError> {
    let parts = &plan.parts;
    let steps = parts.parsed.created_by();
    let layers = plan
        .layers
        .iter()
        .zip(numbers)
        .zip(steps)
        .map(|((layer, n), created_by)| ImageLayer {
            blob: layer.layer.blob.clone(),
            diff_id: layer.diff_id,
            chain_id: layer.chain_id,
            layer_n: *n,
            created_by,
        });
    let platform = parts.parsed.platform().unwrap_or_else(Platform::host);
    let record = ImageRecord {
        target: parts.target.clone(),
        manifest: parts.manifest.clone(),
        config: parts.config.clone(),
        os: platform.os.clone(),
        architecture: platform.architecture.clone(),
        variant: Some(platform.variant.clone()).filter(|v| !v.is_empty()),
        created: parts.parsed.created.as_deref().and_then(|text| text.parse().ok()),
        layers: layers.collect(),
    };
    let id = parts.config.digest;
    let nameless = [id.to_string()];
    let names = if place.names.is_empty() {
        &nameless
    } else {
        place.names
    };
    let mut replaced = Vec::new();
    for name in names {
        replaced.extend(store.put_image(lease, place.ns, name, &record)?.replaced);
        progress.event(&Event::ImageDone { name, id: &id });
    }
    Ok(Installed {
        names: names.to_vec(),
        id,
        target: parts.target.digest,
        platform,
        layers: plan.layers.len(),
        shared: plan.layers.iter().filter(|l| l.found.is_some()).count(),
        replaced,
    })
}

/// A blob's file that tells how far it was read.
struct Counted<'a> {
    from: File,
    digest: &'a Digest,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes += read as u64;
        self.progress.event(&Event::Unpacked {
            digest: self.digest,
            bytes: self.bytes,
        });
        Ok(read)
    }
}
