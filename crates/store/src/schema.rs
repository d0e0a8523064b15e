//! The schema: made, migrated, and its version and feature flags checked.

use crate::db::Query;
use crate::error::Fault;

/// One step a version: `STEPS[n]` takes a database of version `n` to `n + 1`. Steps are frozen once released.
pub(crate) const STEPS: &[&str] = &[
    include_str!("schema/v1.sql"),
    include_str!("schema/v2.sql"),
    include_str!("schema/v3.sql"),
    include_str!("schema/v4.sql"),
];

/// The version of the format that this program writes.
pub const VERSION: u32 = 4;

const _: () = assert!(STEPS.len() == VERSION as usize);

/// `stra`: lets file(1) tell what the database is.
const APPLICATION_ID: u32 = 0x7374_7261;

/// Feature flags of a store; see docs/format/store.md.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) ro_compat: Vec<String>,
    pub(crate) incompat: Vec<String>,
}

/// Feature flags that this program knows: those of [`crate::format`].
const KNOWN_RO_COMPAT: &[&str] = &[];
const KNOWN_INCOMPAT: &[&str] = &[USERXATTR, IDS];

/// An incompatible flag: files are written as an ordinary user writes them.
pub(crate) const USERXATTR: &str = "userxattr";
/// An incompatible flag with a value, `ids=…`: whose the files are.
pub(crate) const IDS: &str = "ids";

/// The version of a database; 0 for one that is empty.
pub(crate) fn version(q: &Query<'_>) -> Result<u32, Fault> {
    Ok(q.one("PRAGMA user_version", (), |row| row.get(0))?.unwrap_or(0))
}

/// The flags of a store that this program does not know.
pub(crate) fn unknown_flags(q: &Query<'_>) -> Result<Flags, Fault> {
    let row = q.one("SELECT ro_compat, incompat FROM meta", (), |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
    })?;
    let (ro_compat, incompat) = row.ok_or_else(|| q.corrupt("table meta is empty"))?;
    let unknown = |words: &str, known: &[&str]| {
        words
            .split_whitespace()
            .filter(|w| !known.contains(&w.split('=').next().unwrap_or(w)))
            .map(str::to_owned)
            .collect()
    };
    Ok(Flags {
        ro_compat: unknown(&ro_compat, KNOWN_RO_COMPAT),
        incompat: unknown(&incompat, KNOWN_INCOMPAT),
    })
}

/// Takes a database from version `from` through the rest of `steps`. Runs inside the caller's transaction.
pub(crate) fn migrate(q: &Query<'_>, from: u32, steps: &[&str], now: i64) -> Result<(), Fault> {
    for step in steps.iter().skip(from as usize) {
        q.batch(&without_comments(step))?;
    }
    if from == 0 {
        q.run(
            "INSERT INTO meta (id, compat, ro_compat, incompat, created, made_by, marks)
             VALUES (1, '', '', '', ?, ?, 0)",
            (now, env!("CARGO_PKG_VERSION")),
        )?;
    }
    q.batch(&format!(
        "PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {}",
        steps.len()
    ))
}

/// SQLite keeps the text of each statement, comments within it too, and parses it at every opening.
fn without_comments(sql: &str) -> String {
    sql.lines()
        .map(|line| line.split("--").next().unwrap_or_default().trim())
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}
