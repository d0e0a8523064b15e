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
use crate::layout::{Layout, NUMBERS, SNAPSHOTS};
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

/// Numbers that are not given to a directory again, so that a power cut cannot give the files of one that was removed to
/// another of its name: unlinks are not synced. What is written here is not either: after a cut no unlink is left that
/// could be undone.
impl Layout {
    /// The first number of which no directory was removed since the machine came up.
    fn passed(&self) -> io::Result<u64> {
        let stat = self.root.try_stat(NUMBERS)?;
        Ok(stat.map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0)))
    }

    /// Before the directory with this number is removed.
    fn pass(&self, n: u64) -> io::Result<()> {
        if self.passed()? > n {
            return Ok(());
        }
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let numbers = self.root.open_file(NUMBERS, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::flock(&numbers, FlockOperation::LockExclusive)?;
        match numbers.metadata()?.len() > n {
            true => Ok(()),
            false => numbers.set_len(n + 1),
        }
    }
}

/// A thing that is owned through its lock, and may be taken away.
pub(crate) struct Claim<'a> {
    dir: &'a Dir,
    name: String,
    /// Of a directory that has a number.
    number: Option<(&'a Layout, u64)>,
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
            number: None,
            lock,
        }))
    }

    /// Becomes the owner of a numbered directory.
    pub(crate) fn of_number(layout: &'a Layout, n: u64) -> Result<Option<Claim<'a>>, Fault> {
        let claim = Claim::take(layout.snapshots()?, &n.to_string());
        let claim = claim.map_err(|error| layout.fault("locking", format!("{SNAPSHOTS}/{n}"), error))?;
        Ok(claim.map(|claim| claim.numbered(layout)))
    }

    /// Says that its name is a number.
    pub(crate) fn numbered(self, layout: &'a Layout) -> Claim<'a> {
        let number = self.name.parse().ok().map(|n| (layout, n));
        Claim { number, ..self }
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
        if let Some((layout, n)) = self.number {
            layout.pass(n)?;
        }
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
    /// Makes the first directory with a number of `first` or more that is free, and that no directory had which was
    /// removed since the machine came up.
    pub(crate) fn allot(layout: &Arc<Layout>, first: u64) -> Result<Slot, Fault> {
        let snapshots = layout.snapshots()?;
        let fault = |error| layout.fault("making a directory in", SNAPSHOTS, error);
        let mut n = first.max(1).max(layout.passed().map_err(fault)?);
        let mut probes = 0;
        loop {
            let name = n.to_string();
            match snapshots.mkdir(&name, Mode::RWXU) {
                Ok(()) => {
                    let dir = lock_new(snapshots, &name).map_err(fault)?;
                    // Perhaps its number was another's until a moment ago.
                    if dir.is_some() && layout.passed().map_err(fault)? > n {
                        snapshots.rmdir(&name).map_err(fault)?;
                    } else if let Some(dir) = dir {
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
            // What a removal left for the collector keeps its number, however many there are.
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
            let _ = self
                .layout
                .pass(self.n)
                .and_then(|()| snapshots.remove_tree(self.n.to_string()));
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

    fn layout(path: &std::path::Path) -> Arc<Layout> {
        let layout = Layout::new(path.into(), Dir::open_ambient(path).unwrap());
        layout.root.mkdir_all(SNAPSHOTS, Mode::RWXU).unwrap();
        Arc::new(layout)
    }

    #[test]
    fn no_number_is_given_again_once_its_directory_was_removed() {
        let temp = tempfile::tempdir().unwrap();
        let opened = layout(temp.path());
        let (one, two) = (Slot::allot(&opened, 1).unwrap(), Slot::allot(&opened, 1).unwrap());
        assert_eq!((one.n(), two.n()), (1, 2));
        one.keep();
        two.keep();
        Claim::of_number(&opened, 2).unwrap().unwrap().remove().unwrap();
        // Nor by another process.
        let other = layout(temp.path());
        let three = Slot::allot(&other, 1).unwrap();
        assert_eq!(three.n(), 3);
        // What was given up, too; and what had its number before the machine came up.
        drop(three);
        assert_eq!(Slot::allot(&opened, 1).unwrap().n(), 4);
        opened.snapshots().unwrap().mkdir("9", Mode::RWXU).unwrap();
        Claim::of_number(&other, 9).unwrap().unwrap().remove().unwrap();
        assert_eq!(Slot::allot(&opened, 1).unwrap().n(), 10);
        assert_eq!(Slot::allot(&opened, 20).unwrap().n(), 20);
    }

    #[test]
    fn directories_that_are_there_are_not_looked_at_one_by_one() {
        let temp = tempfile::tempdir().unwrap();
        let opened = layout(temp.path());
        (1..100).for_each(|_| Slot::allot(&opened, 1).unwrap().keep());
        // Whoever went from one to the next would meet the gap.
        opened.snapshots().unwrap().rmdir("5").unwrap();
        assert_eq!(Slot::allot(&opened, 1).unwrap().n(), 100);
    }

    #[test]
    fn nor_while_others_remove() {
        const EACH: usize = 400;
        let temp = tempfile::tempdir().unwrap();
        let opened: Vec<_> = (0..4).map(|_| layout(temp.path())).collect();
        let mut given: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = opened
                .iter()
                .map(|layout| {
                    scope.spawn(|| {
                        let allot = |_| Slot::allot(layout, 1).map(|slot| slot.n());
                        (0..EACH).map(allot).collect::<Result<Vec<_>, _>>().unwrap()
                    })
                })
                .collect();
            threads
                .into_iter()
                .flat_map(|thread| thread.join().unwrap())
                .collect()
        });
        given.sort_unstable();
        given.dedup();
        assert_eq!(given.len(), 4 * EACH);
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
