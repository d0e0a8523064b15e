//! What is done to a container that runs: `pause`, `top`, `stats`, `update`, `rename`. Needs root.

mod common;

use std::time::{Duration, Instant};

use common::{Strata, busybox, refused};
use testkit::eventually;

/// A container that counts in `/count`, ten times a second, and ends at SIGTERM.
const COUNTS: &str = "trap 'exit 5' TERM; n=0; while :; do n=$((n+1)); echo $n >/count; sleep 0.1; done";

fn begin(strata: &Strata, name: &str, flags: &[&str]) {
    strata.ok([
        &["run", "-d", "--name", name],
        flags,
        &["busybox", "sh", "-c", COUNTS],
    ]
    .concat());
}

fn status(strata: &Strata, name: &str) -> String {
    let all = strata.ok(["ps", "-a", "--format", "{{.Names}} {{.State}} {{.Status}}"]);
    let line = all
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_default().to_owned()
}

/// What it has counted to, read from outside: it may be held still.
fn count(strata: &Strata, name: &str) -> String {
    let inspected: serde_json::Value = serde_json::from_str(&strata.ok(["inspect", name])).unwrap();
    let merged = inspected[0]["GraphDriver"]["Data"]["MergedDir"]
        .as_str()
        .unwrap()
        .to_owned();
    std::fs::read_to_string(format!("{merged}/count")).unwrap_or_default()
}

#[test]
fn paused_it_stands_still_and_goes_on() {
    let strata = busybox();
    begin(&strata, "box", &[]);
    eventually("it counts", || !count(&strata, "box").is_empty());
    assert_eq!(strata.ok(["pause", "box"]), "box\n");
    assert!(
        status(&strata, "box").starts_with("paused Up "),
        "{}",
        status(&strata, "box")
    );
    assert!(status(&strata, "box").ends_with("(Paused)"));
    let inspected: serde_json::Value = serde_json::from_str(&strata.ok(["inspect", "box"])).unwrap();
    let state = &inspected[0]["State"];
    assert_eq!(
        (&state["Status"], &state["Paused"], &state["Running"]),
        (&"paused".into(), &true.into(), &true.into())
    );
    let before = count(&strata, "box");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(count(&strata, "box"), before);

    refused(&strata.end(["pause", "box"]), &["box", "already paused"]);
    refused(&strata.end(["exec", "box", "true"]), &["box", "paused"]);
    refused(&strata.end(["rm", "box"]), &["box"]);
    assert_eq!(strata.ok(["container", "unpause", "box"]), "box\n");
    assert!(status(&strata, "box").starts_with("running Up "));
    eventually("it counts on", || count(&strata, "box") != before);
    refused(&strata.end(["unpause", "box"]), &["box", "not paused"]);

    // All of them.
    begin(&strata, "two", &[]);
    assert_eq!(strata.ok(["pause", "--all"]).lines().count(), 2);
    assert_eq!(strata.ok(["unpause", "-a"]).lines().count(), 2);
    strata.ok(["rm", "-f", "box", "two"]);
    refused(&strata.end(["pause", "box"]), &["box"]);
}

#[test]
fn whoever_ends_a_paused_one_lets_it_go_on() {
    let strata = busybox();
    for (verb, code) in [(&["stop"][..], 5), (&["kill"], 137), (&["kill", "-s", "TERM"], 5)] {
        begin(&strata, "box", &[]);
        eventually("it counts", || !count(&strata, "box").is_empty());
        strata.ok(["pause", "box"]);
        let began = Instant::now();
        strata.ok(verb.iter().chain(&["box"]));
        eventually("it ends", || status(&strata, "box").starts_with("exited"));
        assert!(
            began.elapsed() < Duration::from_secs(8),
            "{verb:?}: {:?}",
            began.elapsed()
        );
        assert!(
            status(&strata, "box").contains(&format!("({code})")),
            "{verb:?}: {}",
            status(&strata, "box")
        );
        refused(&strata.end(["pause", "box"]), &["box", "not running"]);
        strata.ok(["rm", "box"]);
    }
    begin(&strata, "box", &[]);
    strata.ok(["pause", "box"]);
    strata.ok(["rm", "-f", "box"]);
    assert_eq!(status(&strata, "box"), "");
}

#[test]
fn processes_as_ps_shows_them() {
    let strata = busybox();
    begin(&strata, "box", &[]);
    eventually("it counts", || !count(&strata, "box").is_empty());
    strata.ok(["exec", "-d", "-u", "4242", "box", "sleep", "1234"]);
    let text = strata.ok(["top", "box"]);
    let mut lines = text.lines();
    let head: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(head, ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    let inspected: serde_json::Value = serde_json::from_str(&strata.ok(["inspect", "box"])).unwrap();
    let pid = inspected[0]["State"]["Pid"].to_string();
    let first: Vec<_> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(
        (first[0], first[1], first[5], first[6]),
        ("root", pid.as_str(), "?", "00:00:00")
    );
    assert_eq!(first[7..9], ["sh", "-c"]);
    let later: Vec<_> = text
        .lines()
        .find(|line| line.ends_with("sleep 1234"))
        .unwrap()
        .split_whitespace()
        .collect();
    assert_eq!(later[0], "4242");

    // With options it is ps itself.
    let text = strata.ok(["top", "box", "-eo", "pid,args"]);
    assert!(text.lines().any(|line| line.ends_with("sleep 1234")), "{text}");
    assert!(
        text.lines()
            .skip(1)
            .all(|line| line.contains("sh -c") || line.contains("sleep")),
        "{text}"
    );
    refused(&strata.end(["top", "box", "-eo", "comm"]), &["PID"]);
    refused(&strata.end(["top", "box", "-o", "nonsense"]), &["nonsense"]);
    strata.ok(["rm", "-f", "box"]);
    refused(&strata.end(["top", "box"]), &["box"]);
}

#[test]
fn what_containers_use() {
    let strata = busybox();
    begin(&strata, "quiet", &[]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "busy",
        "busybox",
        "sh",
        "-c",
        "while :; do :; done",
    ]);
    strata.ok(["run", "--name", "over", "busybox", "true"]);
    let text = strata.ok(["stats", "--no-stream"]);
    let head = text.lines().next().unwrap();
    for column in [
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ] {
        assert!(head.contains(column), "{head}");
    }
    assert_eq!(text.lines().count(), 3, "{text}");
    let of = |name: &str, fields: &str| {
        let flags = ["stats", "--no-stream", "--format", fields, name];
        strata.ok(flags).trim_end().to_owned()
    };
    let percent = |text: &str| text.trim_end_matches('%').parse::<f64>().unwrap();
    let (busy, quiet) = (
        percent(&of("busy", "{{.CPUPerc}}")),
        percent(&of("quiet", "{{.CPUPerc}}")),
    );
    assert!(busy > quiet && busy > 2.0 && busy < 110.0, "{busy} {quiet}");
    // A network of its own, with nothing in it but the loopback; memory in binary units, the machine's as its limit.
    assert_eq!(of("busy", "{{.NetIO}}"), "0B / 0B");
    let memory = of("busy", "{{.Name}} {{.MemUsage}} {{.PIDs}}");
    let words: Vec<&str> = memory.split(' ').collect();
    assert_eq!((words[0], words[2], words[4]), ("busy", "/", "1"), "{memory}");
    assert!(words[1].ends_with("iB") && words[3].ends_with("GiB"), "{memory}");

    assert_eq!(of("over", "{{.CPUPerc}} {{.PIDs}}"), "-- --");
    assert_eq!(strata.ok(["stats", "--no-stream", "-a"]).lines().count(), 4);
    let json: serde_json::Value =
        serde_json::from_str(&strata.ok(["stats", "--no-stream", "--format", "json", "busy"])).unwrap();
    assert_eq!(json[0]["Name"], "busy");
    assert!(json[0]["MemPerc"].as_str().unwrap().ends_with('%'), "{json}");
    refused(&strata.end(["stats", "--no-stream", "nobody"]), &["nobody"]);
    strata.ok(["rm", "-f", "-a"]);
}

#[test]
fn another_name() {
    let strata = busybox();
    begin(&strata, "one", &[]);
    begin(&strata, "two", &[]);
    assert_eq!(strata.ok(["rename", "one", "uno"]), "");
    assert!(status(&strata, "uno").starts_with("running"));
    assert_eq!(status(&strata, "one"), "");
    assert_eq!(strata.ok(["exec", "uno", "echo", "here"]), "here\n");
    refused(&strata.end(["rename", "uno", "two"]), &["two", "in use"]);
    refused(&strata.end(["rename", "one", "other"]), &["one"]);
    refused(&strata.end(["rename", "uno", "x y"]), &["x y"]);
    strata.ok(["container", "rename", "two", "one"]);
    strata.ok(["rename", "one", "one"]);
    strata.ok(["stop", "-t", "1", "one", "uno"]);
    strata.ok(["rename", "uno", "two"]);
    strata.ok(["rm", "one", "two"]);
}

#[test]
fn other_limits_at_once_and_from_the_next_start_on() {
    let strata = busybox();
    begin(&strata, "box", &["-m", "64m", "--pids-limit", "50"]);
    let spawns = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1 & done; wait";
    assert_eq!(strata.end(["exec", "box", "sh", "-c", spawns]).code, 0);
    assert_eq!(
        strata.ok(["update", "--pids-limit", "8", "-m", "32m", "box"]),
        "box\n"
    );
    let ended = strata.end(["exec", "box", "sh", "-c", spawns]);
    assert!(ended.code != 0 && ended.err.contains("fork"), "{ended:#?}");
    assert_eq!(
        strata
            .ok(["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"])
            .trim_end()
            .rsplit(" / ")
            .next(),
        Some("32MiB")
    );
    strata.ok(["container", "update", "--pids-limit=-1", "box"]);
    assert_eq!(strata.end(["exec", "box", "sh", "-c", spawns]).code, 0);

    // The next start has what was set last; the memory was left as it was.
    strata.ok(["update", "--pids-limit", "9", "box"]);
    strata.ok(["restart", "-t", "2", "box"]);
    let ended = strata.end(["exec", "box", "sh", "-c", spawns]);
    assert!(ended.code != 0 && ended.err.contains("fork"), "{ended:#?}");
    assert_eq!(
        strata
            .ok(["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"])
            .trim_end()
            .rsplit(" / ")
            .next(),
        Some("32MiB")
    );

    refused(&strata.end(["update", "box"]), &["nothing"]);
    refused(&strata.end(["update", "-m", "1", "box"]), &["--memory"]);
    refused(
        &strata.end(["update", "--memory-swap", "10m", "box"]),
        &["--memory-swap"],
    );
    refused(&strata.end(["update", "--cpus", "9999", "box"]), &["--cpus"]);
    refused(
        &strata.end(["update", "--cpu-shares", "1", "box"]),
        &["--cpu-shares"],
    );
    refused(&strata.end(["update", "-m", "64m", "nobody"]), &["nobody"]);
    strata.ok(["rm", "-f", "box"]);
    strata.ok(["run", "-d", "--rm", "--name", "gone", "busybox", "sleep", "1000"]);
    refused(
        &strata.end(["update", "--restart", "always", "gone"]),
        &["gone", "--rm"],
    );
    strata.ok(["rm", "-f", "gone"]);
}

#[test]
fn another_policy_holds_for_one_that_runs() {
    let strata = busybox();
    let script = "echo begun; sleep 1; exit 1";
    strata.ok(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    strata.ok(["update", "--restart", "on-failure:1", "box"]);
    eventually("it is started again", || {
        strata.ok(["logs", "box"]) == "begun\nbegun\n"
    });
    eventually("it ends", || status(&strata, "box").starts_with("exited"));
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(strata.ok(["logs", "box"]), "begun\nbegun\n");
    strata.ok(["rm", "box"]);
}
