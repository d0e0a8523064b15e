//! `snapshot`: what other engines keep in the store: containerd's snapshots, by namespace.
//!
//! Their keys are theirs; containerd's are `<namespace>/<number>/<name>`. Here one may be named by its whole key, by the
//! part behind the number, or by the beginning of either where that fits one alone.

use std::path::{Path, PathBuf};

use image::progress::Progress;
use jiff::Timestamp;
use mount::{Mount, MountError};
use serde::Serialize;
use store::{Fault, Kind, Labels, SnapshotError, Usage};

use crate::Engine;
use crate::diff::{Change, DiffError};

/// A snapshot of another engine's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Snapshot {
    /// Its namespace.
    pub namespace: String,
    /// Its key.
    pub key: String,
    /// `active`, `view` or `committed`.
    pub kind: &'static str,
    /// Key of what it stands on.
    pub parent: Option<String>,
    /// When it was made, or committed.
    pub created: Timestamp,
    /// When its labels were changed last.
    pub updated: Timestamp,
    /// Its labels.
    pub labels: Labels,
    /// Its own directory; a view of something has none.
    pub path: Option<PathBuf>,
}

/// What a snapshot takes itself, without what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct SnapshotUsage {
    /// Its key.
    pub key: String,
    /// Bytes on disk, and so on.
    #[serde(flatten)]
    pub usage: Usage,
}

/// Why a snapshot could not be shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShowError {
    /// None is called that.
    #[error("there is no snapshot {name:?} in the namespace {namespace}")]
    NotFound {
        /// What was asked for.
        name: String,
        /// Where.
        namespace: String,
    },
    /// The beginning of several.
    #[error("{name:?} is the beginning of {count} snapshots' keys")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many it could be.
        count: usize,
    },
    /// The store refuses.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Its changes.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// It could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// The snapshots of other engines in this namespace, or in all, by namespace and key.
    ///
    /// # Errors
    /// Disk or database.
    pub fn snapshots(&self, all: bool) -> Result<Vec<Snapshot>, Fault> {
        let namespaces = match all {
            true => self.store.snapshot_namespaces()?,
            false => vec![self.ns().to_owned()],
        };
        let mut found = Vec::new();
        for namespace in namespaces {
            self.store.walk(&namespace, |info| {
                if !info.held {
                    found.push(Snapshot {
                        namespace: namespace.clone(),
                        key: info.key,
                        kind: match info.kind {
                            Kind::Active => "active",
                            Kind::View => "view",
                            Kind::Committed => "committed",
                        },
                        parent: info.parent,
                        created: info.created,
                        updated: info.updated,
                        labels: info.labels,
                        path: info.n.map(|n| self.store.layer_path(n)),
                    });
                }
                Ok::<_, Fault>(())
            })?;
        }
        Ok(found)
    }

    /// What snapshots take; of all of them where none is named.
    ///
    /// # Errors
    /// See [`ShowError`].
    pub fn snapshot_usage(&self, names: &[String]) -> Result<Vec<SnapshotUsage>, ShowError> {
        let keys = match names.is_empty() {
            true => self
                .snapshots(false)?
                .into_iter()
                .map(|found| found.key)
                .collect(),
            false => names
                .iter()
                .map(|name| self.snapshot_key(name))
                .collect::<Result<Vec<_>, _>>()?,
        };
        let mut told = Vec::new();
        for key in keys {
            match self.store.usage(self.ns(), &key) {
                Ok(usage) => told.push(SnapshotUsage { key, usage }),
                // Removed meanwhile.
                Err(SnapshotError::NotFound(_)) if names.is_empty() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(told)
    }

    /// What a snapshot changed of what it stands on.
    ///
    /// # Errors
    /// See [`ShowError`].
    pub fn snapshot_diff(&self, name: &str, progress: &dyn Progress) -> Result<Vec<Change>, ShowError> {
        let key = self.snapshot_key(name)?;
        Ok(self.diff_of_snapshot(&key, progress)?)
    }

    /// Mounts what a snapshot shows, read-only, at a directory. A container may run on it meanwhile.
    ///
    /// # Errors
    /// See [`ShowError`].
    pub fn mount_snapshot(&self, name: &str, target: &Path) -> Result<(), ShowError> {
        let key = self.snapshot_key(name)?;
        let mount = match &self.snapshot_dirs(&key)?[..] {
            // A view of nothing shows nothing: its own directory, as containerd is told.
            [] => self.store.mounts(self.ns(), &key)?.remove(0),
            [only] => Mount::bind(only, true),
            dirs => {
                let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
                let userxattr = self.store.format().userxattr().then_some("userxattr");
                let options: Vec<&str> = ["ro", "index=off"].into_iter().chain(userxattr).collect();
                Mount::overlay(&dirs, None, &options)
            }
        };
        Ok(mount::attach(&mount, target)?)
    }

    /// The directories of a snapshot, topmost first, its own among them.
    pub(crate) fn snapshot_dirs(&self, key: &str) -> Result<Vec<PathBuf>, SnapshotError> {
        let stack = self.store.stack(self.ns(), key)?;
        let own = stack.upper.map(|n| self.store.layer_path(n));
        let below = stack.lowers.into_iter().map(|lower| lower.path);
        Ok(own.into_iter().chain(below).collect())
    }

    /// The key of the snapshot that a name means.
    pub(crate) fn snapshot_key(&self, name: &str) -> Result<String, ShowError> {
        if !name.is_empty() && self.store.stat(self.ns(), name).is_ok() {
            return Ok(name.to_owned());
        }
        let fits = |key: &str| !name.is_empty() && (key.starts_with(name) || own_name(key).starts_with(name));
        let mut found: Vec<String> = self
            .snapshots(false)?
            .into_iter()
            .map(|found| found.key)
            .collect();
        found.retain(|key| fits(key));
        // One that is named wholly is meant, whatever else begins so.
        if let Some(whole) = found.iter().find(|key| own_name(key) == name) {
            return Ok(whole.clone());
        }
        match (found.len(), found.pop()) {
            (1, Some(key)) => Ok(key),
            (0, _) => Err(ShowError::NotFound {
                name: name.to_owned(),
                namespace: self.ns().to_owned(),
            }),
            (count, _) => Err(ShowError::Ambiguous {
                name: name.to_owned(),
                count,
            }),
        }
    }
}

/// What containerd calls a snapshot: the key without what it puts before.
pub fn own_name(key: &str) -> &str {
    let mut parts = key.splitn(3, '/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(number), Some(name)) if number.parse::<u64>().is_ok() => name,
        _ => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_containerd_puts_before_a_name() {
        for (key, wanted) in [
            ("k8s.io/12/sha256:abc", "sha256:abc"),
            ("k8s.io/12/extract-1/2 sha256:abc", "extract-1/2 sha256:abc"),
            ("k8s.io/x/y", "k8s.io/x/y"),
            ("plain", "plain"),
        ] {
            assert_eq!(own_name(key), wanted);
        }
    }
}
