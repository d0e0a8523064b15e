//! `login` and `logout`: passwords for registries.

use std::path::Path;

use image::progress::Progress;
use image::registry::Client;

pub use image::auth::{AuthError, LoggedOut, logged_in};
pub use image::registry::{ClientOptions as Registries, RegistryError};

/// Tries a user's name and password with a registry and keeps them in `file`.
///
/// # Errors
/// [`RegistryError`], among them that the registry does not take them.
pub fn login(
    registries: Registries,
    registry: &str,
    username: &str,
    password: &str,
    file: &Path,
    progress: &dyn Progress,
) -> Result<(), RegistryError> {
    image::auth::login(
        &Client::new(registries),
        registry,
        username,
        password,
        file,
        progress,
    )
}

/// Forgets what `file` keeps for a registry.
///
/// # Errors
/// [`AuthError`].
pub fn logout(registries: &Registries, registry: &str, file: &Path) -> Result<LoggedOut, AuthError> {
    image::auth::logout(registry, file, &registries.auth)
}
