//! `rmi`: takes names away from images, and frees what nobody needs then.

use store::{Collected, Digest, Fault, ImageError};

use crate::Engine;
pub use crate::find::FindImageError;
use crate::find::familiar;

/// What was removed.
#[derive(Debug, Clone, Default)]
pub struct Removed {
    /// Names that are gone, as people write them.
    pub names: Vec<String>,
    /// The image's id, when no name of the namespace leads to it any more.
    pub id: Option<Digest>,
}

/// Why an image could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RmiError {
    /// The image.
    #[error(transparent)]
    Find(FindImageError),
    /// There is none of that name or id.
    #[error("there is no image {0:?}")]
    NotFound(String),
    /// It was asked for by its id, and has several names.
    #[error("image {id} has several names: {}", names.join(", "))]
    SeveralNames {
        /// What was asked for.
        id: String,
        /// The names.
        names: Vec<String>,
    },
    /// Containers were made from it.
    #[error("image {name} is used by {}", containers.join(", "))]
    InUse {
        /// The image.
        name: String,
        /// The containers' names.
        containers: Vec<String>,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] ImageError),
}

impl From<Fault> for RmiError {
    fn from(fault: Fault) -> RmiError {
        RmiError::Store(fault.into())
    }
}

impl From<FindImageError> for RmiError {
    fn from(error: FindImageError) -> RmiError {
        match error {
            FindImageError::NotFound(name) => RmiError::NotFound(name),
            other => RmiError::Find(other),
        }
    }
}

impl Engine {
    /// Removes an image: by a name that name, by an id all its names. Only with `force` one that several names lead
    /// to by its id, and one's last name while containers of it exist, which go on as they are.
    ///
    /// What it took on disk is freed by [`Engine::collect`].
    ///
    /// # Errors
    /// See [`RmiError`].
    pub fn rmi(&self, text: &str, force: bool) -> Result<Removed, RmiError> {
        let image = self.find_image(text)?;
        let all = self.store.images_by_id_prefix(self.ns(), &image.id.hex())?;
        let one = self.is_name(text, &image.name);
        // Of one configuration there may be several manifests: one in docker's form and one in OCI's, say.
        let (gone, stay): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|other| !one || other.name == image.name);
        if gone.len() > 1 && !force {
            let names = gone.iter().map(|image| familiar(&image.name)).collect();
            return Err(RmiError::SeveralNames {
                id: text.to_owned(),
                names,
            });
        }
        if !force {
            let led =
                |to: &[store::Image], manifest| to.iter().any(|image| image.manifest.digest == manifest);
            let loses = |manifest| led(&gone, manifest) && !led(&stay, manifest);
            let containers = self.store.containers(self.ns())?.into_iter();
            let containers = containers
                .filter(|c| c.manifest.is_some_and(loses))
                .map(|c| c.name);
            let containers: Vec<String> = containers.collect();
            if !containers.is_empty() {
                return Err(RmiError::InUse {
                    name: familiar(&image.name),
                    containers,
                });
            }
        }
        let mut removed = Removed::default();
        for name in gone.into_iter().map(|image| image.name) {
            let gone = match self.store.remove_image(self.ns(), &name) {
                // Somebody else was faster.
                Err(ImageError::NotFound(_)) => continue,
                other => other?,
            };
            removed.names.push(familiar(&name));
            self.note("image", "untag", &familiar(&name));
            let last = gone.last && stay.is_empty();
            if last {
                self.note("image", "delete", &gone.id.to_string());
            }
            removed.id = last.then_some(gone.id);
        }
        match removed.names.is_empty() {
            true => Err(RmiError::NotFound(text.to_owned())),
            false => Ok(removed),
        }
    }

    /// Whether `text` led to the image by its name, not by its id.
    fn is_name(&self, text: &str, name: &str) -> bool {
        let reference = image::reference::Reference::parse(text);
        let found = reference
            .ok()
            .and_then(|reference| self.image_by_reference(&reference).ok().flatten());
        found.is_some_and(|image| image.name == name)
    }

    /// Frees what no image, container or operation under way needs, in all namespaces.
    ///
    /// # Errors
    /// Disk or database.
    pub fn collect(&self) -> Result<Collected, Fault> {
        self.sweep()?;
        self.store.collect()
    }
}
