//! What a start does not do: it waits for no disk, and writes nothing into the container's directory. Needs root, and
//! strace.

mod common;

use std::process::Command;

use common::{Strata, busybox};

/// The calls of one command that wait until something is on disk.
fn syncs(strata: &Strata, words: &[&str]) -> Vec<String> {
    let log = strata.dir().join("calls");
    let command = strata.command(words);
    let mut traced = Command::new("strace");
    traced
        .args(["-f", "-qq", "-e", "signal=none", "-e"])
        .arg("trace=fsync,fdatasync,sync,syncfs,sync_file_range,msync")
        .arg("-o")
        .arg(&log)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => traced.env(name, value),
            None => traced.env_remove(name),
        };
    }
    let status = traced.status().expect("strace is installed (Debian: strace)");
    assert!(status.success(), "{words:?}: {status}");
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_container_that_does_not_last_waits_for_no_disk() {
    let strata = busybox();
    // The first one makes what later ones find.
    strata.ok(["run", "--rm", "busybox", "true"]);
    let of_one_that_lasts = syncs(&strata, &["run", "--network", "none", "busybox", "true"]);
    assert!(!of_one_that_lasts.is_empty(), "nothing is seen");
    let none = syncs(&strata, &["run", "--rm", "--network", "none", "busybox", "true"]);
    assert!(none.is_empty(), "{none:#?}");
}

#[test]
fn a_start_writes_nothing_into_the_containers_directory() {
    let strata = busybox();
    strata.ok([
        "run",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        "cat /etc/hosts /etc/hostname /etc/resolv.conf",
    ]);
    let upper = strata.ok(["inspect", "--format", "{{.GraphDriver.Data.UpperDir}}", "one"]);
    let found: Vec<_> = std::fs::read_dir(upper.trim())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(found.is_empty(), "{found:?}");
    // What the container itself changes is there, beside what is mounted.
    strata.ok(["run", "--name", "two", "busybox", "touch", "/etc/mine"]);
    assert_eq!(strata.ok(["diff", "two"]), "C /etc\nA /etc/mine\n");
    // A copy of one that does not run is made from the same root.
    strata.ok(["cp", "two:/etc", strata.dir().join("copy").to_str().unwrap()]);
    let copied = |name: &str| std::fs::read(strata.dir().join("copy").join(name)).unwrap();
    assert_eq!((copied("mine"), copied("hosts")), (Vec::new(), Vec::new()));
}
