//! `strata run -t`: a terminal of the container's own, driven from one of ours. Needs root.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::{Strata, busybox};
use rustix::fs::{CWD, Mode, OFlags};
use sys::pty::{self, Pty};

/// A command that runs on a terminal, and what it has printed.
struct Screen {
    child: Child,
    master: File,
    text: String,
}

fn on_terminal(strata: &Strata, args: &[&str], rows: u16, columns: u16) -> Screen {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ptmx = rustix::fs::openat(CWD, "/dev/ptmx", flags, Mode::empty()).unwrap();
    let Pty { master, slave } = pty::open(ptmx).unwrap();
    pty::set_size(master.as_fd(), rows, columns).unwrap();
    // A terminal sends signals to the group of its session only: the command gets both from setsid(1).
    let whole = strata.command(args);
    let mut command = std::process::Command::new("setsid");
    command
        .arg("--ctty")
        .arg("--wait")
        .arg(whole.get_program())
        .args(whole.get_args());
    for (key, value) in whole.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    let other = |fd: &std::os::fd::OwnedFd| Stdio::from(fd.try_clone().unwrap());
    let child = command
        .stdin(other(&slave))
        .stdout(other(&slave))
        .stderr(other(&slave))
        .spawn()
        .unwrap();
    Screen {
        child,
        master: File::from(master),
        text: String::new(),
    }
}

impl Screen {
    /// Reads until the text holds `wanted`.
    #[track_caller]
    fn until(&mut self, wanted: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.text.contains(wanted) {
            assert!(
                Instant::now() < deadline,
                "{wanted:?} never came: {:?}",
                self.text
            );
            let mut buffer = [0; 4096];
            let mut waiting = [rustix::event::PollFd::new(
                &self.master,
                rustix::event::PollFlags::IN,
            )];
            let timeout = rustix::event::Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            if rustix::event::poll(&mut waiting, Some(&timeout)).unwrap() > 0 {
                let read = self.master.read(&mut buffer).unwrap_or(0);
                self.text.push_str(&String::from_utf8_lossy(&buffer[..read]));
            }
        }
    }

    fn type_in(&mut self, words: &str) {
        self.text.clear();
        self.master.write_all(words.as_bytes()).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

#[test]
fn a_shell_on_a_terminal() {
    let strata = busybox();
    let mut screen = on_terminal(&strata, &["run", "--rm", "-it", "busybox", "sh"], 33, 77);
    screen.until("# ");
    screen.type_in("tty; stty size; echo term=$TERM; ls -l /dev/console | cut -c1\n");
    screen.until("/dev/pts/0");
    screen.until("33 77");
    screen.until("term=xterm");
    // A window that changes its size tells those inside.
    screen.type_in("sh -c 'trap \"echo changed to \\$(stty size); exit\" WINCH; echo trapped; while :; do sleep 0.1; done'\n");
    screen.until("trapped\r\n");
    pty::set_size(screen.master.as_fd(), 40, 100).unwrap();
    screen.until("changed to 40 100");
    // Ctrl-C interrupts what runs inside, not strata.
    screen.type_in("sleep 1000; echo code=$?\n");
    std::thread::sleep(Duration::from_millis(300));
    screen.master.write_all(&[3]).unwrap();
    screen.type_in("echo code=$?\n");
    screen.until("code=130");
    screen.type_in("exit 4\n");
    assert_eq!(screen.code(), Some(4));
}

#[test]
fn our_own_terminal_is_as_it_was() {
    let strata = busybox();
    let mut screen = on_terminal(
        &strata,
        &[
            "run",
            "--rm",
            "-it",
            "--init",
            "busybox",
            "sh",
            "-c",
            "stty raw; stty -a; kill -KILL $$",
        ],
        24,
        80,
    );
    screen.until("speed");
    assert_eq!(screen.code(), Some(137));
    let modes = rustix::termios::tcgetattr(&screen.master).unwrap();
    assert!(
        modes
            .local_modes
            .contains(rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ICANON)
    );
}

#[test]
fn a_terminal_without_one_of_ours() {
    let strata = busybox();
    // As docker does: output of a terminal, wherever it goes; input that is no terminal is refused with -i.
    let output = strata
        .command(["run", "--rm", "-t", "busybox", "sh", "-c", "tty; echo two"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/dev/pts/0\r\ntwo\r\n");
}
