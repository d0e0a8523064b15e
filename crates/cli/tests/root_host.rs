//! `strata run host`: a private, throw-away view of the real machine. Needs root.

mod common;

use std::fs;

use common::empty;

#[test]
fn the_host_is_seen_and_stays_as_it_is() {
    let strata = empty();
    let release = fs::read_to_string("/etc/os-release").unwrap();
    assert_eq!(
        strata.ok(["run", "--rm", "host", "cat", "/etc/os-release"]),
        release
    );
    let marker = format!("/etc/strata-test-{}", std::process::id());
    let script =
        format!("echo changed >{marker} && rm /etc/os-release && echo x >>/etc/passwd && ls {marker}");
    assert_eq!(
        strata.ok(["run", "--rm", "host", "sh", "-c", &script]),
        format!("{marker}\n")
    );
    assert!(!fs::exists(&marker).unwrap());
    assert_eq!(fs::read_to_string("/etc/os-release").unwrap(), release);
    assert!(!fs::read_to_string("/etc/passwd").unwrap().contains("\nx\n"));
}

#[test]
fn two_views_see_not_each_other() {
    let strata = empty();
    strata.ok([
        "run",
        "--name",
        "one",
        "host",
        "sh",
        "-c",
        "echo one >/strata-one",
    ]);
    assert_eq!(
        strata.ok([
            "run",
            "--rm",
            "host",
            "sh",
            "-c",
            "ls /strata-one 2>/dev/null || echo none"
        ]),
        "none\n"
    );
    assert_eq!(strata.ok(["diff", "one"]), "A /strata-one\n");
    strata.ok(["rm", "one"]);
}

#[test]
fn the_whole_view_can_be_walked() {
    let strata = empty();
    // Every name there is: no loop of links, no error of the overlay, and the store is not in it.
    let script = "find / -xdev -printf '' 2>&1 | grep -v 'No such file' | head -5; echo walked";
    let ended = strata.end(["run", "--rm", "host", "sh", "-c", script]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "walked\n"), "{ended:?}");
    let store = strata.root();
    let seen = strata.ok([
        "run",
        "--rm",
        "host",
        "sh",
        "-c",
        &format!("ls -A {} 2>/dev/null | wc -l", store.display()),
    ]);
    assert_eq!(seen, "0\n", "the store is left out");
}

#[test]
fn what_is_left_out_is_said_when_asked() {
    let strata = empty();
    let ended = strata.end(["-v", "run", "--rm", "host", "true"]);
    assert_eq!(ended.code, 0, "{ended:?}");
    let store = strata.root();
    assert!(
        ended.err.contains(store.to_str().unwrap()) && ended.err.contains("/proc"),
        "{ended:?}"
    );
    assert_eq!(strata.end(["run", "--rm", "host", "true"]).err, "");
}
