//! What a container stands on: the image found or pulled, the host, or a directory.

use std::path::{Path, PathBuf};

use image::config::{ConfigError, Execution, ImageConfig};
use image::manifest::MAX_CONFIG;
use image::platform::{Platform, PlatformError};
use image::progress::{Event, Progress};
use image::reference::{Reference, ReferenceError};
use store::{BlobError, Fault, Image};

use super::{PullPolicy, Request, Source};
use crate::Engine;
use crate::find::{FindImageError, familiar};
use crate::pull::{PullError, wanted};

/// The read-only part of a root, and what the image says about running it.
#[derive(Debug, Default)]
pub struct Base {
    /// The image, if it is one.
    pub(super) image: Option<Image>,
    /// A directory outside the store that lies at the bottom.
    pub(super) lower: Option<PathBuf>,
    /// How the image wants to be run, if there is one.
    pub(super) execution: Option<Execution>,
}

/// Why there is nothing to stand on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaseError {
    /// The image is not in the store, and was not to be pulled.
    #[error("there is no image {0:?} in the store")]
    Missing(String),
    /// What was given is neither a name nor an id.
    #[error(transparent)]
    Find(FindImageError),
    /// It could not be pulled.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// The platform is none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// What the store has is for another platform.
    #[error("image {name} is in the store for {built}, not for {wanted}{}", otherwise(.pulling))]
    OtherPlatform {
        /// The image.
        name: String,
        /// What it was built for.
        built: String,
        /// What it is wanted for.
        wanted: String,
        /// Why the right one could not be pulled, where that was tried.
        pulling: Option<Box<PullError>>,
    },
    /// The image's configuration cannot be read.
    #[error("image {name}: {source}")]
    Blob {
        /// The image.
        name: String,
        /// Why.
        source: BlobError,
    },
    /// The image's configuration is none.
    #[error("image {name}: {source}")]
    Config {
        /// The image.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// A view of the machine, for an ordinary user.
    #[error("a view of this machine needs root: in a user namespace nothing can be laid over /")]
    HostView,
    /// `--rootfs` names no directory.
    #[error("--rootfs {}: {source}", path.display())]
    Directory {
        /// What was named.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

/// How often an image that is removed while it is looked for is looked for again.
pub(super) const ATTEMPTS: u32 = 16;

impl Engine {
    /// Finds what the request's source names, and pulls it if it is to be.
    ///
    /// # Errors
    /// See [`BaseError`].
    pub fn base(&self, request: &Request, progress: &dyn Progress) -> Result<Base, BaseError> {
        let text = match &request.source {
            Source::Image(text) => text,
            Source::Host if in_user_namespace() => return Err(BaseError::HostView),
            Source::Host => {
                return Ok(Base {
                    lower: Some(PathBuf::from("/")),
                    ..Base::default()
                });
            }
            Source::Directory(path) => {
                return Ok(Base {
                    lower: Some(directory(path)?),
                    ..Base::default()
                });
            }
        };
        let mut left = ATTEMPTS;
        loop {
            left -= 1;
            let found = self.image(text, request, progress);
            match found.and_then(|image| Ok((self.execution(&image)?, image))) {
                Ok((execution, image)) => {
                    return Ok(Base {
                        image: Some(image),
                        lower: None,
                        execution: Some(execution),
                    });
                }
                // Somebody removed it since it was found, or pulled: it is looked for again.
                Err(BaseError::Missing(_)) if left > 0 && request.pull != PullPolicy::Never => {}
                Err(BaseError::Blob {
                    source: BlobError::NotFound(_),
                    ..
                }) if left > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn image(&self, text: &str, request: &Request, progress: &dyn Progress) -> Result<Image, BaseError> {
        let platform = wanted(request.platform.as_deref())?;
        let found = match self.find_image(text) {
            Ok(image) => Some(image),
            Err(FindImageError::NotFound(_)) => None,
            Err(error) => return Err(BaseError::Find(error)),
        };
        let fits = |image: &Image| {
            let variant = image.variant.as_deref().unwrap_or_default();
            platform.allows(&Platform::new(&image.os, &image.architecture, variant))
        };
        let asked = platform.to_string();
        let misfit = |image: &Image, pulling| BaseError::OtherPlatform {
            name: familiar(&image.name),
            built: crate::images::platform(&image.os, &image.architecture, image.variant.as_deref()),
            wanted: asked.clone(),
            pulling,
        };
        match (&found, request.pull) {
            (Some(image), PullPolicy::Missing | PullPolicy::Never) if fits(image) => return Ok(image.clone()),
            (Some(image), PullPolicy::Never) => return Err(misfit(image, None)),
            (None, PullPolicy::Never) => return Err(BaseError::Missing(text.to_owned())),
            _ => {}
        }
        let other = found.as_ref().filter(|image| !fits(image));
        let reference = match (Reference::parse(text), other) {
            // Found by its id, which names one build and is no name to pull by.
            (Ok(reference), Some(image)) if self.image_by_reference(&reference)?.is_none() => {
                return Err(misfit(image, None));
            }
            (Err(_), Some(image)) => return Err(misfit(image, None)),
            (Ok(reference), _) => reference,
            (Err(ReferenceError::Identifier { name }), None) => return Err(BaseError::Missing(name)),
            (Err(error), None) => return Err(BaseError::Pull(error.into())),
        };
        let pulled = self.pull_reference(&reference, platform.clone(), request.registries.clone(), progress);
        match (pulled, &found, other) {
            (Ok(_), ..) => {}
            (Err(error), _, Some(image)) => return Err(misfit(image, Some(Box::new(error)))),
            (Err(error), Some(image), None) if request.pull == PullPolicy::Newer => {
                let text = format!("the image of the store is used: {error}");
                progress.event(&Event::Note { text: &text });
                return Ok(image.clone());
            }
            (Err(error), ..) => return Err(error.into()),
        }
        if let Err(error) = self.keep_to_policy(&[reference.canonical()]) {
            let text = format!("what [store] in the configuration asks for was not done: {error}");
            progress.event(&Event::Note { text: &text });
        }
        self.store
            .find_image(self.ns(), &reference.canonical())?
            .ok_or_else(|| BaseError::Missing(text.to_owned()))
    }

    fn execution(&self, image: &Image) -> Result<Execution, BaseError> {
        let name = || familiar(&image.name);
        let text = self
            .store
            .read_blob(&image.config.digest, MAX_CONFIG)
            .map_err(|source| BaseError::Blob { name: name(), source })?;
        let layers = usize::try_from(image.layers).unwrap_or(usize::MAX);
        let config =
            ImageConfig::parse(&text, layers).map_err(|source| BaseError::Config { name: name(), source })?;
        Ok(config.config)
    }
}

fn in_user_namespace() -> bool {
    sys::ids::Ids::own().is_ok_and(|ids| !ids.are_the_machines())
}

fn otherwise(pulling: &Option<Box<PullError>>) -> String {
    match pulling {
        Some(error) => format!(", and pulling that one failed: {error}"),
        None => String::new(),
    }
}

/// The directory in its canonical form, which is what the overlay is given.
fn directory(path: &Path) -> Result<PathBuf, BaseError> {
    let found = std::fs::canonicalize(path).and_then(|path| match path.is_dir() {
        true => Ok(path),
        false => Err(std::io::ErrorKind::NotADirectory.into()),
    });
    found.map_err(|source| BaseError::Directory {
        path: path.to_owned(),
        source,
    })
}
