//! The program on a terminal, as a person has it before them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use sys::pty::{self, Pty};
use testkit::Strata;

/// A command that runs on a terminal, and what it has printed.
pub struct Screen {
    child: Child,
    /// Our end: what is written is typed.
    pub master: File,
    /// What has been printed since something was last typed.
    pub text: String,
}

/// Starts a command on a terminal of its own of this size.
pub fn on_terminal(strata: &Strata, args: &[&str], rows: u16, columns: u16) -> Screen {
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
    // Whoever runs the tests may sit at none, or want no colour.
    command.env("TERM", "xterm").env_remove("NO_COLOR");
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
    pub fn until(&mut self, wanted: &str) {
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

    /// Types, and forgets what was printed before.
    pub fn type_in(&mut self, words: &str) {
        self.text.clear();
        self.master.write_all(words.as_bytes()).unwrap();
    }

    /// What is still to be read when the command has ended, and what was before.
    pub fn rest(&mut self) -> String {
        let mut buffer = [0; 4096];
        // A terminal that nobody has open any more answers EIO.
        while let Ok(read @ 1..) = self.master.read(&mut buffer) {
            self.text.push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
        std::mem::take(&mut self.text)
    }

    /// Waits for the end.
    pub fn code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}
