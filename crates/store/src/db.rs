//! The database: one connection, its transactions, and the queries within them.
//!
//! Every query goes through [`Query`], which caches the prepared statement and names the database in the error.
//! Writing transactions take the write lock when they begin, so that none can fail half-way because another got in
//! between. Waiting for it is bounded by [`LOCK_TIMEOUT`].
//!
//! A connection must not cross a `fork` (<https://sqlite.org/howtocorrupt.html>, 2.6).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection, OpenFlags, Params, Row, Transaction, TransactionBehavior};

use crate::error::Fault;

/// How long a transaction waits for other processes before it gives up with [`Fault::Busy`].
pub const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes of a page in a database that is made here. A row is a few hundred, and a transaction changes one in each of
/// eight trees or so: every one of these pages goes into the log, and is read and summed up again by whoever opens a
/// store that nobody has open.
pub(crate) const PAGE: u32 = 1024;

/// Pages in the log from which a transaction of each durability moves them into the database and begins the log anew.
/// Whoever opens a store that nobody has open reads the log once, .4 µs a page; beginning it anew costs four
/// `fdatasync`, which a durable transaction notices least.
const LOG_LIMIT_FULL: i64 = 128;
const LOG_LIMIT_RELAXED: i64 = 512;
/// The same for a process that keeps the store open: nobody reads the log to open it meanwhile.
const LOG_LIMIT_OPEN: i64 = 1024;

/// KiB of the database that a connection keeps in memory which stays open (SQLite's own: 2000).
const CACHE_OPEN: u32 = 512;

/// Writes something that means nothing.
const MARK: &str = "UPDATE meta SET marks = marks + 1";

/// Whether a transaction must survive a power cut once it is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// On disk when the commit returns, with everything committed before.
    Full,
    /// Survives the death of every process, but perhaps not a power cut. No sync.
    Relaxed,
}

/// How a database is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Write,
    Read,
    /// The file system is read-only and there is no log: nobody can be writing.
    Immutable,
}

/// A connection that threads may share; one uses it at a time.
pub(crate) struct Db {
    inner: Mutex<Inner>,
    full: AtomicBool,
    stays_open: AtomicBool,
    /// The connection that writes, of one that only reads: what it wrote it need not read.
    writes: OnceLock<Arc<Db>>,
    path: PathBuf,
}

struct Inner {
    connection: Connection,
    durability: Durability,
}

impl Db {
    pub(crate) fn open(path: PathBuf, access: Access) -> Result<Db, Fault> {
        let flags = match access {
            Access::Write => OpenFlags::SQLITE_OPEN_READ_WRITE,
            Access::Read | Access::Immutable => OpenFlags::SQLITE_OPEN_READ_ONLY,
        } | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_URI;
        let open = || -> rusqlite::Result<Connection> {
            let mut connection = match access {
                Access::Immutable => Connection::open_with_flags(immutable_uri(&path), flags)?,
                _ => Connection::open_with_flags(&path, flags)?,
            };
            connection.busy_handler(Some(wait_for_lock))?;
            connection.set_prepared_statement_cache_capacity(64);
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_FKEY, true)?;
            // Plans do not depend on parameters, so that a cached statement need not be planned again.
            connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
            if access == Access::Write {
                connection.pragma_update(None, "synchronous", "NORMAL")?;
                // SQLite's own would not shorten the log: see `restart_log`.
                connection.pragma_update(None, "wal_autocheckpoint", 0)?;
            }
            Ok(connection)
        };
        let connection = open().map_err(|error| Fault::database(&path, error))?;
        Ok(Db {
            inner: Mutex::new(Inner {
                connection,
                durability: Durability::Relaxed,
            }),
            full: AtomicBool::new(false),
            stays_open: AtomicBool::new(false),
            writes: OnceLock::new(),
            path,
        })
    }

    /// Whether nothing can be written: the file or its file system was read-only at opening.
    pub(crate) fn is_read_only(&self) -> bool {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.connection.is_readonly("main").unwrap_or(true)
    }

    /// Runs `body` on one unchanging view of the database.
    pub(crate) fn read<T, E: From<Fault>>(
        &self,
        body: impl FnOnce(&Query<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.transaction(&inner.connection, TransactionBehavior::Deferred, body)
    }

    /// As [`Db::read`], for what is looked up in a moment: on the connection that writes where that is free, since this one
    /// has to read again what was written since. It waits for no transaction of the other's, as [`Db::read`] does not.
    pub(crate) fn look<T, E: From<Fault>>(
        &self,
        body: impl FnOnce(&Query<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        match self.writes.get().map(|writes| writes.inner.try_lock()) {
            Some(Ok(inner)) => self.transaction(&inner.connection, TransactionBehavior::Deferred, body),
            _ => self.read(body),
        }
    }

    /// Tells a connection that reads which one writes, in the same process.
    pub(crate) fn reads_beside(&self, writes: &Arc<Db>) {
        let _ = self.writes.set(writes.clone());
    }

    /// Runs `body` as a writing transaction; commits what it did if it returns `Ok`, undoes it otherwise.
    pub(crate) fn write<T, E: From<Fault>>(
        &self,
        durability: Durability,
        body: impl FnOnce(&Query<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.durability != durability {
            let level = match durability {
                Durability::Full => "FULL",
                Durability::Relaxed => "NORMAL",
            };
            inner
                .connection
                .pragma_update(None, "synchronous", level)
                .map_err(|e| Fault::database(&self.path, e))?;
            inner.durability = durability;
        }
        let value = self.transaction(&inner.connection, TransactionBehavior::Immediate, body)?;
        let limit = match durability {
            _ if self.stays_open.load(Ordering::Relaxed) => LOG_LIMIT_OPEN,
            Durability::Full => LOG_LIMIT_FULL,
            Durability::Relaxed => LOG_LIMIT_RELAXED,
        };
        self.restart_log(&mut inner.connection, limit);
        Ok(value)
    }

    /// Moves a log of more than `limit` pages into the database and begins it anew, unless somebody is reading it.
    /// What fails here does not undo the transaction before it, and is tried again after the next.
    ///
    /// SQLite begins the log anew with the next transaction of a process that knows it to have been moved. That
    /// knowledge goes with the last process that has the store open, as most of ours are. So the transaction is made
    /// here. The file is not truncated: its blocks serve again, and on a full disk they are there to delete with.
    fn restart_log(&self, connection: &mut Connection, limit: i64) {
        let pages = |row: &Row<'_>| row.get::<_, i64>(1);
        let length = connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)");
        if length.and_then(|mut s| s.query_row((), pages)).unwrap_or(0) <= limit {
            return;
        }
        // A reader may take its time, and is not waited for.
        let _ = connection.busy_handler(None::<fn(i32) -> bool>);
        let moved = connection.query_row("PRAGMA wal_checkpoint(RESTART)", (), |row| row.get(0));
        if moved == Ok(0) {
            let _ = connection.execute(MARK, ());
        }
        let _ = connection.busy_handler(Some(wait_for_lock));
    }

    /// This process has the database open for long: its log may be long, and what it keeps of it in memory shall not be much.
    pub(crate) fn stay_open(&self) -> Result<(), Fault> {
        self.stays_open.store(true, Ordering::Relaxed);
        self.batch(&format!("PRAGMA cache_size = -{CACHE_OPEN}"))
    }

    /// Begins the log anew, as [`Db::write`] does from time to time.
    pub(crate) fn empty_log(&self) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.restart_log(&mut inner.connection, 0);
    }

    fn transaction<T, E: From<Fault>>(
        &self,
        connection: &Connection,
        behavior: TransactionBehavior,
        body: impl FnOnce(&Query<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        self.full.store(false, Ordering::Relaxed);
        let query = Query {
            connection,
            path: &self.path,
            full: &self.full,
        };
        let transaction = query.done(Transaction::new_unchecked(connection, behavior))?;
        let value = body(&query)?;
        query.done(transaction.commit())?;
        Ok(value)
    }

    /// Whether the last transaction failed because the disk is full.
    pub(crate) fn was_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// Runs statements that cannot be part of a transaction.
    pub(crate) fn batch(&self, sql: &str) -> Result<(), Fault> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner
            .connection
            .execute_batch(sql)
            .map_err(|e| Fault::database(&self.path, e))
    }
}

/// The database within a transaction.
pub(crate) struct Query<'a> {
    connection: &'a Connection,
    path: &'a Path,
    full: &'a AtomicBool,
}

impl Query<'_> {
    /// Runs a statement; the number of rows it changed.
    pub(crate) fn run(&self, sql: &str, params: impl Params) -> Result<usize, Fault> {
        self.done(self.prepare(sql).and_then(|mut s| s.execute(params)))
    }

    /// Runs an `INSERT` and tells the row's id.
    pub(crate) fn insert(&self, sql: &str, params: impl Params) -> Result<i64, Fault> {
        self.done(self.prepare(sql).and_then(|mut s| s.insert(params)))
    }

    /// The first row, if there is one.
    pub(crate) fn one<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Option<T>, Fault> {
        self.done(self.prepare(sql).and_then(|mut s| {
            let mut rows = s.query(params)?;
            rows.next()?.map(map).transpose()
        }))
    }

    /// Every row.
    pub(crate) fn all<T>(
        &self,
        sql: &str,
        params: impl Params,
        map: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>, Fault> {
        self.done(
            self.prepare(sql)
                .and_then(|mut s| s.query_map(params, map)?.collect()),
        )
    }

    /// Makes a transaction that only looks a writing one. What it sees then holds for good: a process that died
    /// between writing its transaction to the log and announcing it leaves one that nobody sees, and that comes back
    /// with the next recovery of the log, unless another was written over it.
    pub(crate) fn mark(&self) -> Result<(), Fault> {
        self.run(MARK, ()).map(drop)
    }

    /// Runs several statements that take no parameters.
    pub(crate) fn batch(&self, sql: &str) -> Result<(), Fault> {
        self.done(self.connection.execute_batch(sql))
    }

    /// A value in the database that cannot be what strata wrote.
    pub(crate) fn corrupt(&self, detail: impl Into<String>) -> Fault {
        Fault::Corrupt {
            path: self.path.to_path_buf(),
            detail: detail.into(),
        }
    }

    /// Prepares a statement that will be run later.
    pub(crate) fn expect(&self, sql: &str) -> Result<(), Fault> {
        self.done(self.prepare(sql).map(drop))
    }

    fn prepare(&self, sql: &str) -> rusqlite::Result<CachedStatement<'_>> {
        #[cfg(test)]
        tests::SEEN.with_borrow_mut(|seen| seen.insert(sql.to_owned()));
        self.connection.prepare_cached(sql)
    }

    fn done<T>(&self, result: rusqlite::Result<T>) -> Result<T, Fault> {
        result.map_err(|error| {
            let fault = Fault::database(self.path, error);
            self.full
                .fetch_or(matches!(fault, Fault::Full(..)), Ordering::Relaxed);
            fault
        })
    }
}

/// SQLite's own handler sleeps up to 100 ms at a time; a transaction here takes well under one.
fn wait_for_lock(tries: i32) -> bool {
    let tries = u64::try_from(tries).unwrap_or(u64::MAX);
    let step = |n: u64| Duration::from_micros(50 * n.clamp(1, 40));
    // 1 + … + 40 steps, then 40 each.
    if tries > 40 && step(40) * u32::try_from(tries).unwrap_or(u32::MAX) > LOCK_TIMEOUT {
        return false;
    }
    std::thread::sleep(step(tries + 1));
    true
}

fn immutable_uri(path: &Path) -> String {
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    uri
}

/// An unsigned number as SQLite stores it. What is beyond 2^63 cannot be a size or a number of strata's.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Column `index` as an unsigned number.
pub(crate) fn unsigned(row: &Row<'_>, index: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(index)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(index, value))
}

/// Column `index` as a time.
pub(crate) fn time(row: &Row<'_>, index: usize) -> rusqlite::Result<Timestamp> {
    Ok(timestamp(row.get(index)?))
}

/// A time from nanoseconds since 1970.
pub(crate) fn timestamp(nanoseconds: i64) -> Timestamp {
    // Every i64 lies within what a Timestamp holds.
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}

/// Nanoseconds since 1970; times before 1677 and after 2262 become the nearest that fits.
pub(crate) fn nanoseconds(time: Timestamp) -> i64 {
    let value = time.as_nanosecond();
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::collections::BTreeSet;

    use super::*;
    use crate::{Container, Digest, PrepareOptions, Store};

    thread_local! {
        /// Statements that this thread has prepared.
        pub(crate) static SEEN: RefCell<BTreeSet<String>> = const { RefCell::new(BTreeSet::new()) };
    }

    /// What a `run`, a `pull` of what is there and a containerd ask must cost the same however much is in the store:
    /// no statement reads a whole table or index.
    #[test]
    fn no_statement_of_the_frequent_operations_scans_a_table() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let (lease, digest) = (store.lease("test").unwrap(), Digest::of("x"));
        let ephemeral = PrepareOptions {
            ephemeral: true,
            ..PrepareOptions::default()
        };
        let container = Container {
            ns: "ns".into(),
            id: digest.hex(),
            name: "name".into(),
            image: None,
            manifest: None,
            labels: Default::default(),
            created: Timestamp::default(),
            ephemeral: true,
            details: serde_json::Value::Null,
        };
        SEEN.take();
        store.find_image("ns", "name").unwrap();
        store.images_by_id_prefix("ns", "abc").unwrap();
        store.hold_blob(&lease, &digest).unwrap();
        store.hold_layer(&lease, &digest, &digest).unwrap();
        store.manifest_layers(&digest).unwrap();
        store.prepare("ns", "work", None, &ephemeral).unwrap();
        store.commit("ns", "parent", "work", &Default::default()).unwrap();
        store
            .create_container(&container, Some((Some("parent"), &ephemeral)))
            .unwrap();
        store.create_container(&container, None).unwrap_err();
        for wanted in ["name", "abc"] {
            let _ = store.find_container("ns", wanted);
        }
        store.containers_of("ns", &digest).unwrap();
        store.mounts("ns", &container.id).unwrap();
        store.stack("ns", &container.id).unwrap();
        store.stat("ns", &container.id).unwrap();
        store
            .update("ns", &container.id, &Default::default(), &[])
            .unwrap();
        store.usage("ns", "parent").unwrap();
        store.list("ns", None, 10).unwrap();
        store.sharers(1).unwrap();
        store.remove_container("ns", &container.id).unwrap();
        store.remove("ns", "parent").unwrap();
        store.release(lease).unwrap();

        let statements = SEEN.take();
        assert!(statements.len() > 25, "{}", statements.len());
        let inner = store.db.inner.lock().unwrap();
        for sql in statements {
            let mut plan = inner
                .connection
                .prepare(&format!("EXPLAIN QUERY PLAN {sql}"))
                .unwrap();
            let steps = plan
                .raw_query()
                .mapped(|row| row.get::<_, String>(3))
                .map(Result::unwrap);
            let scans: Vec<String> = steps
                .filter(|step| step.starts_with("SCAN"))
                // One row; the rows of a chain; what a list is made of.
                .filter(|step| {
                    !["CONSTANT", "meta", "above"]
                        .iter()
                        .any(|known| step.contains(known))
                })
                .collect();
            assert!(scans.is_empty(), "{scans:?} in {sql}");
        }
    }

    #[test]
    fn what_a_removal_asks_is_prepared_by_whoever_expects_it() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let container = Container {
            ns: "ns".into(),
            id: Digest::of("x").hex(),
            name: "name".into(),
            image: None,
            manifest: None,
            labels: Default::default(),
            created: Timestamp::default(),
            ephemeral: true,
            details: serde_json::Value::Null,
        };
        let snapshot = PrepareOptions {
            ephemeral: true,
            ..PrepareOptions::default()
        };
        store
            .create_container(&container, Some((None, &snapshot)))
            .unwrap();
        let making = SEEN.take();
        store.expect_removal().unwrap();
        let expected = SEEN.take();
        store.remove_container("ns", &container.id).unwrap();
        let new: Vec<_> = SEEN.take().into_iter().collect();
        let surprises = new
            .iter()
            .filter(|sql| !expected.contains(*sql) && !making.contains(*sql));
        assert_eq!(surprises.collect::<Vec<_>>(), Vec::<&String>::new());
        let idle = expected.iter().filter(|sql| !new.contains(*sql));
        assert_eq!(idle.collect::<Vec<_>>(), Vec::<&String>::new());
    }
}
