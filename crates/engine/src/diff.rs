//! `diff`: what a container changed in its root file system, and how any two of containers, images and layers differ.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use image::progress::{Event, Progress};
use overlay::Prefix;
use rustix::fs::{FileType, Stat};
use serde::Serialize;
use store::{ContainerError, Fault, Kind, SnapshotError};
use sys::Dir;

pub use image::changes::{ChangeKind, ChangesError};

use crate::Engine;
use crate::find::FindImageError;
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

/// Why two things could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// Nothing is called that.
    #[error("there is no container, no image and no layer {0:?}")]
    NotFound(String),
    /// A container's name that fits several, or trouble with its row.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// An image's name that is none, or fits several.
    #[error(transparent)]
    Image(FindImageError),
    /// The beginning of several layers' digests.
    #[error("{name:?} is the beginning of {count} layers' digests")]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// How many it could be.
        count: usize,
    },
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

/// The directories that something consists of.
pub(crate) struct Side {
    /// Topmost first; the path is what a directory is called.
    pub(crate) layers: Vec<(PathBuf, Dir)>,
    /// What it stands on when it is not compared with something else: so many of the topmost are its own.
    own: usize,
    /// Of a container.
    details: Option<Details>,
    /// What their overlay attributes begin with.
    prefix: Prefix,
}

impl Engine {
    /// What is different in `name` than in `other`; without that, than in what it stands on: the image of a container,
    /// the layers below the topmost of an image. Each is a container, an image or a layer: a layer by its diff ID is its
    /// directory alone, by its chain ID with all below it. Sorted by path. What strata put into a container so that it
    /// could run (mount points, and what a view of the host hides) is no difference.
    ///
    /// # Errors
    /// See [`DiffError`].
    pub fn diff(
        &self,
        name: &str,
        other: Option<&str>,
        progress: &dyn Progress,
    ) -> Result<Vec<Change>, DiffError> {
        let new = self.side(name)?;
        let other = other.map(|other| self.side(other)).transpose()?;
        let old = match &other {
            Some(other) => &other.layers[..],
            None => &new.layers[new.own..],
        };
        let what = "comparing directories";
        let told = |done| {
            let of = None;
            progress.event(&Event::Step { what, done, of });
        };
        let old_details = other.as_ref().and_then(|other| other.details.as_ref());
        Ok(compare(&new, old, old_details, &told)?.0)
    }

    /// What a snapshot changed of what it stands on. A view changes nothing.
    pub(crate) fn diff_of_snapshot(
        &self,
        key: &str,
        progress: &dyn Progress,
    ) -> Result<Vec<Change>, DiffError> {
        let is_view = self.store.stat(self.ns(), key)?.kind == Kind::View;
        let dirs = self.snapshot_dirs(key)?;
        let own = usize::from(!is_view).min(dirs.len());
        let side = self.side_of(dirs, own)?;
        let what = "comparing directories";
        let told = |done| {
            let of = None;
            progress.event(&Event::Step { what, done, of });
        };
        Ok(compare(&side, &side.layers[own..], None, &told)?.0)
    }

    /// What a name leads to: a container, else an image, else a layer.
    fn side(&self, name: &str) -> Result<Side, DiffError> {
        match self.store.find_container(self.ns(), name) {
            Ok(row) => return self.container_side(&row),
            Err(ContainerError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let image = match self.find_image(name) {
            Ok(image) => image,
            Err(FindImageError::NotFound(_)) => return self.layer_side(name),
            Err(FindImageError::Reference(error)) => {
                return match self.layer_side(name) {
                    Err(DiffError::NotFound(_)) => Err(DiffError::Image(error.into())),
                    other => other,
                };
            }
            Err(error) => return Err(DiffError::Image(error)),
        };
        match image.top_chain {
            Some(chain) => self.chain_side(&chain.to_string()),
            None => self.side_of(Vec::new(), 0),
        }
    }

    /// The directories of a container.
    pub(crate) fn container_side(&self, row: &store::Container) -> Result<Side, DiffError> {
        let stack = self.store.stack(self.ns(), &row.id)?;
        let mut paths = vec![self.store.upper_path(self.ns(), &row.id)?];
        paths.extend(stack.lowers.into_iter().map(|lower| lower.path));
        Ok(Side {
            details: Some(Details::of(row)),
            ..self.side_of(paths, 1)?
        })
    }

    /// A layer with all below it.
    fn chain_side(&self, key: &str) -> Result<Side, DiffError> {
        let stack = self.store.stack(self.ns(), key)?;
        self.side_of(stack.lowers.into_iter().map(|lower| lower.path).collect(), 1)
    }

    fn side_of(&self, paths: Vec<PathBuf>, own: usize) -> Result<Side, DiffError> {
        let open = |path: PathBuf| match Dir::open_ambient(&path) {
            Ok(dir) => Ok((path, dir)),
            Err(source) => Err(DiffError::Open { path, source }),
        };
        Ok(Side {
            layers: paths.into_iter().map(open).collect::<Result<_, _>>()?,
            own,
            details: None,
            prefix: self.prefix(),
        })
    }

    fn layer_side(&self, name: &str) -> Result<Side, DiffError> {
        let hex = name.strip_prefix("sha256:").unwrap_or(name);
        let fits = |layer: &store::Layer| !hex.is_empty() && layer.diff_id.hex().starts_with(hex);
        let mut found: Vec<store::Layer> = self.store.layers()?.into_iter().filter(fits).collect();
        // One that depends on what is below may be there more than once.
        found.dedup_by_key(|layer| layer.diff_id);
        match found.as_slice() {
            [only] => self.side_of(vec![self.store.layer_path(only.n)], 1),
            [] => match self.chain_side(&format!("sha256:{hex}")) {
                Err(DiffError::Snapshot(SnapshotError::NotFound(_))) => {
                    Err(DiffError::NotFound(name.to_owned()))
                }
                other => other,
            },
            several => Err(DiffError::Ambiguous {
                name: name.to_owned(),
                count: several.len(),
            }),
        }
    }
}

impl Side {
    /// What it changed of what it stands on, and what of that is strata's doing.
    pub(crate) fn changes(&self) -> Result<(Vec<Change>, Vec<Change>), ChangesError> {
        compare(self, &self.layers[self.own..], None, &|_| {})
    }
}

/// Differences, and those that are strata's own doing.
fn compare(
    new: &Side,
    old: &[(PathBuf, Dir)],
    old_details: Option<&Details>,
    told: &dyn Fn(u64),
) -> Result<(Vec<Change>, Vec<Change>), ChangesError> {
    let changes = image::changes::compare(new.prefix, &called(&new.layers), &called(old), told)?;
    let changes = changes.into_iter().map(|change| Change {
        kind: change.kind,
        path: change.path,
    });
    let ours = Ours {
        hidden: new.details.as_ref().map_or(&[], |details| &details.hidden),
        new: Compared::of(new.details.as_ref(), &new.layers),
        old: Compared::of(old_details, old),
    };
    Ok(ours.take_out(changes.collect()))
}

/// A directory is called by its path.
fn called(layers: &[(PathBuf, Dir)]) -> Vec<(&Path, &Dir)> {
    layers.iter().map(|(path, dir)| (path.as_path(), dir)).collect()
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

/// One of the two that are compared.
struct Compared<'a> {
    layers: &'a [(PathBuf, Dir)],
    /// What things are mounted on in it, if it is a container.
    mount_points: Vec<PathBuf>,
}

/// Tells what strata made from what containers made.
struct Ours<'a> {
    hidden: &'a [PathBuf],
    new: Compared<'a>,
    old: Compared<'a>,
}

impl Ours<'_> {
    /// Parts what is strata's, and the directories that are listed for nothing else, from the rest.
    fn take_out(&self, changes: Vec<Change>) -> (Vec<Change>, Vec<Change>) {
        let mut kept: Vec<Change> = Vec::with_capacity(changes.len());
        let mut taken: Vec<Change> = Vec::new();
        // From the end, so that what is in a directory comes before it.
        for change in changes.into_iter().rev() {
            let holds = |other: &Change| other.path != change.path && other.path.starts_with(&change.path);
            let for_us = taken.iter().any(holds) && !kept.iter().any(holds);
            let ours = match change.kind {
                ChangeKind::Deleted => self.is_hidden(&change.path) || self.old.mounts_at(&change.path),
                ChangeKind::Added => for_us || self.new.mounts_at(&change.path),
                _ => for_us && self.is_as_before(&change.path),
            };
            match ours {
                true => taken.push(change),
                false => kept.push(change),
            }
        }
        kept.reverse();
        (kept, taken)
    }

    fn is_hidden(&self, path: &Path) -> bool {
        self.hidden.iter().any(|hidden| hidden == path)
    }

    /// Whether a directory has the owner and mode that it has in the other.
    fn is_as_before(&self, path: &Path) -> bool {
        let look = |side: &Compared<'_>| side.layers.iter().find_map(|(_, layer)| status(layer, path));
        let what = |stat: Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
        look(&self.new).map(what) == look(&self.old).map(what)
    }
}

impl<'a> Compared<'a> {
    fn of(details: Option<&Details>, layers: &'a [(PathBuf, Dir)]) -> Compared<'a> {
        let asked = details.iter().flat_map(|details| details.mounts.iter());
        let usual = details.iter().flat_map(|_| MOUNT_POINTS.iter().map(Path::new));
        Compared {
            layers,
            mount_points: usual
                .chain(asked.map(PathBuf::as_path))
                .map(|path| led_to(layers, path))
                .collect(),
        }
    }

    /// Whether something is mounted on what lies at `path` in the container's own directory, and it holds nothing itself.
    fn mounts_at(&self, path: &Path) -> bool {
        let Some((_, upper)) = self.layers.first() else {
            return false;
        };
        self.mount_points.iter().any(|point| point == path)
            && status(upper, path).is_some_and(|stat| match is_dir(&stat) {
                true => upper
                    .open_dir(beneath(path))
                    .and_then(|dir| dir.entries())
                    .is_ok_and(|e| e.is_empty()),
                false => stat.st_size == 0,
            })
    }
}

/// Where a path leads once the links on its way are followed, in a container of these directories: what is to be mounted
/// at the one is mounted at the other.
fn led_to(layers: &[(PathBuf, Dir)], path: &Path) -> PathBuf {
    let link_at = |path: &Path| {
        let (dir, stat) = layers
            .iter()
            .find_map(|(_, dir)| Some((dir, status(dir, path)?)))?;
        let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
        is_link.then(|| {
            dir.open_dir(beneath(path.parent()?))
                .ok()?
                .read_link(path.file_name()?)
                .ok()
        })?
    };
    let mut at = PathBuf::from("/");
    let mut ahead: Vec<OsString> = components(path);
    // As many as the kernel follows.
    let mut links = 40;
    while let Some(name) = ahead.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        at.push(name);
        if let Some(target) = link_at(&at).filter(|_| links > 0) {
            links -= 1;
            at.pop();
            if Path::new(&target).is_absolute() {
                at = PathBuf::from("/");
            }
            ahead.extend(components(Path::new(&target)));
        }
    }
    at
}

/// The names of a path, the first one last.
fn components(path: &Path) -> Vec<OsString> {
    let named = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    named.collect()
}

/// A container's path as one beneath a layer's directory.
pub(crate) fn beneath(path: &Path) -> &Path {
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
