//! [`changes`]: what a container's upper directory changes of the layers below it, as `docker diff` tells it.
//!
//! - A thing that the layers below do not have is *added*; what is in an added directory is listed too.
//! - A thing that the merged view no longer has is *deleted*; what was in a deleted directory is not listed.
//! - A thing in the upper directory that is also below is *modified* if its kind, mode, owner, attributes or device
//!   number differ, or, unless both are directories, its time or size. That something was copied up unchanged is no
//!   change.
//! - A directory in which something changed is *modified*.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::vec;

use overlay::stack::{Found, Merged};
use overlay::{Prefix, Stack};
use rustix::fs::{FileType, Stat};
use sys::Dir;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It differs.
    Modified,
    /// It is gone.
    Deleted,
}

impl fmt::Display for ChangeKind {
    /// `A`, `C` or `D`, as docker writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChangeKind::Added => "A",
            ChangeKind::Modified => "C",
            ChangeKind::Deleted => "D",
        })
    }
}

/// A path that differs between the layers below and the merged view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What happened to it.
    pub kind: ChangeKind,
    /// Absolute path in the merged view.
    pub path: PathBuf,
}

/// A directory or file that could not be compared.
#[derive(Debug, thiserror::Error)]
#[error("{}: comparing it with the layers below failed", path.display())]
#[non_exhaustive]
pub struct ChangesError {
    /// Absolute path in the merged view.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

/// Changes of `upper`, a container's upper directory of a privileged overlay; see [`changes_as`].
pub fn changes(upper: &Dir, lowers_top_first: &[Dir]) -> Result<Vec<Change>, ChangesError> {
    changes_as(Prefix::Trusted, upper, lowers_top_first)
}

/// What `upper` changes of the layers below it, each directory before what is in it, names in byte order. Only
/// directories that `upper` holds are looked into, and those that a redirect shows anew.
pub fn changes_as(
    prefix: Prefix,
    upper: &Dir,
    lowers_top_first: &[Dir],
) -> Result<Vec<Change>, ChangesError> {
    let mut comparison = Comparison {
        new: Stack::new(std::iter::once(upper).chain(lowers_top_first), prefix),
        old: Stack::new(lowers_top_first, prefix),
        prefix,
        changes: Vec::new(),
    };
    let failed = |source| ChangesError {
        path: PathBuf::from("/"),
        source,
    };
    if let Some(new) = comparison.new.root().map_err(failed)? {
        let old = comparison.old.root().map_err(failed)?;
        comparison.tree(&new, old.as_ref())?;
    }
    Ok(comparison.changes)
}

/// The longest path that is compared, in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;

struct Comparison<'a> {
    /// The upper directory and what is below; what comes from below has a layer one higher than in `old`.
    new: Stack<&'a Dir>,
    old: Stack<&'a Dir>,
    prefix: Prefix,
    changes: Vec<Change>,
}

/// A name, and what it is in either view.
type Pair = (OsString, Option<Found>, Option<Found>);

/// A directory that is being compared.
struct Level {
    /// What is left of it.
    pairs: vec::IntoIter<Pair>,
    /// For one that both views have: how many changes came before it, and itself.
    both: Option<(usize, Found, Found)>,
}

impl Comparison<'_> {
    /// Compares two directories with everything in them. Depth is bounded by neither the stack nor the descriptors:
    /// no directory stays open while what is in it is compared.
    fn tree(&mut self, new: &Merged, old: Option<&Merged>) -> Result<(), ChangesError> {
        let mut path = PathBuf::from("/");
        let mut levels = vec![Level {
            pairs: self.level(&path, new, old)?,
            both: None,
        }];
        while let Some(level) = levels.last_mut() {
            let Some((name, new, old)) = level.pairs.next() else {
                if let Some((at, new, old)) = levels.pop().and_then(|level| level.both) {
                    self.modified(at, &path, &new, &old)?;
                }
                path.pop();
                continue;
            };
            path.push(&name);
            let at = self.changes.len();
            let inside = match (&new, &old) {
                (Some(Found::Dir(new)), old) => Some((new, old.as_ref())),
                _ => None,
            };
            let untouched = matches!((&new, &old), (Some(new), Some(old)) if same(new, old));
            match (&new, &old) {
                (None, Some(_)) => self.push(ChangeKind::Deleted, &path),
                (Some(_), None) => self.push(ChangeKind::Added, &path),
                _ => {}
            }
            if let Some((inside, below)) = inside
                && !untouched
            {
                let below = match below {
                    Some(Found::Dir(below)) => Some(below),
                    _ => None,
                };
                let pairs = self.level(&path, inside, below)?;
                let both = new.zip(old).map(|(new, old)| (at, new, old));
                levels.push(Level { pairs, both });
                continue;
            }
            if let (Some(new), Some(old), false) = (&new, &old, untouched) {
                self.modified(at, &path, new, old)?;
            }
            path.pop();
        }
        Ok(())
    }

    fn push(&mut self, kind: ChangeKind, path: &Path) {
        let path = path.to_owned();
        self.changes.push(Change { kind, path });
    }

    fn level(
        &self,
        path: &Path,
        new: &Merged,
        old: Option<&Merged>,
    ) -> Result<vec::IntoIter<Pair>, ChangesError> {
        let pairs = match path.as_os_str().len() > MAX_PATH {
            true => Err(rustix::io::Errno::NAMETOOLONG.into()),
            false => self.pairs(new, old),
        };
        pairs.map(Vec::into_iter).map_err(|source| ChangesError {
            path: path.to_owned(),
            source,
        })
    }

    /// Notes that a name which both views have was modified, if it was; before the changes since `at`, which are of
    /// what is in it.
    fn modified(&mut self, at: usize, path: &Path, new: &Found, old: &Found) -> Result<(), ChangesError> {
        let differs = self.differs(new, old).map_err(|source| ChangesError {
            path: path.to_owned(),
            source,
        })?;
        if differs || self.changes.len() > at {
            let path = path.to_owned();
            let kind = ChangeKind::Modified;
            self.changes.insert(at, Change { kind, path });
        }
        Ok(())
    }

    /// The names in a directory that may differ.
    fn pairs(&self, new: &Merged, old: Option<&Merged>) -> io::Result<Vec<Pair>> {
        let open_new = self.new.open(new)?;
        let open_old = old.map(|old| self.old.open(old)).transpose()?;
        // Where the layers below show through as they are, only what is in the upper directory can differ.
        let upper_alone = new.parts[0].layer == 0 && old.is_some_and(|old| same_below(new, old));
        let names: BTreeSet<OsString> = if upper_alone {
            let dir = self.new.open_place(&new.parts[0])?;
            dir.entries()?.into_iter().map(|entry| entry.name).collect()
        } else {
            let mut names: BTreeSet<OsString> = self.new.names(&open_new)?.into_iter().collect();
            if let Some(old) = &open_old {
                names.extend(self.old.names(old)?);
            }
            names
        };
        let pair = |name: OsString| {
            let new = self.new.child(&open_new, &name)?;
            let old = match &open_old {
                Some(old) => self.old.child(old, &name)?,
                None => None,
            };
            Ok((name, new, old))
        };
        names.into_iter().map(pair).collect()
    }

    fn differs(&self, new: &Found, old: &Found) -> io::Result<bool> {
        let (a, b) = (new.stat(), old.stat());
        let both_directories = matches!((new, old), (Found::Dir(_), Found::Dir(_)));
        let what = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid, device(stat));
        let data = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec, stat.st_size);
        Ok(what(a) != what(b)
            || (!both_directories && data(a) != data(b))
            || self.attributes(&self.new, new)? != self.attributes(&self.old, old)?)
    }

    /// Attributes as the merged view shows them.
    fn attributes(&self, stack: &Stack<&Dir>, found: &Found) -> io::Result<BTreeSet<(OsString, Vec<u8>)>> {
        let (dir, name) = stack.parent_of(found.place())?;
        let mut shown = BTreeSet::new();
        for attribute in dir.list_xattrs(&name)? {
            if let Some(view) = self.prefix.to_view(&attribute)
                && let Some(value) = dir.get_xattr(&name, &attribute)?
            {
                shown.insert((OsStr::from_bytes(view.as_bytes()).to_owned(), value));
            }
        }
        Ok(shown)
    }
}

/// Device number of what is a device.
fn device(stat: &Stat) -> u64 {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev,
        _ => 0,
    }
}

/// Whether both are one and the same thing of a layer below.
fn same(new: &Found, old: &Found) -> bool {
    match (new, old) {
        (Found::Dir(new), Found::Dir(old)) => same_parts(new, old),
        _ => new.place().layer == old.place().layer + 1 && new.place().path == old.place().path,
    }
}

/// Whether a merged directory of the new view has no part of its own.
fn same_parts(new: &Merged, old: &Merged) -> bool {
    let raised = |(new, old): (&overlay::stack::Place, &overlay::stack::Place)| {
        new.layer == old.layer + 1 && new.path == old.path
    };
    new.parts.len() == old.parts.len() && new.parts.iter().zip(&old.parts).all(raised)
}

/// Whether it has, beneath the part of its own, what the old view has.
fn same_below(new: &Merged, old: &Merged) -> bool {
    let below = Merged {
        stat: new.stat,
        parts: new.parts[1..].to_vec(),
    };
    same_parts(&below, old)
}
