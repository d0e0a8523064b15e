//! The shared end of pull, load and import: blobs and layers that are missing come into the store, and the image
//! gets its names.
//!
//! [`plan`] says what is there already: a layer that some image brought is neither fetched nor unpacked again.
//! [`install`] lets a [`BlobSource`] bring what is missing, several blobs at once, and unpacks each layer while its
//! blob arrives, several beside each other. Nothing is visible before [`store::Store::put_image_keeping`], which comes
//! after everything is on disk for good. A failure at any point leaves only what the lease's end gives back.

use std::path::PathBuf;

use store::{
    BlobError, Descriptor, Digest, Fault, ImageError, ImageLayer, ImageRecord, IngestError, Lease, Store,
};

use crate::board::Board;
use crate::bring::{BlobSource, Bring};
use crate::config::ImageConfig;
use crate::layers::{self, Layers};
use crate::manifest;
use crate::platform::Platform;
use crate::progress::{Event, Progress};
use crate::unpack::{Limits, UnpackError};

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
    #[error("no {} left on the disk for {} to unpack layer {layer}: {}", store::lacking(store), store.display(), crate::text::whole(source))]
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
    /// Blobs that the names keep besides those of the manifest, held by the lease.
    pub others: &'a [Digest],
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

/// Looks up, and holds, what is there of an image. With `renew`, a layer that is damaged counts as one that is missing, and
/// what is brought and unpacked takes its place.
///
/// # Errors
/// A layer to be renewed that a container runs on, and [`Fault`]; the diff IDs were checked with the configuration.
pub fn plan(
    store: &Store,
    lease: &Lease,
    parts: Parts,
    renew: bool,
    progress: &dyn Progress,
) -> Result<Plan, IngestError> {
    let diff_ids = parts.parsed.diff_ids().unwrap_or_default();
    let mut layers = Vec::with_capacity(parts.layers.len());
    let mut below = None;
    for (layer, diff_id) in parts.layers.iter().zip(diff_ids) {
        let chain_id = Digest::chain(below.as_ref(), &diff_id);
        below = Some(chain_id);
        let mut found = store.hold_layer(lease, &diff_id, &chain_id)?.map(|layer| layer.n);
        if let Some(n) = found
            && renew
            && store.flaw(n)?.is_some()
        {
            if let Some(container) = store.running_on(n)? {
                let layer = diff_id;
                return Err(IngestError::InUse { layer, container });
            }
            found = None;
        }
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
    let (fetches, unpacks) = (
        place.parallel.max(1).min(missing.len()),
        layers::at_once(place.limits).min(missing.len()),
    );
    let board = Board::new(layers::found(&plan.layers));
    let bring = Bring::new(store, lease, source, missing, &board, progress);
    let layers = Layers::new(store, lease, place.limits, progress, &board, &bring, &plan.layers);
    std::thread::scope(|scope| {
        scope.spawn(|| bring.settle());
        std::thread::scope(|scope| {
            for _ in 0..fetches {
                scope.spawn(|| bring.work());
            }
            for _ in 0..unpacks {
                scope.spawn(|| layers.work());
            }
        });
        board.end();
    });
    let numbers = match board.take_failure() {
        Some(error) => return Err(error),
        None => layers.commit().map_err(failed)?,
    };
    record(store, lease, place, &plan, &numbers, progress).map_err(failed)
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
        let put = store.put_image_keeping(lease, place.ns, name, &record, place.others)?;
        replaced.extend(put.replaced);
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
