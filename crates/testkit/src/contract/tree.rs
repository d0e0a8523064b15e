//! Directories made by hand, and what is in one, to be compared.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::files;

/// A directory that is being filled. Every method panics when the file system refuses.
#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The directory at `root`, which exists.
    pub fn new(root: impl Into<PathBuf>) -> Tree {
        Tree { root: root.into() }
    }

    /// A path in it.
    pub fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(path)
    }

    #[track_caller]
    fn done(self, path: &str, answer: Result<(), Errno>) -> Tree {
        if let Err(errno) = answer {
            panic!("making {}: {errno}", self.at(path).display());
        }
        self
    }

    /// A file of mode 0644.
    #[track_caller]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Tree {
        let made = files::write(self.at(path), content);
        self.done(path, made)
    }

    /// A directory.
    #[track_caller]
    pub fn dir(self, path: &str, mode: u32) -> Tree {
        let made = files::mkdir(self.at(path), 0o700);
        let made = made.and_then(|()| files::chmod(self.at(path), mode));
        self.done(path, made)
    }

    /// A symbolic link.
    #[track_caller]
    pub fn link_to(self, path: &str, target: &str) -> Tree {
        let made = files::symlink(target, self.at(path));
        self.done(path, made)
    }

    /// Another name of a file.
    #[track_caller]
    pub fn hard_link(self, path: &str, of: &str) -> Tree {
        let made = files::link(self.at(of), self.at(path));
        self.done(path, made)
    }

    /// A fifo, a socket or a device.
    #[track_caller]
    pub fn node(self, path: &str, kind: FileType, device: (u32, u32)) -> Tree {
        let made = files::mknod(self.at(path), kind, 0o644, device);
        self.done(path, made)
    }

    /// A whiteout.
    #[track_caller]
    pub fn whiteout(self, path: &str) -> Tree {
        let made = files::mknod(self.at(path), FileType::CharacterDevice, 0, (0, 0));
        self.done(path, made)
    }

    /// Marks a directory opaque.
    #[track_caller]
    pub fn opaque(self, path: &str) -> Tree {
        self.xattr(path, &super::own("opaque"), "y")
    }

    /// An extended attribute.
    #[track_caller]
    pub fn xattr(self, path: &str, name: &str, value: impl AsRef<[u8]>) -> Tree {
        let made = files::set_xattr(self.at(path), name, value);
        self.done(path, made)
    }

    /// Permission bits.
    #[track_caller]
    pub fn mode(self, path: &str, mode: u32) -> Tree {
        let made = files::chmod(self.at(path), mode);
        self.done(path, made)
    }

    /// Owner and group.
    #[track_caller]
    pub fn owner(self, path: &str, owner: u32, group: u32) -> Tree {
        let made = files::chown(self.at(path), Some(owner), Some(group));
        self.done(path, made)
    }

    /// Both times, in seconds.
    #[track_caller]
    pub fn times(self, path: &str, accessed: i64, modified: i64) -> Tree {
        let set = files::set_times(self.at(path), (accessed, 111), (modified, 222));
        self.done(path, set)
    }
}

/// One thing in a tree: all that can be asked of it but the access time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// Format and permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size in bytes; 0 for a directory, whose size says nothing.
    pub size: u64,
    /// Names that a file has; 0 for a directory.
    pub links: u64,
    /// Device number of a device.
    pub device: u64,
    /// Modification time.
    pub modified: (i64, i64),
    /// Extended attributes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
    /// Content of a file, target of a link.
    pub content: Vec<u8>,
}

impl Thing {
    /// Looks at one thing.
    pub fn look(path: &Path) -> Result<Thing, Errno> {
        let stat = files::lstat(path)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let content = match kind {
            // Looking must not change what a test may look at next: the access time.
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOATIME;
                files::read_all(files::open(path, flags, 0)?)?
            }
            FileType::Symlink => files::read_link(path)?.as_bytes().to_vec(),
            _ => Vec::new(),
        };
        let mut xattrs = BTreeMap::new();
        for name in files::list_xattrs(path)? {
            let value = files::get_xattr(path, &name)?;
            xattrs.insert(name, value);
        }
        let is_dir = kind == FileType::Directory;
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        Ok(Thing {
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            size: if is_dir { 0 } else { stat.st_size as u64 },
            links: if is_dir { 0 } else { stat.st_nlink },
            device: if is_device { stat.st_rdev } else { 0 },
            modified: files::modified(&stat),
            xattrs,
            content,
        })
    }

    /// The same but for the modification time.
    pub fn without_time(mut self) -> Thing {
        self.modified = (0, 0);
        self
    }
}

/// Everything in a directory, itself included (as the empty path).
pub fn look(root: &Path) -> Result<BTreeMap<PathBuf, Thing>, Errno> {
    let mut seen = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(path) = left.pop() {
        let full = if path.as_os_str().is_empty() {
            root.to_owned()
        } else {
            root.join(&path)
        };
        let thing = Thing::look(&full)?;
        if FileType::from_raw_mode(thing.mode) == FileType::Directory {
            let listed = files::list(&full)?
                .into_iter()
                .map(|entry: files::Listed| entry.name);
            left.extend(listed.map(|name: OsString| path.join(name)));
        }
        seen.insert(path, thing);
    }
    Ok(seen)
}

/// What differs between two trees, one line each; empty when they are the same.
pub fn differences(one: &BTreeMap<PathBuf, Thing>, other: &BTreeMap<PathBuf, Thing>) -> Vec<String> {
    let mut found = Vec::new();
    for (path, thing) in one {
        match other.get(path) {
            None => found.push(format!("{}: only in the first: {thing:?}", path.display())),
            Some(there) if there != thing => {
                found.push(format!("{}: {thing:?}\n      and {there:?}", path.display()));
            }
            Some(_) => {}
        }
    }
    let news = other.iter().filter(|(path, _)| !one.contains_key(*path));
    found.extend(news.map(|(path, thing)| format!("{}: only in the second: {thing:?}", path.display())));
    found
}
