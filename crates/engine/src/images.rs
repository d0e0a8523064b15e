//! `images`: the images of the namespace.

use std::collections::BTreeMap;

use image::config::ImageConfig;
use image::reference::{Reference, ReferenceError};
use jiff::Timestamp;
use serde::Serialize;
use store::Fault;

use crate::Engine;
use crate::find::FindImageError;

/// A name of an image, as lists show it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Image {
    /// The image's id: the digest of its configuration.
    pub id: String,
    /// The name in full.
    pub name: String,
    /// Its repository, as people write it.
    pub repository: String,
    /// Its tag; none for a name by digest.
    pub tag: Option<String>,
    /// Digest that the registry knows it by.
    pub digest: String,
    /// When it was built.
    pub created: Option<Timestamp>,
    /// Bytes that its layers take on disk; other images may share them.
    pub size: u64,
    /// How many layers it has.
    pub layers: u64,
    /// `os/architecture[/variant]`.
    pub platform: String,
}

/// Why the images could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImagesError {
    /// What was asked for is no name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// The images by name; with `name`, those of that repository, or the one of that name with a tag or digest.
    ///
    /// # Errors
    /// See [`ImagesError`].
    pub fn images(&self, name: Option<&str>) -> Result<Vec<Image>, ImagesError> {
        let wanted = name.map(Reference::parse).transpose()?;
        // A name without a tag means the repository here, not its `latest`.
        let whole = name.is_some_and(|n| n.rsplit('/').next().is_some_and(|last| last.contains([':', '@'])));
        let fits = |image: &store::Image| match (&wanted, Reference::parse(&image.name)) {
            (None, _) => true,
            (Some(wanted), _) if whole => wanted.canonical() == image.name,
            (Some(wanted), Ok(is)) => (wanted.domain(), wanted.path()) == (is.domain(), is.path()),
            (Some(_), Err(_)) => false,
        };
        Ok(self
            .store
            .images(self.ns())?
            .into_iter()
            .filter(fits)
            .map(listed)
            .collect())
    }
}

impl Engine {
    /// When an image was built, if it says so; by its name or the beginning of its id.
    ///
    /// # Errors
    /// There is none; the store.
    pub fn image_created(&self, name: &str) -> Result<Option<Timestamp>, FindImageError> {
        Ok(self.find_image(name)?.created)
    }

    /// The labels of the image that is stored under a name; none of one whose configuration cannot be read.
    ///
    /// # Errors
    /// There is none; the store.
    pub fn image_labels(&self, name: &str) -> Result<BTreeMap<String, String>, FindImageError> {
        let image = self.store.find_image(self.ns(), name)?;
        let image = image.ok_or_else(|| FindImageError::NotFound(name.to_owned()))?;
        Ok(self.labels_of(&image))
    }

    /// The labels of an image; none of one whose configuration cannot be read.
    pub(crate) fn labels_of(&self, image: &store::Image) -> BTreeMap<String, String> {
        let layers = usize::try_from(image.layers).unwrap_or(usize::MAX);
        let config = self.store.read_blob(&image.config.digest, image.config.size).ok();
        let config = config.and_then(|text| ImageConfig::parse(&text, layers).ok());
        config.map(|config| config.config.labels).unwrap_or_default()
    }
}

fn listed(image: store::Image) -> Image {
    let reference = Reference::parse(&image.name).ok();
    Image {
        id: image.id.to_string(),
        repository: reference
            .as_ref()
            .map_or_else(|| image.name.clone(), |r| r.familiar_repository()),
        tag: reference.as_ref().and_then(|r| r.tag()).map(str::to_owned),
        name: image.name,
        digest: image.target.digest.to_string(),
        created: image.created,
        size: image.usage.bytes,
        layers: image.layers,
        platform: platform(&image.os, &image.architecture, image.variant.as_deref()),
    }
}

/// `os/architecture[/variant]`.
pub(crate) fn platform(os: &str, architecture: &str, variant: Option<&str>) -> String {
    let mut text = format!("{os}/{architecture}");
    if let Some(variant) = variant.filter(|v| !v.is_empty()) {
        text.push('/');
        text.push_str(variant);
    }
    text
}
