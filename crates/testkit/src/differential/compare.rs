//! Two whole trees, compared.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, statx};

use super::side::{Attributes, Times, checksum};
use super::start::shown;
use crate::files as f;

/// One thing in a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    attributes: Attributes,
    xattrs: Vec<(String, Vec<u8>)>,
    /// Of a file or a link: length and checksum.
    content: (usize, u64),
}

/// A tree as a side shows it.
#[derive(Debug, Default)]
pub struct Snapshot {
    things: BTreeMap<PathBuf, Thing>,
    /// Which thing lies at a path: number, and when it was born.
    identities: BTreeMap<PathBuf, Identity>,
    /// A listing that tells another number than `lstat` does, if there is one.
    misnumbered: Option<String>,
}

/// Number and birth of a thing: no other thing has ever had both.
pub type Identity = (u64, (i64, u32));

impl Snapshot {
    /// Looks at everything beneath `root`. What cannot be looked at is an error, and so is a listing that tells another
    /// kind than what lies there.
    pub fn take(root: &Path, times: Times) -> Result<Snapshot, String> {
        let mut snapshot = Snapshot::default();
        let mut left = vec![PathBuf::new()];
        while let Some(path) = left.pop() {
            let full = if path.as_os_str().is_empty() {
                root.to_owned()
            } else {
                root.join(&path)
            };
            let failed = |what: &str, errno| format!("{what} {}: {errno}", shown(&path));
            let thing = look(&full, times).map_err(|errno| failed("looking at", errno))?;
            let identity = identity(&full).map_err(|errno| failed("statx of", errno))?;
            if FileType::from_raw_mode(thing.attributes.mode) == FileType::Directory {
                for entry in f::list(&full).map_err(|errno| failed("listing", errno))? {
                    let below = path.join(&entry.name);
                    let stat = f::lstat(full.join(&entry.name))
                        .map_err(|errno| format!("listed, but not found: {}: {errno}", shown(&below)))?;
                    let kind = FileType::from_raw_mode(stat.st_mode).as_raw_mode();
                    if entry.kind != kind {
                        return Err(format!("{} is listed as another kind", shown(&below)));
                    }
                    if entry.ino != stat.st_ino {
                        let (listed, found) = (entry.ino, stat.st_ino);
                        snapshot.misnumbered = Some(format!(
                            "{} is listed as number {listed} and has {found}",
                            shown(&below)
                        ));
                    }
                    left.push(below);
                }
            }
            snapshot.things.insert(path.clone(), thing);
            snapshot.identities.insert(path, identity);
        }
        Ok(snapshot)
    }

    /// A listing that tells another number than `lstat` does is an error. Not to be asked of the kernel's overlay: a file
    /// that was copied up and is then linked into a directory listed before is listed with the wrong number (Linux 6.18).
    pub fn numbers_are_listed(&self) -> Result<(), String> {
        self.misnumbered.clone().map_or(Ok(()), Err)
    }

    /// The first difference to another, if any. Whether two names are one file must agree as well.
    pub fn agree(&self, other: &Snapshot) -> Result<(), String> {
        for (path, thing) in &self.things {
            match other.things.get(path) {
                None => return Err(format!("{} is only in the mount: {thing:?}", shown(path))),
                Some(there) if there != thing => {
                    return Err(format!(
                        "{} differs:\n  mount {thing:?}\n  plain {there:?}",
                        shown(path)
                    ));
                }
                Some(_) => {}
            }
        }
        if let Some(path) = other.things.keys().find(|path| !self.things.contains_key(*path)) {
            return Err(format!("{} is only in the plain directory", shown(path)));
        }
        let mut numbers = HashMap::new();
        let mut back = HashMap::new();
        for (path, identity) in &self.identities {
            let there = other.identities[path];
            if *numbers.entry(identity.0).or_insert(there) != there {
                return Err(format!("{} has the number of another thing", shown(path)));
            }
            if *back.entry(there).or_insert(identity.0) != identity.0 {
                return Err(format!(
                    "{} is one file with another name, with two numbers",
                    shown(path)
                ));
            }
        }
        Ok(())
    }

    /// Numbers of the mount's things, by the identity of their counterparts, which `plain` shows: they may not change.
    pub fn numbers<'a>(&'a self, plain: &'a Snapshot) -> impl Iterator<Item = (Identity, u64, &'a Path)> {
        self.identities
            .iter()
            .filter_map(|(path, identity)| Some((*plain.identities.get(path)?, identity.0, path.as_path())))
    }
}

fn identity(path: &Path) -> f::Answer<Identity> {
    let wanted = StatxFlags::INO | StatxFlags::BTIME;
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted)?;
    Ok((stat.stx_ino, (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec)))
}

fn look(path: &Path, times: Times) -> f::Answer<Thing> {
    let stat = f::lstat(path)?;
    let content = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            let content = f::read(path)?;
            (content.len(), checksum(&content))
        }
        FileType::Symlink => {
            use std::os::unix::ffi::OsStrExt;
            let target = f::read_link(path)?;
            (target.len(), checksum(target.as_bytes()))
        }
        _ => (0, 0),
    };
    let xattrs = f::list_xattrs(path)?
        .into_iter()
        .map(|name| f::get_xattr(path, &name).map(|value| (name, value)))
        .collect::<f::Answer<_>>()?;
    Ok(Thing {
        attributes: Attributes::of(&stat, times),
        xattrs,
        content,
    })
}
