//! What an overlay is made of, how it behaves, and why it may refuse to be made.

use std::io;
use std::sync::Arc;

use sys::Dir;

use super::FrontEnd;
use crate::{Format, Prefix, WhiteoutKind};

/// The directories of an overlay.
#[derive(Debug)]
pub struct Layers {
    /// Lower directories, topmost first. Nothing is ever written to them; a caller that can opens them through a
    /// read-only mount, so that not even a defect could.
    pub lower: Vec<Dir>,
    /// Where changes go; without it the overlay is read-only.
    pub upper: Option<Dir>,
    /// The work directory, on the file system and mount of `upper`.
    pub work: Option<Dir>,
}

/// What is done about directories that are renamed and have something below them (`redirect_dir=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RedirectDir {
    /// Redirects are written and followed: directories can be renamed.
    #[default]
    On,
    /// Redirects are followed; renaming such a directory answers `EXDEV`.
    Follow,
    /// As `Follow`, and redirects found are refused with `EPERM`.
    NoFollow,
}

/// When what was copied up is made durable (`fsync=`, `volatile`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    /// Never, not even when a program asks.
    Volatile,
    /// Data is, before its file replaces the lower one.
    #[default]
    Auto,
    /// Metadata too.
    Strict,
}

/// Consecutive ids of a layer that the view shows as others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// First id in the layers.
    pub layer: u32,
    /// First id in the view.
    pub view: u32,
    /// How many.
    pub count: u32,
}

/// How owners are shown and stored. Empty: as they are.
#[derive(Debug, Clone, Default)]
pub struct Ids {
    /// Users.
    pub uids: Vec<IdRange>,
    /// Groups.
    pub gids: Vec<IdRange>,
    /// Every file is shown as this user's.
    pub squash_uid: Option<u32>,
    /// Every file is shown as this group's.
    pub squash_gid: Option<u32>,
}

/// An id that no range maps, as the kernel shows it (`/proc/sys/kernel/overflowuid`).
const OVERFLOW: u32 = 65534;

fn through(ranges: &[IdRange], id: u32, from: fn(&IdRange) -> u32, to: fn(&IdRange) -> u32) -> Option<u32> {
    if ranges.is_empty() {
        return Some(id);
    }
    let range = ranges
        .iter()
        .find(|range| id >= from(range) && id - from(range) < range.count)?;
    Some(to(range) + (id - from(range)))
}

impl Ids {
    /// What the view shows for a layer's owner.
    pub(super) fn to_view(&self, uid: u32, gid: u32) -> (u32, u32) {
        let uid = through(&self.uids, uid, |range| range.layer, |range| range.view).unwrap_or(OVERFLOW);
        let gid = through(&self.gids, gid, |range| range.layer, |range| range.view).unwrap_or(OVERFLOW);
        (self.squash_uid.unwrap_or(uid), self.squash_gid.unwrap_or(gid))
    }

    /// What a layer stores for a user of the view; `None` for one that it cannot store.
    pub(super) fn uid_to_layer(&self, uid: u32) -> Option<u32> {
        through(&self.uids, uid, |range| range.view, |range| range.layer)
    }

    /// What a layer stores for a group of the view; `None` for one that it cannot store.
    pub(super) fn gid_to_layer(&self, gid: u32) -> Option<u32> {
        through(&self.gids, gid, |range| range.view, |range| range.layer)
    }
}

/// Where owners and modes are kept (`xattr_permissions=`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OwnersIn {
    /// In the inodes.
    #[default]
    Inodes,
    /// In an attribute, in the layers whose root has one of [`crate::stat_override::NAMES`].
    AttributesOfLayers,
    /// The same, and in the upper layer in any case: this one, unless its root has another.
    Attribute(&'static str),
}

/// How an overlay behaves.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Which attributes are the overlay's own (`userxattr`).
    pub prefix: Prefix,
    /// Which kind of whiteout is written; the attribute kind too where devices cannot be made.
    pub whiteouts: WhiteoutKind,
    /// Whether whiteouts of the named kind (`.wh.NAME`) are read too. Nothing can then be given such a name.
    pub named_whiteouts: bool,
    /// Whether the attributes that `fuse-overlayfs` keeps to itself are hidden, and left where they are.
    pub foreign_attributes: bool,
    /// Where owners and modes are kept. In an attribute there are no ACLs: the front end must not offer them.
    pub owners: OwnersIn,
    /// Renaming of directories.
    pub redirect_dir: RedirectDir,
    /// Whether hard links of lower files stay one file when they are copied up. Needs a file system with file
    /// handles and a work directory.
    pub index: bool,
    /// Whether a change of metadata alone leaves the data below.
    pub metacopy: bool,
    /// Durability.
    pub sync: Sync,
    /// Owners.
    pub ids: Ids,
    /// Directories always show a link count of 1.
    pub static_nlink: bool,
    /// How many descriptors of directories may be kept open; 0 takes a default.
    pub kept_open: usize,
    /// Who is asked by calls that take long.
    pub front_end: Option<Arc<dyn FrontEnd>>,
}

impl Options {
    pub(super) fn format(&self) -> Format {
        Format {
            prefix: self.prefix,
            whiteouts: self.whiteouts,
        }
    }
}

/// Why an overlay cannot be made of what was given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no lower directory.
    #[error("an overlay needs at least one lower directory")]
    NoLower,
    /// An upper directory without a work directory, or the reverse.
    #[error("a writable overlay needs both an upper and a work directory")]
    HalfWritable,
    /// Upper and work directory are on different file systems.
    #[error("the upper and the work directory are on different file systems")]
    WorkElsewhere,
    /// Another server holds the `upper` or `work` directory.
    #[error("the {0} directory is in use by another overlay")]
    InUse(&'static str),
    /// It was once mounted volatile, and nothing says that all of it reached the disk.
    #[error("the upper directory was mounted volatile and may be incomplete (work/incompat/volatile)")]
    Volatile,
    /// The work directory carries a mark of a feature that is not known here.
    #[error("the work directory has an incompatible feature: {0:?}")]
    Incompatible(std::ffi::OsString),
    /// The upper file system cannot do what an overlay needs.
    #[error("the upper directory's file system cannot {what}")]
    Unsupported {
        /// What it cannot do.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// A directory cannot be read or prepared.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_through_ranges() {
        let ids = Ids {
            uids: vec![
                IdRange {
                    layer: 0,
                    view: 1000,
                    count: 1,
                },
                IdRange {
                    layer: 100_000,
                    view: 0,
                    count: 1000,
                },
            ],
            ..Ids::default()
        };
        assert_eq!(ids.to_view(0, 5), (1000, 5));
        assert_eq!(ids.to_view(100_007, 0), (7, 0));
        assert_eq!(ids.to_view(50, 0), (OVERFLOW, 0));
        assert_eq!(ids.uid_to_layer(1000), Some(0));
        assert_eq!(ids.uid_to_layer(999), Some(100_999));
        assert_eq!(ids.uid_to_layer(5000), None);
        let squashed = Ids {
            squash_uid: Some(0),
            ..ids
        };
        assert_eq!(squashed.to_view(100_007, 9), (0, 9));
    }
}
