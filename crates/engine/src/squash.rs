//! `squash`: an image's layers made one.

use image::progress::Progress;
use image::reference::{Reference, ReferenceError};

pub use image::squash::SquashError as Refusal;

use crate::Engine;
use crate::find::FindImageError;
use crate::load::Loaded;

/// Why an image could not be squashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SquashError {
    /// The new name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The new name says which digest it has.
    #[error("{0} names an image by its digest, which is not known before it is made")]
    Digest(String),
    /// There is no such image.
    #[error(transparent)]
    Find(#[from] FindImageError),
    /// Everything else.
    #[error("image {name}: {source}")]
    Squash {
        /// The image.
        name: String,
        /// What went wrong.
        source: Box<Refusal>,
    },
}

impl Engine {
    /// Makes an image of one layer that shows what all layers of another show. `to` is its name; without one it is found
    /// by its id.
    ///
    /// # Errors
    /// See [`SquashError`].
    pub fn squash(
        &self,
        name: &str,
        to: Option<&str>,
        message: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Loaded, SquashError> {
        let to = to.map(Reference::parse).transpose()?;
        if let Some(to) = to.as_ref().filter(|to| to.digest().is_some()) {
            return Err(SquashError::Digest(to.familiar()));
        }
        let image = self.find_image(name)?;
        let limits = &self.setup.limits;
        let manifest = &image.manifest.digest;
        let squashed = image::squash::squash(
            &self.store,
            self.ns(),
            manifest,
            to.as_ref(),
            message,
            limits,
            progress,
        );
        Ok(Loaded::from(squashed.map_err(|source| SquashError::Squash {
            name: crate::find::familiar(&image.name),
            source: Box::new(source),
        })?))
    }
}
