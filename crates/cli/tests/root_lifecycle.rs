//! A container's life beyond the foreground: made, started, left to itself, listened to, stopped, started again. Needs
//! root.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use common::screen::on_terminal;
use common::{Strata, busybox, happened, refused};
use runtime::bundle::Bundle;
use runtime::cgroup::Cgroup;
use serde_json::Value;
use testkit::eventually;

/// A program that says so when it is asked to end, and ends with 7.
const PATIENT: &str = "trap 'echo bye; exit 7' TERM; echo hello; while :; do sleep 0.1; done";

fn inspect(strata: &Strata, name: &str) -> Value {
    let text = strata.ok(["container", "inspect", name]);
    serde_json::from_str::<Value>(&text).unwrap()[0].clone()
}

fn status(strata: &Strata, name: &str) -> String {
    inspect(strata, name)["State"]["Status"]
        .as_str()
        .unwrap()
        .to_owned()
}

/// Runs a script on its own, under the name `one`, until it has said something.
fn run_apart(strata: &Strata, flags: &[&str], script: &str) {
    let id = strata.ok([
        &["run", "-d", "--name", "one"],
        flags,
        &["busybox", "sh", "-c", script],
    ]
    .concat());
    assert_eq!(id.trim().len(), 64, "{id:?}");
    eventually("it says something", || !strata.ok(["logs", "one"]).is_empty());
}

#[test]
fn left_to_itself_it_runs_is_logged_and_is_stopped_by_its_own_signal() {
    let strata = busybox();
    run_apart(&strata, &[], PATIENT);
    assert!(strata.ok(["ps"]).contains("Up "));
    assert_eq!(strata.ok(["stop", "one"]), "one\n");
    assert_eq!(strata.ok(["logs", "one"]), "hello\nbye\n");
    assert_eq!(strata.ok(["wait", "one"]), "7\n");
    assert_eq!(status(&strata, "one"), "exited");
    assert_eq!(
        strata.ok(["stop", "one"]),
        "one\n",
        "one that does not run is none to stop"
    );
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
    // What it wrote is still there when it is started again.
    strata.ok(["start", "one"]);
    eventually("it runs", || status(&strata, "one") == "running");
    strata.ok(["rm", "-f", "one"]);
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn one_that_the_state_directory_has_forgotten_is_still_ended() {
    let strata = busybox();
    run_apart(&strata, &[], "echo hello; sleep 1000");
    let id = inspect(&strata, "one")["Id"].as_str().unwrap().to_owned();
    let process = inspect(&strata, "one")["State"]["Pid"].as_i64().unwrap();
    let bundle = strata.state().join("default").join(&id);
    for entry in std::fs::read_dir(&bundle).unwrap().flatten() {
        // Its root is mounted, and stays.
        if entry.file_type().unwrap().is_file() {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let ended = strata.end(["rm", "one"]);
    refused(&ended, &["one", "has processes"]);
    assert!(ended.err.contains("rm -f one"), "{ended:?}");
    strata.ok(["rm", "-f", "one"]);
    assert!(!std::path::Path::new(&format!("/proc/{process}")).exists());
    eventually("its supervisor leaves", || {
        strata.in_use() == (Vec::new(), Vec::new())
    });
}

#[test]
fn whoever_starts_one_hears_of_its_supervisors_death_at_any_moment() {
    let strata = busybox();
    let mut killed = 0;
    // A start takes from ten to a hundred milliseconds, of which the supervisor is there for the most: closer together at first.
    for moment in (0..60).map(|step| Duration::from_micros(500 * step + 20 * step * step)) {
        let mut command = strata.command(["run", "--rm", "--network", "none", "busybox", "true"]);
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(moment);
        let children = format!("/proc/{0}/task/{0}/children", child.id());
        let children = std::fs::read_to_string(children).unwrap_or_default();
        for pid in children.split_whitespace() {
            let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            killed += 1;
        }
        let asked = Instant::now();
        while child.try_wait().unwrap().is_none() && asked.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(2));
        }
        let in_time = child.try_wait().unwrap().is_some();
        let _ = child.kill();
        let _ = child.wait();
        assert!(in_time, "after {moment:?} it waits for ever");
    }
    assert!(killed >= 5, "{killed} were killed");
    strata.ok(["prune", "-f"]);
    assert_eq!(strata.ok(["ps", "-aq"]), "");
    eventually("nothing is left", || strata.in_use() == (Vec::new(), Vec::new()));
}

#[test]
fn a_terminal_is_left_also_where_the_container_goes_at_its_end() {
    let strata = busybox();
    let mut screen = on_terminal(
        &strata,
        &[
            "run",
            "--rm",
            "-it",
            "--name",
            "one",
            "--detach-keys",
            "ctrl-x",
            "busybox",
            "sh",
        ],
        24,
        80,
    );
    screen.until("# ");
    screen.type_in("\x18");
    assert_eq!(screen.code(), Some(0));
    assert_eq!(status(&strata, "one"), "running");
    strata.ok(["stop", "-t", "0", "one"]);
    eventually("it goes", || strata.ok(["ps", "-aq"]).is_empty());
    let mut screen = on_terminal(
        &strata,
        &["run", "--rm", "-it", "busybox", "sh", "-c", "exit 7"],
        24,
        80,
    );
    assert_eq!(screen.code(), Some(7));
    eventually("it is gone", || strata.in_use() == (Vec::new(), Vec::new()));
}

#[test]
fn made_first_and_started_later_with_what_it_wrote_before() {
    let strata = busybox();
    let id = strata.ok([
        "create",
        "--name",
        "one",
        "-e",
        "WHO=me",
        "-w",
        "/tmp",
        "busybox",
        "sh",
        "-c",
        "echo $WHO $PWD; echo x >> count; wc -l < count",
    ]);
    assert_eq!(id.trim().len(), 64);
    assert_eq!(status(&strata, "one"), "created");
    assert!(strata.ok(["ps", "-a"]).contains("Created"));
    refused(&strata.end(["kill", "one"]), &["one", "not running"]);
    refused(&strata.end(["wait", "one"]), &["one", "not started"]);
    for count in ["1", "2", "3"] {
        let ended = strata.end(["start", "-a", "one"]);
        assert_eq!(
            (ended.code, ended.out),
            (0, format!("me /tmp\n{count}\n")),
            "{}",
            ended.err
        );
    }
    assert_eq!(strata.ok(["logs", "one"]).lines().count(), 6);
    strata.ok(["rm", "one"]);
}

#[test]
fn a_container_that_was_made_for_one_run_is_not_swept_away_before() {
    let strata = busybox();
    strata.ok(["create", "--rm", "--name", "one", "busybox", "sh", "-c", "exit 3"]);
    assert!(strata.ok(["ps", "-a"]).contains("Created"));
    assert_eq!(strata.end(["start", "-a", "one"]).code, 3);
    eventually("it is gone", || strata.ok(["ps", "-aq"]).is_empty());
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn one_that_does_not_heed_its_signal_is_killed_in_time() {
    let strata = busybox();
    run_apart(
        &strata,
        &["--stop-timeout", "1"],
        "trap '' TERM; echo deaf; while :; do sleep 0.1; done",
    );
    let begin = Instant::now();
    strata.ok(["stop", "one"]);
    let took = begin.elapsed();
    assert!(
        took > Duration::from_millis(900) && took < Duration::from_secs(8),
        "{took:?}"
    );
    assert_eq!(strata.ok(["wait", "one"]), "137\n");
    // The signal may be another, and the wait as well.
    strata.ok(["restart", "one"]);
    eventually("it runs", || strata.ok(["logs", "one"]).lines().count() == 2);
    let begin = Instant::now();
    strata.ok(["stop", "-s", "KILL", "-t", "30", "one"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    strata.ok(["rm", "one"]);
}

#[test]
fn a_signal_by_name_and_kill_by_default() {
    let strata = busybox();
    run_apart(
        &strata,
        &[],
        "trap 'echo usr' USR1; echo on; while :; do sleep 0.1; done",
    );
    strata.ok(["kill", "-s", "usr1", "one"]);
    eventually("it heard", || strata.ok(["logs", "one"]).contains("usr"));
    strata.ok(["kill", "one"]);
    assert_eq!(strata.ok(["wait", "one"]), "137\n");
    refused(&strata.end(["kill", "-s", "nosuch", "one"]), &["nosuch"]);
    strata.ok(["rm", "one"]);
}

#[test]
fn it_goes_when_it_ends_if_that_was_asked_though_nobody_stayed() {
    let strata = busybox();
    strata.ok(["run", "-d", "--rm", "--name", "one", "busybox", "true"]);
    eventually("it is gone", || strata.ok(["ps", "-aq"]).is_empty());
    eventually("nothing is left", || strata.in_use() == (Vec::new(), Vec::new()));
    refused(
        &strata.end(["run", "--rm", "--restart", "always", "busybox", "true"]),
        &["--rm", "--restart"],
    );
}

#[test]
fn attached_from_the_first_and_exit_code_and_streams_are_its_own() {
    let strata = busybox();
    let mut child = strata
        .command([
            "run",
            "-i",
            "--name",
            "one",
            "busybox",
            "sh",
            "-c",
            "cat; echo err >&2; exit 5",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"typed\n"[..], &b"err\n"[..])
    );
    let logs = strata.end(["logs", "one"]);
    assert_eq!((&*logs.out, &*logs.err), ("typed\n", "err\n"));
    strata.ok(["rm", "one"]);
}

#[test]
fn logs_by_line_by_time_and_as_they_come() {
    let strata = busybox();
    run_apart(
        &strata,
        &[],
        "for i in 1 2 3 4; do echo line $i; sleep 0.2; done; printf end; while [ ! -e /go ]; do sleep 0.1; done; echo last",
    );
    eventually("all is there", || strata.ok(["logs", "one"]).ends_with("end"));
    assert_eq!(strata.ok(["logs", "-n", "2", "one"]), "line 4\nend");
    assert_eq!(strata.ok(["logs", "--tail=0", "one"]), "");
    let stamped = strata.ok(["logs", "-t", "one"]);
    let line = stamped.lines().nth(1).unwrap();
    let (time, text) = line.split_once(' ').unwrap();
    assert_eq!(text, "line 2");
    let end = stamped.lines().last().unwrap().split(' ').next().unwrap();
    assert_eq!(strata.ok(["logs", "--since", end, "one"]), "end");
    assert!(strata.ok(["logs", "--until", time, "one"]).ends_with("line 2\n"));
    refused(
        &strata.end(["logs", "--since", "yesterday", "one"]),
        &["yesterday"],
    );

    let mut follow = strata
        .command(["logs", "-f", "-n", "1", "one"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut reader = BufReader::new(follow.stdout.take().unwrap());
    let mut first = [0; 3];
    reader.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"end");
    let merged = inspect(&strata, "one")["GraphDriver"]["Data"]["MergedDir"].clone();
    std::fs::write(format!("{}/go", merged.as_str().unwrap()), "").unwrap();
    let mut rest = String::new();
    reader.read_line(&mut rest).unwrap();
    assert_eq!(rest, "last\n");
    assert!(follow.wait().unwrap().success());
    strata.ok(["rm", "one"]);
}

#[test]
fn a_log_is_followed_up_to_a_time_though_nothing_more_is_printed() {
    let strata = busybox();
    run_apart(&strata, &[], "echo on; sleep 1000");
    let begin = Instant::now();
    let until = std::time::SystemTime::now() + Duration::from_secs(2);
    let until = until
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        .to_string();
    let mut follow = strata.command(["logs", "-f", "--until", &until, "one"]);
    let mut follow = follow.stdout(Stdio::null()).spawn().unwrap();
    eventually("it is late enough", || follow.try_wait().unwrap().is_some());
    assert!(begin.elapsed() < Duration::from_secs(10));
    strata.ok(["rm", "-f", "one"]);
}

#[test]
fn a_log_is_bounded_or_not_kept_at_all() {
    let strata = busybox();
    strata.ok([
        "run",
        "--name",
        "one",
        "--log-opt",
        "max-size=10k",
        "--log-opt",
        "max-file=2",
        "busybox",
        "seq",
        "10000",
    ]);
    let log = strata.ok(["logs", "one"]);
    assert!(
        log.ends_with("9999\n10000\n") && log.len() < 20 << 10,
        "{} bytes",
        log.len()
    );
    strata.ok(["run", "--name", "two", "--log-driver", "none", "busybox", "true"]);
    refused(&strata.end(["logs", "two"]), &["two", "no log"]);
    refused(
        &strata.end(["run", "--log-driver", "journald", "busybox", "true"]),
        &["--log-driver", "journald"],
    );
    strata.ok(["rm", "one", "two"]);
}

#[test]
fn it_is_started_again_by_its_policy_and_stopped_for_good() {
    let strata = busybox();
    run_apart(&strata, &["--restart", "always"], "echo up; exit 1");
    eventually("three times", || strata.ok(["logs", "one"]).lines().count() >= 3);
    refused(&strata.end(["rm", "one"]), &["one"]);
    strata.ok(["stop", "one"]);
    let count = strata.ok(["logs", "one"]).lines().count();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(strata.ok(["logs", "one"]).lines().count(), count);
    assert_eq!(status(&strata, "one"), "exited");
    strata.ok(["rm", "one"]);

    strata.ok([
        "run",
        "-d",
        "--name",
        "one",
        "--restart",
        "on-failure:2",
        "busybox",
        "sh",
        "-c",
        "echo up; exit 1",
    ]);
    assert_eq!(strata.ok(["wait", "one"]), "1\n");
    assert_eq!(strata.ok(["logs", "one"]), "up\nup\nup\n");
    strata.ok(["rm", "one"]);
}

#[test]
fn what_the_machines_end_ended_is_started_with_all() {
    let strata = busybox();
    for (name, policy) in [
        ("always", "always"),
        ("not", "no"),
        ("unless", "unless-stopped"),
        ("stopped", "unless-stopped"),
    ] {
        strata.ok([
            "run",
            "-d",
            "--name",
            name,
            "--restart",
            policy,
            "busybox",
            "sleep",
            "1000",
        ]);
    }
    strata.ok(["stop", "-t", "0", "stopped"]);
    // As a machine that goes down without a word: everything dies, and /run is gone.
    for name in ["always", "not", "unless"] {
        let id = inspect(&strata, name)["Id"].as_str().unwrap().to_owned();
        let bundle = Bundle::open(&strata.state().join("default").join(id)).unwrap();
        let state = runtime::state::load(&bundle).unwrap().unwrap();
        for pid in [state.supervisor.pid, state.process.pid] {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        // Its control groups go with the machine, too.
        Cgroup::open(&state.cgroups).unwrap().remove().unwrap();
    }
    for mount in strata.in_use().0.iter().rev() {
        sys::mount::detach_at(mount).unwrap();
    }
    std::fs::remove_dir_all(strata.state()).unwrap();
    let mut started: Vec<_> = strata.ok(["start", "--all"]).lines().map(str::to_owned).collect();
    started.sort();
    assert_eq!(started, ["always", "unless"]);
    assert_eq!(status(&strata, "always"), "running");
    strata.ok(["rm", "-f", "-a"]);
}

#[test]
fn a_terminal_is_left_and_come_back_to() {
    let strata = busybox();
    let mut screen = on_terminal(&strata, &["run", "-it", "--name", "one", "busybox", "sh"], 30, 90);
    screen.until("# ");
    screen.type_in("stty size; X=kept\n");
    screen.until("30 90");
    screen.type_in("\x10\x11");
    assert_eq!(screen.code(), Some(0));
    assert_eq!(status(&strata, "one"), "running");
    // By keys of one's own; those of others are typed.
    let words = ["attach", "--detach-keys", "ctrl-x,b", "one"];
    let mut screen = on_terminal(&strata, &words, 20, 60);
    screen.type_in("\x10\x11\x15echo b$X\n");
    screen.until("bkept");
    screen.type_in("\x18b");
    assert_eq!(screen.code(), Some(0));
    assert_eq!(status(&strata, "one"), "running");
    let mut screen = on_terminal(&strata, &["attach", "one"], 20, 60);
    screen.type_in("echo $X; stty size\n");
    screen.until("kept");
    screen.until("20 60");
    screen.type_in("exit 9\n");
    assert_eq!(screen.code(), Some(9));
    assert!(strata.ok(["logs", "one"]).contains("kept"));
    strata.ok(["rm", "one"]);
}

#[test]
fn the_id_is_written_where_it_is_wanted_and_overwrites_nothing() {
    let strata = busybox();
    let file = strata.dir().join("id");
    let file = file.to_str().unwrap();
    let id = strata.ok(["create", "--cidfile", file, "busybox", "true"]);
    assert_eq!(std::fs::read_to_string(file).unwrap(), id.trim());
    refused(
        &strata.end(["run", "--cidfile", file, "busybox", "true"]),
        &["--cidfile", file],
    );
    strata.ok(["rm", id.trim()]);

    // What comes to nothing leaves none that would be in the way of the next try.
    let file = strata.dir().join("other");
    let file = file.to_str().unwrap();
    refused(
        &strata.end(["run", "--pull", "never", "--cidfile", file, "nosuch", "true"]),
        &["nosuch"],
    );
    assert!(!std::fs::exists(file).unwrap());
    // A disk that is full.
    let small = strata.dir().join("small");
    std::fs::create_dir(&small).unwrap();
    let mount = |words: &[&str]| {
        let mut command = std::process::Command::new(words[0]);
        assert!(command.args(&words[1..]).arg(&small).status().unwrap().success());
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=4k", "small"]);
    std::fs::write(small.join("full"), [0; 4096]).unwrap();
    let file = small.join("id");
    for command in ["create", "run"] {
        let words = [
            command,
            "--cidfile",
            file.to_str().unwrap(),
            "busybox",
            "sleep",
            "1000",
        ];
        refused(&strata.end(words), &["--cidfile"]);
        assert!(!file.exists());
        assert_eq!(strata.ok(["ps", "-aq"]), "", "{command}");
    }
    mount(&["umount"]);
}

#[test]
fn what_runs_already_is_left_alone_or_attached_to() {
    let strata = busybox();
    let script = "trap 'echo told; exit 6' TERM; echo up; while :; do sleep 0.1; done";
    strata.ok(["run", "-d", "--name", "one", "busybox", "sh", "-c", script]);
    let process = inspect(&strata, "one")["State"]["Pid"].clone();
    assert_eq!(strata.ok(["start", "one"]), "one\n");
    assert_eq!(inspect(&strata, "one")["State"]["Pid"], process);
    std::thread::scope(|scope| {
        let attached = scope.spawn(|| strata.end(["start", "-a", "one"]));
        eventually("it is attached", || {
            !happened(&strata, &["event=attach"]).is_empty()
        });
        strata.ok(["stop", "one"]);
        let attached = attached.join().unwrap();
        assert_eq!((attached.code, &*attached.out), (6, "told\n"), "{attached:#?}");
    });
    // One that is held still does not run by itself.
    strata.ok(["start", "one"]);
    strata.ok(["pause", "one"]);
    let ended = strata.end(["start", "one"]);
    refused(&ended, &["one", "paused"]);
    assert!(ended.err.contains("strata unpause"), "{ended:#?}");
    strata.ok(["rm", "-f", "one"]);
}
