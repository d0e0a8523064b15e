//! One store, commands with different state directories: what runs is seen to run by all of them. Needs root.

mod common;

use common::{Ended, Strata, busybox, refused};

/// A command with another state directory.
fn elsewhere(strata: &Strata, words: &[&str]) -> Ended {
    let state = strata.dir().join("elsewhere");
    let mut command = strata.command([&["--state", state.to_str().unwrap()], words].concat());
    command.output().unwrap().into()
}

#[track_caller]
fn ok(ended: &Ended) -> &str {
    assert_eq!(ended.code, 0, "{ended:#?}");
    ended.out.trim()
}

#[test]
fn what_runs_is_spared_and_reached_from_every_state_directory() {
    let strata = busybox();
    let script = "trap exit TERM; while :; do sleep 0.1; done";
    strata.ok(["run", "-d", "--name", "kept", "busybox", "sh", "-c", script]);
    strata.ok([
        "run", "-d", "--rm", "--name", "brief", "busybox", "sh", "-c", script,
    ]);
    strata.ok(["run", "--name", "ended", "busybox", "true"]);

    // Whatever looks for what is dead finds the one that is.
    ok(&elsewhere(&strata, &["run", "--rm", "busybox", "true"]));
    let pruned = elsewhere(&strata, &["prune", "-a", "-f"]);
    assert!(ok(&pruned).contains("ended"), "{pruned:#?}");
    let checked = elsewhere(&strata, &["fsck", "--repair"]);
    assert_eq!(checked.code, 0, "{checked:#?}");
    for listed in [
        strata.end(["ps", "--format", "{{.Names}}"]),
        elsewhere(&strata, &["ps", "--format", "{{.Names}}"]),
    ] {
        let mut names: Vec<&str> = ok(&listed).lines().collect();
        names.sort_unstable();
        assert_eq!(names, ["brief", "kept"]);
    }
    assert_eq!(strata.ok(["exec", "kept", "cat", "/proc/1/comm"]), "sh\n");
    assert_eq!(
        ok(&elsewhere(&strata, &["exec", "kept", "cat", "/proc/1/comm"])),
        "sh"
    );

    // Taking it away is for those whose it is: networks and bundle are theirs.
    refused(&elsewhere(&strata, &["rm", "kept"]), &["kept", "is running"]);
    let forced = elsewhere(&strata, &["rm", "-f", "kept"]);
    refused(&forced, &["kept", strata.state().to_str().unwrap()]);
    let advice = format!("strata --state {} rm -f kept", strata.state().display());
    assert!(forced.err.contains(&advice), "{forced:#?}");
    // What runs need not be started, wherever that is.
    assert_eq!(ok(&elsewhere(&strata, &["start", "kept"])), "kept");
    assert_eq!(strata.ok(["exec", "kept", "cat", "/proc/1/comm"]), "sh\n");
    ok(&elsewhere(&strata, &["stop", "kept"]));

    // Started by others, it is theirs.
    ok(&elsewhere(&strata, &["start", "kept"]));
    strata.ok(["prune", "-f"]);
    assert_eq!(strata.ok(["exec", "kept", "cat", "/proc/1/comm"]), "sh\n");
    assert_eq!(strata.end(["rm", "-f", "kept"]).code, 125);
    ok(&elsewhere(&strata, &["rm", "-f", "kept"]));
    strata.ok(["rm", "-f", "brief"]);
    // The bundle that it had here before.
    assert_eq!(strata.end(["fsck", "--repair"]).code, 1);
    assert_eq!(strata.end(["fsck"]).code, 0);
    assert_eq!(elsewhere(&strata, &["fsck"]).code, 0);
}
