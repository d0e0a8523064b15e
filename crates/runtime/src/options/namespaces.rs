//! `--network`, `--pid`, `--ipc`, `--uts`: which namespaces are the container's own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Flag, Result};

/// A namespace as the user names it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum NamespaceOption {
    /// One of the container's own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// Another container's, by name or ID. The engine finds its process and makes a [`NamespaceOption::Joined`] of it.
    Container(String),
    /// One that exists.
    Joined(Joined),
}

/// A namespace that exists, to be joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Its file, `/proc/<pid>/ns/<kind>` or a place where it was bound.
    pub path: PathBuf,
    /// A directory of the host beneath which stands what belongs to the namespace but is reached through a mount: with
    /// an IPC namespace, `dev/shm`. (`/proc/<pid>/root` is none: the kernel binds from its own mount namespace alone.)
    pub root: Option<PathBuf>,
}

const FORM: &str = "write host, private, container:NAME or ns:PATH";

/// Parses `--pid`, `--ipc` and `--uts` (give the flag's name).
///
/// # Errors
/// None of `private`, `host`, `container:NAME`, `ns:PATH` (and for `--ipc`, `shareable`, which private ones are).
pub fn namespace(name: &'static str, value: &str) -> Result<NamespaceOption> {
    let flag = Flag::new(name, value, FORM);
    match value.split_once(':') {
        None if value == "host" => Ok(NamespaceOption::Host),
        None if value == "private" || (name == "--ipc" && value == "shareable") => {
            Ok(NamespaceOption::Private)
        }
        None if name == "--ipc" && value == "none" => Err(flag.instead(
            "a container always has a /dev/shm",
            "private keeps it to the container; --shm-size says how large it is",
        )),
        Some(("container", "")) => Err(flag.wrong("the container's name is missing")),
        Some(("container", container)) => Ok(NamespaceOption::Container(container.to_owned())),
        Some(("ns", path)) if path.starts_with('/') => Ok(NamespaceOption::Joined(Joined {
            path: path.into(),
            root: None,
        })),
        Some(("ns", path)) => Err(flag.wrong(format!("{path:?} is no absolute path"))),
        _ => Err(flag.wrong(format!("{value:?} is no namespace"))),
    }
}

/// Parses `--network`, where it names a namespace: `none` is one of the container's own with nothing in it but loopback.
/// `None` where it names a network.
///
/// # Errors
/// A `container:` or `ns:` without a name or an absolute path; kinds of networks that strata does not have.
pub fn network(value: &str) -> Result<Option<NamespaceOption>> {
    let form = "write none, host, container:NAME, ns:PATH or the name of a network";
    let flag = Flag::new("--network", value, form);
    match value.split_once(':').map_or(value, |(word, _)| word) {
        "none" if value == "none" => Ok(Some(NamespaceOption::Private)),
        "host" if value == "host" => Ok(Some(NamespaceOption::Host)),
        "private" | "slirp4netns" => Err(flag.instead(
            format!("strata has no {value} network"),
            "choose bridge (a user without root: pasta), none or host",
        )),
        "container" | "ns" => namespace("--network", value).map(Some).map_err(|mut error| {
            error.hint = form;
            error
        }),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces() {
        let joined = NamespaceOption::Joined(Joined {
            path: "/proc/1/ns/pid".into(),
            root: None,
        });
        for (flag, value, expected) in [
            ("--pid", "host", NamespaceOption::Host),
            ("--pid", "private", NamespaceOption::Private),
            ("--ipc", "shareable", NamespaceOption::Private),
            ("--uts", "container:web", NamespaceOption::Container("web".into())),
            ("--pid", "ns:/proc/1/ns/pid", joined),
        ] {
            assert_eq!(namespace(flag, value).unwrap(), expected, "{flag} {value}");
        }
        for (flag, value) in [
            ("--pid", "shareable"),
            ("--pid", "container:"),
            ("--ipc", "ns:x"),
            ("--uts", "own"),
            ("--uts", ""),
        ] {
            assert!(namespace(flag, value).is_err(), "{flag} {value}");
        }
    }

    #[test]
    fn networks() {
        assert_eq!(network("none").unwrap(), Some(NamespaceOption::Private));
        assert_eq!(network("host").unwrap(), Some(NamespaceOption::Host));
        assert_eq!(
            network("container:a").unwrap(),
            Some(NamespaceOption::Container("a".into()))
        );
        let error = network("slirp4netns").unwrap_err().to_string();
        assert!(
            error.contains("no slirp4netns network") && error.ends_with("none or host"),
            "{error}"
        );
        for bad in ["container", "container:", "ns:x"] {
            assert!(
                network(bad).unwrap_err().to_string().contains("write none, host"),
                "{bad}"
            );
        }
        for name in [
            "bridge",
            "pasta",
            "mynet",
            "mynet:ip=10.0.0.2",
            "none:x",
            "name=n",
        ] {
            assert_eq!(network(name).unwrap(), None, "{name}");
        }
    }
}
