//! The ids that a user has in a namespace: the user's own one as 0, and from 1 on those of subuid(5) and subgid(5).
//!
//! More than one's own id cannot be mapped without privilege. newuidmap(1) and newgidmap(1) have it, and map what the
//! administrator gave to the user, and nothing else. Where nothing was given there is the one id.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{Mode, OFlags};
use rustix::process::{getegid, geteuid};
use sys::Dir;
use sys::ids::{Ids, Map, Range};

/// Where newuidmap and newgidmap may lie. `PATH` is not asked: they are given a process to change.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/bin", "/usr/local/bin", "/run/wrappers/bin"];

/// First id and count of each.
pub type Ranges = Vec<(u32, u32)>;

/// Why a namespace did not get its ids.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdsError {
    /// A table cannot be read.
    #[error("{}: {source}", path.display())]
    Table {
        /// Which.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// There are ids for the user, and no program that maps them.
    #[error("/etc/subuid has ids for this user, and {0}, which maps them, is not installed")]
    NoProgram(&'static str),
    /// The program refused.
    #[error("{} failed: {said}", program.display())]
    Program {
        /// Which.
        program: PathBuf,
        /// What it printed, or how it ended.
        said: String,
    },
    /// The kernel refused the user's own id.
    #[error("mapping the user's own id: {0}")]
    Own(#[source] io::Error),
}

/// Those that the user may have whom this process runs as.
///
/// # Errors
/// [`IdsError::Table`].
pub fn of_user() -> Result<Ids, IdsError> {
    let (user, group) = (geteuid().as_raw(), getegid().as_raw());
    let name = name_of(&read("/etc/passwd")?, user);
    let names = [name.unwrap_or_default(), user.to_string()];
    let (users, groups) = (
        given(&read("/etc/subuid")?, &names),
        given(&read("/etc/subgid")?, &names),
    );
    // Users without groups, or the reverse, would be half a namespace.
    let both = !users.is_empty() && !groups.is_empty();
    let all = |own: u32, given: Vec<(u32, u32)>| lay_out(own, if both { given } else { Vec::new() });
    Ok(Ids {
        users: all(user, users),
        groups: all(group, groups),
    })
}

/// What the tables give to a user by this name: first id and count of each range, of users and of groups.
///
/// # Errors
/// [`IdsError::Table`].
pub fn subordinate(name: &str) -> Result<(Ranges, Ranges), IdsError> {
    let names = [name.to_owned()];
    Ok((
        given(&read("/etc/subuid")?, &names),
        given(&read("/etc/subgid")?, &names),
    ))
}

/// Gives them to the user namespace of a process, which has none yet.
pub(crate) fn give(ids: &Ids, pid: i32) -> Result<(), IdsError> {
    if !ids.users.is_single() {
        map("newuidmap", pid, &ids.users)?;
        return map("newgidmap", pid, &ids.groups);
    }
    let process = Dir::open_ambient(format!("/proc/{pid}")).map_err(IdsError::Own)?;
    let write = |file: &str, text: &str| {
        let opened = process.open_file(file, OFlags::WRONLY, Mode::empty());
        opened
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(IdsError::Own)
    };
    let line = |map: &Map| map.to_string().replace(':', " ");
    // Without the first, nobody who has no privilege may give a group.
    write("setgroups", "deny")?;
    write("uid_map", &line(&ids.users))?;
    write("gid_map", &line(&ids.groups))
}

fn read(path: &str) -> Result<String, IdsError> {
    match std::fs::read(path) {
        Ok(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(IdsError::Table {
            path: path.into(),
            source,
        }),
    }
}

/// The name of a user in the text of a passwd(5).
fn name_of(text: &str, user: u32) -> Option<String> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then(|| name.to_owned())
    })
}

/// First id and count of each range that a subuid(5) gives to one of these names.
fn given(text: &str, names: &[String]) -> Ranges {
    let line = |line: &str| {
        let mut fields = line.trim().split(':');
        let name = fields.next()?;
        let (first, count): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let theirs = !name.is_empty() && names.iter().any(|one| one == name);
        (theirs && count > 0 && first.checked_add(count).is_some()).then_some((first, count))
    };
    text.lines().filter_map(line).collect()
}

/// One's own id as 0, the others behind it without a gap.
fn lay_out(own: u32, given: Vec<(u32, u32)>) -> Map {
    let mut ranges = vec![Range {
        inside: 0,
        outside: own,
        count: 1,
    }];
    let mut inside: u32 = 1;
    for (outside, count) in given {
        let Some(next) = inside.checked_add(count) else {
            break;
        };
        ranges.push(Range {
            inside,
            outside,
            count,
        });
        inside = next;
    }
    Map(ranges)
}

/// Has one of the two programs map the ranges. It sees nothing of this process's environment.
fn map(name: &'static str, pid: i32, ranges: &Map) -> Result<(), IdsError> {
    let mut places = DIRECTORIES.iter().map(|dir| Path::new(dir).join(name));
    let program = places
        .find(|path| path.exists())
        .ok_or(IdsError::NoProgram(name))?;
    let numbers = ranges
        .0
        .iter()
        .flat_map(|range| [range.inside, range.outside, range.count].map(|number| number.to_string()));
    let failed = |said: String| IdsError::Program {
        program: program.clone(),
        said,
    };
    let ended = Command::new(&program)
        .arg(pid.to_string())
        .args(numbers)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if ended.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Err(failed(match said.trim() {
        "" => ended.status.to_string(),
        said => said.replace('\n', "; "),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_user() {
        let text = "alice:100000:65536\n# bob:1:1\nbob:165536:65536\n1000:300000:10\nalice:x:5\nalice:7\n:9:9\nalice:4294967295:5\n";
        let names = ["alice".to_owned(), "1000".to_owned()];
        assert_eq!(given(text, &names), [(100_000, 65_536), (300_000, 10)]);
        assert_eq!(given(text, &[String::new(), "12".to_owned()]), []);
        let map = lay_out(1000, given(text, &names)).to_string();
        assert_eq!(map, "0:1000:1,1:100000:65536,65537:300000:10");
        let map = lay_out(5, vec![(1, u32::MAX - 1), (1, 5)]);
        assert_eq!(map.0.len(), 2, "no id beyond the last");
    }

    #[test]
    fn names_of_users() {
        let text = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\nbroken\n";
        assert_eq!(name_of(text, 1000).as_deref(), Some("alice"));
        assert_eq!(name_of(text, 1), None);
    }
}
