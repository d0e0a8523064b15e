//! A clock that jumps, an hour on and an hour back: nobody waits for it. Runs in the virtual machine only
//! (`cargo xtask test`), whose clock is nobody else's.

mod common;

use std::time::{Duration, Instant};

use common::{Ended, Strata, busybox};
use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
use testkit::eventually;

const HOUR: i64 = 3600;

/// Sets the clock by so many seconds.
fn jump(seconds: i64) {
    let now = clock_gettime(ClockId::Realtime);
    let then = Timespec {
        tv_sec: now.tv_sec + seconds,
        ..now
    };
    clock_settime(ClockId::Realtime, then).unwrap();
}

/// The same with the clock going forth, and going back.
fn both_ways(mut act: impl FnMut(i64)) {
    act(HOUR);
    act(-HOUR);
}

/// Runs a command while the clock jumps, and tells how long it took by one that does not.
fn while_it_jumps(strata: &Strata, by: i64, words: &[&str]) -> (Ended, Duration) {
    let begin = Instant::now();
    let ended = std::thread::scope(|scope| {
        let ended = scope.spawn(|| strata.end(words));
        std::thread::sleep(Duration::from_secs(2));
        jump(by);
        ended.join().unwrap()
    });
    (ended, begin.elapsed())
}

#[test]
fn a_stop_takes_as_long_as_it_says() {
    both_ways(|by| {
        let strata = busybox();
        let script = "trap '' TERM; while :; do sleep 1; done";
        strata.ok(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
        let (ended, took) = while_it_jumps(&strata, by, &["stop", "-t", "6", "box"]);
        assert_eq!(ended.code, 0, "{ended:#?}");
        assert!((5..30).contains(&took.as_secs()), "{took:?}");
        assert_eq!(strata.ok(["wait", "box"]), "137\n");
    });
}

#[test]
fn one_that_runs_is_as_old_as_its_process() {
    let strata = busybox();
    strata.ok(["run", "-d", "--name", "box", "busybox", "sleep", "1000"]);
    both_ways(|by| {
        jump(by);
        let status = strata.ok(["ps", "--format", "{{.Status}}"]);
        assert!(status.starts_with("Up ") && !status.contains("hour"), "{status}");
    });
    jump(-HOUR);
    strata.ok(["run", "-d", "--name", "other", "busybox", "sleep", "1000"]);
    jump(HOUR);
    let status = strata.ok(["ps", "--filter", "name=other", "--format", "{{.Status}}"]);
    assert!(status.starts_with("Up ") && !status.contains("hour"), "{status}");
    strata.ok(["rm", "-f", "box", "other"]);
}

#[test]
fn it_is_started_again_and_its_health_is_asked_for() {
    let strata = busybox();
    strata.ok([
        "run",
        "-d",
        "--name",
        "again",
        "--restart",
        "always",
        "busybox",
        "sh",
        "-c",
        "echo begun",
    ]);
    strata.ok([
        "run",
        "-d",
        "--name",
        "well",
        "--health-cmd",
        "echo >>/asked",
        "--health-interval",
        "1s",
        "busybox",
        "sleep",
        "1000",
    ]);
    let lines = || strata.ok(["logs", "again"]).lines().count();
    let asked = || {
        let ended = strata.end(["exec", "well", "wc", "-l", "/asked"]);
        let count = ended
            .out
            .split(' ')
            .next()
            .and_then(|count| count.parse::<u32>().ok());
        count.unwrap_or(0)
    };
    both_ways(|by| {
        let before = (lines(), asked());
        jump(by);
        eventually("another start, and another check", || {
            lines() > before.0 && asked() > before.1 + 1
        });
    });
    strata.ok(["rm", "-f", "again", "well"]);
}

#[test]
fn logs_and_events_are_told_by_their_times() {
    let strata = busybox();
    let script = "for n in 1 2 3; do until [ -e /go$n ]; do sleep 0.1; done; echo line $n; done; sleep 1000";
    strata.ok(["run", "-d", "--name", "box", "busybox", "sh", "-c", script]);
    let go = |n: u32| {
        strata.ok(["exec", "box", "touch", &format!("/go{n}")]);
        eventually("it is logged", || {
            strata.ok(["logs", "box"]).contains(&format!("line {n}\n"))
        });
    };
    go(1);
    jump(HOUR);
    go(2);
    jump(-HOUR);
    go(3);
    assert_eq!(strata.ok(["logs", "box"]), "line 1\nline 2\nline 3\n");
    assert_eq!(strata.ok(["logs", "--until", "0s", "box"]), "line 1\nline 3\n");
    assert_eq!(strata.ok(["logs", "--since=-30m", "box"]), "line 2\n");
    assert_eq!(strata.ok(["logs", "--tail", "1", "box"]), "line 3\n");
    // Whoever waits for a time is told when that has come.
    for command in [
        &["events", "--until=-30m"][..],
        &["logs", "-f", "--until=-30m", "box"],
    ] {
        let (ended, took) = while_it_jumps(&strata, HOUR, command);
        assert!(
            ended.code == 0 && took < Duration::from_secs(30),
            "{took:?} {ended:#?}"
        );
        jump(-HOUR);
    }
    strata.ok(["rm", "-f", "box"]);
}
