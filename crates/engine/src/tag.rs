//! `tag`: another name for an image.

use image::reference::{Reference, ReferenceError};
use store::ImageError;

use crate::Engine;
pub use crate::find::FindImageError;

/// Why an image could not be given a name.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TagError {
    /// The image.
    #[error(transparent)]
    Find(#[from] FindImageError),
    /// The new name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A digest says what an image is; it cannot be given.
    #[error("{0:?} is no name to give: a digest cannot be chosen")]
    Digest(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] ImageError),
}

impl Engine {
    /// Gives the image `from` the further name `to`, which is taken from another image that has it. Gives the name
    /// in full.
    ///
    /// # Errors
    /// See [`TagError`].
    pub fn tag(&self, from: &str, to: &str) -> Result<String, TagError> {
        let reference = Reference::parse(to)?;
        if reference.digest().is_some() {
            return Err(TagError::Digest(to.to_owned()));
        }
        let image = self.find_image(from)?;
        let name = reference.canonical();
        self.store.tag(self.ns(), &image.name, &name)?;
        self.note("image", "tag", &reference.familiar());
        Ok(name)
    }
}
