//! An ordinary user's namespaces: one user and one mount namespace, in which all of the user's commands and containers
//! are.
//!
//! In it the user is 0, and has the rights over its ids and mounts that root has over the machine's; what strata does is
//! then the same. Outside nothing is gained: the namespace's ids are the user's own one and those that the
//! administrator gave to the user (`ids`), and no program of ours is set-uid.
//!
//! The namespaces live as long as a process is in them, and each command comes into them anew. A small process that does
//! nothing (`holder`) keeps them from the first command on. Who they are is told by locks on one file of the state
//! directory: the holder has one on its first byte, each supervisor on its second, and the kernel names the process of a
//! lock and lets go of it with the process. So no number is written down that could become another's; and where the
//! holder was killed, a new one is made in the namespaces of a supervisor.
//!
//! Locks, in this order: `flock` on the file, while a holder is made; the record locks, which nobody waits for.
//!
//! Start reading at [`enter`].

mod holder;
mod ids;

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, Gid, Mode, OFlags, flock};
use rustix::process::{Pid, PidfdFlags};
use sys::process::namespaces as kind;
use sys::record_lock::{self, Kind, Owner};

use crate::Helper;

pub use holder::hold;
pub(crate) use ids::give;
pub use ids::{IdsError, Ranges, of_user as ids, subordinate};

/// The file whose locks tell who is in the namespaces.
const FILE: &str = ".namespaces";

/// The byte that the holder locks.
const HOLDER: i64 = 0;
/// The byte that every supervisor locks.
const MEMBER: i64 = 1;

/// Why a user's namespaces were not entered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootlessError {
    /// The state directory.
    #[error("state directory {}: {source}", path.display())]
    State {
        /// Which.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// Somebody else could put things into the state directory.
    #[error("state directory {} is not this user's alone", .0.display())]
    NotAlone(PathBuf),
    /// The machine gives ordinary users no namespaces.
    #[error("making a user namespace: {0}")]
    Refused(#[source] io::Error),
    /// The ids.
    #[error(transparent)]
    Ids(#[from] IdsError),
    /// The process that keeps the namespaces.
    #[error("keeping the user namespace: {0}")]
    Holder(#[source] io::Error),
    /// They are there and cannot be entered.
    #[error("entering the user namespace of process {pid}: {source}")]
    Enter {
        /// Who is in it.
        pid: i32,
        /// The errno.
        source: io::Error,
    },
    /// A process in another pid namespace holds them.
    #[error("the user namespace is held by a process that cannot be seen from here")]
    Hidden,
}

/// Whether the caller is the machine's root, and not an ordinary user nor root of a user namespace.
pub fn is_machines_root() -> bool {
    rustix::process::geteuid().is_root() && sys::ids::Ids::own().is_ok_and(|ids| ids.are_the_machines())
}

/// Takes the calling process, which has one thread, into its user's namespaces, and makes these where there are none.
/// The working directory stays. `helper` is the program in the role of [`hold`].
///
/// # Errors
/// [`RootlessError`]; then the process is where it was.
pub fn enter(state: &Path, helper: &Helper) -> Result<(), RootlessError> {
    let state_error = |source| RootlessError::State {
        path: state.to_owned(),
        source,
    };
    let file = open(state)?;
    if let Some(holder) = find(&file, HOLDER)? {
        return holder.join();
    }
    // Whoever makes a holder has this lock until it is there.
    flock(&file, FlockOperation::LockExclusive).map_err(|e| state_error(e.into()))?;
    let entered = match (find(&file, HOLDER)?, find(&file, MEMBER)?) {
        (Some(holder), _) => holder.join(),
        (None, Some(member)) => {
            member.join()?;
            holder::start(&file, helper, None).map(drop)
        }
        (None, None) => {
            let ids = ids::of_user()?;
            holder::start(&file, helper, Some(&ids))?.join()
        }
    };
    // Not left to the descriptor's end: the holder has the same one.
    let _ = flock(&file, FlockOperation::Unlock);
    entered
}

/// Has the calling process, the supervisor of a bundle, count as one of those in its user's namespaces, where it is one.
/// Until it ends it must not open that file again.
pub(crate) fn stay(bundle: &Path) {
    let Some(state) = bundle.parent().and_then(Path::parent) else {
        return;
    };
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::openat(CWD, state.join(FILE), flags, Mode::empty())
        && record_lock::set(file.as_fd(), Owner::Process, Kind::Read, MEMBER, 1).is_ok()
    {
        // Closed, the lock would be gone.
        std::mem::forget(file);
    }
}

/// The state directory's file, both made where they are missing.
fn open(state: &Path) -> Result<File, RootlessError> {
    let failed = |source| RootlessError::State {
        path: state.to_owned(),
        source,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(CWD, state, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
    let status = rustix::fs::fstat(&dir).map_err(|e| failed(e.into()))?;
    if status.st_uid != rustix::process::geteuid().as_raw() || status.st_mode & 0o022 != 0 {
        return Err(RootlessError::NotAlone(state.to_owned()));
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&dir, FILE, flags, Mode::RUSR | Mode::WUSR);
    Ok(file.map_err(|e| failed(e.into()))?.into())
}

/// The process that has a byte of the file locked.
fn find(file: &File, byte: i64) -> Result<Option<Member>, RootlessError> {
    let failed = |source| RootlessError::Holder(source);
    let ask = || record_lock::process(file.as_fd(), Kind::Write, byte, 1).map_err(failed);
    loop {
        let Some(pid) = ask()? else { return Ok(None) };
        let Some(number) = Pid::from_raw(pid).filter(|_| pid > 0) else {
            return Err(RootlessError::Hidden);
        };
        match rustix::process::pidfd_open(number, PidfdFlags::empty()) {
            // It had the lock before and after: the descriptor is its own, and no later process's.
            Ok(process) if ask()? == Some(pid) => return Ok(Some(Member { pid, process })),
            Ok(_) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// A process in the namespaces.
struct Member {
    pid: i32,
    process: OwnedFd,
}

impl Member {
    /// Takes the calling process to where this one is, as the namespace's root.
    fn join(&self) -> Result<(), RootlessError> {
        self.try_join(self.process.as_fd())
            .map_err(|source| RootlessError::Enter {
                pid: self.pid,
                source,
            })
    }

    fn try_join(&self, process: BorrowedFd<'_>) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let before = rustix::fs::openat(CWD, ".", flags, Mode::empty())?;
        let path = std::env::current_dir();
        sys::process::join_namespaces(process, kind::USER | kind::MOUNT)?;
        // The user's own group is 0 here; one that was taken by newgrp(1) may be nobody's.
        rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
        let here = path.and_then(|path| Ok(rustix::process::chdir(path)?));
        let same = here.and_then(|()| {
            let (one, other) = (rustix::fs::stat(".")?, rustix::fs::fstat(&before)?);
            Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
        });
        match same {
            Ok(true) => Ok(()),
            // A mount of the caller's mount namespace alone, or a directory that is gone: the process stays in it.
            _ => Ok(rustix::process::fchdir(before)?),
        }
    }
}
