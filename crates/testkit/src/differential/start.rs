//! Where a session starts: random lower layers in the overlay's format, and a plain copy of what they show.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::op;
use crate::contract::Tree;
use crate::files as f;
use crate::random::Random;

/// What the layers made so far show in a directory: a node is a directory with its names, or anything else.
#[derive(Debug, Default)]
struct Shown(BTreeMap<PathBuf, Option<Shown>>);

/// Fills 1 to 4 directories in `place`, and answers them bottom first.
pub fn layers(random: &mut Random, place: &Path) -> Vec<PathBuf> {
    let count = 1 + random.below(4) as usize;
    let mut shown = Shown::default();
    let mut layers = Vec::new();
    for number in 0..count {
        let layer = place.join(format!("lower{number}"));
        f::mkdir(&layer, 0o755).expect("a new directory");
        let mut filler = Filler {
            random,
            tree: Tree::new(&layer),
            links: Vec::new(),
            may_link: number + 1 == count,
        };
        filler.fill(&mut shown, Path::new(""), number > 0, 0);
        layers.push(layer);
    }
    layers
}

/// Fills one directory as a bottom layer is filled.
pub fn one_layer(random: &mut Random, dir: &Path) {
    let mut filler = Filler {
        random,
        tree: Tree::new(dir),
        links: Vec::new(),
        may_link: true,
    };
    filler.fill(&mut Shown::default(), Path::new(""), false, 0);
}

struct Filler<'a> {
    random: &'a mut Random,
    tree: Tree,
    /// Files of this layer, to be linked to.
    links: Vec<PathBuf>,
    /// Names in a higher layer may hide one of several of a file, and then its number of links is no longer what a
    /// plain directory would show. So only the topmost layer has files of several names.
    may_link: bool,
}

impl Filler<'_> {
    /// Fills a directory of this layer. `merged`: it joins a directory below, of which `shown` tells the names.
    fn fill(&mut self, shown: &mut Shown, path: &Path, merged: bool, depth: u32) {
        for _ in 0..3 + self.random.below(6) {
            let name = op::name(self.random);
            let at = path.join(&name);
            if f::exists(self.tree.at(&at)) {
                continue;
            }
            match self.random.below(12) {
                // Where nothing is to be hidden the kernel would show the whiteout itself.
                0..2 if merged && shown.0.contains_key(&name) => {
                    f::mknod(self.tree.at(&at), FileType::CharacterDevice, 0, (0, 0)).expect("a whiteout");
                    shown.0.remove(&name);
                    continue;
                }
                0..6 if depth < 3 => self.directory(shown, &name, &at, merged, depth),
                6 if self.may_link && !self.links.is_empty() => {
                    let of = self.random.choose(&self.links).clone();
                    f::link(self.tree.at(of), self.tree.at(&at)).expect("a new name");
                    shown.0.insert(name, None);
                    continue;
                }
                _ => {
                    self.thing(&at);
                    shown.0.insert(name, None);
                }
            }
            self.attributes(&at);
        }
    }

    fn directory(&mut self, shown: &mut Shown, name: &Path, at: &Path, merged: bool, depth: u32) {
        f::mkdir(self.tree.at(at), 0o755).expect("a new directory");
        let below = if merged {
            shown.0.remove(name).flatten()
        } else {
            None
        };
        let joins = below.is_some() && self.random.below(4) > 0;
        if below.is_some() && !joins {
            f::set_xattr(self.tree.at(at), "trusted.overlay.opaque", "y").expect("an attribute");
        }
        let mut inside = below.filter(|_| joins).unwrap_or_default();
        self.fill(&mut inside, at, joins, depth + 1);
        shown.0.insert(name.to_owned(), Some(inside));
    }

    fn thing(&mut self, at: &Path) {
        let full = self.tree.at(at);
        let made = match self.random.below(10) {
            0 => f::symlink(op::path(self.random), &full),
            1 => f::mknod(&full, FileType::Fifo, 0o644, (0, 0)),
            2 => f::mknod(&full, FileType::CharacterDevice, 0o644, (1, 3)),
            _ => {
                let length = self.random.below(30_000) as usize;
                let byte = self.random.below(256) as u8;
                self.links.push(at.to_owned());
                f::write(&full, vec![byte; length])
            }
        };
        made.expect("a new thing");
    }

    fn attributes(&mut self, at: &Path) {
        let full = self.tree.at(at);
        let is_link = f::kind(&full) == Ok(FileType::Symlink);
        let owners = [0, 0, 1000, 3000];
        let owner = (*self.random.choose(&owners), *self.random.choose(&owners));
        f::chown(&full, Some(owner.0), Some(owner.1)).expect("root may");
        if !is_link {
            let mode = *self
                .random
                .choose(&[0o644, 0o755, 0o777, 0o700, 0o2775, 0o4711, 0o1777]);
            f::chmod(&full, mode).expect("root may");
            if matches!(f::kind(&full), Ok(FileType::RegularFile | FileType::Directory))
                && self.random.below(3) == 0
            {
                f::set_xattr(&full, op::XATTRS[self.random.below(3) as usize], "from below")
                    .expect("an attribute");
            }
        }
        f::set_times(&full, (1, 2), (self.random.below(900_000_000) as i64, 7)).expect("root may");
    }
}

/// Copies everything that `from` shows into the empty directory `to`.
pub fn copy(from: &Path, to: &Path) -> f::Answer<()> {
    copy_dir(from, to, &mut HashMap::new())
}

fn copy_dir(from: &Path, to: &Path, files: &mut HashMap<(u64, u64), PathBuf>) -> f::Answer<()> {
    for entry in f::list(from)? {
        let (one, other) = (from.join(&entry.name), to.join(&entry.name));
        let stat = f::lstat(&one)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory
            && let Some(first) = files.get(&(stat.st_dev, stat.st_ino))
        {
            f::link(first, &other)?;
            continue;
        }
        match kind {
            FileType::Directory => {
                f::mkdir(&other, 0o755)?;
                copy_dir(&one, &other, files)?;
            }
            FileType::RegularFile => f::write(&other, f::read(&one)?)?,
            FileType::Symlink => f::symlink(f::read_link(&one)?, &other)?,
            kind => {
                let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                f::mknod(&other, kind, 0o644, device)?;
            }
        }
        files.insert((stat.st_dev, stat.st_ino), other.clone());
        copy_attributes(&one, &other)?;
    }
    copy_attributes(from, to)
}

fn copy_attributes(from: &Path, to: &Path) -> f::Answer<()> {
    let stat = f::lstat(from)?;
    f::chown(to, Some(stat.st_uid), Some(stat.st_gid))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        f::chmod(to, stat.st_mode & 0o7777)?;
    }
    for name in f::list_xattrs(from)? {
        f::set_xattr(to, &name, f::get_xattr(from, &name)?)?;
    }
    f::set_times(to, f::accessed(&stat), f::modified(&stat))
}

/// How a name is printed: plain where it can be.
pub fn shown(path: &Path) -> String {
    path.as_os_str().as_bytes().escape_ascii().to_string()
}
