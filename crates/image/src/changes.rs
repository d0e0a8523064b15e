//! [`changes`]: what a container's upper directory changes of the layers below it, as `docker diff` tells it; and
//! [`compare`], the same between any two stacks of layers.
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

use overlay::stack::{Found, Merged, Place};
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
    // The upper directory is 0, and what lies below is called the same in both views.
    let layers = std::iter::once(upper).chain(lowers_top_first).enumerate();
    let new: Vec<(usize, &Dir)> = layers.collect();
    compare(prefix, &new, &new[1..], &|_| {})
}

/// What the merged view of the layers `new` changes of that of `old`, both topmost first, each directory before what is
/// in it, names in byte order. A layer comes with what it is called; where both views go on with layers that are called
/// the same, nothing of these is looked into. `told` hears how many directories have been looked into so far.
pub fn compare<I: Copy + Eq>(
    prefix: Prefix,
    new: &[(I, &Dir)],
    old: &[(I, &Dir)],
    told: &dyn Fn(u64),
) -> Result<Vec<Change>, ChangesError> {
    let mut comparison = Comparison {
        new: Stack::new(new.iter().map(|(_, dir)| *dir), prefix),
        old: Stack::new(old.iter().map(|(_, dir)| *dir), prefix),
        called: |place: &Place, of_new: bool| match of_new {
            true => new[place.layer].0,
            false => old[place.layer].0,
        },
        prefix,
        changes: Vec::new(),
        told,
        directories: 0,
    };
    let failed = |source| ChangesError {
        path: PathBuf::from("/"),
        source,
    };
    let roots = (
        comparison.new.root().map_err(failed)?,
        comparison.old.root().map_err(failed)?,
    );
    match roots {
        (Some(new), old) => comparison.tree(&new, old.as_ref())?,
        (None, Some(old)) => comparison.nothing_left(&old).map_err(failed)?,
        (None, None) => {}
    }
    Ok(comparison.changes)
}

/// The longest path that is compared, in bytes (`PATH_MAX`).
const MAX_PATH: usize = 4096;

struct Comparison<'a, C> {
    new: Stack<&'a Dir>,
    old: Stack<&'a Dir>,
    /// What the layer of a place is called, in the new view or the old.
    called: C,
    prefix: Prefix,
    changes: Vec<Change>,
    told: &'a dyn Fn(u64),
    directories: u64,
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

impl<I: Eq, C: Fn(&Place, bool) -> I> Comparison<'_, C> {
    /// A view without layers has nothing of what the other has.
    fn nothing_left(&mut self, old: &Merged) -> io::Result<()> {
        for name in self.old.names(&self.old.open(old)?)? {
            self.push(ChangeKind::Deleted, &Path::new("/").join(name));
        }
        Ok(())
    }

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
            let untouched = matches!((&new, &old), (Some(new), Some(old)) if self.same(new, old));
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
        &mut self,
        path: &Path,
        new: &Merged,
        old: Option<&Merged>,
    ) -> Result<vec::IntoIter<Pair>, ChangesError> {
        self.directories += 1;
        (self.told)(self.directories);
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
        // Where both go on alike, only what is in the parts before that can differ.
        let alike = old.map_or(0, |old| self.alike(new, old));
        let mut names: BTreeSet<OsString> = BTreeSet::new();
        if let (Some(old), 1..) = (old, alike) {
            for part in &new.parts[..new.parts.len() - alike] {
                let dir = self.new.open_place(part)?;
                names.extend(dir.entries()?.into_iter().map(|entry| entry.name));
            }
            for part in &old.parts[..old.parts.len() - alike] {
                let dir = self.old.open_place(part)?;
                names.extend(dir.entries()?.into_iter().map(|entry| entry.name));
            }
        } else {
            names.extend(self.new.names(&open_new)?);
            if let Some(old) = &open_old {
                names.extend(self.old.names(old)?);
            }
        }
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

    /// Whether both are one and the same thing of a layer.
    fn same(&self, new: &Found, old: &Found) -> bool {
        match (new, old) {
            (Found::Dir(new), Found::Dir(old)) => {
                let count = new.parts.len();
                count == old.parts.len() && self.alike(new, old) == count
            }
            _ => self.is(new.place(), old.place()),
        }
    }

    fn is(&self, new: &Place, old: &Place) -> bool {
        (self.called)(new, true) == (self.called)(old, false) && new.path == old.path
    }

    /// How many parts two merged directories have in common, from the lowest up.
    fn alike(&self, new: &Merged, old: &Merged) -> usize {
        let pairs = new.parts.iter().rev().zip(old.parts.iter().rev());
        pairs.take_while(|(new, old)| self.is(new, old)).count()
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
