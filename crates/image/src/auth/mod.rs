//! Credentials as docker and podman keep them: `config.json` and `auth.json`, and the helper programs they name.
//!
//! The files are given, the library looks for none. A registry's entry is looked for as both tools do: by helper
//! (`credHelpers`, then `credsStore`), then in `auths`, where a longer key (`quay.io/owner`) wins over a shorter
//! one. [`login`] and [`logout`] write one file and leave in it whatever they do not know.

mod helper;
mod login;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use self::helper::Helper;
use crate::config::nullable;
use crate::reference::DEFAULT_DOMAIN;

pub use login::{LoggedOut, logged_in, login, logout};

/// Docker's name for its own registry in `config.json`, as old as its first version.
const DOCKER_KEY: &str = "https://index.docker.io/v1/";
/// Largest credential file in bytes.
const MAX_FILE: u64 = 4 << 20;
/// Padding or none: tools disagree.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why credentials could not be read or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// A file that cannot be read.
    #[error("cannot read the credentials in {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A file that is not what it should be.
    #[error("the credentials in {} are damaged ({reason}); mend the file or log in anew after removing it", path.display())]
    Format {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file that cannot be written.
    #[error("cannot save the credentials in {}: {source}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// A helper program that is missing or failed.
    #[error("the credential helper {program} {reason}")]
    Helper {
        /// The program's name.
        program: String,
        /// What happened.
        reason: String,
    },
    /// No name of a registry.
    #[error(
        "{given:?} is not a registry's name; write a host with an optional port, like ghcr.io or localhost:5000"
    )]
    Registry {
        /// What was given.
        given: String,
    },
    /// Nothing to log in with.
    #[error("a login needs a user name and a password")]
    Empty,
}

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A user's name and password (or access token in its place).
    Password {
        /// The name.
        username: String,
        /// The password.
        password: String,
    },
    /// An identity token, with which the token server gives tokens.
    Identity(String),
    /// A token for the registry itself.
    Token(String),
}

/// Without the secret.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username:?})"),
            Self::Identity(_) => f.write_str("Identity"),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// Where credentials are kept.
#[derive(Debug, Clone, Default)]
pub struct AuthFiles {
    /// Files that are looked into, in this order; those that do not exist are passed over. Usual are
    /// `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json`, `~/.docker/config.json`.
    pub read: Vec<PathBuf>,
    /// Directories in which helper programs are looked for, as a rule those of `PATH`.
    pub programs: Vec<PathBuf>,
}

/// What [`AuthFiles::find`] found.
#[derive(Debug, Default)]
pub struct Found {
    /// The credentials, if there are any.
    pub credentials: Option<Credentials>,
    /// Sentences about helper programs that could not be asked.
    pub troubles: Vec<String>,
}

/// One file; only what is read of it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default, deserialize_with = "nullable")]
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(default, deserialize_with = "nullable")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "nullable")]
    creds_store: String,
}

#[derive(Debug, Default, Deserialize)]
struct Entry {
    #[serde(default, deserialize_with = "nullable")]
    auth: String,
    #[serde(default, deserialize_with = "nullable")]
    username: String,
    #[serde(default, deserialize_with = "nullable")]
    password: String,
    #[serde(default, deserialize_with = "nullable")]
    identitytoken: String,
    #[serde(default, deserialize_with = "nullable")]
    registrytoken: String,
}

impl AuthFiles {
    /// The credentials for a repository: `domain` and `path` as in an image's name; the path may be empty.
    ///
    /// # Errors
    /// [`AuthError::Read`] or [`AuthError::Format`] for a file that exists and cannot be used.
    pub fn find(&self, domain: &str, path: &str) -> Result<Found, AuthError> {
        let mut found = Found::default();
        for file in &self.read {
            let Some(content) = File::read(file)? else {
                continue;
            };
            if let Some(helper) = content.helper(domain, &self.programs) {
                match helper.get(server_name(domain)) {
                    Ok(Some(credentials)) => {
                        return Ok(Found {
                            credentials: Some(credentials),
                            ..found
                        });
                    }
                    Ok(None) => {}
                    Err(error) => found.troubles.push(error.to_string()),
                }
            }
            let entry = content.entry(domain, path);
            if let Some(credentials) = entry.and_then(|(key, entry)| entry.credentials(key, file).transpose())
            {
                return Ok(Found {
                    credentials: Some(credentials?),
                    ..found
                });
            }
        }
        Ok(found)
    }
}

impl File {
    fn read(path: &Path) -> Result<Option<Self>, AuthError> {
        match read_limited(path)? {
            Some(bytes) if !bytes.trim_ascii().is_empty() => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| AuthError::Format {
                    path: path.to_owned(),
                    reason: e.to_string(),
                }),
            _ => Ok(None),
        }
    }

    /// The helper program for a registry.
    fn helper<'a>(&'a self, domain: &str, dirs: &'a [PathBuf]) -> Option<Helper<'a>> {
        let by_host = self
            .cred_helpers
            .iter()
            .find(|(key, _)| normal(key) == domain)
            .map(|(_, name)| name);
        let name = by_host.unwrap_or(&self.creds_store);
        (!name.is_empty()).then_some(Helper { name, dirs })
    }

    /// The entry with the longest key that is the repository or something above it.
    fn entry(&self, domain: &str, path: &str) -> Option<(&str, &Entry)> {
        let full = format!("{domain}/{path}");
        let above = |key: &str| full.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
        self.auths
            .iter()
            .filter_map(|(key, entry)| Some((key.as_str(), normal(key), entry.as_ref()?)))
            .filter(|(_, normal, entry)| (full == *normal || above(normal)) && !entry.is_empty())
            .max_by_key(|(_, normal, _)| normal.len())
            .map(|(key, _, entry)| (key, entry))
    }
}

impl Entry {
    fn is_empty(&self) -> bool {
        [
            &self.auth,
            &self.username,
            &self.identitytoken,
            &self.registrytoken,
        ]
        .iter()
        .all(|s| s.is_empty())
    }

    fn credentials(&self, key: &str, file: &Path) -> Result<Option<Credentials>, AuthError> {
        let bad = |reason: &str| AuthError::Format {
            path: file.to_owned(),
            reason: format!("{key}: {reason}"),
        };
        if !self.identitytoken.is_empty() {
            return Ok(Some(Credentials::Identity(self.identitytoken.clone())));
        }
        if !self.registrytoken.is_empty() {
            return Ok(Some(Credentials::Token(self.registrytoken.clone())));
        }
        let (username, password) = if self.auth.is_empty() {
            (self.username.clone(), self.password.clone())
        } else {
            let bytes = BASE64
                .decode(self.auth.trim())
                .map_err(|_| bad("\"auth\" is not base64"))?;
            let text = String::from_utf8(bytes).map_err(|_| bad("\"auth\" is not text"))?;
            let (username, password) = text.split_once(':').ok_or_else(|| bad("\"auth\" has no colon"))?;
            // Old versions of docker padded the password with NUL.
            (username.to_owned(), password.trim_end_matches('\0').to_owned())
        };
        Ok((!username.is_empty()).then_some(Credentials::Password { username, password }))
    }
}

/// A key of `auths` as a domain with an optional path: `https://quay.io/v2/` is `quay.io`.
fn normal(key: &str) -> String {
    let key = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let key = key.trim_end_matches('/');
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let host = match host {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN,
        other => other,
    };
    match path {
        "" | "v1" | "v2" => host.to_owned(),
        path => format!("{host}/{path}"),
    }
}

/// The name by which helper programs know a registry.
fn server_name(domain: &str) -> &str {
    if domain == DEFAULT_DOMAIN {
        DOCKER_KEY
    } else {
        domain
    }
}

/// The value of `Authorization` for a user and password (RFC 7617).
pub(crate) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{username}:{password}")))
}

fn read_limited(path: &Path) -> Result<Option<Vec<u8>>, AuthError> {
    use std::io::Read as _;
    let error = |source| AuthError::Read {
        path: path.to_owned(),
        source,
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(error(e)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(error)?;
    match bytes.len() as u64 > MAX_FILE {
        true => Err(AuthError::Format {
            path: path.to_owned(),
            reason: "it is too large".into(),
        }),
        false => Ok(Some(bytes)),
    }
}
