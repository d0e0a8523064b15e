//! Two commands on one container at once, and what a command left that was killed. Needs root.

mod common;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Strata, busybox, happened, refused};
use runtime::bundle::Bundle;
use runtime::state::{ProcessId, State};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use testkit::eventually;

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

fn bundle(strata: &Strata, name: &str) -> Bundle {
    let id = inspect(strata, name)["Id"].as_str().unwrap().to_owned();
    Bundle::open(&strata.state().join("default").join(id)).unwrap()
}

/// Starts a command whose words nobody reads.
fn begin<const N: usize>(strata: &Strata, words: [&str; N]) -> Child {
    let mut command = strata.command(words);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap()
}

/// A container `one` that has ended.
fn ended() -> Strata {
    let strata = busybox();
    strata.ok(["run", "--name", "one", "busybox", "sh", "-c", "echo kept > /file"]);
    strata
}

/// While `words` wait for who starts the container `one`, that one does.
fn started_meanwhile<const N: usize>(strata: &Strata, words: [&str; N]) -> (bool, Child) {
    let bundle = bundle(strata, "one");
    let lock = bundle.lock().unwrap();
    let mut command = begin(strata, words);
    std::thread::sleep(Duration::from_millis(300));
    assert!(command.try_wait().unwrap().is_none(), "{words:?} does not wait");
    let program = Command::new("sleep").arg("1000").spawn().unwrap();
    let process = ProcessId::of(program.id().try_into().unwrap()).unwrap();
    let state = State {
        version: 1,
        supervisor: process.clone(),
        process,
        created: 1,
        running: true,
        cgroups: Default::default(),
        restarts: 0,
    };
    fs::remove_file(bundle.path().join("exit.json")).unwrap();
    fs::write(
        bundle.path().join("state.json"),
        serde_json::to_vec(&state).unwrap(),
    )
    .unwrap();
    drop(lock);
    (command.wait().unwrap().success(), program)
}

#[test]
fn what_somebody_starts_meanwhile_is_not_removed() {
    for words in [&["rm", "one"][..], &["container", "prune", "-f"]] {
        let strata = ended();
        let (done, mut program) = match words {
            [a, b] => started_meanwhile(&strata, [a, b]),
            [a, b, c] => started_meanwhile(&strata, [a, b, c]),
            _ => unreachable!(),
        };
        assert_eq!(done, words[0] == "container", "{words:?}");
        assert!(program.try_wait().unwrap().is_none(), "{words:?} killed it");
        assert_eq!(status(&strata, "one"), "running");
        program.kill().unwrap();
        program.wait().unwrap();
        strata.ok(["rm", "-f", "one"]);
    }
}

#[test]
fn what_a_newer_strata_runs_is_not_forgotten() {
    let strata = busybox();
    strata.ok(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]);
    let bundle = bundle(&strata, "one");
    bundle.write("strata.json", br#"{"version":99}"#, 0o600).unwrap();
    refused(&strata.end(["rm", "-f", "one"]), &["newer strata"]);
    bundle.write("strata.json", br#"{"version":1}"#, 0o600).unwrap();
    assert_eq!(status(&strata, "one"), "running");
    strata.ok(["rm", "-f", "one"]);
}

#[test]
fn two_who_change_different_things_both_do() {
    let strata = busybox();
    strata.ok(["create", "--name", "one", "busybox", "true"]);
    for round in 0..8 {
        let pids = (50 + round).to_string();
        let memory = 64 << 20 | round << 12;
        let memory_text = memory.to_string();
        let changes = [
            begin(&strata, ["update", "--pids-limit", &pids, "one"]),
            begin(&strata, ["update", "--memory", &memory_text, "one"]),
        ];
        for mut change in changes {
            assert!(change.wait().unwrap().success());
        }
        strata.ok(["start", "-a", "one"]);
        let spec = serde_json::to_value(bundle(&strata, "one").spec().unwrap()).unwrap();
        let limits = &spec["linux"]["resources"];
        assert_eq!(limits["pids"]["limit"], 50 + round);
        assert_eq!(limits["memory"]["limit"], memory);
    }
}

#[test]
fn what_the_last_of_several_changed_is_what_holds() {
    let strata = busybox();
    // With a limit of each kind: on cgroup v1 none can be added while it runs.
    let limits = ["-m", "512m", "--pids-limit", "50"];
    strata.ok([
        &["run", "-d", "--name", "one"],
        &limits[..],
        &["busybox", "sleep", "1000"],
    ]
    .concat());
    for round in 0..6 {
        let pids: Vec<String> = (0..4).map(|n| (100 + 10 * round + n).to_string()).collect();
        let memory = (64 << 20 | round << 12).to_string();
        let mut changes: Vec<_> = pids
            .iter()
            .map(|pids| begin(&strata, ["update", "--pids-limit", pids, "one"]))
            .collect();
        changes.push(begin(&strata, ["update", "--memory", &memory, "one"]));
        for mut change in changes {
            assert!(change.wait().unwrap().success());
        }
        let limits = || {
            let spec = serde_json::to_value(bundle(&strata, "one").spec().unwrap()).unwrap();
            let limits = &spec["linux"]["resources"];
            [&limits["pids"]["limit"], &limits["memory"]["limit"]].map(Value::to_string)
        };
        let [now_pids, now_memory] = limits();
        assert!(
            pids.contains(&now_pids) && now_memory == memory,
            "{now_pids} {now_memory}"
        );
        // The next start has what its row says.
        strata.ok(["restart", "-t", "0", "one"]);
        assert_eq!(limits(), [now_pids, now_memory]);
    }
    strata.ok(["rm", "-f", "one"]);
}

/// How often its supervisor started `one` again.
fn restarts(strata: &Strata) -> u32 {
    runtime::state::load(&bundle(strata, "one"))
        .unwrap()
        .unwrap()
        .restarts
}

#[test]
fn another_policy_holds_for_one_that_rests() {
    let strata = busybox();
    strata.ok([
        "run",
        "-d",
        "--restart",
        "always",
        "--name",
        "one",
        "busybox",
        "false",
    ]);
    eventually("it has rested for long", || {
        restarts(&strata) >= 3 && status(&strata, "one") == "restarting"
    });
    strata.ok(["update", "--restart", "no", "one"]);
    eventually("it is not started again", || status(&strata, "one") == "exited");
    let count = restarts(&strata);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(status(&strata, "one"), "exited");
    assert_eq!(restarts(&strata), count);
}

/// What a copy of `/file` out of `one` says.
fn file(strata: &Strata) -> String {
    let here = strata.dir().join("here");
    let ended = strata.end(["cp", "one:/file", here.to_str().unwrap()]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    fs::read_to_string(here).unwrap()
}

#[test]
fn one_that_is_paused_or_has_just_ended_is_copied_from() {
    let strata = busybox();
    let script = "echo kept > /file; sleep 1000";
    strata.ok(["run", "-d", "--name", "one", "busybox", "sh", "-c", script]);
    eventually("the file is there", || {
        strata.ok(["diff", "one"]).contains("/file")
    });
    strata.ok(["pause", "one"]);
    assert_eq!(file(&strata), "kept\n");
    strata.ok(["rm", "-f", "one"]);
    for _ in 0..10 {
        strata.ok([
            "run",
            "-d",
            "--name",
            "one",
            "busybox",
            "sh",
            "-c",
            "echo kept > /file",
        ]);
        strata.ok(["wait", "one"]);
        assert_eq!(file(&strata), "kept\n");
        strata.ok(["rm", "one"]);
    }
}

#[test]
fn a_start_waits_for_a_copy() {
    let strata = busybox();
    strata.ok(["create", "--name", "one", "busybox", "sleep", "1000"]);
    let mut copy = begin(&strata, ["cp", "-", "one:/tmp"]);
    eventually("it copies", || {
        let root = fs::read_link(format!("/proc/{}/fd/0", copy.id()));
        root.is_ok()
            && fs::read_to_string(format!("/proc/{}/wchan", copy.id())).is_ok_and(|at| at.contains("pipe"))
    });
    let mut start = begin(&strata, ["start", "one"]);
    std::thread::sleep(Duration::from_millis(700));
    assert!(start.try_wait().unwrap().is_none(), "it does not wait");
    copy.stdin.take().unwrap().write_all(&[0; 1024]).unwrap();
    assert!(copy.wait().unwrap().success());
    assert!(start.wait().unwrap().success());
    assert_eq!(status(&strata, "one"), "running");
    strata.ok(["rm", "-f", "one"]);
}

#[test]
fn what_a_copy_left_that_was_killed_holds_nobody_up() {
    let strata = ended();
    let inspected = inspect(&strata, "one");
    let data = |key: &str| inspected["GraphDriver"]["Data"][key].as_str().unwrap().to_owned();
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        data("LowerDir"),
        data("UpperDir"),
        data("WorkDir")
    );
    // As one that is killed between mounting the root and opening it.
    let id = inspected["Id"].as_str().unwrap();
    let place: PathBuf = strata.state().join(format!(".copy-1-{}", &id[..12]));
    let leave = || {
        fs::create_dir(&place).unwrap();
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "overlay", "-o", &options, "overlay"])
            .arg(&place);
        assert!(mount.status().unwrap().success());
    };
    for words in [&["start", "-a", "one"][..], &["rm", "one"]] {
        leave();
        if words[0] == "start" {
            assert_eq!(file(&strata), "kept\n");
            assert!(!place.exists(), "a copy");
            leave();
        }
        strata.ok(words.iter().copied());
        assert!(!place.exists(), "{words:?}");
    }
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn a_check_keeps_what_was_made_for_one_run_and_not_started() {
    let strata = busybox();
    strata.ok(["create", "--rm", "--name", "one", "busybox", "true"]);
    // The directory of bundles is made by the first start.
    strata.ok(["run", "--rm", "busybox", "true"]);
    strata.ok(["fsck", "--repair"]);
    assert_eq!(status(&strata, "one"), "created");
}

/// One whose supervisor stands still, with the process of that.
fn with_stuck_supervisor(strata: &Strata, name: &str, script: &str) -> (State, Pid) {
    let volume = format!("{}:/shared", strata.dir().display());
    strata.ok([
        "run", "-d", "--name", name, "-v", &volume, "busybox", "sh", "-c", script,
    ]);
    eventually("it runs", || strata.dir().join(name).exists());
    let state = runtime::state::load(&bundle(strata, name)).unwrap().unwrap();
    let supervisor = Pid::from_raw(state.supervisor.pid).unwrap();
    kill_process(supervisor, Signal::STOP).unwrap();
    (state, supervisor)
}

#[test]
fn a_supervisor_that_does_not_answer_holds_nobody_up() {
    let strata = busybox();
    let (_, first) = with_stuck_supervisor(&strata, "one", "touch /shared/one; exec sleep 1000");
    let (killed, third) = with_stuck_supervisor(&strata, "third", "touch /shared/third; exec sleep 1000");
    let script = "trap 'touch /shared/asked; exit 0' TERM; touch /shared/other; while :; do sleep 0.01; done";
    let (stopped, _) = with_stuck_supervisor(&strata, "other", script);
    std::thread::scope(|scope| {
        let strata = &strata;
        let end = |words: &'static [&'static str]| scope.spawn(move || strata.end(words));
        let asked = [
            end(&["exec", "one", "touch", "/shared/executed"]),
            end(&["attach", "one"]),
        ];
        // Its own signal reaches it, and then all of it is taken away.
        let stop = end(&["stop", "other"]);
        strata.ok(["kill", "third"]);
        eventually("it has ended", || killed.process.open().unwrap().is_none());
        let wait = end(&["wait", "third"]);
        for ended in asked.map(|thread| thread.join().unwrap()) {
            refused(&ended, &["supervisor", "does not answer"]);
            assert!(ended.err.contains("strata rm -f one"), "{ended:#?}");
        }
        refused(&wait.join().unwrap(), &["third", "supervisor", "does not answer"]);
        assert_eq!(stop.join().unwrap().code, 0);
    });
    assert!(strata.dir().join("asked").exists() && stopped.process.open().unwrap().is_none());
    // Nobody saw how.
    assert_eq!(status(&strata, "other"), "lost");

    for supervisor in [first, third] {
        kill_process(supervisor, Signal::CONT).unwrap();
    }
    assert_eq!(strata.ok(["wait", "third"]), "137\n");
    strata.ok(["exec", "one", "test", "!", "-e", "/shared/executed"]);
    strata.ok(["rm", "-f", "one", "other", "third"]);
}

#[test]
fn two_commands_at_once_on_one_container() {
    let strata = busybox();
    strata.ok(["create", "--name", "one", "busybox", "sleep", "1000"]);
    let mut commands: Vec<_> = (0..6)
        .map(|_| {
            strata
                .command(["start", "one"])
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    // To all but one it runs already.
    for command in &mut commands {
        assert!(command.wait().unwrap().success());
    }
    assert_eq!(status(&strata, "one"), "running");
    assert_eq!(happened(&strata, &["event=start"]).lines().count(), 1);
    let mut commands: Vec<_> = (0..4)
        .map(|n| {
            let args = if n % 2 == 0 {
                ["stop", "-t0", "one"]
            } else {
                ["rm", "-f", "one"]
            };
            strata
                .command(args)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for command in &mut commands {
        command.wait().unwrap();
    }
    assert_eq!(strata.ok(["ps", "-aq"]), "");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}
