//! An ordinary user: where the user's things lie, and the way into the user's namespaces (`runtime::rootless`).
//!
//! Everything that a command needs of the environment is read before: in the namespaces the user is 0, as root is.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use engine::Helper;

use crate::args::Command;
use crate::config::Settings;
use crate::failure::Failure;

/// The environment's values; a function, so that tests have one of their own.
type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Where things lie unless somebody says otherwise.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Places {
    /// The store.
    pub(crate) root: PathBuf,
    /// Bundles and sockets.
    pub(crate) state: PathBuf,
    /// The configuration file.
    pub(crate) config: PathBuf,
}

/// Whether this process is an ordinary user's, outside of the user's namespaces.
pub(crate) fn is_ordinary() -> bool {
    !rustix::process::geteuid().is_root()
}

impl Places {
    /// Those of whoever runs this process.
    pub(crate) fn own() -> Result<Places, Failure> {
        let uid = rustix::process::geteuid();
        match uid.is_root() {
            true => Ok(Places {
                root: "/var/lib/strata".into(),
                state: "/run/strata".into(),
                config: crate::config::FILE.into(),
            }),
            false => Places::of_user(
                &|name| std::env::var_os(name),
                &|path| is_runtime_dir(path, uid.as_raw()),
                uid.as_raw(),
            ),
        }
    }

    /// Those of an ordinary user, by the XDG Base Directory Specification. Where nobody made a directory for the time
    /// that the user is logged in, there is one in /tmp, which is refused if it is somebody else's.
    fn of_user(env: Env<'_>, exists: &dyn Fn(&Path) -> bool, uid: u32) -> Result<Places, Failure> {
        let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let beneath = |variable: &str, default: &str| {
            let home = || absolute("HOME").map(|home| home.join(default));
            absolute(variable).or_else(home).ok_or_else(|| {
                Failure::user("there is no place for the store: HOME is not set")
                    .hint("set HOME, or name directories with --root and --state")
            })
        };
        let given = PathBuf::from(format!("/run/user/{uid}"));
        let state = match absolute("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("strata"),
            None if exists(&given) => given.join("strata"),
            None => format!("/tmp/strata-{uid}").into(),
        };
        Ok(Places {
            root: beneath("XDG_DATA_HOME", ".local/share")?.join("strata"),
            state,
            config: beneath("XDG_CONFIG_HOME", ".config")?.join("strata/config.toml"),
        })
    }
}

fn is_runtime_dir(path: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir() && found.uid() == uid)
}

/// Takes the process, if it is an ordinary user's, into the user's namespaces for a command that works there.
pub(crate) fn enter_for(command: &Command, settings: &Settings) -> Result<(), Failure> {
    let stays = matches!(
        command,
        Command::Version(_)
            | Command::Completion(_)
            | Command::Login(_)
            | Command::Logout(_)
            | Command::Mount(_)
            | Command::Umount(_)
            | Command::Serve(_)
    );
    match stays {
        true => Ok(()),
        false => enter(settings),
    }
}

/// The same, whatever comes then.
fn enter(settings: &Settings) -> Result<(), Failure> {
    if !is_ordinary() {
        return Ok(());
    }
    let holder = Helper {
        program: crate::program(),
        args: vec![crate::HOLDER.into(), settings.state.clone().into()],
    };
    Ok(runtime::rootless::enter(&settings.state, &holder)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(variables: &[(&str, &str)], runtime_dir: bool) -> Result<Places, Failure> {
        let env = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Places::of_user(&env, &|_| runtime_dir, 1000)
    }

    #[test]
    fn places_by_the_specification() {
        let told = places(
            &[
                ("HOME", "/home/a"),
                ("XDG_DATA_HOME", "/data"),
                ("XDG_RUNTIME_DIR", "/run/a"),
                ("XDG_CONFIG_HOME", "relative"),
            ],
            true,
        );
        let expected = Places {
            root: "/data/strata".into(),
            state: "/run/a/strata".into(),
            config: "/home/a/.config/strata/config.toml".into(),
        };
        assert_eq!(told.unwrap(), expected);
    }

    #[test]
    fn places_without_a_word() {
        let told = places(&[("HOME", "/home/a")], false).unwrap();
        assert_eq!(told.root, Path::new("/home/a/.local/share/strata"));
        assert_eq!(told.state, Path::new("/tmp/strata-1000"));
        let told = places(&[("HOME", "/home/a")], true).unwrap();
        assert_eq!(told.state, Path::new("/run/user/1000/strata"));
        assert!(places(&[], true).is_err());
    }
}
