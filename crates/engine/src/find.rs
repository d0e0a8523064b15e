//! Names as users write them, and what they lead to.

use image::reference::{Reference, ReferenceError};
use store::{Fault, Image};

use crate::Engine;

/// Why a name leads to no image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FindImageError {
    /// Nothing of that name or id.
    #[error("there is no image {0:?}")]
    NotFound(String),
    /// An id's beginning that several images share.
    #[error("{name:?} is the beginning of {count} image ids")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many it could be.
        count: usize,
    },
    /// Neither a name nor an id.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// Where tools that build images put those that belong to no registry.
const LOCAL_DOMAIN: &str = "localhost/";

impl Engine {
    /// The image of that name, or whose id begins so. A name that would mean docker.io's is looked for under
    /// `localhost` too, where podman and buildah put what they build.
    pub(crate) fn find_image(&self, text: &str) -> Result<Image, FindImageError> {
        let parsed = Reference::parse(text);
        if let Ok(reference) = &parsed
            && let Some(image) = self.image_by_reference(reference)?
        {
            return Ok(image);
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let mut found = self.store.images_by_id_prefix(self.ns(), hex)?;
        // The same image under several names is still one.
        found.dedup_by_key(|image| image.id);
        match (found.len(), parsed) {
            (1, _) => Ok(found.remove(0)),
            (0, Err(ReferenceError::Identifier { .. }) | Ok(_)) => {
                Err(FindImageError::NotFound(text.to_owned()))
            }
            (0, Err(error)) => Err(error.into()),
            (count, _) => Err(FindImageError::Ambiguous {
                name: text.to_owned(),
                count,
            }),
        }
    }

    /// The image of that name, and failing that of the same name under `localhost`.
    pub(crate) fn image_by_reference(&self, reference: &Reference) -> Result<Option<Image>, Fault> {
        if let Some(image) = self.store.find_image(self.ns(), &reference.canonical())? {
            return Ok(Some(image));
        }
        match Reference::parse(&format!("{LOCAL_DOMAIN}{}", reference.familiar())) {
            Ok(local) if reference.domain() == image::reference::DEFAULT_DOMAIN => {
                self.store.find_image(self.ns(), &local.canonical())
            }
            _ => Ok(None),
        }
    }
}

/// A stored name as people write it.
pub(crate) fn familiar(name: &str) -> String {
    Reference::parse(name).map_or_else(|_| name.to_owned(), |reference| reference.familiar())
}
