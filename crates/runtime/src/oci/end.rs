//! `kill` and `delete`.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use sys::process::namespaces as kind;

use super::container::{Container, lock};
use super::{OciError, Result, Status, failed};
use crate::launch::{hooks, makes_namespace};

/// How long a process that was killed may take to end.
const END: Duration = Duration::from_secs(10);

impl Container {
    /// Sends `signal` to the container's first process; with `all` to each of its processes. To be killed is for all of
    /// them, where no end of a pid namespace would take them along.
    ///
    /// # Errors
    /// [`OciError::NotRunning`] where it has ended.
    pub fn kill(&self, signal: i32, all: bool) -> Result<()> {
        let killed = signal == Signal::KILL.as_raw();
        let everything = all || killed && !makes_namespace(&self.spec, kind::PID);
        let first = self.process()?;
        if everything {
            let cgroup = self.cgroup()?;
            if killed {
                cgroup.kill()?;
            } else {
                cgroup.pids()?.into_iter().try_for_each(|pid| send(pid, signal))?;
            }
            // Those that it leaves behind may be meant.
            if all {
                return Ok(());
            }
        }
        let Some(first) = first else {
            return Err(OciError::NotRunning);
        };
        match sys::process::send_signal(first.as_fd(), signal) {
            Err(error) if gone(&error) && everything => Ok(()),
            Err(error) if gone(&error) => Err(OciError::NotRunning),
            other => other.map_err(failed(format!("signal {signal}"))),
        }
    }

    /// Removes what is left of a container that has stopped, or was never started; with `force` of one that runs too.
    ///
    /// # Errors
    /// [`OciError`]; what could not be removed can be tried again.
    pub fn delete(self, force: bool) -> Result<()> {
        let _lock = lock(&self.files)?;
        match self.status()? {
            Status::Running | Status::Paused if !force => {
                return Err(OciError::State {
                    verb: "delete",
                    id: self.id().to_owned(),
                    status: self.status()?,
                    wanted: "stopped",
                });
            }
            _ => {}
        }
        if let Some(first) = self.process()? {
            match sys::process::send_signal(first.as_fd(), Signal::KILL.as_raw()) {
                Err(error) if gone(&error) => {}
                other => other.map_err(failed("killing the container's process"))?,
            }
            let limit = Timespec {
                tv_sec: END.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: 0,
            };
            let mut polled = [PollFd::from_borrowed_fd(first.as_fd(), PollFlags::IN)];
            // A frozen one is killed with its cgroup.
            self.cgroup()?.kill()?;
            let ended =
                rustix::event::poll(&mut polled, Some(&limit)).map_err(failed("waiting for its end"))?;
            if ended == 0 {
                return Err(OciError::DoesNotEnd(self.id().to_owned()));
            }
        }
        self.cgroup()?.remove()?;
        let due = self
            .spec
            .hooks()
            .as_ref()
            .and_then(|hooks| hooks.poststop().as_deref());
        // As with the peers, it goes whatever these say.
        let state = self.hook_state("stopped", None);
        for failed in hooks::run_all("poststop", due.unwrap_or_default(), &state) {
            self.warnings.tell(&failed);
        }
        Ok(self.files.remove()?)
    }
}

fn gone(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Signals a process by number; one that is gone needs none.
fn send(pid: i32, signal: i32) -> Result<()> {
    let Some(process) = Pid::from_raw(pid) else {
        return Ok(());
    };
    let pidfd = match rustix::process::pidfd_open(process, PidfdFlags::empty()) {
        Err(rustix::io::Errno::SRCH) => return Ok(()),
        other => other.map_err(failed(format!("process {pid}")))?,
    };
    match sys::process::send_signal(pidfd.as_fd(), signal) {
        Err(error) if gone(&error) => Ok(()),
        other => other.map_err(failed(format!("signal {signal} to process {pid}"))),
    }
}
