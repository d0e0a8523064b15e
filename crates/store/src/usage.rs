//! [`Usage`]: what a directory costs.

use std::collections::HashSet;
use std::io;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use rusqlite::Row;
use rustix::fs::FileType;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::Dir;

use crate::db::unsigned;

/// What a tree takes on disk. Counts each inode once, whatever its names; a directory is an inode too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes on disk: 512 * `st_blocks`.
    pub bytes: u64,
    /// Bytes that reading everything would give: `st_size` of the regular files and symbolic links.
    pub apparent: u64,
    /// Inodes.
    pub inodes: u64,
}

impl AddAssign for Usage {
    fn add_assign(&mut self, other: Usage) {
        self.bytes += other.bytes;
        self.apparent += other.apparent;
        self.inodes += other.inodes;
    }
}

/// Columns `index` to `index + 2`: bytes, apparent, inodes.
pub(crate) fn usage_from(row: &Row<'_>, index: usize) -> rusqlite::Result<Usage> {
    Ok(Usage {
        bytes: unsigned(row, index)?,
        apparent: unsigned(row, index + 1)?,
        inodes: unsigned(row, index + 2)?,
    })
}

impl Usage {
    /// Walks the tree of `dir`, the directory itself included. Entries that vanish meanwhile are not counted.
    pub fn of(dir: &Dir) -> io::Result<Usage> {
        let mut usage = Usage::default();
        let mut linked = HashSet::new();
        usage.count(&dir.metadata()?);
        usage.walk(dir, &mut linked)?;
        Ok(usage)
    }

    fn count(&mut self, stat: &rustix::fs::Stat) {
        self.inodes += 1;
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Symlink
        ) {
            self.apparent += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }

    /// Depth is bounded by the stack of directories still to be read, not by the call stack or by descriptors.
    fn walk(&mut self, root: &Dir, linked: &mut HashSet<(u64, u64)>) -> io::Result<()> {
        let gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
        let mut todo = vec![PathBuf::new()];
        while let Some(rel) = todo.pop() {
            let dir = match open_deep(root, &rel) {
                Err(error) if gone(&error) => continue,
                other => other?,
            };
            let entries = match dir.entries() {
                Err(error) if gone(&error) => continue,
                other => other?,
            };
            for entry in entries {
                let Some(stat) = dir.try_stat(&entry.name)? else {
                    continue;
                };
                let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
                if directory {
                    todo.push(rel.join(&entry.name));
                } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                    continue;
                }
                self.count(&stat);
            }
        }
        Ok(())
    }
}

/// Opens a directory whose path may be longer than the kernel takes at once.
fn open_deep(root: &Dir, rel: &Path) -> io::Result<Dir> {
    match root.open_dir(rel) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG) => {
            let names: Vec<_> = rel.components().collect();
            let (above, below) = names.split_at(names.len() / 2);
            if above.is_empty() {
                return Err(error);
            }
            let above = open_deep(root, &above.iter().collect::<PathBuf>())?;
            open_deep(&above, &below.iter().collect::<PathBuf>())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::Mode;

    #[test]
    fn hard_links_count_once_and_holes_not_at_all() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let sub = dir.mkdir_all("a/b", Mode::RWXU).unwrap();
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
        let file = dir.open_file("f", flags, Mode::RWXU).unwrap();
        file.set_len(1 << 20).unwrap();
        sub.link(&dir, "f", "g").unwrap();
        dir.symlink("12345", "l").unwrap();
        let usage = Usage::of(&dir).unwrap();
        assert_eq!((usage.inodes, usage.apparent), (5, (1 << 20) + 5));
        assert!(usage.bytes < 1 << 20);
    }

    #[test]
    fn a_tree_deeper_than_a_path_can_say() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let mut at = dir.try_clone().unwrap();
        let name = "d".repeat(100);
        for _ in 0..100 {
            at.mkdir(&name, Mode::RWXU).unwrap();
            at = at.open_dir(&name).unwrap();
        }
        assert_eq!(Usage::of(&dir).unwrap().inodes, 101);
        dir.remove_tree(&name).unwrap();
    }
}
