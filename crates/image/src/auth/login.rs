//! Keeping credentials, and forgetting them.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde_json::{Map, Value};
use sys::Dir;

use super::{AuthError, AuthFiles, BASE64, Credentials, DOCKER_KEY, File, normal, read_limited, server_name};
use crate::progress::Progress;
use crate::reference::{DEFAULT_DOMAIN, is_domain};
use crate::registry::{Client, RegistryError};

/// What a [`logout`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedOut {
    /// There was something to forget.
    pub removed: bool,
    /// A file among those read that still has credentials for the registry.
    pub remains_in: Option<PathBuf>,
}

/// Checks a user's password with a registry and keeps it in `file`, or with the helper that the file names.
/// The file is replaced at once, readable by its owner alone; whatever else it holds stays.
///
/// # Errors
/// [`RegistryError::Denied`] when the registry refuses, [`RegistryError::Auth`] when the file cannot be written.
pub fn login(
    client: &Client,
    registry: &str,
    username: &str,
    password: &str,
    file: &Path,
    progress: &dyn Progress,
) -> Result<(), RegistryError> {
    let domain = domain_of(registry)?;
    if username.is_empty() || password.is_empty() {
        return Err(AuthError::Empty.into());
    }
    let credentials = Credentials::Password {
        username: username.to_owned(),
        password: password.to_owned(),
    };
    client.check_login(&domain, &credentials, progress)?;
    save(file, &client.auth_files().programs, &domain, username, password)?;
    Ok(())
}

/// Forgets what `file`, or the helper that it names, keeps of a registry; `files` are looked through for what
/// remains elsewhere.
///
/// # Errors
/// [`AuthError`].
pub fn logout(registry: &str, file: &Path, files: &AuthFiles) -> Result<LoggedOut, AuthError> {
    let domain = domain_of(registry)?;
    let mut removed = false;
    if let Some(content) = File::read(file)? {
        if let Some(helper) = content.helper(&domain, &files.programs) {
            removed = helper.get(server_name(&domain))?.is_some();
            if removed {
                helper.erase(server_name(&domain))?;
            }
        }
        if content.auths.keys().any(|key| normal(key) == domain) {
            removed = true;
            change(file, |auths| auths.retain(|key, _| normal(key) != domain))?;
        }
    }
    for other in files.read.iter().filter(|other| other.as_path() != file) {
        let one = AuthFiles {
            read: vec![other.clone()],
            programs: files.programs.clone(),
        };
        if one.find(&domain, "")?.credentials.is_some() {
            return Ok(LoggedOut {
                removed,
                remains_in: Some(other.clone()),
            });
        }
    }
    Ok(LoggedOut {
        removed,
        remains_in: None,
    })
}

/// The registries for which `file`, or a helper in its stead, keeps credentials: their domains, each once, in order.
///
/// # Errors
/// [`AuthError`]; a file that is not there keeps none.
pub fn logged_in(file: &Path) -> Result<Vec<String>, AuthError> {
    let content = File::read(file)?.unwrap_or_default();
    let mut domains: Vec<String> = content.auths.keys().map(|key| normal(key)).collect();
    domains.sort_unstable();
    domains.dedup();
    Ok(domains)
}

/// A registry's name as a user types it, as the domain of image names.
fn domain_of(registry: &str) -> Result<String, AuthError> {
    let domain = normal(registry);
    let domain = if registry.is_empty() {
        DEFAULT_DOMAIN.to_owned()
    } else {
        domain
    };
    match is_domain(&domain) {
        true => Ok(domain),
        false => Err(AuthError::Registry {
            given: registry.to_owned(),
        }),
    }
}

fn save(
    file: &Path,
    programs: &[PathBuf],
    domain: &str,
    username: &str,
    password: &str,
) -> Result<(), AuthError> {
    // Docker looks for its own registry only under the old name, podman under either.
    let docker = file.file_name() == Some(OsStr::new("config.json"));
    let key = if domain == DEFAULT_DOMAIN && docker {
        DOCKER_KEY
    } else {
        domain
    };
    let content = File::read(file)?.unwrap_or_default();
    let entry = match content.helper(domain, programs) {
        Some(helper) => {
            helper.store(server_name(domain), username, password)?;
            Value::Object(Map::new())
        }
        None => serde_json::json!({ "auth": BASE64.encode(format!("{username}:{password}")) }),
    };
    change(file, |auths| {
        auths.retain(|old, _| normal(old) != domain);
        auths.insert(key.to_owned(), entry);
    })
}

/// Changes `auths` of a file: read, changed, written beside it, renamed over it, under a lock on the directory.
fn change(file: &Path, edit: impl FnOnce(&mut Map<String, Value>)) -> Result<(), AuthError> {
    // A link (kept by those who have their configuration elsewhere) stays one: what it leads to is replaced.
    let file = &std::fs::canonicalize(file).unwrap_or_else(|_| file.to_owned());
    let error = |source: io::Error| AuthError::Write {
        path: file.to_owned(),
        source,
    };
    let (Some(parent), Some(name)) = (file.parent(), file.file_name()) else {
        return Err(error(io::Error::from(io::ErrorKind::InvalidFilename)));
    };
    let parent = if parent.as_os_str().is_empty() {
        Path::new(".")
    } else {
        parent
    };
    make_dirs(parent).map_err(error)?;
    let dir = Dir::open_ambient(parent).map_err(error)?;
    flock(&dir, FlockOperation::LockExclusive).map_err(|e| error(e.into()))?;

    let damaged = |reason: &str| AuthError::Format {
        path: file.to_owned(),
        reason: reason.to_owned(),
    };
    let mut content: Value = match read_limited(file)? {
        Some(bytes) if !bytes.trim_ascii().is_empty() => {
            serde_json::from_slice(&bytes).map_err(|e| damaged(&e.to_string()))?
        }
        _ => Value::Object(Map::new()),
    };
    let top = content
        .as_object_mut()
        .ok_or_else(|| damaged("it is no JSON object"))?;
    let auths = top.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    if auths.is_null() {
        *auths = Value::Object(Map::new());
    }
    edit(
        auths
            .as_object_mut()
            .ok_or_else(|| damaged("\"auths\" is no JSON object"))?,
    );
    let mut bytes = serde_json::to_vec_pretty(&content).map_err(|e| damaged(&e.to_string()))?;
    bytes.push(b'\n');

    let mut beside = name.to_owned();
    beside.push(format!(".{}", std::process::id()));
    let write = || -> io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut out = dir.open_file(&beside, flags, Mode::RUSR | Mode::WUSR)?;
        out.write_all(&bytes)?;
        out.sync_all()?;
        dir.rename(&beside, &dir, name)
    };
    write().map_err(|e| {
        let _ = dir.unlink(&beside);
        error(e)
    })
}

/// Makes the directories that are missing, for their owner alone.
fn make_dirs(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}
