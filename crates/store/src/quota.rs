//! How much a writable snapshot may hold: a project quota on `snapshots/<N>`, kept by the file system.
//!
//! The project's id is nowhere but in the directory itself, and limit and usage nowhere but in the file system: what
//! the store held beside them could only be wrong. A directory has a project of its own when its id is not the one of
//! `snapshots`, which an administrator may have given to the whole store.

use std::io;
use std::os::fd::AsFd;

pub use sys::quota::Quota;

use rustix::rand::{GetRandomFlags, getrandom};
use sys::Dir;
use sys::quota;

use crate::Store;
use crate::snapshot::{self, SnapshotError};

/// Ids are drawn from 2^30 to 2^31 - 1: far from those of /etc/projid and of other engines, which count from small
/// numbers; and positive wherever they are taken for signed.
const FIRST: u32 = 1 << 30;

/// Ids that are tried before it is said that there is none: one that is in use is met once in a million times even
/// with thousands of snapshots.
const ATTEMPTS: u32 = 64;

/// Limits what the empty directory `dir`, and all that will be made in it, may take. False where the file system
/// keeps no project quotas.
pub(crate) fn limit(dir: &Dir, bytes: u64) -> io::Result<bool> {
    let fd = dir.as_fd();
    if !quota::enforced(fd)? {
        return Ok(false);
    }
    for _ in 0..ATTEMPTS {
        let mut random = [0; 4];
        getrandom(&mut random, GetRandomFlags::empty())?;
        let project = FIRST | u32::from_ne_bytes(random) >> 2;
        // Another store's on the same file system, or somebody else's.
        if quota::of_project(fd, project)? == Quota::default() {
            quota::set_project(fd, project)?;
            quota::limit_project(fd, project, bytes)?;
            return Ok(true);
        }
    }
    Err(io::Error::other("no project id is free"))
}

/// Lifts the limit of what lies in `parent` and is about to be removed, where it has one. A limit that stays for
/// want of rights or quotas is one on an id that nobody has.
pub(crate) fn lift(parent: &Dir, dir: impl AsFd) {
    if let Ok(Some(project)) = own_project(parent, &dir) {
        let _ = quota::limit_project(dir.as_fd(), project, 0);
    }
}

/// The project of `dir`, unless it is its parent's.
fn own_project(parent: &Dir, dir: impl AsFd) -> io::Result<Option<u32>> {
    let project = quota::project(dir.as_fd())?;
    Ok((project >= FIRST && project != quota::project(parent.as_fd())?).then_some(project))
}

impl Store {
    /// What a snapshot that was made with a limit may take and takes, its work directory included, as the file system
    /// counts it: no directory is walked. `None` for one without a limit.
    pub fn quota(&self, ns: &str, key: &str) -> Result<Option<Quota>, SnapshotError> {
        let Some(n) = self.db.read(|q| snapshot::get(q, ns, key))?.n else {
            return Ok(None);
        };
        let snapshots = self.layout.snapshots()?;
        let read = || -> io::Result<Option<Quota>> {
            let dir = snapshots.open_dir(n.to_string())?;
            // Where there are no projects there is no limit.
            let Some(project) = own_project(snapshots, &dir).ok().flatten() else {
                return Ok(None);
            };
            quota::of_project(dir.as_fd(), project).map(Some)
        };
        Ok(read().map_err(|e| self.number_fault("reading the quota of", n, e))?)
    }
}
