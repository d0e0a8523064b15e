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
    #[error("cannot get {what} from {host}: it would go over plain http, unencrypted")]
    PlainHttp {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
    },
    /// Credentials are missing or were refused. Registries answer the same for what is not there at all.
    #[error("{host} does not give {what} {whom}: {reason}")]
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
    #[error("{host} has no {what}{reason}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Which host.
        host: String,
        /// The registry's words, in brackets, or nothing.
        reason: String,
    },
    /// 429, and waiting did not help or would take too long.
    #[error("{host} gives {what} only later: too many requests{}", wait(.after))]
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
    #[error("{host} sent another {what} than it should: expected {expected}, got {got}")]
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
    #[error("{host} sent {got} bytes for {what} instead of {expected}")]
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
    /// An upload broke off again and again, or is not taken.
    #[error("cannot push {what} to {host}: {reason}")]
    Upload {
        /// What was sent.
        what: String,
        /// Which host.
        host: String,
        /// Why not.
        reason: String,
    },
    /// What is sent could not be read.
    #[error("cannot read {what}: {source}")]
    Read {
        /// What was being sent.
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

impl RegistryError {
    /// Whether another host may do better.
    pub(super) fn concerns_the_host(&self) -> bool {
        !matches!(
            self,
            Self::Auth(_) | Self::Setup(_) | Self::Write { .. } | Self::Aborted { .. }
        )
    }

    /// What may help, where something is known to.
    pub fn advice(&self) -> Option<String> {
        let again = "pull again; if it stays so, the registry or what was pushed to it is damaged";
        let advice = match self {
            // Where more is known, the reason says it.
            Self::Unreachable { host, .. } => {
                format!("see that the name is right, that {host} runs, and that this machine reaches it")
            }
            Self::PlainHttp { host, .. } => {
                format!(
                    "if that is meant, add --plain-http, or list {host} as plain_http in the configuration"
                )
            }
            Self::Denied { host, .. } => {
                format!(
                    "check the name, or log in: strata login {}",
                    super::domain_of(host)
                )
            }
            Self::NotFound { what, .. } => match what.starts_with("blob") {
                true => String::from("the image is not complete there; push it again"),
                false => String::from("check the name and the tag"),
            },
            Self::TooManyRequests { host, .. } => format!(
                "wait, or log in for a higher limit: strata login {}",
                super::domain_of(host)
            ),
            Self::Status { status: 500.., .. } => {
                String::from("the registry has trouble of its own; try again later")
            }
            Self::Status { host, .. } | Self::Redirect { host, .. } | Self::Challenge { host, .. } => {
                format!("see that {host} is a registry")
            }
            Self::Manifest { source, .. } => String::from(source.advice().unwrap_or(again)),
            Self::Digest { .. } | Self::Size { .. } => String::from(again),
            Self::Upload { host, .. } => {
                format!("push again, what arrived is kept; see that {host} has space and takes pushes")
            }
            Self::Auth(_)
            | Self::Setup(_)
            | Self::Write { .. }
            | Self::Read { .. }
            | Self::Aborted { .. } => {
                return None;
            }
        };
        Some(advice)
    }
}

fn wait(after: &Option<Duration>) -> String {
    match after {
        Some(after) => format!(" (it asks to wait {} seconds)", after.as_secs()),
        None => String::new(),
    }
}
