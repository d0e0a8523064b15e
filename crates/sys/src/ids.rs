//! The ids of a user namespace and what they are outside of it (user_namespaces(7), "User and group ID mappings").

use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};

use crate::process;

/// Consecutive ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first of them, in the namespace.
    pub inside: u32,
    /// The same one outside.
    pub outside: u32,
    /// How many; at least one.
    pub count: u32,
}

/// Those of one kind, users or groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Map(pub Vec<Range>);

/// All ids of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// Users.
    pub users: Map,
    /// Groups.
    pub groups: Map,
}

impl Map {
    /// Whether there is one id and no more.
    pub fn is_single(&self) -> bool {
        matches!(self.0[..], [Range { count: 1, .. }])
    }

    /// What an id of the namespace is outside.
    pub fn outside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let ahead = id.checked_sub(range.inside)?;
            (ahead < range.count).then(|| range.outside.checked_add(ahead))?
        })
    }

    /// What an id from outside is in the namespace.
    pub fn inside(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|range| {
            let ahead = id.checked_sub(range.outside)?;
            (ahead < range.count).then(|| range.inside.checked_add(ahead))?
        })
    }

    /// Whether it has this id.
    pub fn contains(&self, id: u32) -> bool {
        let has = |range: &Range| {
            id.checked_sub(range.inside)
                .is_some_and(|ahead| ahead < range.count)
        };
        self.0.iter().any(has)
    }

    /// The highest id up to which it has all.
    pub fn highest(&self) -> u32 {
        let mut next: u32 = 0;
        while let Some(range) = self.0.iter().find(|range| range.inside == next) {
            match next.checked_add(range.count) {
                Some(end) => next = end,
                None => return u32::MAX,
            }
        }
        next.saturating_sub(1)
    }

    /// Whether the ids of this map are the same ones outside by `other`.
    fn agrees_with(&self, other: &Map) -> bool {
        self.0.iter().all(|range| {
            other.0.iter().any(|wider| {
                let Some(ahead) = range.inside.checked_sub(wider.inside) else {
                    return false;
                };
                wider.outside.checked_add(ahead) == Some(range.outside)
                    && ahead
                        .checked_add(range.count)
                        .is_some_and(|end| end <= wider.count)
            })
        })
    }

    /// Of the form of `/proc/<pid>/uid_map`.
    fn parse_proc(text: &str) -> Option<Map> {
        let line = |line: &str| {
            let numbers: Option<Vec<u32>> = line
                .split_ascii_whitespace()
                .map(|word| word.parse().ok())
                .collect();
            match numbers?[..] {
                [inside, outside, count] => Some(Range {
                    inside,
                    outside,
                    count,
                }),
                _ => None,
            }
        };
        text.lines().map(line).collect::<Option<Vec<Range>>>().map(Map)
    }
}

impl Ids {
    /// Those of the calling process's namespace.
    pub fn own() -> io::Result<Ids> {
        let read = |path: &str| {
            let text = std::fs::read_to_string(path)?;
            Map::parse_proc(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
        };
        Ok(Ids {
            users: read("/proc/self/uid_map")?,
            groups: read("/proc/self/gid_map")?,
        })
    }

    /// A user namespace with these ids that nobody lives in: what mount_setattr(2) takes a mapping from. Needs privilege.
    pub fn namespace(&self) -> io::Result<OwnedFd> {
        let idle = process::idle(process::namespaces::USER)?;
        let made = || {
            let dir = crate::Dir::open_ambient(format!("/proc/{}", idle.pid))?;
            for (name, map) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
                let lines = map.to_string().replace(',', "\n").replace(':', " ");
                dir.open_file(name, OFlags::WRONLY, Mode::empty())?
                    .write_all(lines.as_bytes())?;
            }
            let path = format!("/proc/{}/ns/user", idle.pid);
            Ok(rustix::fs::open(
                path,
                OFlags::RDONLY | OFlags::CLOEXEC,
                Mode::empty(),
            )?)
        };
        let made = made();
        let _ = process::send_signal(idle.pidfd.as_fd(), Signal::KILL.as_raw());
        let _ = rustix::process::waitid(WaitId::PidFd(idle.pidfd.as_fd()), WaitIdOptions::EXITED);
        made
    }

    /// Whether these are all that there are, each the same outside: those of the machine itself.
    pub fn are_the_machines(&self) -> bool {
        let all = |map: &Map| {
            matches!(
                map.0[..],
                [Range {
                    inside: 0,
                    outside: 0,
                    count: u32::MAX
                }]
            )
        };
        all(&self.users) && all(&self.groups)
    }

    /// Whether every id of these is the same one outside by `others`, which may have more.
    pub fn agree_with(&self, others: &Ids) -> bool {
        self.users.agrees_with(&others.users) && self.groups.agrees_with(&others.groups)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.inside, self.outside, self.count)
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

/// `0:1000:1,1:100000:65536/0:1000:1,1:100000:65536`: users, then groups.
impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.users, self.groups)
    }
}

/// A text that is no mapping of ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoIds(pub String);

impl FromStr for Map {
    type Err = NoIds;

    fn from_str(text: &str) -> Result<Map, NoIds> {
        let lines = text.replace(',', "\n").replace(':', " ");
        let map =
            Map::parse_proc(&lines).filter(|map| !map.0.is_empty() && map.0.iter().all(|r| r.count > 0));
        map.ok_or_else(|| NoIds(text.to_owned()))
    }
}

impl FromStr for Ids {
    type Err = NoIds;

    fn from_str(text: &str) -> Result<Ids, NoIds> {
        let (users, groups) = text.split_once('/').ok_or_else(|| NoIds(text.to_owned()))?;
        Ok(Ids {
            users: users.parse()?,
            groups: groups.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_and_back() {
        for text in [
            "0:1000:1/0:1000:1",
            "0:1000:1,1:100000:65536/0:100:1,1:100000:65536",
        ] {
            assert_eq!(text.parse::<Ids>().unwrap().to_string(), text);
        }
        for text in ["", "0:1:1", "0:1/0:1:1", "0:1:0/0:1:1", "a:b:c/0:1:1", "0:1:1/"] {
            assert!(text.parse::<Ids>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_that_mean_the_same() {
        let map = |text: &str| text.parse::<Map>().unwrap();
        let agree = |one: &str, other: &str| map(one).agrees_with(&map(other));
        assert!(agree("0:1000:1", "0:1000:1,1:100000:65536"), "more may come");
        assert!(!agree("0:1000:1,1:100000:65536", "0:1000:1"), "none may go");
        assert!(!agree("0:1000:1,1:100000:65536", "0:1000:1,1:200000:65536"));
        assert!(agree("5:105:5", "0:100:20"));
        assert!(!agree("5:105:50", "0:100:20"));
        assert!(!agree("0:1000:1", "0:0:4294967295"));
        assert_eq!(map("0:1000:1,1:100000:65536").highest(), 65_536);
        assert_eq!(map("0:0:4294967295").highest(), u32::MAX - 1);
        assert_eq!(map("5:100:5").highest(), 0);
        assert!(map("5:100:5").contains(9) && !map("5:100:5").contains(10) && !map("5:100:5").contains(4));
        let two = map("0:1000:1,1:100000:65536");
        assert_eq!(
            (two.outside(0), two.outside(7), two.outside(65_537)),
            (Some(1000), Some(100_006), None)
        );
        assert_eq!(
            (two.inside(1000), two.inside(100_006), two.inside(7)),
            (Some(0), Some(7), None)
        );
        assert!(map("0:1000:1").is_single() && !map("0:1000:2").is_single());
    }

    #[test]
    fn own_ids_can_be_read() {
        assert!(!Ids::own().unwrap().users.0.is_empty());
    }
}
