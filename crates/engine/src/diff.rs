//! `diff`: what a container changed in its root file system.

use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Stat};
use serde::Serialize;
use store::{ContainerError, Fault, SnapshotError};
use sys::Dir;

pub use image::changes::{ChangeKind, ChangesError};

use crate::Engine;
use crate::run::Details;

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
        let open =
            |path: PathBuf| Dir::open_ambient(&path).map_err(|source| DiffError::Open { path, source });
        let upper = open(self.store.upper_path(self.ns(), &row.id)?)?;
        let lowers = stack
            .lowers
            .into_iter()
            .map(|lower| open(lower.path))
            .collect::<Result<Vec<_>, _>>()?;
        let changes = image::changes::changes(&upper, &lowers)?;
        let changes = changes
            .into_iter()
            .map(|change| Change {
                kind: change.kind,
                path: change.path,
            })
            .collect();
        let ours = Ours {
            details: Details::of(&row),
            upper,
            lowers,
        };
        Ok(ours.take_out(changes))
    }
}

/// Where strata mounts in every container; a mount point that the image lacks is made.
const MOUNT_POINTS: [&str; 6] = [
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

/// Tells what strata made from what the container made.
struct Ours {
    details: Details,
    upper: Dir,
    lowers: Vec<Dir>,
}

impl Ours {
    /// Leaves out what is strata's, and then the directories that are listed for nothing else.
    fn take_out(&self, changes: Vec<Change>) -> Vec<Change> {
        let mut kept: Vec<Change> = Vec::with_capacity(changes.len());
        let mut taken: Vec<PathBuf> = Vec::new();
        // From the end, so that what is in a directory comes before it.
        for change in changes.into_iter().rev() {
            let holds = |path: &Path| path != change.path && path.starts_with(&change.path);
            let for_us = taken.iter().any(|path| holds(path)) && !kept.iter().any(|other| holds(&other.path));
            let ours = match change.kind {
                ChangeKind::Deleted => self.details.hidden.contains(&change.path),
                ChangeKind::Added => for_us || self.is_mount_point(&change.path),
                _ => for_us && self.is_as_below(&change.path),
            };
            match ours {
                true => taken.push(change.path),
                false => kept.push(change),
            }
        }
        kept.reverse();
        kept
    }

    /// Whether something was mounted on what was added at `path`, and it holds nothing itself.
    fn is_mount_point(&self, path: &Path) -> bool {
        let mut targets = MOUNT_POINTS
            .iter()
            .map(Path::new)
            .chain(self.details.mounts.iter().map(PathBuf::as_path));
        targets.any(|target| target == path)
            && status(&self.upper, path).is_some_and(|stat| match is_dir(&stat) {
                true => self
                    .upper
                    .open_dir(beneath(path))
                    .and_then(|dir| dir.entries())
                    .is_ok_and(|e| e.is_empty()),
                false => stat.st_size == 0,
            })
    }

    /// Whether a directory has the owner and mode that it has in the layers below.
    fn is_as_below(&self, path: &Path) -> bool {
        let Some(above) = status(&self.upper, path) else {
            return false;
        };
        let below = self.lowers.iter().find_map(|lower| status(lower, path));
        below.is_some_and(|below| {
            (above.st_mode, above.st_uid, above.st_gid) == (below.st_mode, below.st_uid, below.st_gid)
        })
    }
}

/// A container's path as one beneath a layer's directory.
fn beneath(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn status(layer: &Dir, path: &Path) -> Option<Stat> {
    let path = beneath(path);
    layer
        .open_dir(path.parent()?)
        .ok()?
        .try_stat(path.file_name()?)
        .ok()?
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// docker's letters.
fn letter<S: serde::Serializer>(kind: &ChangeKind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match kind {
        ChangeKind::Added => "A",
        ChangeKind::Modified => "C",
        ChangeKind::Deleted => "D",
    })
}
