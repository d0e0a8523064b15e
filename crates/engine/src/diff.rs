//! `diff`: what a container changed in its root file system.

use std::path::PathBuf;

use serde::Serialize;
use store::{ContainerError, Fault, SnapshotError};
use sys::Dir;

pub use image::changes::{ChangeKind, ChangesError};

use crate::Engine;

/// A change of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Change {
    /// What happened to it.
    #[serde(serialize_with = "letter")]
    pub kind: ChangeKind,
    /// The path, absolute in the container.
    pub path: PathBuf,
}

/// Why the changes of a container could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// No such container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A directory of its stack could not be opened.
    #[error("layer {}: {source}", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// The errno.
        source: std::io::Error,
    },
    /// The comparison.
    #[error(transparent)]
    Changes(#[from] ChangesError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// What the container changed, sorted by path. What strata put there so that it could run (mount points, and
    /// what a view of the host hides) is no change of the container's.
    ///
    /// # Errors
    /// See [`DiffError`].
    pub fn diff(&self, name: &str) -> Result<Vec<Change>, DiffError> {
        let row = self.store.find_container(self.ns(), name)?;
        let stack = self.store.stack(self.ns(), &row.id)?;
        let open = |path: PathBuf| Dir::open_ambient(&path).map_err(|source| DiffError::Open { path, source });
        let upper = open(self.store.upper_path(self.ns(), &row.id)?)?;
        let lowers = stack.lowers.into_iter().map(|lower| open(lower.path)).collect::<Result<Vec<_>, _>>()?;
        let hidden = crate::run::Details::of(&row).hidden;
        let changes = image::changes::changes(&upper, &lowers)?.into_iter();
        let changes = changes.filter(|change| !hidden.contains(&change.path));
        Ok(changes.map(|change| Change { kind: change.kind, path: change.path }).collect())
    }
}

/// docker's letters.
fn letter<S: serde::Serializer>(kind: &ChangeKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match kind {
        ChangeKind::Added => "A",
        ChangeKind::Modified => "C",
        ChangeKind::Deleted => "D",
    })
}
