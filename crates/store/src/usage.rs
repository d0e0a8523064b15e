//! [`Usage`]: what a directory costs.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::ops::AddAssign;
use std::time::Instant;

use rusqlite::Row;
use rustix::fs::{FileType, Stat};
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
        Usage::of_until(dir, None)
    }

    /// As [`Usage::of`]; `TimedOut` when that would take longer than `until`.
    pub fn of_until(dir: &Dir, until: Option<Instant>) -> io::Result<Usage> {
        let mut usage = Usage::default();
        usage.count(&dir.metadata()?);
        usage.walk(dir, until)?;
        Ok(usage)
    }

    fn count(&mut self, stat: &Stat) {
        self.inodes += 1;
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        if matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::RegularFile | FileType::Symlink
        ) {
            self.apparent += u64::try_from(stat.st_size).unwrap_or(0);
        }
    }

    /// Depth is bounded by neither the call stack nor the descriptors, and a level costs the same however deep it lies:
    /// whoever writes the tree chooses its depth.
    fn walk(&mut self, root: &Dir, until: Option<Instant>) -> io::Result<()> {
        let mut linked = HashSet::new();
        let mut levels = vec![self.level(root.try_clone()?, &mut linked)?];
        while let Some(level) = levels.last_mut() {
            if until.is_some_and(|until| Instant::now() > until) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let next = level.inside.pop();
            let (Some(name), Some(dir)) = (next, &level.dir) else {
                let done = levels.pop().and_then(|level| level.dir);
                if let (Some(above), Some(done)) = (levels.last_mut(), done)
                    && above.dir.is_none()
                {
                    // Moved elsewhere meanwhile, the rest of it is not counted, as what vanishes is not.
                    above.dir = present(done.parent(above.id))?.flatten();
                }
                continue;
            };
            let Some(dir) = present(dir.open_dir(&name))? else {
                continue;
            };
            let level = self.level(dir, &mut linked)?;
            levels.push(level);
            if let Some(far) = levels.len().checked_sub(OPEN).and_then(|at| levels.get_mut(at)) {
                far.dir = None;
            }
        }
        Ok(())
    }

    /// Counts what is in a directory.
    fn level(&mut self, dir: Dir, linked: &mut HashSet<(u64, u64)>) -> io::Result<Level> {
        let stat = dir.metadata()?;
        let mut inside = Vec::new();
        for entry in present(dir.entries())?.unwrap_or_default() {
            let Some(stat) = dir.try_stat(&entry.name)? else {
                continue;
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                inside.push(entry.name);
            } else if stat.st_nlink > 1 && !linked.insert((stat.st_dev, stat.st_ino)) {
                continue;
            }
            self.count(&stat);
        }
        Ok(Level {
            dir: Some(dir),
            id: (stat.st_dev, stat.st_ino),
            inside,
        })
    }
}

/// How many directories are open at once.
const OPEN: usize = 32;

/// A directory that is being walked.
struct Level {
    /// `None` while the walk is far below it.
    dir: Option<Dir>,
    /// Device and inode.
    id: (u64, u64),
    /// Directories in it that are still to be walked.
    inside: Vec<OsString>,
}

/// `None` for what vanished, or is no directory any more.
fn present<T>(opened: io::Result<T>) -> io::Result<Option<T>> {
    match opened {
        Ok(opened) => Ok(Some(opened)),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            _ => Err(error),
        },
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
        let late = Usage::of_until(&dir, Some(Instant::now())).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        dir.remove_tree(&name).unwrap();
    }

    /// Each level has a second directory, so that the walk comes back to it; by paths it would take minutes.
    #[test]
    fn a_deep_tree_costs_what_its_levels_cost() {
        // In memory: a disk takes its time to make and remove so many.
        let temp = tempfile::tempdir_in("/dev/shm").unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let mut at = dir.try_clone().unwrap();
        for _ in 0..20_000 {
            for name in ["a", "b"] {
                at.mkdir(name, Mode::RWXU).unwrap();
            }
            at = at.open_dir("a").unwrap();
        }
        let begun = Instant::now();
        assert_eq!(Usage::of(&dir).unwrap().inodes, 40_001);
        let took = begun.elapsed();
        assert!(took.as_secs() < 20, "{took:?}");
        for name in ["a", "b"] {
            dir.remove_tree(name).unwrap();
        }
    }
}
