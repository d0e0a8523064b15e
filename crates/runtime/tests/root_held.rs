//! Streams that the supervisor holds: the log, who is attached, and starting again.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use common::*;
use runtime::Running;
use runtime::Streams;
use runtime::attach::{self, Left, Local, Pipes};
use runtime::control::{Connection, Reply, Request, Restart};
use runtime::log::{Limits, Reader, Stream};
use runtime::state::{self, Exit, Status};
use serde_json::json;
use sys::Dir;

/// A directory for a log, open.
struct LogDir {
    temp: tempfile::TempDir,
    fd: OwnedFd,
}

impl LogDir {
    fn new() -> LogDir {
        let temp = tempfile::tempdir().unwrap();
        let fd = File::open(temp.path()).unwrap().into();
        LogDir { temp, fd }
    }

    fn held(&self) -> Streams<'_> {
        Streams::Held {
            stdin: false,
            log: Some((self.fd.as_fd(), Limits::default())),
            attach: None,
        }
    }

    /// What is in it: of standard output, and of standard error.
    fn text(&self) -> [String; 2] {
        let mut reader = Reader::open(Dir::open_ambient(self.temp.path()).unwrap()).unwrap();
        let mut text = [Vec::new(), Vec::new()];
        while let Some(entry) = reader.next_entry().unwrap() {
            text[usize::from(entry.stream == Stream::Err)].extend(entry.text);
        }
        text.map(|text| String::from_utf8(text).unwrap())
    }
}

/// Stays attached with `input` typed: how it ended, and what was printed on both streams.
fn stay(running: &mut Running, pipes: Pipes, input: Option<&str>, terminal: bool) -> (Left, [String; 2]) {
    let (out, ours_out) = pipe();
    let (err, ours_err) = pipe();
    let (typed, typing) = pipe();
    let text = input.unwrap_or_default().to_owned();
    // More than a pipe holds may be typed.
    let typist = std::thread::spawn(move || File::from(typing).write_all(text.as_bytes()).unwrap());
    let read = |fd: OwnedFd| {
        std::thread::spawn(move || {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).unwrap();
            text
        })
    };
    let read = [read(out), read(err)];
    let local = Local {
        input: input.map(|_| typed.as_fd()),
        output: ours_out.as_fd(),
        error: ours_err.as_fd(),
        terminal,
        detach_keys: attach::DETACH_KEYS,
    };
    let left = attach::stay(running, pipes, None, local).unwrap();
    drop((ours_out, ours_err));
    typist.join().unwrap();
    (left, read.map(|thread| thread.join().unwrap()))
}

fn code(left: &Left) -> u8 {
    match left {
        Left::Ended(Exit { code, .. }) => *code,
        Left::Detached => panic!("detached"),
    }
}

#[test]
fn what_is_printed_is_in_the_log_when_the_end_is_told() {
    let log = LogDir::new();
    let container = Box::script("echo one; echo two >&2; head -c 300000 /dev/zero | tr '\\0' x; exit 4");
    let mut running = container.start_held(log.held(), Restart::No).unwrap();
    assert_eq!(running.wait().unwrap().code, 4);
    let [out, err] = log.text();
    assert_eq!((out.len(), &out[..5], &*err), (4 + 300_000, "one\nx", "two\n"));
    running.finish().unwrap();
}

#[test]
fn who_is_attached_from_the_first_misses_nothing_and_what_he_types_ends() {
    let log = LogDir::new();
    let container = Box::script("echo first; cat; echo last >&2; exit 5");
    let (pipes, ends) = attach::pipes(true).unwrap();
    let held = Streams::Held {
        stdin: true,
        log: Some((log.fd.as_fd(), Limits::default())),
        attach: Some(&ends),
    };
    let mut running = container.start_held(held, Restart::No).unwrap();
    drop(ends);
    let typed = "typed\n".repeat(50_000);
    let (left, [out, err]) = stay(&mut running, pipes, Some(&typed), false);
    assert_eq!((code(&left), &*err), (5, "last\n"));
    assert!(out == format!("first\n{typed}"), "{} bytes", out.len());
    assert!(log.text() == [out, err]);
}

#[test]
fn several_attach_to_one_that_runs_and_one_who_is_gone_holds_nobody_up() {
    let container = Box::script("trap 'echo end; exit 0' TERM; while :; do echo on; sleep 0.01; done");
    let held = Streams::Held {
        stdin: false,
        log: None,
        attach: None,
    };
    let running = container.start_held(held, Restart::No).unwrap();
    let (gone, pipes) = attach::attach(&container.bundle, false).unwrap();
    drop((gone, pipes));
    let (mut one, one_pipes) = attach::attach(&container.bundle, false).unwrap();
    let (mut two, two_pipes) = attach::attach(&container.bundle, false).unwrap();
    running.kill(libc::SIGTERM).unwrap();
    for (running, pipes) in [(&mut one, one_pipes), (&mut two, two_pipes)] {
        let (left, [out, _]) = stay(running, pipes, None, false);
        assert_eq!(code(&left), 0);
        assert!(out.ends_with("end\n"), "{out:?}");
    }
}

#[test]
fn a_terminal_is_held_and_its_window_and_keys_reach_it() {
    let log = LogDir::new();
    let container = Box::script("stty size; read line; echo \"got $line\"; exit 6")
        .with(|spec| spec["process"]["terminal"] = json!(true));
    let (pipes, ends) = attach::pipes(true).unwrap();
    let held = Streams::Held {
        stdin: true,
        log: Some((log.fd.as_fd(), Limits::default())),
        attach: Some(&ends),
    };
    let mut running = container.start_held(held, Restart::No).unwrap();
    drop(ends);
    assert!(running.console().is_none());
    let (left, [out, err]) = stay(&mut running, pipes, Some("word\n"), true);
    assert_eq!((code(&left), &*err), (6, ""));
    assert!(out.contains("24 80") && out.contains("got word"), "{out:?}");
    assert_eq!(log.text()[0], out);
}

#[test]
fn streams_of_the_one_who_runs_it_are_nobody_elses() {
    let container = Box::script(WAITING);
    let (running, _stdout) = container.ready();
    let error = attach::attach(&container.bundle, false).unwrap_err();
    assert!(error.to_string().contains("the command that runs it"), "{error}");
    running.kill(libc::SIGTERM).unwrap();
    running.finish().unwrap();
}

fn wait_for_restarts(bundle: &Path, count: u32) {
    eventually("started again", || {
        let text = std::fs::read_to_string(bundle.join("state.json")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        state["restarts"].as_u64() >= Some(count.into())
    });
}

#[test]
fn it_is_started_again_until_somebody_stops_it() {
    let log = LogDir::new();
    let container = Box::script("echo up; exit 3");
    let mut running = container.start_held(log.held(), Restart::Always).unwrap();
    let exit = running.wait().unwrap();
    assert!(exit.code == 3 && exit.again > Some(exit.at), "{exit:?}");
    wait_for_restarts(container.bundle.path(), 3);
    let connection = Connection::open(&container.bundle).unwrap();
    connection
        .send(
            &Request::Stop {
                signal: libc::SIGTERM,
            },
            &[],
        )
        .unwrap();
    assert!(matches!(
        connection.receive::<Reply>().unwrap().unwrap().0,
        Reply::Done
    ));
    running.finish().unwrap();
    let Status::Exited(exit) = state::read(&container.bundle).unwrap() else {
        panic!("it is not stopped")
    };
    assert_eq!((exit.code, exit.again), (3, None));
    let [out, _] = log.text();
    assert!(
        out.lines().count() >= 4 && out.lines().all(|line| line == "up"),
        "{out}"
    );
    assert!(!container.bundle.path().join("control.sock").exists());
}

#[test]
fn it_is_started_again_as_often_as_was_said_and_reached_meanwhile() {
    let container = Box::script("sleep 0.2; exit 1");
    let held = Streams::Held {
        stdin: false,
        log: None,
        attach: None,
    };
    let running = container
        .start_held(held, Restart::OnFailure { most: Some(2) })
        .unwrap();
    wait_for_restarts(container.bundle.path(), 1);
    let status = state::read(&container.bundle).unwrap();
    assert!(
        matches!(status, Status::Running { .. } | Status::Restarting(_)),
        "{status:?}"
    );
    running.finish().unwrap();
    let state = state::load(&container.bundle).unwrap().unwrap();
    assert_eq!(state.restarts, 2);
}

#[test]
fn a_start_that_fails_later_is_tried_again_and_told() {
    let container = Box::script("exit 1");
    let held = Streams::Held {
        stdin: false,
        log: None,
        attach: None,
    };
    let policy = Restart::OnFailure { most: Some(3) };
    let mut running = container.start_held(held, policy).unwrap();
    running.wait().unwrap();
    // Its configuration is read for each start.
    container.bundle.write("config.json", b"{}", 0o600).unwrap();
    running.finish().unwrap();
    let exit = state::load_exit(&container.bundle).unwrap().unwrap();
    assert!(exit.again.is_none(), "{exit:?}");
    assert!(
        exit.warnings[0].contains("could not be started again"),
        "{exit:?}"
    );
}

#[test]
fn an_end_while_it_rests_is_not_waited_for() {
    let container = Box::script("exit 1");
    let held = Streams::Held {
        stdin: false,
        log: None,
        attach: None,
    };
    let mut running = container.start_held(held, Restart::Always).unwrap();
    running.wait().unwrap();
    wait_for_restarts(container.bundle.path(), 4);
    let begin = std::time::Instant::now();
    runtime::end(&container.bundle).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    running.finish().unwrap();
}

#[test]
fn a_machine_that_goes_down_has_nothing_started_again() {
    let container = Box::script("trap 'exit 0' TERM; while :; do sleep 0.05; done");
    let held = Streams::Held {
        stdin: false,
        log: None,
        attach: None,
    };
    let mut running = container.start_held(held, Restart::Always).unwrap();
    // The shell has to come to its trap: without one, TERM does nothing to a first process.
    std::thread::sleep(Duration::from_millis(300));
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor;
    kill(supervisor.pid, libc::SIGTERM);
    let exit = running.wait().unwrap();
    assert_eq!((exit.code, exit.again), (0, None));
    running.finish().unwrap();
}
