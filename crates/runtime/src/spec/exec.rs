//! One more process of a container that has its spec: what `exec` asks, over what the first process has.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxCapabilities, Process};

use super::{Capabilities, Variables, user};
use crate::user::ExecUser;

/// What is asked of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Variables; one without a value is taken out.
    pub env: Vec<(String, Option<String>)>,
    /// Working directory; the container's.
    pub workdir: Option<String>,
    /// `USER[:GROUP]`; the container's.
    pub user: Option<String>,
    /// A terminal.
    pub tty: bool,
    /// Every capability, and no AppArmor profile. What the container as a whole is denied (its mounts, its system call
    /// filter) it stays denied, as with the peers.
    pub privileged: bool,
}

/// Who the process is to be.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// The container's own user.
    Same,
    /// Another, as [`crate::user::resolve`] found it; and the home directory that the container's own user has.
    Other(&'a ExecUser, Option<&'a str>),
}

/// Makes the process. `first` is the container's; `all` are the capabilities that strata itself has.
pub fn exec_process(
    options: &ExecOptions,
    first: &Process,
    who: Who<'_>,
    all: &HashSet<Capability>,
) -> Process {
    let mut process = first.clone();
    process
        .set_args(Some(options.command.clone()))
        .set_terminal(Some(options.tty))
        .set_console_size(None);
    if let Some(workdir) = options.workdir.as_deref().filter(|asked| !asked.is_empty()) {
        process.set_cwd(Path::new("/").join(workdir));
    }
    if let Who::Other(found, _) = who {
        process.set_user(user(found, first.user().umask()));
    }
    let root = process.user().uid() == 0;
    let was_root = first.user().uid() == 0;
    if options.privileged {
        process
            .set_capabilities(Some(sets(all.clone(), root)))
            .set_apparmor_profile(None);
    } else if root != was_root {
        let bounding = first
            .capabilities()
            .as_ref()
            .and_then(|sets| sets.bounding().clone());
        process.set_capabilities(Some(sets(bounding.unwrap_or_default(), root)));
    }
    process.set_env(Some(environment(options, first, who)));
    process
}

/// Root has all capabilities of the bounding set at once, another user none that it was not given by name; nothing is
/// inheritable.
fn sets(bounding: Capabilities, root: bool) -> LinuxCapabilities {
    let now = if root {
        bounding.clone()
    } else {
        Capabilities::new()
    };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding))
        .set_effective(Some(now.clone()))
        .set_permitted(Some(now))
        .set_inheritable(Some(Capabilities::new()))
        .set_ambient(Some(Capabilities::new()));
    sets
}

/// The container's variables, those that depend on user and terminal, and those asked for.
fn environment(options: &ExecOptions, first: &Process, who: Who<'_>) -> Vec<String> {
    let mut variables = Variables::default();
    for line in first.env().iter().flatten() {
        let (name, value) = line.split_once('=').unwrap_or((line, ""));
        variables.set(name, Some(value));
    }
    if options.tty && variables.get("TERM").is_none() {
        variables.set("TERM", Some("xterm"));
    }
    if let Who::Other(found, own_home) = who {
        // A home that is not the one of the container's user was chosen, by the image or the caller, and stays.
        let chosen = variables.get("HOME").is_some_and(|home| Some(home) != own_home);
        if !chosen {
            variables.set("HOME", Some(&found.home));
        }
    }
    for (name, value) in &options.env {
        variables.set(name, value.as_deref());
    }
    variables.into_lines()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(uid: u32) -> Process {
        let caps = serde_json::json!(["CAP_CHOWN", "CAP_KILL"]);
        let own = if uid == 0 {
            caps.clone()
        } else {
            serde_json::json!([])
        };
        serde_json::from_value(serde_json::json!({
            "terminal": false, "user": {"uid": uid, "gid": 5, "umask": 0o027, "additionalGids": [7]},
            "args": ["sleep"], "cwd": "/srv", "noNewPrivileges": true, "apparmorProfile": "some",
            "env": ["PATH=/bin", "HOME=/home/own", "A=1"],
            "capabilities": {"bounding": caps, "effective": own, "permitted": own},
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5, "hard": 6}],
        }))
        .unwrap()
    }

    fn other(uid: u32) -> ExecUser {
        ExecUser {
            uid,
            gid: uid,
            groups: vec![9],
            home: "/home/other".into(),
        }
    }

    fn env(process: &Process) -> String {
        process.env().clone().unwrap().join(" ")
    }

    fn effective(process: &Process) -> usize {
        let sets = process.capabilities().as_ref().unwrap();
        assert_eq!(sets.permitted(), sets.effective());
        sets.effective().as_ref().unwrap().len()
    }

    #[test]
    fn what_is_not_asked_for_is_the_containers() {
        let options = ExecOptions {
            command: vec!["id".into()],
            ..ExecOptions::default()
        };
        let made = exec_process(&options, &first(0), Who::Same, &HashSet::new());
        let mut expected = first(0);
        expected.set_args(Some(vec!["id".into()]));
        assert_eq!(made, expected);
    }

    #[test]
    fn what_is_asked_for_replaces_it() {
        let options = ExecOptions {
            command: vec!["id".into()],
            env: vec![("A".into(), None), ("B".into(), Some("2".into()))],
            workdir: Some("tmp".into()),
            tty: true,
            ..ExecOptions::default()
        };
        let made = exec_process(&options, &first(0), Who::Same, &HashSet::new());
        assert_eq!(env(&made), "PATH=/bin HOME=/home/own TERM=xterm B=2");
        assert_eq!(made.cwd(), Path::new("/tmp"));
        assert_eq!(made.terminal(), Some(true));
    }

    #[test]
    fn another_user_has_its_own_home_and_capabilities() {
        let options = ExecOptions::default();
        let run = |uid, new: u32, own_home: Option<&str>| {
            exec_process(
                &options,
                &first(uid),
                Who::Other(&other(new), own_home),
                &HashSet::new(),
            )
        };
        let user = run(0, 33, Some("/home/own"));
        assert_eq!((user.user().uid(), user.user().umask()), (33, Some(0o027)));
        assert_eq!(user.user().additional_gids(), &Some(vec![33, 9]));
        assert!(env(&user).contains("HOME=/home/other"), "{}", env(&user));
        assert_eq!(effective(&user), 0);
        assert_eq!(effective(&run(33, 0, None)), 2);
        assert_eq!(effective(&run(0, 0, None)), 2);
        assert_eq!(effective(&run(33, 34, None)), 0);
        // It was chosen by the image, or with -e.
        assert!(env(&run(0, 33, Some("/root"))).contains("HOME=/home/own"));
    }

    #[test]
    fn privileged_has_all_that_strata_has() {
        let all = HashSet::from([Capability::SysAdmin, Capability::Chown, Capability::Kill]);
        let options = ExecOptions {
            privileged: true,
            ..ExecOptions::default()
        };
        let made = exec_process(&options, &first(0), Who::Same, &all);
        assert_eq!((effective(&made), made.apparmor_profile().as_deref()), (3, None));
        let made = exec_process(&options, &first(33), Who::Same, &all);
        assert_eq!(effective(&made), 0);
    }
}
