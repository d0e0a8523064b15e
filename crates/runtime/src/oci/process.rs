//! A process of a container as the one who made it has it, until it is left to whoever comes after.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Signal, WaitId, WaitIdOptions};
use sys::signal::{Set, SignalFd};

use super::{OciError, Result, console, failed};
use crate::bundle;
use crate::launch::Fault;
use crate::state::{self, Exit};
use crate::terminal::Attended;

/// What the one who calls wants of a process besides its specification.
#[derive(Debug, Default)]
pub struct Wish<'a> {
    /// The socket that its terminal is sent to. Where there is none, [`Process::console`] has it.
    pub console_socket: Option<&'a Path>,
    /// The file that its number is written to.
    pub pid_file: Option<&'a Path>,
    /// Descriptors that it is given besides the standard streams, under the numbers that they have.
    pub preserved: &'a [OwnedFd],
    /// No session keyring of its own.
    pub keep_keyring: bool,
    /// The caller will leave it, and nobody else has its terminal.
    pub detach: bool,
}

impl Wish<'_> {
    /// Refuses what cannot be: a terminal that nobody would hold, or a socket for none.
    pub(super) fn check(&self, terminal: bool) -> Result<()> {
        match (terminal, self.console_socket, self.detach) {
            (true, None, true) => Err(OciError::Request(
                "cannot allocate tty if runtime will detach without setting console socket",
            )),
            (false, Some(_), _) | (_, Some(_), false) => Err(OciError::Request(
                "cannot use console socket if runtime will not detach or allocate tty",
            )),
            _ => Ok(()),
        }
    }

    /// Gives away what belongs to the process: its terminal, its number.
    pub(super) fn hand_over(&self, process: &mut Process) -> Result<()> {
        if let (Some(path), Some(master)) = (self.console_socket, process.console.take_if(|_| self.detach)) {
            console::send(path, master.as_fd())?;
        }
        match self.pid_file {
            Some(path) => {
                let written = bundle::write_pid(path, process.child.pid);
                written.map_err(failed(format!("writing {}", path.display())))
            }
            None => Ok(()),
        }
    }
}

/// A process that is the caller's child: left to init or the nearest subreaper when the caller ends.
#[derive(Debug)]
pub struct Process {
    pub(super) child: sys::process::Child,
    pub(super) console: Option<OwnedFd>,
}

impl Process {
    /// Its number in the caller's pid namespace.
    pub fn pid(&self) -> i32 {
        self.child.pid
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.child.pidfd.as_fd()
    }
}

impl Attended for Process {
    fn console(&self) -> Option<BorrowedFd<'_>> {
        self.console.as_ref().map(AsFd::as_fd)
    }

    fn kill(&self, signal: i32) -> io::Result<()> {
        match sys::process::send_signal(self.child.pidfd.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            other => other,
        }
    }

    fn take(&mut self) -> io::Result<Option<Exit>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let status = rustix::process::waitid(WaitId::PidFd(self.child.pidfd.as_fd()), options)?;
        Ok(status.map(|status| {
            let signal = status.terminating_signal();
            let code = signal.map_or(status.exit_status().unwrap_or(0), |signal| 128 + signal);
            Exit {
                code: u8::try_from(code).unwrap_or(u8::MAX),
                signal,
                at: state::now(),
                oom: false,
                warnings: Vec::new(),
                again: None,
            }
        }))
    }
}

/// The first `count` descriptors after the standard streams, which the caller was started with. To be called before it
/// opens anything.
///
/// # Errors
/// One is not open.
pub fn inherited(count: u16) -> Result<Vec<OwnedFd>> {
    (3..3 + i32::from(count))
        .map(|number| sys::fd::inherited_fd(number).map_err(failed(format!("preserved descriptor {number}"))))
        .collect()
}

/// The caller's standard streams.
pub(super) fn streams() -> Result<[OwnedFd; 3]> {
    let copy = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().map_err(failed("the standard streams"));
    Ok([
        copy(io::stdin().as_fd())?,
        copy(io::stdout().as_fd())?,
        copy(io::stderr().as_fd())?,
    ])
}

/// Holds back all signals, as a process that forks containers must; those that ask it to end are read here.
pub(super) struct Signals {
    ending: SignalFd,
    before: Set,
}

impl Signals {
    pub(super) fn hold() -> Result<Signals> {
        let ending = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP]
            .iter()
            .fold(Set::empty(), |set, signal| set.with(signal.as_raw()));
        let ending = SignalFd::new(ending).map_err(failed("signals"))?;
        let before = sys::signal::set_mask(Set::full()).map_err(failed("holding signals back"))?;
        Ok(Signals { ending, before })
    }

    /// Whether somebody wants the caller to end.
    pub(super) fn interrupted(&self) -> Option<Fault> {
        let received = self.ending.read().ok()??;
        Some(Fault::new(format!("interrupted by signal {}", received.signal)))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ending.as_fd()
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        let _ = sys::signal::set_mask(self.before);
    }
}
