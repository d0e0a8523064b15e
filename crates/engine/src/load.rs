//! `load`: images from archives and layouts.

use image::install::Installed;
use image::load::LoadOptions;
use image::platform::PlatformError;
use image::progress::Progress;

use crate::Engine;
use crate::find::familiar;
use crate::pull::wanted;

pub use image::load::{LoadError as Refusal, LoadProblem, Source};

/// An image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Its names, as people write them.
    pub names: Vec<String>,
    /// Its id.
    pub id: String,
}

impl From<Installed> for Loaded {
    fn from(image: Installed) -> Loaded {
        Loaded {
            names: image.names.iter().map(|name| familiar(name)).collect(),
            id: image.id.to_string(),
        }
    }
}

/// Why images could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The platform is none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Everything else.
    #[error(transparent)]
    Load(#[from] Refusal),
}

impl Engine {
    /// Loads every image of an archive or layout. `platform` is `os/architecture[/variant]`, the machine's when
    /// absent; `all_platforms` also keeps what an image's index has for others, not unpacked.
    ///
    /// # Errors
    /// See [`LoadError`].
    pub fn load(
        &self,
        source: Source<'_>,
        platform: Option<&str>,
        all_platforms: bool,
        progress: &dyn Progress,
    ) -> Result<Vec<Loaded>, LoadError> {
        let options = LoadOptions {
            platform: wanted(platform)?,
            all_platforms,
            limits: self.setup.limits.clone(),
            ..LoadOptions::default()
        };
        let installed = image::load::load(&self.store, self.ns(), source, &options, progress)?;
        let loaded: Vec<Loaded> = installed.into_iter().map(Loaded::from).collect();
        for name in loaded
            .iter()
            .map(|image| image.names.first().unwrap_or(&image.id))
        {
            self.note("image", "load", name);
        }
        Ok(loaded)
    }
}
