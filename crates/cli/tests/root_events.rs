//! `events`, and what it tells of health checks. Needs root.

mod common;

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use common::{Image, Layer, Strata, busybox, refused};
use serde_json::{Value, json};
use testkit::eventually;

/// What has happened so far, as `action` and what `field` of it says.
fn past(strata: &Strata, flags: &[&str]) -> Vec<String> {
    let words = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--format",
        "{{.Type}} {{.Action}} {{index .Actor.Attributes \"name\"}}",
    ];
    let told = strata.ok([&words[..], flags].concat());
    told.lines().map(str::to_owned).collect()
}

#[test]
fn what_happens_to_a_container_in_the_order_it_happens() {
    let strata = busybox();
    strata.ok([
        "run", "--rm", "--name", "box", "-l", "tier=web", "busybox", "true",
    ]);
    assert_eq!(
        past(&strata, &["-f", "container=box"]),
        [
            "container create box",
            "container attach box",
            "container start box",
            "container die box",
            "container destroy box"
        ]
    );
    strata.ok(["create", "--name", "two", "busybox", "sleep", "1000"]);
    for words in [
        &["start", "two"][..],
        &["pause", "two"],
        &["unpause", "two"],
        &["rename", "two", "three"],
        &["stop", "-t", "0", "three"],
        &["rm", "three"],
        &["volume", "create", "vol"],
        &["volume", "rm", "vol"],
        &["tag", "busybox", "other"],
        &["rmi", "other"],
    ] {
        strata.ok(words);
    }
    let all = past(&strata, &["-f", "type=container"]);
    let actions: Vec<&str> = all[5..]
        .iter()
        .map(|line| line.split(' ').nth(1).unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "create", "start", "pause", "unpause", "rename", "die", "stop", "destroy"
        ]
    );
    assert_eq!(
        past(&strata, &["-f", "type=volume"]),
        ["volume create vol", "volume destroy vol"]
    );
    assert_eq!(
        past(
            &strata,
            &["-f", "type=image", "-f", "event=tag", "-f", "event=untag"]
        ),
        ["image tag other:latest", "image untag other:latest"]
    );
    assert_eq!(
        past(&strata, &["-f", "label=tier=web", "-f", "event=die"]).len(),
        1
    );
    assert_eq!(
        past(&strata, &["-f", "image=busybox", "-f", "event=start"]).len(),
        2
    );
    let line = strata.ok([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "-f",
        "event=die",
        "-f",
        "container=box",
    ]);
    assert!(
        line.contains("container die ")
            && line.contains("exitCode=0, image=busybox:latest, name=box, tier=web)"),
        "{line}"
    );
    let json = strata.ok([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "-f",
        "event=die",
        "--format",
        "json",
    ]);
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert_eq!(
        (
            &first["Type"],
            &first["Action"],
            &first["Actor"]["Attributes"]["exitCode"]
        ),
        (&json!("container"), &json!("die"), &json!("0"))
    );
    refused(&strata.end(["events", "-f", "colour=red"]), &["\"colour\""]);
    refused(&strata.end(["events", "--since", "whenever"]), &["whenever"]);
}

#[test]
fn programs_that_come_later_who_attaches_and_volumes() {
    let strata = busybox();
    strata.ok(["volume", "create", "vol"]);
    let flags = ["run", "-d", "--name", "box", "-v", "vol:/data:ro"];
    strata.ok([
        &flags[..],
        &[
            "busybox",
            "sh",
            "-c",
            "until [ -e /go ]; do sleep 0.01; done; sleep 0.2; exit 3",
        ],
    ]
    .concat());
    assert_eq!(strata.end(["exec", "box", "sh", "-c", "exit 5"]).code, 5);
    assert_eq!(strata.end(["exec", "box", "/missing"]).code, 127);
    let mut attached = strata.command(["attach", "box"]).spawn().unwrap();
    eventually("it is attached", || {
        !past(&strata, &["-f", "event=attach"]).is_empty()
    });
    strata.ok(["exec", "box", "touch", "/go"]);
    assert_eq!(attached.wait().unwrap().code(), Some(3));
    let told = strata.ok([
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--format",
        "{{.Type}} {{.Action}} {{index .Actor.Attributes \"execID\"}} {{index .Actor.Attributes \"exitCode\"}} {{index .Actor.Attributes \"destination\"}}",
        "-f",
        "type=container",
        "-f",
        "type=volume",
    ]);
    let told: Vec<String> = told
        .lines()
        .map(|line| {
            line.replace("<no value>", " ")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    assert_eq!(
        told,
        [
            "volume create",
            "container create",
            "volume mount /data",
            "container start",
            "container exec_create: sh -c exit 5 1",
            "container exec_start: sh -c exit 5 1",
            "container exec_die 1 5",
            "container exec_create: /missing 2",
            "container exec_die 2 127",
            "container attach",
            "container exec_create: touch /go 3",
            "container exec_start: touch /go 3",
            "container exec_die 3 0",
            "container die 3",
            "volume unmount",
        ]
    );
    assert_eq!(past(&strata, &["-f", "event=exec_create"]).len(), 3);
    assert_eq!(past(&strata, &["-f", "volume=vol"]).len(), 3);
    strata.ok(["rm", "box"]);
    // Made and taken away with a container.
    strata.ok([
        "create",
        "--name",
        "two",
        "-v",
        "by-name:/a",
        "-v",
        "/b",
        "busybox",
        "true",
    ]);
    strata.ok(["rm", "-v", "two"]);
    assert_eq!(
        past(&strata, &["-f", "volume=by-name"]),
        ["volume create by-name"]
    );
    let all = past(&strata, &["-f", "type=volume"]);
    let [.., created, destroyed] = &*all else {
        panic!("{all:?}")
    };
    assert_eq!(
        created.strip_prefix("volume create "),
        destroyed.strip_prefix("volume destroy "),
        "{all:?}"
    );
}

#[test]
fn who_follows_is_told_at_once() {
    let strata = busybox();
    let mut child = strata
        .command([
            "events",
            "--format",
            "{{.Action}} {{.Actor.Attributes.exitCode}}",
            "-f",
            "event=die",
            "-f",
            "event=oom",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // It has begun to follow when it has the log's directory open to be told of changes.
    let watches = || {
        let fds = std::fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap();
        fds.flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|to| to.to_str() == Some("anon_inode:inotify")))
    };
    eventually("it follows", watches);
    strata.end(["run", "--rm", "busybox", "sh", "-c", "exit 3"]);
    assert_eq!(lines.next().unwrap().unwrap(), "die 3");
    // Restarts tell each end, and nobody is there but the supervisor.
    strata.ok([
        "run",
        "-d",
        "--name",
        "again",
        "--restart",
        "on-failure:1",
        "busybox",
        "sh",
        "-c",
        "exit 4",
    ]);
    assert_eq!(lines.next().unwrap().unwrap(), "die 4");
    assert_eq!(lines.next().unwrap().unwrap(), "die 4");
    child.kill().unwrap();
    child.wait().unwrap();
    eventually("it is given up", || {
        strata.ok(["ps", "-aq", "-f", "status=exited"]).lines().count() == 1
    });
    strata.ok(["rm", "again"]);
}

fn health(strata: &Strata, name: &str) -> Value {
    let told: Value = serde_json::from_str(&strata.ok(["inspect", name])).unwrap();
    told[0]["State"]["Health"].clone()
}

#[test]
fn a_check_says_how_it_is() {
    let strata = busybox();
    strata.ok([
        "run",
        "-d",
        "--name",
        "box",
        "--health-cmd",
        "echo looking; test -e /well",
        "--health-interval",
        "100ms",
        "--health-retries",
        "2",
        "busybox",
        "sleep",
        "1000",
    ]);
    let shown = |word: &str| strata.ok(["ps"]).contains(word);
    assert!(shown("(health: starting)") || shown("(unhealthy)"));
    eventually("it is not well", || shown("(unhealthy)"));
    let told = health(&strata, "box");
    assert_eq!(told["Status"], "unhealthy");
    assert!(told["FailingStreak"].as_u64() >= Some(2), "{told}");
    assert_eq!(
        (&told["Log"][0]["ExitCode"], &told["Log"][0]["Output"]),
        (&json!(1), &json!("looking\n"))
    );
    strata.ok(["exec", "box", "touch", "/well"]);
    strata.ok(["wait", "--condition", "healthy", "box"]);
    assert!(shown("(healthy)"));
    assert_eq!(strata.ok(["ps", "-q", "-f", "health=healthy"]).lines().count(), 1);
    assert_eq!(strata.ok(["ps", "-q", "-f", "health=none"]), "");
    assert_eq!(
        past(&strata, &["-f", "event=health_status"]),
        [
            "container health_status: unhealthy box",
            "container health_status: healthy box"
        ]
    );
    assert!(health(&strata, "box")["Log"].as_array().unwrap().len() <= 5);
    // Held still it is not asked; it goes on where it was.
    strata.ok(["pause", "box"]);
    std::thread::sleep(Duration::from_millis(300));
    let before = health(&strata, "box");
    std::thread::sleep(Duration::from_millis(400));
    assert_eq!(health(&strata, "box"), before);
    strata.ok(["unpause", "box"]);
    eventually("it is asked again", || {
        health(&strata, "box")["Log"] != before["Log"]
    });
    strata.ok(["rm", "-f", "box"]);
}

#[test]
fn a_check_that_hangs_prints_without_end_or_is_not_there() {
    let strata = busybox();
    let run = |name: &str, timeout: &str, check: &str| {
        strata.ok([
            "run",
            "-d",
            "--name",
            name,
            "--health-cmd",
            check,
            "--health-interval",
            "50ms",
            "--health-timeout",
            timeout,
            "--health-retries",
            "1",
            "busybox",
            "sleep",
            "1000",
        ]);
        eventually(name, || health(&strata, name)["Status"] == "unhealthy");
        health(&strata, name)["Log"][0].clone()
    };
    let hung = run("hangs", "300ms", r#"["sleep", "1000"]"#);
    assert_eq!(hung["ExitCode"], json!(-1), "{hung}");
    assert!(
        hung["Output"].as_str().unwrap().contains("longer than 300ms"),
        "{hung}"
    );
    let flood = run("floods", "20s", "head -c 1000000 /dev/zero | tr '\\0' x; exit 7");
    assert_eq!(
        (&flood["ExitCode"], flood["Output"].as_str().unwrap().len()),
        (&json!(7), 4096)
    );
    let missing = run("missing", "20s", r#"["/no/such"]"#);
    assert!(
        missing["Output"].as_str().unwrap().contains("/no/such"),
        "{missing}"
    );
    // None of it is left running.
    for name in ["hangs", "floods", "missing"] {
        eventually("checks end", || {
            !strata.ok(["top", name]).contains("sleep 1000\nsleep")
        });
    }
    strata.ok(["rm", "-f", "-a"]);
    refused(
        &strata.end(["run", "--rm", "--health-interval", "5", "busybox", "true"]),
        &["--health-interval"],
    );
    refused(
        &strata.end([
            "run",
            "--rm",
            "--no-healthcheck",
            "--health-cmd",
            "x",
            "busybox",
            "true",
        ]),
        &["--no-healthcheck"],
    );
    strata.ok(["run", "-d", "--name", "plain", "busybox", "sleep", "1000"]);
    refused(
        &strata.end(["wait", "--condition", "healthy", "plain"]),
        &["plain", "no health check"],
    );
    assert_eq!(health(&strata, "plain"), Value::Null);
    strata.ok(["rm", "-f", "plain"]);
}

#[test]
fn what_an_image_says_of_its_health() {
    let strata = busybox();
    let image = Image::busybox()
        .layer(Layer::new().file("well", 0o644, ""))
        .name("docker.io/library/checked:1")
        .config(
            "Healthcheck",
            json!({"Test": ["CMD", "test", "-e", "/well"], "Interval": 50_000_000, "Retries": 1}),
        );
    strata.load(&image);
    strata.ok(["run", "-d", "--name", "one", "checked:1", "sleep", "1000"]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "two",
        "--no-healthcheck",
        "checked:1",
        "sleep",
        "1000",
    ]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "three",
        "--health-cmd",
        "false",
        "checked:1",
        "sleep",
        "1000",
    ]);
    eventually("the image's", || health(&strata, "one")["Status"] == "healthy");
    eventually("the flag's", || health(&strata, "three")["Status"] == "unhealthy");
    assert_eq!(health(&strata, "two"), Value::Null);
    let told = strata.ok([
        "inspect",
        "-f",
        "{{json .Config.Healthcheck.Test}} {{.Config.Healthcheck.Interval}}",
        "one",
    ]);
    assert_eq!(told, "[\"CMD\",\"test\",\"-e\",\"/well\"] 50000000\n");
    // Started again, it is asked anew.
    strata.ok(["restart", "-t", "0", "one"]);
    strata.ok(["wait", "--condition", "healthy", "one"]);
    strata.ok(["rm", "-f", "one", "two", "three"]);
}
