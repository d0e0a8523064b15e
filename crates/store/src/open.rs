//! [`Store`]: opened, and made where there is none.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::{FlockOperation, Mode, OFlags, StatVfsMountFlags};
use sys::Dir;
use sys::ids::Ids;

use crate::db::{Access, Db, Durability, PAGE};
use crate::error::Fault;
use crate::flaw::IsUp;
use crate::format::Format;
use crate::layout::{self, Layout};
use crate::reserve::RESERVE;
use crate::schema;

/// An open store. Threads may share it; each process opens its own, and none carries it across a `fork`.
///
/// See the crate's front page for what it does, and `docs/format/store.md` for what lies on disk.
pub struct Store {
    pub(crate) layout: Arc<Layout>,
    pub(crate) db: Arc<Db>,
    pub(crate) format: Format,
    pub(crate) is_up: Option<IsUp>,
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no store, and the call was not to make one.
    #[error("there is no store in {}", .0.display())]
    Missing(PathBuf),
    /// The directory holds other things.
    #[error("{} is not a store: it has no {} but {entry:?}", path.display(), layout::DATABASE)]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// One of the things in it.
        entry: std::ffi::OsString,
    },
    /// A newer strata made or migrated it.
    #[error("the store {} has version {found}, and this strata knows versions up to {known}", path.display())]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version this program knows.
        known: u32,
    },
    /// An older strata made it, and it cannot be migrated because it is opened for reading only.
    #[error("the store {} has version {found} and must be migrated by opening it for writing", path.display())]
    Older {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// It uses features that this program does not know.
    #[error("the store {} uses what this strata does not know: {}", path.display(), features.join(", "))]
    UnknownFeatures {
        /// The store.
        path: PathBuf,
        /// Their names.
        features: Vec<String>,
        /// Whether [`Store::open_read_only`] would do.
        readable: bool,
    },
    /// Its files belong to other ids than those of this process.
    #[error("the store {} belongs to the ids {recorded}, and this process has {own}", path.display())]
    OtherIds {
        /// The store.
        path: PathBuf,
        /// Whose it is: first id in the namespace, the same outside, how many; users, then groups.
        recorded: Ids,
        /// Those of this process's user namespace.
        own: Ids,
    },
    /// The path is not UTF-8, which mount options as text cannot carry.
    #[error("the store's path {0:?} is not UTF-8")]
    NotUtf8(PathBuf),
    /// Another process answers containerd for it.
    #[error("the store {} is served by another process", .0.display())]
    Served(PathBuf),
    /// Disk or database.
    #[error("the store cannot be opened: {0}")]
    Fault(#[from] Fault),
}

impl Store {
    /// Opens the store at `root` for writing; makes it, closed to other users, when there is none. An older
    /// version is migrated. On a read-only file system it opens for reading, and what would write fails with
    /// [`Fault::ReadOnly`].
    pub fn open(root: &Path) -> Result<Store, OpenError> {
        let path = absolute(root)?;
        let dir = match Dir::open_ambient(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => make_root(&path)?,
            other => other.map_err(|e| Fault::io("opening", &path, e))?,
        };
        let layout = Arc::new(Layout::new(path, dir));
        match Store::open_layout(&layout) {
            // SQLite gives the index of its log to the disk and takes it back: on a full one it may be gone.
            Err(OpenError::Fault(Fault::Full(..))) if layout.spend_reserve() => Store::open_layout(&layout),
            other => other,
        }
    }

    fn open_layout(layout: &Arc<Layout>) -> Result<Store, OpenError> {
        let exists = layout
            .root
            .try_stat(layout::DATABASE)
            .map_err(|e| layout.fault("reading", layout::DATABASE, e))?;
        if exists.is_none_or(|stat| stat.st_size == 0) {
            make(layout)?;
        }
        let db = open_database(layout, Access::Write)?;
        let store = Store {
            layout: layout.clone(),
            db: Arc::new(db),
            format: Format::default(),
            is_up: None,
        };
        store.check_version()
    }

    /// Opens the store at `root` without ever writing to it.
    pub fn open_read_only(root: &Path) -> Result<Store, OpenError> {
        let path = absolute(root)?;
        let missing = |error: std::io::Error, path: &Path| match error.kind() {
            std::io::ErrorKind::NotFound => OpenError::Missing(path.to_path_buf()),
            _ => Fault::io("opening", path, error).into(),
        };
        let dir = Dir::open_ambient(&path).map_err(|e| missing(e, &path))?;
        dir.stat(layout::DATABASE).map_err(|e| missing(e, &path))?;
        let layout = Layout::new(path, dir);
        let db = open_database(&layout, Access::Read)?;
        let store = Store {
            layout: Arc::new(layout),
            db: Arc::new(db),
            format: Format::default(),
            is_up: None,
        };
        store.check_version()
    }

    /// A second connection to the same store, for a thread that must not wait for another's transactions. What is looked
    /// up in a moment it asks of the first one all the same, where that is free.
    pub fn reopen(&self) -> Result<Store, OpenError> {
        let mut store = match self.is_read_only() {
            true => Store::open_read_only(&self.layout.path),
            false => Store::open(&self.layout.path),
        }?;
        store.is_up.clone_from(&self.is_up);
        store.db.reads_beside(&self.db);
        Ok(store)
    }

    /// This process keeps the store open: its log may grow longer before it is begun anew, since nobody has to read it
    /// meanwhile, and less of the database is kept in memory.
    ///
    /// # Errors
    /// The database does not answer.
    pub fn stay_open(&self) -> Result<(), Fault> {
        self.db.stay_open()
    }

    /// The root directory, absolute.
    pub fn root(&self) -> &Path {
        &self.layout.path
    }

    /// Whether nothing can be written.
    pub fn is_read_only(&self) -> bool {
        self.db.is_read_only()
    }

    /// How its files are written.
    pub fn format(&self) -> &Format {
        &self.format
    }

    fn check_version(mut self) -> Result<Store, OpenError> {
        let found = self.db.read(schema::version)?;
        let path = || self.layout.path.clone();
        if found > schema::VERSION {
            return Err(OpenError::Newer {
                path: path(),
                found,
                known: schema::VERSION,
            });
        }
        if found < schema::VERSION {
            if self.is_read_only() {
                return Err(OpenError::Older { path: path(), found });
            }
            self.migrate(schema::STEPS)?;
        }
        let flags = self.db.read(schema::unknown_flags)?;
        if !flags.incompat.is_empty() {
            return Err(OpenError::UnknownFeatures {
                path: path(),
                features: flags.incompat,
                readable: false,
            });
        }
        if !flags.ro_compat.is_empty() && !self.is_read_only() {
            return Err(OpenError::UnknownFeatures {
                path: path(),
                features: flags.ro_compat,
                readable: true,
            });
        }
        self.format = self.db.read(Format::read)?;
        self.check_ids()?;
        Ok(self)
    }

    /// Refuses a store whose files are others' than this process would make. Ids that came in addition are noted.
    fn check_ids(&mut self) -> Result<(), OpenError> {
        let Some(recorded) = &self.format.user else {
            return Ok(());
        };
        let own = Ids::own().map_err(|e| Fault::io("reading", Path::new("/proc/self/uid_map"), e))?;
        if !recorded.agree_with(&own) {
            return Err(OpenError::OtherIds {
                path: self.layout.path.clone(),
                recorded: recorded.clone(),
                own,
            });
        }
        if *recorded != own && !self.is_read_only() {
            let format = Format { user: Some(own) };
            self.db.write(Durability::Full, |q| format.write(q))?;
            self.format = format;
        }
        Ok(())
    }

    /// Makes or migrates the schema, once, whoever else tries at the same time.
    fn migrate(&self, steps: &[&str]) -> Result<(), Fault> {
        let lock = lock_root(&self.layout)?;
        let own = Format::of_process(&lock).map_err(|e| self.layout.fault("looking at", "", e))?;
        // Outside a transaction, and without effect when it is so already. Both are kept in the file.
        self.db
            .batch(&format!("PRAGMA page_size = {PAGE}; PRAGMA journal_mode = WAL"))?;
        self.db.write(Durability::Full, |q| {
            let from = schema::version(q)?;
            schema::migrate(q, from, steps, now())?;
            match from {
                0 => own.write(q),
                _ => Ok(()),
            }
        })
    }
}

/// Nanoseconds since 1970. Ends in 2262.
pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn absolute(root: &Path) -> Result<PathBuf, OpenError> {
    let path = std::path::absolute(root).map_err(|e| Fault::io("resolving", root, e))?;
    match path.to_str() {
        Some(_) => Ok(path),
        None => Err(OpenError::NotUtf8(path)),
    }
}

fn make_root(path: &Path) -> Result<Dir, Fault> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| Dir::open_ambient(path))
        .map_err(|e| Fault::io("making", path, e))
}

/// The directories, and an empty database for the schema to be put in.
fn make(layout: &Layout) -> Result<(), OpenError> {
    let _lock = lock_root(layout)?;
    let there = layout.root.try_stat(layout::DATABASE);
    if there
        .map_err(|e| layout.fault("reading", layout::DATABASE, e))?
        .is_some_and(|stat| stat.st_size > 0)
    {
        // Others were faster. To open the file just to close it would drop SQLite's locks on it in this process.
        return Ok(());
    }
    let entries = layout
        .root
        .entries()
        .map_err(|e| layout.fault("reading", "", e))?;
    for entry in entries {
        let name = entry.name.to_string_lossy();
        let ours = name.starts_with(layout::DATABASE)
            || [
                "content",
                RESERVE,
                layout::NUMBERS,
                layout::MOUNT_POINTS,
                layout::NOTHING,
                layout::LEASES,
                layout::SNAPSHOTS,
                "lost+found",
            ]
            .contains(&name.as_ref());
        if !ours {
            return Err(OpenError::NotAStore {
                path: layout.path.clone(),
                entry: entry.name,
            });
        }
    }
    // To begin anew would make garbage of everything that is there.
    for rel in [layout::SNAPSHOTS, layout::BLOBS] {
        let filled = layout.root.open_dir(rel).and_then(|dir| dir.entries());
        if filled.is_ok_and(|entries| !entries.is_empty()) {
            let detail = format!("it is missing or empty, and {rel} is not");
            return Err(Fault::Corrupt {
                path: layout.at(layout::DATABASE),
                detail,
            }
            .into());
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE;
    let mode = Mode::RUSR | Mode::WUSR;
    layout.fill_reserve();
    layout
        .root
        .open_file(layout::DATABASE, flags, mode)
        .map_err(|e| layout.fault("making", layout::DATABASE, e))?;
    Ok(layout.make()?)
}

/// An exclusive flock on the root directory, until the returned descriptor is closed.
fn lock_root(layout: &Layout) -> Result<Dir, Fault> {
    let lock = || -> std::io::Result<Dir> {
        // Not a clone of `layout.root`: the lock would live as long as that.
        let dir = layout.root.open_dir("")?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive)?;
        Ok(dir)
    };
    lock().map_err(|e| layout.fault("locking", "", e))
}

fn open_database(layout: &Layout, access: Access) -> Result<Db, Fault> {
    let path = layout.at(layout::DATABASE);
    // On a read-only file system SQLite can read a log only if its index lies there too. A database without a log
    // needs neither, as long as nobody writes, and there nobody can.
    let frozen =
        rustix::fs::fstatvfs(&layout.root).is_ok_and(|vfs| vfs.f_flag.contains(StatVfsMountFlags::RDONLY));
    if frozen {
        let log = layout
            .root
            .try_stat(format!("{}-wal", layout::DATABASE))
            .map_err(|e| layout.fault("reading", layout::DATABASE, e))?;
        let access = if log.is_none_or(|stat| stat.st_size == 0) {
            Access::Immutable
        } else {
            Access::Read
        };
        return Db::open(path, access);
    }
    Db::open(path, access)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_made_closed_and_found_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("a/b/store");
        assert!(matches!(Store::open_read_only(&root), Err(OpenError::Missing(_))));
        let store = Store::open(&root).unwrap();
        assert!(!store.is_read_only());
        let dir = Dir::open_ambient(&root).unwrap();
        for name in [
            layout::DATABASE,
            "metadata.db-wal",
            "metadata.db-shm",
            "content",
            "snapshots",
            "leases",
        ] {
            assert_eq!(dir.stat(name).unwrap().st_mode & 0o077, 0, "{name}");
        }
        assert_eq!(dir.metadata().unwrap().st_mode & 0o777, 0o700);
        drop(store);
        Store::open(&root).unwrap();
        assert!(Store::open_read_only(&root).unwrap().is_read_only());
    }

    #[test]
    fn someone_elses_directory_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::File::create(temp.path().join("thesis.tex")).unwrap();
        let error = Store::open(temp.path()).err().unwrap();
        assert!(error.to_string().contains("thesis.tex"), "{error}");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn versions_and_flags() {
        let temp = tempfile::tempdir().unwrap();
        let change = |sql: &str| Store::open(temp.path()).unwrap().db.batch(sql).unwrap();

        change("UPDATE meta SET compat = 'shiny'");
        change("UPDATE meta SET ro_compat = 'odd even'");
        let error = Store::open(temp.path()).err().unwrap();
        assert!(matches!(
            &error,
            OpenError::UnknownFeatures { readable: true, .. }
        ));
        assert!(error.to_string().ends_with("odd, even"), "{error}");
        let reader = Store::open_read_only(temp.path()).unwrap();
        drop(reader);

        let raw = rusqlite::Connection::open(temp.path().join(layout::DATABASE)).unwrap();
        raw.execute_batch("UPDATE meta SET ro_compat = '', incompat = 'lazy'")
            .unwrap();
        for error in [
            Store::open(temp.path()).err(),
            Store::open_read_only(temp.path()).err(),
        ] {
            assert!(matches!(
                error,
                Some(OpenError::UnknownFeatures { readable: false, .. })
            ));
        }

        raw.execute_batch("PRAGMA user_version = 9").unwrap();
        let error = Store::open(temp.path()).err().unwrap();
        assert!(
            matches!(
                error,
                OpenError::Newer {
                    found: 9,
                    known: schema::VERSION,
                    ..
                }
            ),
            "{error}"
        );
    }

    #[test]
    fn a_step_migrates_an_older_store_once() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let mut steps = schema::STEPS.to_vec();
        steps.push("CREATE TABLE later (x INTEGER) STRICT; -- with a comment");
        store.migrate(&steps).unwrap();
        store.migrate(&steps).unwrap();
        assert_eq!(store.db.read(schema::version).unwrap(), schema::VERSION + 1);
        drop(store);
        assert!(matches!(Store::open(temp.path()), Err(OpenError::Newer { .. })));
    }

    #[test]
    fn a_broken_database_is_named() {
        let temp = tempfile::tempdir().unwrap();
        drop(Store::open(temp.path()).unwrap());
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(temp.path().join(layout::DATABASE))
            .unwrap();
        // The log holds the pages until a checkpoint: without it only the file counts.
        std::fs::remove_file(temp.path().join("metadata.db-wal")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0x5a; 4096], 0).unwrap();
        let error = Store::open(temp.path()).err().unwrap();
        assert!(
            matches!(&error, OpenError::Fault(Fault::Corrupt { .. })),
            "{error:?}"
        );
        assert!(error.to_string().contains("metadata.db"), "{error}");
    }

    #[test]
    fn a_lost_database_does_not_make_garbage_of_the_rest() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        store.prepare("ns", "key", None, &Default::default()).unwrap();
        drop(store);
        for suffix in ["", "-wal", "-shm"] {
            std::fs::remove_file(temp.path().join(format!("metadata.db{suffix}"))).unwrap();
        }
        let error = Store::open(temp.path()).err().unwrap();
        assert!(
            matches!(&error, OpenError::Fault(Fault::Corrupt { .. })),
            "{error:?}"
        );
        assert!(temp.path().join("snapshots/1/fs").is_dir());
    }

    #[test]
    fn many_make_one_store() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("store");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| Store::open(&root).unwrap());
            }
        });
    }
}
