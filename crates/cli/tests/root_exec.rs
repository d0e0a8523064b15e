//! `strata exec`, as users type it. Needs root.

mod common;

use std::io::Write;
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::screen::on_terminal;
use common::{Ended, Strata, busybox, refused};

/// A container that runs beside the test, and ends with it.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        // The script ends at that, and the container is removed.
        if let Ok(None) = self.0.try_wait()
            && let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32)
        {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// `strata run --name box FLAGS busybox sh -c SCRIPT`, once it has come to `touch /ready`.
fn running(strata: &Strata, flags: &[&str], script: &str) -> Background {
    let script = format!("{script}; touch /ready; trap 'exit 0' TERM; while :; do sleep 0.1; done");
    let args = [
        &["run", "--rm", "--name", "box"],
        flags,
        &["busybox", "sh", "-c", &script],
    ]
    .concat();
    let child = strata.command(args).stdin(Stdio::null()).spawn().unwrap();
    let child = Background(child);
    let begin = Instant::now();
    while strata.end(["exec", "box", "test", "-e", "/ready"]).code != 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "the container is not ready"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    child
}

#[track_caller]
fn said(strata: &Strata, args: &[&str]) -> String {
    let ended = strata.end(["exec"].iter().chain(args));
    assert!(ended.code == 0, "{args:?} ended with {ended:#?}");
    ended.out
}

#[test]
fn user_directory_and_variables_as_docker_sets_them() {
    let strata = busybox();
    let users =
        "echo web:x:33:34::/srv/web:/bin/sh >>/etc/passwd; echo www:x:34: >>/etc/group; mkdir -p /srv/web";
    let _box = running(&strata, &["-e", "A=1", "-w", "/tmp"], users);
    assert_eq!(
        said(&strata, &["box", "sh", "-c", "pwd; echo $A $HOME $TERM; id -u"]),
        "/tmp\n1 /root\n0\n"
    );
    // The user was made in the container while it ran.
    let ids = "id -u; id -g; echo $HOME; grep CapEff /proc/self/status";
    assert_eq!(
        said(&strata, &["-u", "web", "box", "sh", "-c", ids]),
        "33\n34\n/srv/web\nCapEff:\t0000000000000000\n"
    );
    assert_eq!(
        said(
            &strata,
            &["--user=7:8", "box", "sh", "-c", "id -u; id -g; echo $HOME"]
        ),
        "7\n8\n/\n"
    );
    let flags = [
        "-w",
        "/srv",
        "-e",
        "A",
        "-e",
        "B=2",
        "-e",
        "HOME=/x",
        "box",
        "sh",
        "-c",
        "pwd; echo ${A-none} $B $HOME",
    ];
    assert_eq!(said(&strata, &flags), "/srv\nnone 2 /x\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file()
        .write_all(b"# comment\nC=three words here\n")
        .unwrap();
    let path = file.path().to_str().unwrap();
    assert_eq!(
        said(&strata, &["--env-file", path, "box", "sh", "-c", "echo $C"]),
        "three words here\n"
    );
    // Flags after the container are the command's.
    assert_eq!(said(&strata, &["box", "echo", "-e", "a", "--user"]), "a --user\n");
    let ended = strata.end([
        "container",
        "exec",
        "box",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 3",
    ]);
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (3, "out\n", "err\n")
    );
}

#[test]
fn privileged_is_the_capabilities_alone() {
    let strata = busybox();
    let _box = running(&strata, &[], "true");
    let effective = |flags: &[&str]| {
        let text = said(
            &strata,
            &[flags, &["box", "grep", "CapEff", "/proc/self/status"]].concat(),
        );
        u64::from_str_radix(text.trim().rsplit('\t').next().unwrap(), 16).unwrap()
    };
    let (usual, all) = (effective(&[]), effective(&["--privileged"]));
    assert!(
        usual & 1 << 21 == 0 && all & 1 << 21 != 0 && all & usual == usual,
        "{usual:x} {all:x}"
    );
    // Its mounts and its filter stay.
    assert_eq!(
        said(
            &strata,
            &[
                "--privileged",
                "box",
                "sh",
                "-c",
                "(echo 9 >/proc/sys/kernel/pid_max) 2>&1 | grep -ci read-only"
            ]
        ),
        "1\n"
    );
    assert_eq!(
        said(
            &strata,
            &["--privileged", "box", "grep", "Seccomp:", "/proc/self/status"]
        ),
        "Seccomp:\t2\n"
    );
    assert_eq!(effective(&["--privileged", "-u", "5"]), 0);
}

#[test]
fn input_comes_in_where_it_is_asked_for() {
    let strata = busybox();
    let _box = running(&strata, &[], "true");
    let feed = |flags: &[&str]| -> Ended {
        let args = [&["exec"], flags, &["box", "wc", "-c"]].concat();
        let mut child = strata
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Who does not read breaks the pipe.
        let _ = child.stdin.take().unwrap().write_all(&[b'x'; 3000]);
        Ended::from(child.wait_with_output().unwrap())
    };
    assert_eq!(feed(&["-i"]).out, "3000\n");
    assert_eq!(feed(&[]).out, "0\n");
}

#[test]
fn a_detached_one_goes_on() {
    let strata = busybox();
    let _box = running(&strata, &[], "true");
    let begin = Instant::now();
    let ended = strata.end([
        "exec",
        "-d",
        "box",
        "sh",
        "-c",
        "sleep 1; test -t 0; echo $? >/done",
    ]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (0, "", ""));
    assert!(
        begin.elapsed() < Duration::from_millis(900),
        "{:?}",
        begin.elapsed()
    );
    let wait = "until [ -s /done ]; do sleep 0.1; done; cat /done; rm /done";
    assert_eq!(said(&strata, &["box", "sh", "-c", wait]), "1\n");
    assert_eq!(
        strata
            .end([
                "exec",
                "-dt",
                "box",
                "sh",
                "-c",
                "seq 9999; test -t 1; echo $? >/done"
            ])
            .code,
        0
    );
    assert_eq!(said(&strata, &["box", "sh", "-c", wait]), "0\n");
    assert_eq!(strata.end(["exec", "-d", "box", "nothing"]).code, 127);
}

#[test]
fn what_cannot_be_is_refused_with_what_helps() {
    let strata = busybox();
    refused(&strata.end(["exec", "nobody", "true"]), &["nobody"]);
    refused(&strata.end(["exec", "box"]), &["COMMAND"]);
    let box_ = running(&strata, &[], "true");
    refused(
        &strata.end(["exec", "-w", "/nowhere", "box", "true"]),
        &["/nowhere"],
    );
    refused(&strata.end(["exec", "-u", "ghost", "box", "true"]), &["ghost"]);
    refused(
        &strata.end(["exec", "--preserve-fds", "1", "box", "true"]),
        &["--preserve-fds"],
    );
    for (command, code) in [("nothing", 127), ("/etc/passwd", 126)] {
        let ended = strata.end(["exec", "box", command]);
        assert!(ended.code == code && ended.err.contains("hint: "), "{ended:#?}");
    }
    drop(box_);

    assert_eq!(strata.end(["run", "--name", "over", "busybox", "true"]).code, 0);
    refused(
        &strata.end(["exec", "over", "true"]),
        &["over", "not running", "exited"],
    );
}

#[test]
fn a_supervisor_that_was_killed_is_told() {
    let strata = busybox();
    let box_ = running(&strata, &[], "true");
    let children = |of: &str| {
        let text = Command::new("ps")
            .args(["-o", "pid=,comm=", "--ppid", of])
            .output()
            .unwrap()
            .stdout;
        String::from_utf8(text).unwrap()
    };
    let listed = children(&box_.0.id().to_string());
    let supervisor = listed.split_whitespace().next().unwrap();
    assert!(
        Command::new("kill")
            .args(["-9", supervisor])
            .status()
            .unwrap()
            .success()
    );
    let begin = Instant::now();
    loop {
        let ended = strata.end(["exec", "box", "true"]);
        if ended.code == 125 {
            refused(&ended, &["box", "supervisor"]);
            assert!(ended.err.contains("strata rm -f box"), "{ended:#?}");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(10));
    }
    strata.end(["rm", "-f", "box"]);
}

#[test]
fn a_shell_on_a_terminal() {
    let strata = busybox();
    let _box = running(&strata, &[], "true");
    let mut screen = on_terminal(&strata, &["exec", "-it", "box", "sh"], 33, 77);
    screen.until("# ");
    screen.type_in("tty; stty size; echo term=$TERM\n");
    screen.until("/dev/pts/0");
    screen.until("33 77");
    screen.until("term=xterm");
    screen.type_in("sh -c 'trap \"echo changed to \\$(stty size); exit\" WINCH; echo trapped; while :; do sleep 0.1; done'\n");
    screen.until("trapped\r\n");
    sys::pty::set_size(screen.master.as_fd(), 40, 100).unwrap();
    screen.until("changed to 40 100");
    screen.type_in("sleep 1000; echo code=$?\n");
    std::thread::sleep(Duration::from_millis(300));
    screen.master.write_all(&[3]).unwrap();
    screen.type_in("echo code=$?\n");
    screen.until("code=130");
    screen.type_in("exit 4\n");
    assert_eq!(screen.code(), Some(4));
}

#[test]
fn a_terminal_is_left_and_the_command_goes_on() {
    let strata = busybox();
    let _box = running(&strata, &[], "true");
    // More than a terminal holds that nobody reads.
    let script = "stty -echo; echo up; until [ -e /go ]; do sleep 0.05; done; seq 20000; touch /went-on";
    for (keys, typed) in [("", "\x10\x11"), ("--detach-keys=ctrl-x,b", "\x10\x11\x18b")] {
        let flags = [keys].into_iter().filter(|keys| !keys.is_empty());
        let words = ["exec", "-it"].into_iter().chain(flags);
        let words: Vec<_> = words.chain(["box", "sh", "-c", script]).collect();
        let mut screen = on_terminal(&strata, &words, 33, 77);
        screen.until("up");
        screen.type_in(typed);
        assert_eq!(screen.code(), Some(0), "{keys}");
        let all = "touch /go; until [ -e /went-on ]; do sleep 0.05; done; rm /go /went-on";
        said(&strata, &["box", "timeout", "20", "sh", "-c", all]);
    }
    // None at all: they are the command's.
    let words = ["exec", "-it", "--detach-keys", "", "box", "sh", "-c"];
    let count = "stty raw -echo; echo up; head -c 2 | od -An -tx1";
    let mut screen = on_terminal(&strata, &[&words[..], &[count]].concat(), 33, 77);
    screen.until("up");
    screen.type_in("\x10\x11");
    screen.until("10 11");
    assert_eq!(screen.code(), Some(0));
}

#[test]
fn signals_are_passed_on_and_the_end_of_the_container_is_137() {
    let strata = busybox();
    let box_ = running(&strata, &[], "true");
    let script = "trap 'exit 9' TERM; touch /up; while :; do sleep 0.05; done";
    let begin = |script: &str| {
        strata
            .command(["exec", "box", "sh", "-c", script])
            .spawn()
            .unwrap()
    };
    let mut one = begin(script);
    said(
        &strata,
        &["box", "sh", "-c", "until [ -e /up ]; do sleep 0.05; done"],
    );
    assert!(
        Command::new("kill")
            .arg(one.id().to_string())
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(one.wait().unwrap().code(), Some(9));

    let mut one = begin("touch /again; sleep 1000");
    said(
        &strata,
        &["box", "sh", "-c", "until [ -e /again ]; do sleep 0.05; done"],
    );
    assert_eq!(strata.end(["rm", "-f", "box"]).code, 0);
    assert_eq!(one.wait().unwrap().code(), Some(137));
    drop(box_);
}
