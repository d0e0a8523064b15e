//! What can go wrong between us and a registry.

use std::time::Duration;

use store::Digest;

use crate::auth::AuthError;
use crate::manifest::ManifestError;

/// Why a registry did not give what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// No connection, or it broke again and again.
    #[error("cannot get {what} from {host}: {reason}")]
    Unreachable {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// Why, and what may help.
        reason: String,
    },
    /// The host speaks plain http and nobody allowed that.
    #[error(
        "cannot get {what} from {host}: it would go over plain http, unencrypted; name the host as an insecure registry if that is meant"
    )]
    PlainHttp {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
    },
    /// Credentials are missing or were refused. Registries answer the same for what is not there at all.
    #[error("{host} does not give {what} {whom}: {reason}; check the name, or `strata login {}`", super::domain_of(.host))]
    Denied {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// `without login` or `to USER`.
        whom: String,
        /// The registry's words.
        reason: String,
    },
    /// 404.
    #[error("{host} has no {what}{reason}; {hint}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// The registry's words, in brackets, or nothing.
        reason: String,
        /// What to do.
        hint: &'static str,
    },
    /// 429, and waiting did not help or would take too long.
    #[error("{host} gives {what} only later: too many requests{}; wait, or log in for a higher limit", wait(.after))]
    TooManyRequests {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// The pause that the registry asks for.
        after: Option<Duration>,
    },
    /// Any other status that is no success.
    #[error("{host} answered {status} to the request for {what}{reason}")]
    Status {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// The HTTP status.
        status: u16,
        /// The registry's words, in brackets, or nothing.
        reason: String,
    },
    /// A redirect that leads nowhere or round in circles.
    #[error("cannot get {what} from {host}: {reason}")]
    Redirect {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// What is wrong with the redirect.
        reason: String,
    },
    /// The bytes are others than announced.
    #[error(
        "{host} sent another {what} than it should: expected {expected}, got {got}; pull again, and tell the registry's owner if it stays so"
    )]
    Digest {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        got: Digest,
    },
    /// More or fewer bytes than announced.
    #[error(
        "{host} sent {got} bytes for {what} instead of {expected}; the manifest or the registry is damaged"
    )]
    Size {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// Bytes that were announced.
        expected: u64,
        /// Bytes that came (at least).
        got: u64,
    },
    /// The manifest is none.
    #[error("{what} from {host} cannot be used: {source}")]
    Manifest {
        /// Which manifest.
        what: String,
        /// Which host.
        host: String,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// A login answer that makes no sense.
    #[error("{host} wants a login that is not understood: {reason}")]
    Challenge {
        /// Which host.
        host: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The credentials could not be read.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// A proxy address or a certificate file that cannot be used.
    #[error("{0}")]
    Setup(String),
    /// The blob could not be kept: the disk is full, say.
    #[error("cannot keep {what}: {source}")]
    Write {
        /// What was asked for.
        what: String,
        /// The system's words.
        source: std::io::Error,
    },
    /// [`super::Client::abort`] was called.
    #[error("the download of {what} was given up")]
    Aborted {
        /// What was asked for.
        what: String,
    },
}

fn wait(after: &Option<Duration>) -> String {
    match after {
        Some(after) => format!(" (it asks to wait {} seconds)", after.as_secs()),
        None => String::new(),
    }
}
