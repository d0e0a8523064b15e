//! Ownership of things on disk by a lock: the protocol of docs/format/store.md, "a row, or a lock".
//!
//! Lock order: a thing's flock before the database's write lock, or within it without waiting. Nobody waits for
//! the database while others wait for a flock of his, but for as long as one transaction takes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sys::Dir;

use crate::error::Fault;
use crate::layout::{Layout, SNAPSHOTS};
use crate::quota;

/// Tries to become the owner of an open file or directory, without waiting.
pub(crate) fn try_lock(fd: impl AsFd) -> io::Result<bool> {
    match rustix::fs::flock(fd, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether `name` still leads to what is open: asked after it was locked, because its former owner may have taken
/// it away in between.
pub(crate) fn is_still(dir: &Dir, name: &str, open: impl AsFd) -> io::Result<bool> {
    let inode = rustix::fs::fstat(open)?;
    Ok(dir
        .try_stat(name)?
        .is_some_and(|found| (found.st_dev, found.st_ino) == (inode.st_dev, inode.st_ino)))
}

/// A thing that is owned through its lock, and may be taken away.
pub(crate) struct Claim<'a> {
    dir: &'a Dir,
    name: String,
    lock: File,
}

impl<'a> Claim<'a> {
    /// Becomes the owner of `name`; `None` when it is not there or somebody else's.
    pub(crate) fn take(dir: &'a Dir, name: &str) -> io::Result<Option<Claim<'a>>> {
        let lock = match dir.open_file(name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        Ok((try_lock(&lock)? && is_still(dir, name, &lock)?).then(|| Claim {
            dir,
            name: name.to_owned(),
            lock,
        }))
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes of a file.
    pub(crate) fn size(&self) -> io::Result<u64> {
        Ok(self.lock.metadata()?.len())
    }

    /// When a file was written last.
    pub(crate) fn modified(&self) -> io::Result<SystemTime> {
        self.lock.metadata()?.modified()
    }

    /// Takes it from the disk, then gives up the lock.
    pub(crate) fn remove(self) -> io::Result<()> {
        // First, so that a crash leaves no limit that nobody lifts: the directory is found again.
        quota::lift(self.dir, &self.lock);
        self.dir.remove_tree(&self.name)
    }
}

/// A new numbered directory, owned by its lock until a row names it. Dropped before that, it is removed.
pub(crate) struct Slot {
    layout: Arc<Layout>,
    n: u64,
    dir: Dir,
    kept: bool,
}

/// Taken directories that are met before all of them are looked at.
const PROBES: u32 = 16;

impl Slot {
    /// Makes the first free directory with a number of `first` or more.
    pub(crate) fn allot(layout: &Arc<Layout>, first: u64) -> Result<Slot, Fault> {
        let snapshots = layout.snapshots()?;
        let fault = |error| layout.fault("making a directory in", SNAPSHOTS, error);
        let mut n = first.max(1);
        let mut probes = 0;
        loop {
            let name = n.to_string();
            match snapshots.mkdir(&name, Mode::RWXU) {
                Ok(()) => {
                    if let Some(dir) = lock_new(snapshots, &name).map_err(fault)? {
                        layout.next.store(n + 1, Ordering::Relaxed);
                        return Ok(Slot {
                            layout: layout.clone(),
                            n,
                            dir,
                            kept: false,
                        });
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                // A collector was faster than the mode.
                Err(error) if error.kind() == io::ErrorKind::NotFound && probes < PROBES => {}
                Err(error) => return Err(fault(error)),
            }
            // What a removal left for the collector keeps its number until then, however many there are.
            n = match probes {
                0 => layout.next.load(Ordering::Relaxed).max(n + 1),
                _ => n + 1,
            };
            probes += 1;
            if probes % PROBES == 0 {
                n = n.max(numbers(snapshots).map_err(fault)?.into_iter().max().unwrap_or(0) + 1);
            }
        }
    }

    pub(crate) fn n(&self) -> u64 {
        self.n
    }

    pub(crate) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Leaves it there: a row names it now, or may. If none does, the collector finds it.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.kept
            && let Ok(snapshots) = self.layout.snapshots()
        {
            quota::lift(snapshots, &self.dir);
            // What cannot be removed has no owner once the lock is gone, and the collector's turn comes.
            let _ = snapshots.remove_tree(self.n.to_string());
        }
    }
}

/// Locks a directory that was just made; `None` where it is another's by now. A collector may have taken ours before it
/// was locked, and somebody may have made another in its place, and be done with it: that one is not empty.
fn lock_new(snapshots: &Dir, name: &str) -> io::Result<Option<Dir>> {
    let dir = match snapshots.open_dir(name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let ours = try_lock(&dir)? && is_still(snapshots, name, &dir)? && dir.entries()?.is_empty();
    Ok(ours.then_some(dir))
}

/// The numbers of all directories there are.
pub(crate) fn numbers(snapshots: &Dir) -> io::Result<Vec<u64>> {
    let entries = snapshots.entries()?;
    Ok(entries
        .iter()
        .filter_map(|entry| entry.name.to_str()?.parse().ok())
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_that_were_left_are_passed_over_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let layout = Arc::new(Layout::new(
            temp.path().into(),
            Dir::open_ambient(temp.path()).unwrap(),
        ));
        layout.root.mkdir(SNAPSHOTS, Mode::RWXU).unwrap();
        for n in 1..100 {
            let slot = Slot::allot(&layout, 1).unwrap();
            assert_eq!(slot.n(), n);
            slot.keep();
        }
        // Freed, the number that is asked for is used again.
        layout.snapshots().unwrap().rmdir("1").unwrap();
        assert_eq!(Slot::allot(&layout, 1).unwrap().n(), 1);
    }

    #[test]
    fn what_another_made_in_the_same_place_stays_the_others() {
        let temp = tempfile::tempdir().unwrap();
        let snapshots = Dir::open_ambient(temp.path()).unwrap();
        snapshots.mkdir("1", Mode::RWXU).unwrap();
        let ours = lock_new(&snapshots, "1").unwrap();
        assert!(ours.is_some());
        assert!(lock_new(&snapshots, "1").unwrap().is_none(), "it is locked");
        // Made, taken by a collector, made again by somebody who has filled it and let go of it.
        snapshots.mkdir("2", Mode::RWXU).unwrap();
        snapshots.open_dir("2").unwrap().mkdir("fs", Mode::RWXU).unwrap();
        assert!(lock_new(&snapshots, "2").unwrap().is_none());
        assert!(
            lock_new(&snapshots, "3").unwrap().is_none(),
            "a collector took it"
        );
    }
}
