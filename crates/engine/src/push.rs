//! `push`: an image into a registry.

use std::collections::HashMap;

use image::progress::Progress;
use image::push::PushOptions;
use image::reference::{Reference, ReferenceError};
use image::registry::Client;
use store::{Digest, Fault, Image};

pub use image::push::{Compress, PushError as Refusal, Pushed};

use crate::Engine;
use crate::find::{FindImageError, familiar};
use crate::pull::Registries;

/// Layers that are sent at once.
const PARALLEL: usize = 5;

/// Why an image could not be pushed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// Where it is to go is no name.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It is to go to a name with a digest, or elsewhere than into a registry.
    #[error("{0:?} is no name in a registry that could be pushed to")]
    Destination(String),
    /// There is no such image.
    #[error(transparent)]
    Find(#[from] FindImageError),
    /// The image has no name, and no other was given.
    #[error("image {0} has no name to be pushed to")]
    NoName(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
    /// Everything else.
    #[error("image {name}: {source}")]
    Push {
        /// The image.
        name: String,
        /// What went wrong.
        source: Box<Refusal>,
    },
}

impl Engine {
    /// Pushes an image to where its own name leads, or to `to`. With `all_platforms`, its index goes there whole; all of
    /// that must be in the store.
    ///
    /// # Errors
    /// See [`PushError`].
    pub fn push(
        &self,
        name: &str,
        to: Option<&str>,
        (compress, all_platforms): (Compress, bool),
        registries: Registries,
        progress: &dyn Progress,
    ) -> Result<Pushed, PushError> {
        let image = self.find_image(name)?;
        let to = destination(&image, to)?;
        let options = PushOptions {
            parallel: PARALLEL,
            compress,
            all_platforms,
            mounts: self.mounts(&image, &to)?,
        };
        let client = Client::new(registries);
        let pushed = image::push::push(&self.store, &client, &image, &to, &options, progress);
        let pushed = pushed.map_err(|source| PushError::Push {
            name: familiar(&image.name),
            source: Box::new(source),
        })?;
        self.note("image", "push", &to.familiar());
        Ok(pushed)
    }

    /// Which repositories of the same registry have blobs of the image: those whose images in the store list them.
    fn mounts(&self, image: &Image, to: &Reference) -> Result<HashMap<Digest, Vec<String>>, Fault> {
        let wanted = self.store.manifest_layers(&image.manifest.digest)?;
        let mut mounts: HashMap<Digest, Vec<String>> = HashMap::new();
        for other in self.store.images(self.ns())? {
            let Ok(name) = Reference::parse(&other.name) else {
                continue;
            };
            if name.domain() != to.domain() || name.path() == to.path() {
                continue;
            }
            for layer in self.store.manifest_layers(&other.manifest.digest)? {
                let paths = mounts.entry(layer.blob.digest).or_default();
                let new = !paths.iter().any(|path| path == name.path());
                if new
                    && wanted
                        .iter()
                        .any(|wanted| wanted.blob.digest == layer.blob.digest)
                {
                    paths.push(name.path().to_owned());
                }
            }
        }
        Ok(mounts)
    }
}

/// The name that an image is pushed to.
///
/// # Errors
/// [`PushError::NoName`], and what is no name with a tag.
pub fn destination_of(name: &str, to: Option<&str>) -> Result<Reference, PushError> {
    let text = to.unwrap_or(name);
    // podman's way of saying that a registry is meant.
    let text = text.strip_prefix("docker://").unwrap_or(text);
    let reference = Reference::parse(text)?;
    match reference.digest() {
        Some(_) => Err(PushError::Destination(text.to_owned())),
        None => Ok(reference),
    }
}

fn destination(image: &Image, to: Option<&str>) -> Result<Reference, PushError> {
    if to.is_none() && image.name.starts_with("sha256:") {
        return Err(PushError::NoName(image.name.clone()));
    }
    destination_of(&image.name, to)
}

/// The registry that an image is pushed to, as `plain_http` of [`crate::pull::HttpOptions`] wants it.
///
/// # Errors
/// The name is none.
pub fn registry_of(name: &str, to: Option<&str>) -> Result<String, PushError> {
    Ok(destination_of(name, to)?.domain().to_owned())
}
