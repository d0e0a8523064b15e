//! [`Stored`]: an image of the store with its documents, read back and checked.

use store::{BlobError, Descriptor, Digest, Fault, ImageLayer, Store};

use crate::config::{ConfigError, ImageConfig};
use crate::manifest::{Document, MAX_CONFIG, MAX_MANIFEST, Manifest, ManifestError};

/// Why an image that the store lists cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoredError {
    /// Its manifest or its configuration is missing or damaged.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Its manifest is none.
    #[error("manifest {digest} in the store cannot be used: {source}")]
    Manifest {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// Its configuration is none.
    #[error("configuration {digest} in the store cannot be used: {source}")]
    Config {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// One image for one platform.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Descriptor of the manifest.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: Manifest,
    /// The configuration's bytes.
    pub config_bytes: Vec<u8>,
    /// What they say.
    pub config: ImageConfig,
    /// Where the layers are, the base first.
    pub layers: Vec<ImageLayer>,
}

impl Stored {
    /// Reads the image whose manifest has this digest.
    ///
    /// # Errors
    /// [`StoredError`].
    pub fn open(store: &Store, digest: &Digest) -> Result<Stored, StoredError> {
        let bytes = store.read_blob(digest, MAX_MANIFEST)?;
        let wrong = |source| StoredError::Manifest {
            digest: *digest,
            source,
        };
        let manifest = match Document::parse(&bytes, None).map_err(wrong)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => {
                let reason = "it is an index, not a manifest";
                return Err(wrong(ManifestError::Ambiguous { reason }));
            }
        };
        let config_bytes = store.read_blob(&manifest.config.digest, MAX_CONFIG)?;
        let config = ImageConfig::parse(&config_bytes, manifest.layers.len());
        let config = config.map_err(|source| StoredError::Config {
            digest: manifest.config.digest,
            source,
        })?;
        Ok(Stored {
            descriptor: Descriptor {
                media_type: manifest.media_type.clone(),
                digest: *digest,
                size: bytes.len() as u64,
            },
            bytes,
            manifest,
            config_bytes,
            config,
            layers: store.manifest_layers(digest)?,
        })
    }

    /// Chain ID of its topmost layer.
    pub fn chain_id(&self) -> Option<Digest> {
        self.layers.last().map(|layer| layer.chain_id)
    }
}
