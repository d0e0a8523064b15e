//! `--userns`, `--uidmap`, `--gidmap`: which ids the container's are outside.

use serde::{Deserialize, Serialize};
use sys::ids::{Ids, Map, Range};

use super::{Flag, OptionError, Result};

/// How many ids a container has that is given some and asks for no number: as many as images know.
pub const IDS: u32 = 65_536;

/// The user namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UserNamespace {
    /// None of its own.
    #[default]
    Host,
    /// One with so many ids that no other container has. The engine chooses them when the container is made, and keeps
    /// them as [`UserNamespace::Mapped`].
    Auto(u32),
    /// One with these ids, as text: see [`UserNamespace::ids`].
    Mapped(String),
}

impl UserNamespace {
    /// With these ids.
    pub fn mapped(ids: &Ids) -> UserNamespace {
        UserNamespace::Mapped(ids.to_string())
    }

    /// Its ids; `None` where it has none of its own, or where they are not chosen yet.
    pub fn ids(&self) -> Option<Ids> {
        match self {
            UserNamespace::Mapped(text) => text.parse().ok(),
            _ => None,
        }
    }
}

const FORM: &str = "write host, auto, auto:size=COUNT, keep-id or FIRST:COUNT";

/// Parses `--userns`.
///
/// # Errors
/// Anything but `host`, `auto`, `auto:size=COUNT`, `keep-id` and `FIRST:COUNT`.
pub fn userns(value: &str) -> Result<UserNamespace> {
    let flag = Flag::new("--userns", value, FORM);
    let number = |text: &str| text.parse().ok().filter(|number: &u32| *number > 0);
    match value.split_once(':') {
        None if value == "host" => Ok(UserNamespace::Host),
        None if value == "auto" => Ok(UserNamespace::Auto(IDS)),
        // The ids of who runs it, each itself: for root they are all.
        None if value == "keep-id" => Ok(one(0, u32::MAX)),
        Some(("auto", rest)) => match rest.strip_prefix("size=").and_then(number) {
            Some(size) => Ok(UserNamespace::Auto(size)),
            None => Err(flag.wrong(format!("{rest:?} is no size=COUNT"))),
        },
        Some(("container" | "ns", _)) => Err(flag.instead(
            "a container's user namespace is its own",
            "give both the same ids: --userns FIRST:COUNT",
        )),
        Some((first, count)) => match (first.parse::<u32>().ok(), number(count)) {
            (Some(first), Some(count)) if first.checked_add(count).is_some() => Ok(one(first, count)),
            _ => Err(flag.wrong(format!("{value:?} is no range of ids"))),
        },
        None => Err(flag.wrong(format!("{value:?} is no user namespace"))),
    }
}

fn one(outside: u32, count: u32) -> UserNamespace {
    let map = Map(vec![Range {
        inside: 0,
        outside,
        count,
    }]);
    UserNamespace::mapped(&Ids {
        users: map.clone(),
        groups: map,
    })
}

/// What several `--uidmap` and `--gidmap` add up to; those of one kind stand for both where the other is not given.
///
/// # Errors
/// One that is not `CONTAINER:HOST:COUNT`, and a mapping without a root.
pub fn maps(users: &[String], groups: &[String]) -> Result<Option<UserNamespace>> {
    let parse = |name: &'static str, values: &[String]| -> Result<Map> {
        let text = values.join(",");
        let flag = Flag::new(name, &text, "write CONTAINER:HOST:COUNT, first ids and how many");
        let map: Map = text.parse().map_err(|_| flag.wrong("it is no mapping"))?;
        match map.contains(0) {
            true => Ok(map),
            false => Err(flag.wrong("it has no id 0, which the container's root is to have")),
        }
    };
    let (users, groups) = match (users.is_empty(), groups.is_empty()) {
        (true, true) => return Ok(None),
        (false, true) => (parse("--uidmap", users)?, parse("--uidmap", users)?),
        (true, false) => (parse("--gidmap", groups)?, parse("--gidmap", groups)?),
        (false, false) => (parse("--uidmap", users)?, parse("--gidmap", groups)?),
    };
    Ok(Some(UserNamespace::mapped(&Ids { users, groups })))
}

/// `FIRST:COUNT` of the configuration.
///
/// # Errors
/// It is none.
pub fn range(name: &'static str, value: &str) -> Result<(u32, u32)> {
    let parts = value
        .split_once(':')
        .and_then(|(first, count)| Some((first.parse().ok()?, count.parse().ok()?)));
    let sound = |&(first, count): &(u32, u32)| count > 0 && first.checked_add(count).is_some();
    parts.filter(sound).ok_or_else(|| {
        OptionError::new(
            name,
            value,
            "it is no range of ids".to_owned(),
            "write FIRST:COUNT",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_namespaces() {
        assert_eq!(userns("host").unwrap(), UserNamespace::Host);
        assert_eq!(userns("auto").unwrap(), UserNamespace::Auto(65_536));
        assert_eq!(userns("auto:size=9").unwrap(), UserNamespace::Auto(9));
        let ids = |value: &str| userns(value).unwrap().ids().unwrap().to_string();
        assert_eq!(ids("100000:65536"), "0:100000:65536/0:100000:65536");
        assert_eq!(ids("keep-id"), "0:0:4294967295/0:0:4294967295");
        for bad in [
            "",
            "private",
            "auto:5",
            "auto:size=0",
            "5",
            "5:0",
            "4294967295:2",
            "ns:/x",
            "-1:5",
        ] {
            assert!(userns(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn mappings() {
        let list = |words: &[&str]| -> Vec<String> { words.iter().map(ToString::to_string).collect() };
        assert_eq!(maps(&[], &[]).unwrap(), None);
        let users = list(&["0:1000:1", "1:100000:5"]);
        let both = maps(&users, &[]).unwrap().unwrap().ids().unwrap();
        assert_eq!(both.to_string(), "0:1000:1,1:100000:5/0:1000:1,1:100000:5");
        let ids = maps(&users, &list(&["0:7:9"])).unwrap().unwrap().ids().unwrap();
        assert_eq!(ids.groups.to_string(), "0:7:9");
        assert!(maps(&list(&["1:1:1"]), &[]).is_err());
        assert!(maps(&list(&["0:1"]), &[]).is_err());
        assert_eq!(range("x", "5:6").unwrap(), (5, 6));
        assert!(range("x", "5:0").is_err());
    }
}
