//! Many at once, and killed at any moment. Needs root. `cargo xtask soak` goes on for longer.

mod common;

use std::process::Stdio;
use std::time::Duration;

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

#[test]
fn killed_at_random_moments() {
    let done = soak::kills(env!("CARGO_BIN_EXE_strata"), 1, Duration::from_secs(30));
    assert!(done.killed > 3 && done.checks > 1, "{done:?}");
}

#[test]
fn many_commands_on_one_store() {
    let done = soak::crowd(env!("CARGO_BIN_EXE_strata"), 1, Duration::from_secs(30));
    assert!(done.commands > 10 && done.checks > 1, "{done:?}");
}
