//! A container in the foreground, as a user at a terminal has it.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::*;
use runtime::control::Restart;
use runtime::state;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::termios::{LocalModes, OptionalActions};
use serde_json::json;

/// A user's terminal, with the program that starts the container in its foreground.
struct User {
    /// Keys go in, characters come out.
    master: File,
    slave: OwnedFd,
    program: Child,
    seen: String,
}

impl User {
    fn runs(container: &Box) -> User {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ptmx = rustix::fs::openat(CWD, "/dev/ptmx", flags, Mode::empty()).unwrap();
        let pty = sys::pty::open(ptmx).unwrap();
        sys::pty::set_size(pty.master.as_fd(), 33, 99).unwrap();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let program = container
            .foreground()
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        User {
            master: File::from(pty.master),
            slave: pty.slave,
            program,
            seen: String::new(),
        }
    }

    fn types(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until `text` has been printed, and forgets everything up to its end.
    fn sees(&mut self, text: &str) -> String {
        let begin = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{text:?} is not in {:?}",
                self.seen
            );
            let mut fds = [rustix::event::PollFd::new(
                &self.master,
                rustix::event::PollFlags::IN,
            )];
            let limit = rustix::event::Timespec {
                tv_sec: 1,
                tv_nsec: 0,
            };
            if rustix::event::poll(&mut fds, Some(&limit)).unwrap() > 0 {
                let mut buffer = [0; 4096];
                let length = self.master.read(&mut buffer).unwrap();
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        }
    }

    fn is_raw(&self) -> bool {
        let modes = rustix::termios::tcgetattr(&self.slave).unwrap().local_modes;
        !modes.contains(LocalModes::ICANON)
    }

    fn code(mut self) -> i32 {
        let code = self.program.wait().unwrap().code().unwrap();
        assert!(!self.is_raw(), "the terminal is as it was");
        code
    }
}

fn on_terminal(script: &str) -> Box {
    Box::script(script).with(|spec| spec["process"]["terminal"] = json!(true))
}

#[test]
fn it_is_a_terminal_of_the_containers_own() {
    let container = on_terminal(
        "tty; readlink /proc/self/fd/0; stat -c '%t:%T %a' /dev/console; stty size; ls /dev/pts; \
         test -t 0 && test -t 1 && test -t 2 && echo all; echo to console >/dev/console; echo to tty >/dev/tty; exit 5",
    );
    let mut user = User::runs(&container);
    let text = user.sees("to tty\r\n");
    let expected =
        "/dev/pts/0\r\n/dev/pts/0\r\n88:0 620\r\n33 99\r\n0     ptmx\r\nall\r\nto console\r\nto tty\r\n";
    assert_eq!(text, expected);
    assert_eq!(user.code(), 5);
}

#[test]
fn keys_are_typed_once() {
    let container = on_terminal("echo go; read -r line; echo \"<$line>\"; read -r line; echo \"<$line>\"");
    let mut user = User::runs(&container);
    user.sees("go\r\n");
    assert!(user.is_raw());
    user.types("hello\r");
    // What is typed is shown once, by the container's terminal.
    assert_eq!(user.sees("<hello>\r\n"), "hello\r\n<hello>\r\n");
    user.types("x\x7fyes\r");
    user.sees("<yes>\r\n");
    assert_eq!(user.code(), 0);
}

#[test]
fn control_c_arrives_once_with_a_terminal() {
    let container = on_terminal(
        "trap 'n=$((n+1)); echo int $n' INT; echo go; while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 4",
    );
    let mut user = User::runs(&container);
    user.sees("go\r\n");
    user.types("\x03");
    user.sees("int 1\r\n");
    std::thread::sleep(Duration::from_millis(300));
    user.types("\x03");
    user.sees("int 2\r\n");
    write(&container.inside("tmp/end"), "");
    assert_eq!(user.code(), 4);
}

#[test]
fn control_c_arrives_once_without_a_terminal() {
    let container = Box::script(
        "trap 'n=$((n+1)); echo int $n' INT; echo go; while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 4",
    );
    let mut user = User::runs(&container);
    user.sees("go\r\n");
    assert!(!user.is_raw());
    user.types("\x03");
    user.sees("int 1\r\n");
    std::thread::sleep(Duration::from_millis(300));
    user.types("\x03");
    user.sees("int 2\r\n");
    write(&container.inside("tmp/end"), "");
    assert_eq!(user.code(), 4);
}

#[test]
fn windows_are_resized() {
    let container = on_terminal("trap 'stty size' WINCH; echo go; while :; do sleep 0.05; done");
    let mut user = User::runs(&container);
    user.sees("go\r\n");
    sys::pty::set_size(user.master.as_fd(), 44, 111).unwrap();
    user.sees("44 111\r\n");
    state::kill(&container.bundle, libc::SIGKILL).unwrap();
    assert_eq!(user.code(), 137);
}

#[test]
fn a_lot_is_printed_and_nothing_is_lost() {
    let container = on_terminal("seq 1 60000; echo end");
    let mut user = User::runs(&container);
    let text = user.sees("end\r\n");
    let expected: String = (1..=60000).map(|number| format!("{number}\r\n")).collect();
    assert!(text == expected + "end\r\n");
    assert_eq!(user.code(), 0);
}

#[test]
fn signals_end_the_container_and_the_terminal_is_as_before() {
    let container = on_terminal("trap 'exit 6' TERM; echo go; while :; do sleep 0.05; done");
    let mut user = User::runs(&container);
    user.sees("go\r\n");
    kill(user.program.id().cast_signed(), libc::SIGTERM);
    assert_eq!(user.code(), 6);
}

#[test]
fn an_init_process_on_a_terminal_gets_keys_once() {
    let container = on_terminal("trap 'n=$((n+1)); echo int $n' INT; echo go $$; while [ ! -e /tmp/end ]; do sleep 0.05; done; exit 4")
        .with(|spec| spec["annotations"] = json!({"strata.init": "true"}));
    let mut user = User::runs(&container);
    user.sees("go 2\r\n");
    user.types("\x03");
    user.sees("int 1\r\n");
    std::thread::sleep(Duration::from_millis(300));
    user.types("\x03");
    user.sees("int 2\r\n");
    write(&container.inside("tmp/end"), "");
    assert_eq!(user.code(), 4);
}

#[test]
fn the_user_goes_and_the_container_goes_on() {
    let container = on_terminal("echo go; seq 1 100000 >/dev/tty; echo done >/tmp/done; exec sleep 100");
    let mut user = User::runs(&container);
    user.sees("go\r\n");
    user.program.kill().unwrap();
    user.program.wait().unwrap();
    // Nobody reads any more, and it does not stand still for that.
    let begin = Instant::now();
    while !container.inside("tmp/done").exists() {
        assert!(begin.elapsed() < Duration::from_secs(10), "it stands still");
        std::thread::sleep(Duration::from_millis(10));
    }
    state::kill(&container.bundle, libc::SIGKILL).unwrap();
    while container.bundle.path().join("control.sock").exists() {
        assert!(begin.elapsed() < Duration::from_secs(10), "the supervisor stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    // Its terminal was in raw mode when it was killed; whoever has it next sets it right.
    let mut modes = rustix::termios::tcgetattr(&user.slave).unwrap();
    modes.local_modes |= LocalModes::ICANON;
    rustix::termios::tcsetattr(&user.slave, OptionalActions::Now, &modes).unwrap();
}

#[test]
fn a_user_without_rights_owns_the_terminal() {
    let container = on_terminal("stat -c '%u:%g %a' /dev/pts/0; echo x >/dev/tty; exit 0").with(|spec| {
        spec["process"]["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let mut user = User::runs(&container);
    assert_eq!(user.sees("x\r\n"), "1000:5 620\r\nx\r\n");
    assert_eq!(user.code(), 0);
    assert!(Path::new("/dev/ptmx").exists());
}

#[test]
fn a_size_in_the_spec() {
    let container = on_terminal("stty size").with(|spec| {
        spec["process"]["consoleSize"] = json!({"height": 11, "width": 22});
    });
    container
        .bundle
        .write_spec(&serde_json::from_value(container.spec.clone()).unwrap())
        .unwrap();
    let null = null();
    let mut running = runtime::start(&runtime::StartRequest {
        keep: &[],
        helper: &helper(),
        bundle: container.bundle.path(),
        streams: runtime::Streams::Given([null.as_fd(); 3]),
        restart: Restart::No,
        size: None,
        runtime: None,
        cleanup: Vec::new(),
        about: Default::default(),
        health: false,
        pidfile: None,
        attention: None,
    })
    .unwrap();
    let console = running.console().unwrap().try_clone_to_owned().unwrap();
    let mut text = [0; 7];
    File::from(console).read_exact(&mut text).unwrap();
    assert_eq!(&text, b"11 22\r\n");
    running.wait().unwrap();
    running.finish().unwrap();
}
