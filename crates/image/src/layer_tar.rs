//! A layer's tar from what is there of it: its blob, or its directory with the content record.
//!
//! A store may have dropped the blobs of layers that are unpacked. Whoever wants a layer's bytes asks here and need
//! not know: [`open_blob`] for the blob as the manifest names it, [`write`] for the tar, bit for bit that of the diff
//! ID either way.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};

use store::{BlobError, Digest, Fault, Hasher, ImageLayer, Lease, Store};

use crate::compression::decoder;
use crate::record::{self, RecordError};

/// Bytes of a blob read at once.
const PIECE: usize = 128 << 10;

/// What a layer's tar was read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The layer's blob, inflated.
    Blob,
    /// The layer's directory and its record.
    Directory,
}

/// Why a layer's tar could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayerTarError {
    /// Neither blob nor directory is in the store.
    #[error("layer {0} is not in the store")]
    Missing(Digest),
    /// The blob cannot be inflated.
    #[error("the blob {blob} of layer {diff_id} cannot be read: {source}")]
    Inflate {
        /// The layer.
        diff_id: Digest,
        /// Its blob.
        blob: Digest,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The tar cannot be rebuilt from the directory.
    #[error(
        "layer {diff_id} cannot be rebuilt from its directory: {}",
        crate::text::whole(source)
    )]
    Rebuild {
        /// The layer.
        diff_id: Digest,
        /// What is wrong with it.
        source: RecordError,
    },
    /// What there is gives another tar. It was written all the same.
    #[error("layer {diff_id} is damaged in the store: its content has the diff ID {got}")]
    Differs {
        /// The layer.
        diff_id: Digest,
        /// What it gives.
        got: Digest,
        /// Where that was read from.
        from: Origin,
    },
    /// The tar cannot be written.
    #[error("writing the tar of layer {diff_id} failed: {source}")]
    Write {
        /// The layer.
        diff_id: Digest,
        /// What the system said.
        source: io::Error,
    },
    /// The blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The layer's blob, byte for byte as the manifest names it; `None` when the store does not keep it. What is read is
/// not verified.
///
/// # Errors
/// [`BlobError`], of a blob that is there and cannot be opened.
pub fn open_blob(store: &Store, layer: &ImageLayer) -> Result<Option<File>, BlobError> {
    match store.open_blob(&layer.blob.digest) {
        Ok(file) => Ok(Some(file)),
        Err(BlobError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes the layer's tar, not compressed, to `out`, and tells where it was read from. The layer is held by the lease
/// from now on.
///
/// The diff ID is compared at the end: after an error, what was written is not the layer.
///
/// # Errors
/// [`LayerTarError`].
pub fn write(
    store: &Store,
    lease: &Lease,
    layer: &ImageLayer,
    out: impl Write,
) -> Result<Origin, LayerTarError> {
    let diff_id = layer.diff_id;
    let held = store.hold_layer(lease, &diff_id, &layer.chain_id)?;
    let (from, got) = match (open_blob(store, layer)?, held) {
        (Some(blob), _) => (Origin::Blob, inflate(blob, layer, out)?),
        (None, Some(found)) => {
            let (fs, record) = (store.layer_dir(found.n)?, store.layer_record(found.n)?);
            let rebuilt = record::rebuild(&fs, &record, out).map_err(|source| match source {
                RecordError::Write(source) => LayerTarError::Write { diff_id, source },
                source => LayerTarError::Rebuild { diff_id, source },
            });
            (Origin::Directory, rebuilt?)
        }
        (None, None) => return Err(LayerTarError::Missing(diff_id)),
    };
    match got == diff_id {
        true => Ok(from),
        false => Err(LayerTarError::Differs { diff_id, got, from }),
    }
}

/// Reads all of an unpacked layer, as [`write`] does, for whoever makes something of it that is not checked against its
/// diff ID.
///
/// # Errors
/// [`LayerTarError`]: it is not what it was when it was unpacked.
pub fn verify(store: &Store, layer: &ImageLayer) -> Result<(), LayerTarError> {
    let diff_id = layer.diff_id;
    let (fs, record) = (
        store.layer_dir(layer.layer_n)?,
        store.layer_record(layer.layer_n)?,
    );
    let got = record::rebuild(&fs, &record, io::sink())
        .map_err(|source| LayerTarError::Rebuild { diff_id, source })?;
    match got == diff_id {
        true => Ok(()),
        false => Err(LayerTarError::Differs {
            diff_id,
            got,
            from: Origin::Directory,
        }),
    }
}

/// Inflates a blob into `out`; the digest of what came out.
fn inflate(blob: File, layer: &ImageLayer, mut out: impl Write) -> Result<Digest, LayerTarError> {
    let diff_id = layer.diff_id;
    let mut tar = decoder(BufReader::with_capacity(PIECE, blob));
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; PIECE];
    loop {
        let count = match tar.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => {
                let blob = layer.blob.digest;
                return Err(LayerTarError::Inflate {
                    diff_id,
                    blob,
                    source,
                });
            }
        };
        hasher.update(&buffer[..count]);
        out.write_all(&buffer[..count])
            .map_err(|source| LayerTarError::Write { diff_id, source })?;
    }
    out.flush()
        .map_err(|source| LayerTarError::Write { diff_id, source })?;
    Ok(hasher.finish())
}
