//! `--userns auto`: ids that no other container has.
//!
//! They are taken from what the configuration gives, or else from what `/etc/subuid` and `/etc/subgid` give to the user
//! `containers`, as with podman. Who has which is told by the rows of all containers; so that two that are made at once do
//! not take the same, whoever chooses holds a lock until its row is there.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use runtime::options::userns::UserNamespace;
use runtime::rootless::{IdsError, subordinate};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use store::Fault;
use sys::Dir;
use sys::ids::{Ids, Map, Range};

use super::{Details, Plan};
use crate::Engine;

/// The user whose subordinate ids are containers'.
const OWNER: &str = "containers";

/// The file in the state directory whose lock is held by whoever chooses.
const LOCK: &str = ".ids";

/// Why a container did not get ids of its own.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UsersError {
    /// Nobody gave any.
    #[error("--userns auto: nothing is given to the user {OWNER} in /etc/subuid and /etc/subgid")]
    Nothing,
    /// All are taken.
    #[error("--userns auto: no {0} consecutive ids are free of those that containers may have")]
    Exhausted(u32),
    /// A view of the machine.
    #[error("a view of this machine has the machine's own users: --userns does not go with it")]
    HostView,
    /// The driver in user space.
    #[error("--driver fuse gives layers no other ids: --userns does not go with it")]
    Driver,
    /// In a user namespace.
    #[error("--userns: an ordinary user has no right to give ids to layers")]
    Unprivileged,
    /// The tables.
    #[error(transparent)]
    Ids(#[from] IdsError),
    /// The lock.
    #[error("{}: {source}", path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// Puts ids in the place of the wish for some. As long as the file is open nobody else does.
    pub(super) fn choose_ids(&self, plan: &mut Plan) -> Result<Option<File>, UsersError> {
        let size = match plan.container.users {
            UserNamespace::Host => return Ok(None),
            _ if self.store.format().userxattr() => return Err(UsersError::Unprivileged),
            _ if plan.driver == mount::fuse::Driver::Fuse => return Err(UsersError::Driver),
            UserNamespace::Mapped(_) => return Ok(None),
            UserNamespace::Auto(size) => size,
        };
        let lock = self.lock_ids()?;
        let mut taken: Vec<Ids> = Vec::new();
        for namespace in self.store.namespaces()? {
            let rows = self.store.containers(&namespace)?;
            taken.extend(
                rows.iter()
                    .filter_map(|row| Details::of(row).plan?.container.users.ids()),
            );
        }
        let (users, groups) = match self.setup.ids {
            Some(range) => (vec![range], vec![range]),
            None => subordinate(OWNER)?,
        };
        if users.is_empty() || groups.is_empty() {
            return Err(UsersError::Nothing);
        }
        let choose = |given: &[(u32, u32)], map: fn(&Ids) -> &Map| {
            let taken = taken.iter().flat_map(|ids| &map(ids).0);
            let taken: Vec<(u32, u32)> = taken.map(|range| (range.outside, range.count)).collect();
            let outside = free(given, &taken, size).ok_or(UsersError::Exhausted(size))?;
            Ok::<_, UsersError>(Map(vec![Range {
                inside: 0,
                outside,
                count: size,
            }]))
        };
        plan.container.users = UserNamespace::mapped(&Ids {
            users: choose(&users, |ids| &ids.users)?,
            groups: choose(&groups, |ids| &ids.groups)?,
        });
        Ok(Some(lock))
    }

    fn lock_ids(&self) -> Result<File, UsersError> {
        let locked = || -> io::Result<File> {
            let flags = OFlags::RDWR | OFlags::CREATE;
            let file =
                Dir::open_ambient(self.state_dir())?.open_file(LOCK, flags, Mode::RUSR | Mode::WUSR)?;
            flock(&file, FlockOperation::LockExclusive)?;
            Ok(file)
        };
        locked().map_err(|source| UsersError::Lock {
            path: self.state_dir().join(LOCK),
            source,
        })
    }
}

/// The first of `size` ids within one of the ranges `given` that are in none of `taken`.
fn free(given: &[(u32, u32)], taken: &[(u32, u32)], size: u32) -> Option<u32> {
    given.iter().find_map(|&(first, count)| {
        let end = u64::from(first) + u64::from(count);
        let mut at = u64::from(first);
        while at + u64::from(size) <= end {
            let in_the_way = taken.iter().find(|&&(start, length)| {
                u64::from(start) < at + u64::from(size) && at < u64::from(start) + u64::from(length)
            });
            match in_the_way {
                None => return u32::try_from(at).ok(),
                Some(&(start, length)) => at = u64::from(start) + u64::from(length),
            }
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_that_are_free() {
        let given = [(100, 10), (1000, 100)];
        assert_eq!(free(&given, &[], 10), Some(100));
        assert_eq!(free(&given, &[(100, 5)], 5), Some(105));
        assert_eq!(free(&given, &[(100, 5)], 6), Some(1000));
        assert_eq!(free(&given, &[(90, 12), (104, 2)], 2), Some(102));
        assert_eq!(free(&given, &[(0, u32::MAX)], 1), None);
        assert_eq!(free(&given, &[], 101), None);
        assert_eq!(
            free(&[(u32::MAX - 5, 5)], &[(u32::MAX - 5, 2)], 3),
            Some(u32::MAX - 3)
        );
    }
}
