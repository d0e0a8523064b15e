//! `pull`: an image from its registry.

use image::platform::{Platform, PlatformError, Wanted};
use image::progress::Progress;
use image::pull::PullOptions;
use image::reference::Reference;
use image::registry::Client;

use crate::Engine;

pub use image::auth::{AuthError, AuthFiles};
pub use image::pull::{PullError as Refusal, Pulled};
pub use image::reference::ReferenceError;
pub use image::registry::{ClientOptions as Registries, HttpOptions, Proxies, RegistryError};

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// Its name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The platform is none.
    #[error(transparent)]
    Platform(#[from] PlatformError),
    /// Everything that can go wrong on the way.
    #[error(transparent)]
    Pull(#[from] Refusal),
}

impl Engine {
    /// Pulls an image. `platform` is `os/architecture[/variant]`, the machine's when absent.
    ///
    /// # Errors
    /// See [`PullError`].
    pub fn pull(
        &self,
        name: &str,
        platform: Option<&str>,
        registries: Registries,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        self.pull_reference(&Reference::parse(name)?, wanted(platform)?, registries, progress)
    }

    /// Pulls an image, and keeps with it what its index has for other platforms, so that it can be saved and pushed whole.
    ///
    /// # Errors
    /// See [`PullError`].
    pub fn pull_all_platforms(
        &self,
        name: &str,
        registries: Registries,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        let options = PullOptions {
            all_platforms: true,
            limits: self.setup.limits.clone(),
            ..PullOptions::default()
        };
        let (client, reference) = (Client::new(registries), Reference::parse(name)?);
        let pulled = image::pull::pull(&self.store, &client, self.ns(), &reference, &options, progress)?;
        self.note("image", "pull", &reference.familiar());
        Ok(pulled)
    }

    pub(crate) fn pull_reference(
        &self,
        reference: &Reference,
        platform: Wanted,
        registries: Registries,
        progress: &dyn Progress,
    ) -> Result<Pulled, PullError> {
        let client = Client::new(registries);
        let options = PullOptions {
            platform,
            limits: self.setup.limits.clone(),
            ..PullOptions::default()
        };
        let pulled = image::pull::pull(&self.store, &client, self.ns(), reference, &options, progress)?;
        self.note("image", "pull", &reference.familiar());
        Ok(pulled)
    }
}

/// The registry that an image's name leads to, as `plain_http` of [`HttpOptions`] wants it.
///
/// # Errors
/// The name is none.
pub fn registry_of(name: &str) -> Result<String, ReferenceError> {
    Ok(Reference::parse(name)?.domain().to_owned())
}

/// The platform that was asked for.
pub(crate) fn wanted(platform: Option<&str>) -> Result<Wanted, PlatformError> {
    Ok(match platform {
        Some(text) => Wanted::Exactly(text.parse::<Platform>()?),
        None => Wanted::Host,
    })
}
