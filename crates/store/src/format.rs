//! [`Format`]: how the files of a store are written, by root or by an ordinary user.
//!
//! A store has one format for all of its layers and writable directories, from its birth on. Root's has the attributes
//! `trusted.overlay.*` and the ids of the machine. Whoever may not set those attributes, in a user namespace that is, gets
//! a store with `user.overlay.*`, and its files belong to the ids of that namespace: what they are outside is written
//! down, since by other ids the files would be somebody else's.

use rustix::fs::XattrFlags;
use rustix::io::Errno;
use sys::Dir;
use sys::ids::Ids;

use crate::db::Query;
use crate::error::Fault;
use crate::schema::{IDS, USERXATTR};

/// An attribute that nothing has, of the kind that root's stores need.
const PROBE: &str = "trusted.strata.probe";

/// How the files of a store are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Format {
    /// The ids of the user namespace that they belong to, in a store of an ordinary user; its overlays are mounted with
    /// `userxattr`. `None` in root's.
    pub user: Option<Ids>,
}

impl Format {
    /// Whether overlays are mounted with `userxattr`.
    pub fn userxattr(&self) -> bool {
        self.user.is_some()
    }

    /// Whether every file belongs to the user, since there is no other id.
    pub fn single_owner(&self) -> bool {
        let single = |ids: &Ids| ids.users.is_single() && ids.groups.is_single();
        self.user.as_ref().is_some_and(single)
    }

    /// The one that the calling process writes in `dir`.
    pub(crate) fn of_process(dir: &Dir) -> std::io::Result<Format> {
        // To replace what is not there changes nothing, and is refused first to those who may not set it.
        match rustix::fs::fsetxattr(dir, PROBE, &[], XattrFlags::REPLACE) {
            Err(Errno::PERM) => Ok(Format {
                user: Some(Ids::own()?),
            }),
            _ => Ok(Format::default()),
        }
    }

    /// The one that a store says it has.
    pub(crate) fn read(q: &Query<'_>) -> Result<Format, Fault> {
        let words = q.one("SELECT incompat FROM meta", (), |row| row.get::<_, String>(0))?;
        let words = words.ok_or_else(|| q.corrupt("table meta is empty"))?;
        let ids = words
            .split_whitespace()
            .find_map(|word| word.strip_prefix(IDS)?.strip_prefix('='));
        match (words.split_whitespace().any(|word| word == USERXATTR), ids) {
            (false, None) => Ok(Format::default()),
            (true, Some(ids)) => {
                let ids = ids.parse().map_err(|_| q.corrupt("meta.incompat has no ids"))?;
                Ok(Format { user: Some(ids) })
            }
            _ => Err(q.corrupt("meta.incompat has one of userxattr and ids without the other")),
        }
    }

    /// Has a store say it.
    pub(crate) fn write(&self, q: &Query<'_>) -> Result<(), Fault> {
        let words = match &self.user {
            Some(ids) => format!("{USERXATTR} {IDS}={ids}"),
            None => String::new(),
        };
        q.run("UPDATE meta SET incompat = ?", [words]).map(drop)
    }
}
