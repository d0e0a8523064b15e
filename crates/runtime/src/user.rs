//! Who a container's process is: `USER[:GROUP]` and further groups, by the container's own `/etc/passwd` and
//! `/etc/group`.
//!
//! The files are the image's, so nothing about them is trusted: they are opened as the container would see them and
//! never outside of its root, a fifo or a device in their place is not waited for, and a line that is not of the form
//! is passed over (one whose number is no number does not become user 0).
//!
//! The rules are docker's: a number is always a number, also where a user has that name; a number needs no entry; a
//! user without a group has the group of its entry (0 without one) and the groups that list it; with a group, that one
//! alone.

use std::io::{self, Read};
use std::path::PathBuf;

use rustix::fs::{FileType, Mode, OFlags};
use sys::Dir;
use sys::ids::Ids;

/// A user of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecUser {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Further groups, in the order of the file, then those asked for; each once.
    pub groups: Vec<u32>,
    /// The home directory of its entry, or `/`.
    pub home: String,
}

/// Why there is no such user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UserError {
    /// A name without an entry.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoSuchUser(String),
    /// A name without an entry.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoSuchGroup(String),
    /// A number that is too large.
    #[error("{0}: uids and gids must be in range 0-2147483647")]
    Range(String),
    /// A number that the container's user namespace does not have.
    #[error("there is no {what} {id} in this user namespace")]
    NotMapped {
        /// `user` or `group`.
        what: &'static str,
        /// Its number.
        id: u32,
    },
    /// A file is there and cannot be read.
    #[error("{path} in the container: {source}")]
    Read {
        /// Path in the container.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Longer files are refused: a million users are in half of it.
const MAX_FILE: u64 = 64 << 20;

/// Finds `user` (`USER[:GROUP]`, empty for root) and the groups in `group_add` in the file system under `root`. Where the
/// container has not all ids but `ids`, groups that it lacks are left out, unless they were asked for.
///
/// # Errors
/// [`UserError`]: a name that has no entry, a number out of range, a file that cannot be read.
pub fn resolve(
    root: &Dir,
    user: &str,
    group_add: &[String],
    ids: Option<&Ids>,
) -> Result<ExecUser, UserError> {
    let found = find(root, user, group_add, ids)?;
    let Some(ids) = ids else { return Ok(found) };
    for (what, id, map) in [("user", found.uid, &ids.users), ("group", found.gid, &ids.groups)] {
        if !map.contains(id) {
            return Err(UserError::NotMapped { what, id });
        }
    }
    Ok(found)
}

fn find(root: &Dir, user: &str, group_add: &[String], ids: Option<&Ids>) -> Result<ExecUser, UserError> {
    let (user, group) = user.split_once(':').unwrap_or((user, ""));
    let number = numeric(user)?;
    let passwd = read(root, "etc/passwd")?;
    let entry = passwd.lines().filter_map(passwd_line).find(|entry| match number {
        Some(uid) => entry.uid == uid,
        None if user.is_empty() => entry.uid == 0,
        None => entry.name == user,
    });
    let mut found = match (&entry, number) {
        (Some(entry), _) => ExecUser {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: entry.home.to_owned(),
        },
        (None, None) if !user.is_empty() => return Err(UserError::NoSuchUser(user.to_owned())),
        (None, number) => ExecUser {
            uid: number.unwrap_or(0),
            gid: 0,
            groups: Vec::new(),
            home: String::new(),
        },
    };
    if found.home.is_empty() {
        found.home = "/".to_owned();
    }

    let name = entry.as_ref().map_or("", |entry| entry.name);
    if group.is_empty() && name.is_empty() && group_add.is_empty() {
        return Ok(found);
    }
    let file = read(root, "etc/group")?;
    let by_name = |wanted: &str| match numeric(wanted)? {
        Some(gid) => Ok(gid),
        None => file
            .lines()
            .filter_map(group_line)
            .find(|(known, ..)| *known == wanted)
            .map(|(_, gid, _)| gid)
            .ok_or_else(|| UserError::NoSuchGroup(wanted.to_owned())),
    };
    if !group.is_empty() {
        found.gid = by_name(group)?;
    } else if !name.is_empty() {
        let listing = |members: &str| members.split(',').any(|member| member.trim() == name);
        let lists = file
            .lines()
            .filter_map(group_line)
            .filter(|(.., members)| listing(members));
        found.groups.extend(lists.map(|(_, gid, _)| gid));
    }
    let mapped = |gid: u32| ids.is_none_or(|ids| ids.groups.contains(gid));
    found.groups.retain(|gid| mapped(*gid));
    for wanted in group_add {
        let id = by_name(wanted)?;
        if !mapped(id) {
            return Err(UserError::NotMapped { what: "group", id });
        }
        found.groups.push(id);
    }
    let mut seen = std::collections::HashSet::new();
    found.groups.retain(|gid| seen.insert(*gid));
    Ok(found)
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// `name:password:uid:gid:comment:home:shell`; the last fields may be missing.
fn passwd_line(line: &str) -> Option<Entry<'_>> {
    let mut fields = line.trim().split(':');
    let name = plain(fields.next()?)?;
    let (_, uid, gid) = (fields.next()?, id(fields.next()?)?, id(fields.next()?)?);
    Some(Entry {
        name,
        uid,
        gid,
        home: fields.nth(1).unwrap_or_default(),
    })
}

/// `name:password:gid:members`; the last may be missing.
fn group_line(line: &str) -> Option<(&str, u32, &str)> {
    let mut fields = line.trim().split(':');
    let name = plain(fields.next()?)?;
    let (_, gid) = (fields.next()?, id(fields.next()?)?);
    Some((name, gid, fields.next().unwrap_or_default()))
}

/// A name, not a comment or one of NIS's lines.
fn plain(name: &str) -> Option<&str> {
    (!name.is_empty() && !name.starts_with(['#', '+', '-'])).then_some(name)
}

fn id(text: &str) -> Option<u32> {
    let number = text.trim().parse::<u32>().ok()?;
    (number <= i32::MAX as u32).then_some(number)
}

/// A number, or `None` for a name.
fn numeric(text: &str) -> Result<Option<u32>, UserError> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    id(text)
        .map(Some)
        .ok_or_else(|| UserError::Range(text.to_owned()))
}

/// The text of a file of the container; empty where there is none.
fn read(root: &Dir, path: &str) -> Result<String, UserError> {
    let fail = |source: io::Error| UserError::Read {
        path: PathBuf::from("/").join(path),
        source,
    };
    // Not waiting for the other end of a fifo.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = match root.open_in_root(path, flags, Mode::empty()) {
        Ok(fd) => fd,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(String::new());
        }
        Err(error) => return Err(fail(error)),
    };
    let stat = rustix::fs::fstat(&fd).map_err(|error| fail(error.into()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(fail(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )));
    }
    if stat.st_size as u64 > MAX_FILE {
        return Err(fail(io::ErrorKind::FileTooLarge.into()));
    }
    let mut bytes = Vec::new();
    std::fs::File::from(fd)
        .take(MAX_FILE)
        .read_to_end(&mut bytes)
        .map_err(fail)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "# users\nroot:x:0:0:root:/root:/bin/sh\n\nbroken\nbad:x:zero:0::/bad:\nweb:x:33:34:w:/var/www:\n\
        +nis\n1000:x:7:8::/seven:\nbare:x:44:45\nhuge:x:99999999999:1::/:\nweb:x:55:55:second:/second:\n";
    const GROUP: &str =
        "root:x:0:\nadm:x:4:web,root\nwww:x:34:\nlog:x:44:other, web\nbroken\nnone:x:nan:web\n1000:x:77:\n";

    fn root(passwd: &str, group: &str) -> (tempfile::TempDir, Dir) {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(directory.path().join("etc/group"), group).unwrap();
        let dir = Dir::open_ambient(directory.path()).unwrap();
        (directory, dir)
    }

    #[test]
    fn users_and_groups() {
        let (_keep, root) = root(PASSWD, GROUP);
        for (user, uid, gid, groups, home) in [
            ("", 0, 0, vec![4], "/root"),
            ("root", 0, 0, vec![4], "/root"),
            ("web", 33, 34, vec![4, 44], "/var/www"),
            ("33", 33, 34, vec![4, 44], "/var/www"),
            ("web:adm", 33, 4, vec![], "/var/www"),
            ("web:4", 33, 4, vec![], "/var/www"),
            ("web:4000", 33, 4000, vec![], "/var/www"),
            ("web:", 33, 34, vec![4, 44], "/var/www"),
            (":adm", 0, 4, vec![], "/root"),
            ("4242", 4242, 0, vec![], "/"),
            ("4242:4343", 4242, 4343, vec![], "/"),
            // A number is a number, though a user and a group are called so.
            ("1000", 1000, 0, vec![], "/"),
            ("web:1000", 33, 1000, vec![], "/var/www"),
            ("bare", 44, 45, vec![], "/"),
        ] {
            let expected = ExecUser {
                uid,
                gid,
                groups,
                home: home.to_owned(),
            };
            assert_eq!(resolve(&root, user, &[], None).unwrap(), expected, "{user}");
        }
        let more = ["log".to_owned(), "4".to_owned(), "9999".to_owned()];
        assert_eq!(resolve(&root, "web", &more, None).unwrap().groups, [4, 44, 9999]);
        assert_eq!(resolve(&root, "4242", &more, None).unwrap().groups, [44, 4, 9999]);
    }

    #[test]
    fn who_is_not_there() {
        let (_keep, root) = root(PASSWD, GROUP);
        for (user, says) in [
            (
                "nobody",
                "unable to find user nobody: no matching entries in passwd file",
            ),
            (
                "bad",
                "unable to find user bad: no matching entries in passwd file",
            ),
            (
                "huge",
                "unable to find user huge: no matching entries in passwd file",
            ),
            (
                "web:nobody",
                "unable to find group nobody: no matching entries in group file",
            ),
            (
                "web:none",
                "unable to find group none: no matching entries in group file",
            ),
            ("-1", "-1: uids and gids must be in range 0-2147483647"),
            (
                "2147483648",
                "2147483648: uids and gids must be in range 0-2147483647",
            ),
            (
                "0:4294967296",
                "4294967296: uids and gids must be in range 0-2147483647",
            ),
        ] {
            assert_eq!(
                resolve(&root, user, &[], None).unwrap_err().to_string(),
                says,
                "{user}"
            );
        }
        let error = resolve(&root, "", &["ghosts".to_owned()], None)
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "unable to find group ghosts: no matching entries in group file"
        );
    }

    #[test]
    fn an_empty_root_has_numbers_only() {
        let directory = tempfile::tempdir().unwrap();
        let root = Dir::open_ambient(directory.path()).unwrap();
        let nobody = ExecUser {
            uid: 0,
            gid: 0,
            groups: vec![],
            home: "/".into(),
        };
        assert_eq!(resolve(&root, "", &[], None).unwrap(), nobody);
        assert_eq!(
            resolve(&root, "5:6", &["7".to_owned()], None).unwrap().groups,
            [7]
        );
        assert!(resolve(&root, "web", &[], None).is_err());
    }

    #[test]
    fn the_files_are_the_containers_own() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("root");
        std::fs::create_dir_all(inside.join("usr/etc")).unwrap();
        std::fs::write(directory.path().join("passwd"), "out:x:1:1::/:\n").unwrap();
        std::fs::write(inside.join("usr/etc/passwd"), "in:x:2:2::/:\n").unwrap();
        let root = Dir::open_ambient(&inside).unwrap();
        // A link that leads out leads to the container's root instead.
        std::os::unix::fs::symlink("/usr/etc", inside.join("etc")).unwrap();
        assert_eq!(resolve(&root, "in", &[], None).unwrap().uid, 2);
        std::fs::remove_file(inside.join("usr/etc/passwd")).unwrap();
        std::os::unix::fs::symlink("../../../passwd", inside.join("usr/etc/passwd")).unwrap();
        assert!(resolve(&root, "out", &[], None).is_err());
        std::fs::remove_file(inside.join("usr/etc/passwd")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            inside.join("usr/etc/passwd"),
            FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let error = resolve(&root, "out", &[], None).unwrap_err().to_string();
        assert_eq!(error, "/etc/passwd in the container: not a regular file");
    }
}
