//! `import`: an image of one layer, from a tar of a root file system.

use image::import::ImportOptions;
use image::platform::{Platform, PlatformError};
use image::progress::Progress;
use image::reference::{Reference, ReferenceError};
use image::registry::Client;

use crate::Engine;
use crate::load::Loaded;
use crate::pull::Registries;

pub use image::import::ImportError as Refusal;

/// Where the tar comes from.
pub enum Source<'a> {
    /// A file.
    Path(&'a std::path::Path),
    /// A stream, read to its end.
    Stream(&'a mut dyn std::io::Read),
    /// An `http` or `https` address, and how it is reached.
    Url(&'a str, Box<Registries>),
}

/// What is to be imported, and as what.
pub struct Request<'a> {
    /// The tar, plain or compressed.
    pub source: Source<'a>,
    /// Name of the image; without one it is found by its id.
    pub name: Option<&'a str>,
    /// Instructions for its configuration, as a Dockerfile has them.
    pub changes: &'a [String],
    /// A remark for its history.
    pub message: Option<&'a str>,
    /// `os/architecture[/variant]`; the machine's.
    pub platform: Option<&'a str>,
}

/// Why a root file system could not be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The platform is none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Everything else.
    #[error(transparent)]
    Import(#[from] Refusal),
}

impl Engine {
    /// Makes an image of a tar.
    ///
    /// # Errors
    /// See [`ImportError`].
    pub fn import(&self, request: Request<'_>, progress: &dyn Progress) -> Result<Loaded, ImportError> {
        let options = ImportOptions {
            name: request.name.map(Reference::parse).transpose()?,
            changes: request.changes.to_vec(),
            message: request.message.map(str::to_owned),
            platform: request.platform.map(str::parse::<Platform>).transpose()?,
            limits: self.setup.limits.clone(),
        };
        let client;
        let source = match request.source {
            Source::Path(path) => image::import::Source::Path(path),
            Source::Stream(stream) => image::import::Source::Stream(stream),
            Source::Url(url, registries) => {
                client = Client::new(*registries);
                image::import::Source::Url(&client, url)
            }
        };
        let installed = image::import::import(&self.store, self.ns(), source, &options, progress)?;
        let loaded = Loaded::from(installed);
        self.note("image", "import", loaded.names.first().unwrap_or(&loaded.id));
        Ok(loaded)
    }
}
