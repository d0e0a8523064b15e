//! Ending a container whatever state it is in: what `rm -f` needs, and whoever finds one that nobody looks after.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::Signal;

use crate::bundle::{Bundle, BundleError};
use crate::cgroup::{Cgroup, CgroupError};
use crate::control::{Connection, Request};
use crate::state::{self, ProcessId};

/// How long a process that was killed, and then its supervisor, may take to end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a container could not be ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EndError {
    /// A process does not end: it is stuck in the kernel.
    #[error("process {pid} of container {id} does not end")]
    Stuck {
        /// The container.
        id: String,
        /// The process.
        pid: i32,
    },
    /// The kernel refused.
    #[error("container {id}: ending process {pid}: {source}")]
    Refused {
        /// The container.
        id: String,
        /// The process.
        pid: i32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Its cgroup stays.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Its bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Kills what runs in a container, waits until its supervisor has recorded that and left, and where there is none any
/// more does what that would have done: nothing of the container is left then but its bundle and what the engine
/// mounted. A container in which nothing runs is no error.
pub fn end(bundle: &Bundle) -> Result<(), EndError> {
    let Some(state) = state::load(bundle)? else {
        // A supervisor that died before it wrote anything down may have made the cgroup already.
        return match bundle.spec() {
            Ok(spec) => Ok(Cgroup::find(&spec, bundle.id())?.remove()?),
            Err(_) => Ok(()),
        };
    };
    let refused = |pid| {
        let id = bundle.id().to_owned();
        move |source| EndError::Refused { id, pid, source }
    };
    let stuck = |pid| EndError::Stuck {
        id: bundle.id().to_owned(),
        pid,
    };
    let open = |process: &ProcessId| process.open().map_err(refused(process.pid));
    let kill = |pidfd: &OwnedFd, pid| match sys::process::send_signal(pidfd.as_fd(), Signal::KILL.as_raw()) {
        Err(error) if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Err(refused(pid)(error))
        }
        _ => Ok(()),
    };

    // Its supervisor is not to start it again. One that is dead, or older, does not.
    if let Ok(connection) = Connection::open(bundle) {
        let signal = Signal::KILL.as_raw();
        let _ = connection.send(&Request::Stop { signal }, &[]);
    }
    let (process, supervisor) = (&state.process, &state.supervisor);
    if let Some(pidfd) = open(process)? {
        kill(&pidfd, process.pid)?;
        if !ends(&pidfd).map_err(refused(process.pid))? {
            return Err(stuck(process.pid));
        }
    }
    // The supervisor may have become the very process that cleans up, when whoever ran the container is gone.
    let ours = u32::try_from(supervisor.pid) == Ok(std::process::id());
    if !ours
        && let Some(pidfd) = open(supervisor)?
        && !ends(&pidfd).map_err(refused(supervisor.pid))?
    {
        // It does not do what it is there for; what it leaves is taken away below.
        kill(&pidfd, supervisor.pid)?;
        if !ends(&pidfd).map_err(refused(supervisor.pid))? {
            return Err(stuck(supervisor.pid));
        }
    }
    Ok(Cgroup::open(&state.cgroups)?.remove()?)
}

/// Waits for the end of a process; false when it takes too long.
fn ends(pidfd: &OwnedFd) -> io::Result<bool> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(count) => return Ok(count > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
