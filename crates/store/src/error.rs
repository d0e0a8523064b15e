//! [`Fault`]: what can go wrong with the store itself, whatever the operation.
//!
//! Each operation has an error enum of its own beside it, which says what the operation refuses; all of them carry
//! a `Fault` for the rest. A `Fault` always names a path.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Something is wrong with the store, the disk or the database, not with what was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// No space, no inodes or no quota left (`ENOSPC`, `EDQUOT`, `SQLITE_FULL`): where, and which of the first two.
    #[error("no {} left on the disk for {}", .1, .0.display())]
    Full(PathBuf, &'static str),
    /// The file system, or the way the store was opened, allows no writing.
    #[error("{} is read-only", .0.display())]
    ReadOnly(PathBuf),
    /// The database, or a value in it, cannot be what strata wrote.
    #[error("the database {} is damaged: {detail}", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What was noticed.
        detail: String,
    },
    /// Others held the database's write lock for longer than [`crate::LOCK_TIMEOUT`].
    #[error("the database {} is locked by another process", .0.display())]
    Busy(PathBuf),
    /// A system call failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was attempted, such as `opening`.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// SQLite failed in another way.
    #[error("the database {}: {source}", path.display())]
    Database {
        /// The database file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl Fault {
    /// Asked at once what is lacking: a thing given up makes room for a smaller one.
    fn full(path: PathBuf) -> Fault {
        let lacks = lacking(&path);
        Fault::Full(path, lacks)
    }

    /// The fault behind a failed system call on `path`.
    pub(crate) fn io(what: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Fault {
        let (path, source) = (path.into(), source.into());
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC | Errno::DQUOT) => Fault::full(path),
            Some(Errno::ROFS) => Fault::ReadOnly(path),
            _ => Fault::Io { what, path, source },
        }
    }

    /// The fault behind an error of SQLite on the database at `path`.
    pub(crate) fn database(path: &Path, source: rusqlite::Error) -> Fault {
        let path = path.to_path_buf();
        match &source {
            rusqlite::Error::SqliteFailure(error, _) => match error.code {
                ErrorCode::DiskFull => Fault::full(path),
                ErrorCode::ReadOnly => Fault::ReadOnly(path),
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Fault::Busy(path),
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Fault::Corrupt {
                    path,
                    detail: source.to_string(),
                },
                // SQLite says "I/O error" for a quota, and "cannot open" when there is no inode for its log.
                ErrorCode::SystemIoFailure | ErrorCode::CannotOpen if is_full(&path) => Fault::full(path),
                _ => Fault::Database { path, source },
            },
            rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::IntegralValueOutOfRange(..)
            | rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::Utf8Error(..) => Fault::Corrupt {
                path,
                detail: source.to_string(),
            },
            _ => Fault::Database { path, source },
        }
    }
}

/// What a file system has none of that refused to take more at `path`: space, or inodes.
pub fn lacking(path: &Path) -> &'static str {
    // What could not be made is not there.
    let found = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    match found {
        // Some count none, and have as many as there is space for.
        Some(found) if found.f_files > 0 && found.f_favail == 0 => "inodes",
        _ => "space",
    }
}

/// Whether nothing can be written beside `path`, found out by trying with a file that has no name.
fn is_full(path: &Path) -> bool {
    let attempt = || -> rustix::io::Result<()> {
        let parent = path.parent().unwrap_or(path);
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let file = rustix::fs::open(parent, flags, Mode::RUSR | Mode::WUSR)?;
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, 64 * 1024)
    };
    matches!(attempt(), Err(Errno::NOSPC | Errno::DQUOT))
}
