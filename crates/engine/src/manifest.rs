//! `manifest`: the documents behind a name, and what refers to them.

use image::manifest::MAX_MANIFEST;
use image::progress::Progress;
use image::reference::{Reference, ReferenceError};
use image::registry::{Client, RegistryError};
use serde::Serialize;
use store::BlobError;

use crate::Engine;
use crate::find::FindImageError;
use crate::pull::Registries;

/// Why a manifest could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A name that is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// An image of the store.
    #[error(transparent)]
    Find(#[from] FindImageError),
    /// Its manifest.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
}

/// Something that refers to an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Referrer {
    /// Digest of its manifest.
    pub digest: String,
    /// What it is.
    pub artifact_type: String,
    /// Bytes of its manifest.
    pub size: u64,
    /// What it says of itself.
    pub annotations: std::collections::BTreeMap<String, String>,
}

impl Engine {
    /// The manifest or index that a name leads to, byte for byte: of the store if it has the image, else of the registry.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn manifest(
        &self,
        name: &str,
        registries: Registries,
        progress: &dyn Progress,
    ) -> Result<Vec<u8>, ManifestError> {
        match self.find_image(name) {
            Ok(image) => Ok(self.store.read_blob(&image.target.digest, MAX_MANIFEST)?),
            Err(FindImageError::NotFound(_)) => {
                let reference = Reference::parse(name)?;
                Ok(Client::new(registries)
                    .raw_manifest(&reference, None, progress)?
                    .0)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What refers to an image in its registry, of one type if that is said.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn referrers(
        &self,
        name: &str,
        artifact_type: Option<&str>,
        registries: Registries,
        progress: &dyn Progress,
    ) -> Result<Vec<Referrer>, ManifestError> {
        let reference = Reference::parse(name)?;
        let client = Client::new(registries);
        let digest = match reference.digest() {
            Some(digest) => *digest,
            None => match client.resolve(&reference, progress)? {
                Some(digest) => digest,
                None => store::Digest::of(client.raw_manifest(&reference, None, progress)?.0),
            },
        };
        let found = client.referrers(&reference, &digest, artifact_type, progress)?;
        let told = found.into_iter().map(|referrer| Referrer {
            digest: referrer.descriptor.digest.to_string(),
            artifact_type: referrer.artifact_type,
            size: referrer.descriptor.size,
            annotations: referrer.annotations,
        });
        Ok(told.collect())
    }
}
