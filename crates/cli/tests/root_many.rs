//! Many at once, and killed at any moment. Needs root. `cargo xtask soak` goes on for longer.

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Ended, busybox};
use testkit::soak;

#[test]
fn a_hundred_at_once_all_come_up() {
    let strata = busybox();
    let start = |number: usize| {
        let mut command = strata.command(["run", "--rm", "busybox", "echo"]);
        command
            .arg(number.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let running: Vec<_> = (0..100).map(start).collect();
    for (number, child) in running.into_iter().enumerate() {
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!(
            ended,
            Ended {
                code: 0,
                out: format!("{number}\n"),
                err: String::new()
            }
        );
    }
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
}

/// Nobody but the supervisor is left to clean up, and no later command helps.
#[test]
fn a_killed_command_leaves_a_container_that_goes_by_itself() {
    let strata = busybox();
    let mut command = strata
        .command([
            "run",
            "--rm",
            "--name",
            "left",
            "busybox",
            "sh",
            "-c",
            "echo x >/big; sleep 1",
        ])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let bundles = || std::fs::read_dir(strata.state().join("default")).map_or(0, Iterator::count);
    let wait = |what: &str, reached: &dyn Fn() -> bool| {
        let begin = Instant::now();
        while !reached() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    wait("it does not start", &|| !strata.ok(["ps", "-q"]).is_empty());
    command.kill().unwrap();
    command.wait().unwrap();
    wait("its bundle stays", &|| bundles() == 0);
    wait("mounts or processes stay", &|| {
        strata.in_use() == (Vec::new(), Vec::new())
    });
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
}

#[test]
fn what_nobody_was_left_to_clean_up_goes_with_the_next_command() {
    let strata = busybox();
    let mut command = strata
        .command(["run", "--rm", "busybox", "sleep", "100"])
        .spawn()
        .unwrap();
    while strata.ok(["ps", "-q"]).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    command.kill().unwrap();
    command.wait().unwrap();
    let bundle = std::fs::read_dir(strata.state().join("default"))
        .unwrap()
        .next()
        .unwrap();
    let state = std::fs::read(bundle.unwrap().path().join("state.json")).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
    for process in ["supervisor", "process"] {
        let pid = state[process]["pid"].as_i64().unwrap() as i32;
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let begin = Instant::now();
    while !strata.in_use().1.is_empty() {
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", strata.in_use());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn a_container_whose_command_was_killed_is_removed_at_once() {
    let strata = busybox();
    let mut command = strata
        .command(["run", "--rm", "--name", "orphan", "busybox", "sleep", "100"])
        .spawn()
        .unwrap();
    while strata.ok(["ps", "-q"]).is_empty() {
        std::thread::sleep(Duration::from_millis(20));
    }
    command.kill().unwrap();
    command.wait().unwrap();
    let begin = Instant::now();
    strata.ok(["rm", "-f", "orphan"]);
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn killed_at_random_moments() {
    let done = soak::kills(env!("CARGO_BIN_EXE_strata"), 1, Duration::from_secs(60));
    assert!(done.commands.all().struck > 3 && done.checks > 1, "{done:?}");
}

#[test]
fn many_commands_on_one_store() {
    let done = soak::crowd(env!("CARGO_BIN_EXE_strata"), 1, Duration::from_secs(60));
    assert!(done.commands.all().started > 10 && done.checks > 1, "{done:?}");
}

#[test]
fn pull_rmi_prune_and_run_race() {
    let done = soak::races(env!("CARGO_BIN_EXE_strata"), 1, Duration::from_secs(60));
    assert!(done.commands.all().started > 20, "{done:?}");
}
