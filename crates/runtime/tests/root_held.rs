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
use runtime::attach::{self, Ends, Left, Local, Pipes};
use runtime::control::{Connection, Reply, Request, Restart};
use runtime::log::{Limits, Reader, Stream};
use runtime::state::{self, Exit, Status};
use serde_json::json;
use sys::Dir;

/// Streams of which nothing is kept.
const UNLOGGED: Streams<'static> = Streams::Held {
    stdin: false,
    log: None,
    attach: None,
};

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

    /// With a client from the first, who may type.
    fn attached<'a>(&'a self, ends: &'a Ends) -> Streams<'a> {
        Streams::Held {
            stdin: true,
            log: Some((self.fd.as_fd(), Limits::default())),
            attach: Some(ends),
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

/// A small file system at a place, gone when dropped.
struct Small(std::path::PathBuf);

impl Small {
    fn new(at: &std::path::Path) -> Small {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=128k", "small"]).arg(at);
        assert!(mount.status().unwrap().success());
        Small(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("-l")
            .arg(&self.0)
            .status();
    }
}

#[test]
fn a_log_without_room_costs_lines_and_never_the_container() {
    const LINES: usize = 3000;
    let temp = tempfile::tempdir().unwrap();
    let _small = Small::new(temp.path());
    let filler = temp.path().join("filler");
    std::fs::write(&filler, vec![1; 64 << 10]).unwrap();
    let fd = File::open(temp.path()).unwrap().into();
    let log = LogDir { temp, fd };
    let script = format!(
        "trap 'echo after; exit 4' USR1; i=0; while [ $i -lt {LINES} ]; do echo line $i; i=$((i+1)); done; \
         : >/done; while :; do sleep 0.05; done"
    );
    let container = Box::script(&script);
    let mut running = container.start_held(log.held(), Restart::No).unwrap();
    let done = container.bundle.rootfs().join("done");
    eventually("all is printed", || done.exists());
    let kept = log.text()[0].lines().count();
    assert!(kept > 0 && kept < LINES, "{kept}");

    // There is room again.
    std::fs::remove_file(filler).unwrap();
    state::kill(&container.bundle, libc::SIGUSR1).unwrap();
    assert_eq!(running.wait().unwrap().code, 4);
    running.finish().unwrap();
    let [out, err] = log.text();
    // Whole lines, each once and in their order, and how many are not there.
    let lines = out.strip_suffix("after\n").expect(&out).lines();
    let numbers: Vec<usize> = lines
        .map(|line| line.strip_prefix("line ").expect(line).parse().unwrap())
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{out}");
    let lost = err.lines().map(|line| {
        assert!(line.contains("could not be written: No space left"), "{line}");
        line.split(' ').nth(1).unwrap().parse::<usize>().unwrap()
    });
    assert_eq!(lost.sum::<usize>() + numbers.len(), LINES, "{err}");
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
    let mut running = container.start_held(log.attached(&ends), Restart::No).unwrap();
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
    let log = LogDir::new();
    let running = container.start_held(log.held(), Restart::No).unwrap();
    // Before its trap, TERM does nothing to a first process.
    eventually("it comes to its trap", || !log.text()[0].is_empty());
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
    let mut running = container.start_held(log.attached(&ends), Restart::No).unwrap();
    drop(ends);
    assert!(running.console().is_none());
    let (left, [out, err]) = stay(&mut running, pipes, Some("word\n"), true);
    assert_eq!((code(&left), &*err), (6, ""));
    assert!(out.contains("24 80") && out.contains("got word"), "{out:?}");
    assert_eq!(log.text()[0], out);
}

#[test]
fn a_terminal_that_everybody_closed_is_opened_again() {
    let log = LogDir::new();
    let script = "exec 0<&- 1>&- 2>&-; sleep 0.3; echo later >/dev/console; exit 6";
    let container = Box::script(script).with(|spec| spec["process"]["terminal"] = json!(true));
    let mut running = container.start_held(log.held(), Restart::No).unwrap();
    assert_eq!(running.wait().unwrap().code, 6);
    assert_eq!(log.text()[0], "later\r\n");
    running.finish().unwrap();
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
    let policy = Restart::OnFailure { most: Some(2) };
    let running = container.start_held(UNLOGGED, policy).unwrap();
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
    let policy = Restart::OnFailure { most: Some(3) };
    let mut running = container.start_held(UNLOGGED, policy).unwrap();
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
    let mut running = container.start_held(UNLOGGED, Restart::Always).unwrap();
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
    let mut running = container.start_held(UNLOGGED, Restart::Always).unwrap();
    // The shell has to come to its trap: without one, TERM does nothing to a first process.
    std::thread::sleep(Duration::from_millis(300));
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor;
    kill(supervisor.pid, libc::SIGTERM);
    let exit = running.wait().unwrap();
    assert_eq!((exit.code, exit.again), (0, None));
    running.finish().unwrap();
}

#[test]
fn one_who_is_attached_and_does_not_read_holds_up_no_end() {
    // As much as his pipe, the program's and the supervisor hold together.
    const LENGTH: usize = 130_000;
    let log = LogDir::new();
    // It does not end before somebody waits for it.
    let script = format!(
        "until [ -e /waited-for ]; do sleep .01; done; head -c {LENGTH} /dev/zero | tr '\\0' x; exit 4"
    );
    let container = Box::script(&script);
    let (pipes, ends) = attach::pipes(true).unwrap();
    let mut running = container.start_held(log.attached(&ends), Restart::No).unwrap();
    drop(ends);
    let waiting = Connection::open(&container.bundle).unwrap();
    waiting.send(&Request::Wait, &[]).unwrap();
    std::fs::write(container.inside("waited-for"), "").unwrap();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor;
    eventually("the supervisor has left", || !lives(supervisor.pid));
    let told = waiting.receive::<Reply>().unwrap().unwrap().0;
    assert!(matches!(told, Reply::Exited(Exit { code: 4, .. })), "{told:?}");
    assert_eq!(log.text()[0].len(), LENGTH);
    // He finds it all when he comes to it.
    let (left, [out, _]) = stay(&mut running, pipes, None, false);
    assert_eq!((code(&left), out.len()), (4, LENGTH));
}

/// Attaches while a container rests before its next start.
fn attach_at_rest(container: &Box) -> (Running, Pipes) {
    eventually("it rests", || {
        matches!(state::read(&container.bundle), Ok(Status::Restarting(_)))
    });
    attach::attach(&container.bundle, false).unwrap()
}

#[test]
fn who_attaches_while_it_rests_is_told_that_it_is_stopped() {
    let container = Box::script("exit 3");
    let running = container.start_held(UNLOGGED, Restart::Always).unwrap();
    wait_for_restarts(container.bundle.path(), 3);
    let (mut attached, pipes) = attach_at_rest(&container);
    let connection = Connection::open(&container.bundle).unwrap();
    let signal = libc::SIGTERM;
    connection.send(&Request::Stop { signal }, &[]).unwrap();
    let (left, _) = stay(&mut attached, pipes, None, false);
    assert_eq!(code(&left), 3);
    running.finish().unwrap();
}

#[test]
fn another_policy_ends_starts_that_fail_too() {
    let container = Box::script("exit 1");
    let mut running = container.start_held(UNLOGGED, Restart::Always).unwrap();
    running.wait().unwrap();
    container.bundle.write("config.json", b"{}", 0o600).unwrap();
    eventually("a start fails", || {
        let exit = state::load_exit(&container.bundle).unwrap();
        exit.is_some_and(|exit| !exit.warnings.is_empty())
    });
    let connection = Connection::open(&container.bundle).unwrap();
    let restart = Restart::No;
    connection.send(&Request::Policy { restart }, &[]).unwrap();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor;
    eventually("the supervisor has left", || !lives(supervisor.pid));
}

#[test]
fn a_machine_that_goes_down_while_it_is_started_again_has_nothing_started_again() {
    let container = Box::script("exit 1");
    let flag = container.temp.path().join("once");
    let hook = format!("test -e {0} && sleep 1; touch {0}", flag.display());
    let container = container.with(|spec| {
        spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", hook]}]});
    });
    let mut running = container.start_held(UNLOGGED, Restart::Always).unwrap();
    running.wait().unwrap();
    wait_for_restarts(container.bundle.path(), 1);
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor;
    kill(supervisor.pid, libc::SIGTERM);
    eventually("the supervisor has left", || !lives(supervisor.pid));
    let exit = state::load_exit(&container.bundle).unwrap().unwrap();
    assert!(
        exit.again.is_none() && exit.warnings[0].contains("interrupted"),
        "{exit:?}"
    );
}

#[test]
fn without_a_descriptor_to_spare_it_waits_and_does_not_spin() {
    let container = Box::script("sleep 100");
    let running = container.start_held(UNLOGGED, Restart::No).unwrap();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor;
    let pid = rustix::process::Pid::from_raw(supervisor.pid);
    let count = std::fs::read_dir(format!("/proc/{}/fd", supervisor.pid))
        .unwrap()
        .count() as u64;
    let limit = |most| rustix::process::Rlimit {
        current: Some(most),
        maximum: Some(4096),
    };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit(count + 2)).unwrap();
    let mut others: Vec<_> = (0..6)
        .map(|_| Connection::open(&container.bundle).unwrap())
        .collect();
    std::thread::sleep(Duration::from_millis(100));
    let before = ticks(supervisor.pid);
    std::thread::sleep(Duration::from_millis(700));
    let used = ticks(supervisor.pid) - before;
    assert!(used < 10, "{used} ticks of 70");
    // Those who leave make room for who waits.
    let last = others.pop().unwrap();
    drop(others);
    last.send(
        &Request::Kill {
            signal: libc::SIGKILL,
        },
        &[],
    )
    .unwrap();
    assert!(matches!(last.receive::<Reply>().unwrap().unwrap().0, Reply::Done));
    running.finish().unwrap();
}

/// Processor time of a process, in hundredths of a second.
fn ticks(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields = text.rsplit(')').next().unwrap().split_ascii_whitespace();
    fields
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().unwrap())
        .sum()
}

#[test]
fn a_connection_is_attached_once() {
    let container = Box::script("sleep 100");
    let running = container.start_held(UNLOGGED, Restart::No).unwrap();
    let connection = Connection::open(&container.bundle).unwrap();
    let (out, err) = (pipe(), pipe());
    for again in [false, true] {
        let fds = [out.0.as_fd(), out.1.as_fd(), err.1.as_fd()];
        connection.send(&Request::Attach { stdin: false }, &fds).unwrap();
        let reply = connection.receive::<Reply>().unwrap().unwrap().0;
        assert_eq!(matches!(reply, Reply::Error { .. }), again, "{reply:?}");
    }
    running.kill(libc::SIGKILL).unwrap();
    running.finish().unwrap();
}
