//! What a container is doing, read from its bundle by anyone: no daemon is asked, and no process number is
//! trusted without the proof that it is still the same process.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use crate::bundle::{self, Bundle, BundleError};
use crate::cgroup::CgroupPaths;
use crate::processes::Clock;

/// A process as it can be found again: the number may be reused, number and start time within one boot may not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Process id in the pid namespace of the one who wrote it.
    pub pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    pub started: u64,
    /// `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

impl ProcessId {
    /// Identity of the living process `pid`.
    pub fn of(pid: i32) -> io::Result<ProcessId> {
        ProcessId::of_all([pid]).map(|[one]| one)
    }

    /// Identities of several living processes.
    pub(crate) fn of_all<const N: usize>(pids: [i32; N]) -> io::Result<[ProcessId; N]> {
        let boot = boot_id()?;
        let mut all = pids.map(|pid| ProcessId {
            pid,
            started: 0,
            boot: boot.clone(),
        });
        for one in &mut all {
            one.started = stat(one.pid)?.1;
        }
        Ok(all)
    }

    /// Whether it lives at this moment (a zombie does not).
    pub fn lives(&self) -> io::Result<bool> {
        // Number and start time are of one look: they are ours, or another's.
        match stat(self.pid) {
            Ok((state, started)) => {
                Ok(started == self.started && !matches!(state, b'Z' | b'X') && *boot_id()? == self.boot)
            }
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A descriptor of the process, or `None` when it has ended (a zombie has).
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let Some(pid) = Pid::from_raw(self.pid) else {
            return Ok(None);
        };
        let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // The descriptor was opened first: if the number is ours now, it was ours then.
        let ours = match stat(self.pid) {
            Ok((state, started)) => started == self.started && !matches!(state, b'Z' | b'X'),
            Err(error) if is_gone(&error) => false,
            Err(error) => return Err(error),
        };
        Ok((ours && *boot_id()? == self.boot).then_some(pidfd))
    }
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// Which run of the machine this is: `/proc/sys/kernel/random/boot_id`. Read once: no process outlives the machine.
///
/// # Errors
/// It cannot be read.
pub fn boot_id() -> io::Result<&'static String> {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return Ok(id);
    }
    let text = read_proc("/proc/sys/kernel/random/boot_id")?;
    let id = String::from_utf8_lossy(text.trim_ascii_end()).into_owned();
    Ok(ID.get_or_init(|| id))
}

/// Reads a short file of /proc or of a cgroup, which gives its whole text to the first read that is long enough.
pub(crate) fn read_proc(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let mut text = vec![0; 1024];
    let length = File::open(path)?.read(&mut text)?;
    text.truncate(length);
    Ok(text)
}

/// State letter and start time of a process.
fn stat(pid: i32) -> io::Result<(u8, u64)> {
    let text = read_proc(format!("/proc/{pid}/stat"))?;
    parse_stat(&text).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Fields 3 and 22 of proc_pid_stat(5). The second field is the program's name and may hold anything, closing
/// brackets too: what counts begins after the last one.
fn parse_stat(text: &[u8]) -> Option<(u8, u64)> {
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = *fields.next()?.as_bytes().first()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// Contents of `state.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// [`bundle::VERSION`] of the one who wrote it.
    pub version: u32,
    /// The container's first process.
    pub process: ProcessId,
    /// The supervisor.
    pub supervisor: ProcessId,
    /// When the container was created, in nanoseconds since 1970.
    pub created: u64,
    /// Whether its process waits to be started, or runs.
    #[serde(default)]
    pub running: bool,
    /// Its own cgroups, to be killed and removed by whoever finds no supervisor left ([`crate::cgroup::Cgroup::open`]).
    #[serde(default)]
    pub cgroups: CgroupPaths,
    /// How often its supervisor started it again.
    #[serde(default)]
    pub restarts: u32,
}

/// How a container ended: contents of `exit.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit code; 128 + signal where one ended the process, as shells have it.
    pub code: u8,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When, in nanoseconds since 1970.
    pub at: u64,
    /// Whether the kernel killed one of its processes for want of memory.
    pub oom: bool,
    /// What went wrong after its end: a hook that failed, a cgroup that stayed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// When its supervisor will start it again, in nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<u64>,
}

/// What a container is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// Not started yet.
    Created,
    /// Its first process lives.
    Running {
        /// Process id as the supervisor sees it.
        pid: i32,
        /// When it was started, in nanoseconds since 1970.
        started: u64,
    },
    /// As running, but its processes are held still ([`crate::cgroup::Cgroup::freeze`]).
    Paused {
        /// Process id as the supervisor sees it.
        pid: i32,
        /// When it was started, in nanoseconds since 1970.
        started: u64,
    },
    /// Its first process has ended, and its supervisor is about to start it again.
    Restarting(Exit),
    /// Its first process has ended.
    Exited(Exit),
    /// Its process is gone, and so is the supervisor that would have recorded how.
    Lost,
}

/// Why a container could not be signalled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KillError {
    /// Nothing runs in it.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// The kernel refused.
    #[error("container {id}: signal {signal}: {source}")]
    Refused {
        /// The container.
        id: String,
        /// The signal's number.
        signal: i32,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

/// Now, in nanoseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// Contents of `state.json`; `None` for a container that was never started.
pub fn load(bundle: &Bundle) -> Result<Option<State>, BundleError> {
    bundle.read_json(bundle::STATE)
}

/// Contents of `exit.json`; `None` while nothing has ended.
pub fn load_exit(bundle: &Bundle) -> Result<Option<Exit>, BundleError> {
    bundle.read_json(bundle::EXIT)
}

/// What the container is doing whose bundle lies at `path`: [`read`] in half the system calls, for `ps` asks it of every
/// container.
///
/// # Errors
/// There is no bundle; it cannot be read, or a newer strata wrote it.
pub fn read_at(path: &Path) -> Result<Status, BundleError> {
    let bundle = Bundle::look(path)?;
    let records = Records::load(&bundle)?;
    match &records.state {
        Some(state) if state.version <= bundle::VERSION => records.tell(&bundle),
        _ => read(&Bundle::open(path)?),
    }
}

/// What the container is doing.
pub fn read(bundle: &Bundle) -> Result<Status, BundleError> {
    Records::load(bundle)?.tell(bundle)
}

/// What was written down of a container.
struct Records {
    exit: Option<Exit>,
    state: Option<State>,
}

impl Records {
    /// In this order: who starts it again writes the new state down, then takes the end away.
    fn load(bundle: &Bundle) -> Result<Records, BundleError> {
        Ok(Records {
            exit: load_exit(bundle)?,
            state: load(bundle)?,
        })
    }

    /// What it is doing, as they and what there is of its processes now say.
    fn tell(self, bundle: &Bundle) -> Result<Status, BundleError> {
        let Records { exit, state } = self;
        let lives = |process: &ProcessId| {
            process.lives().map_err(|source| BundleError::Io {
                path: bundle.path().to_path_buf(),
                source,
            })
        };
        if let Some(exit) = &exit
            && exit.again.is_none()
        {
            return Ok(Status::Exited(exit.clone()));
        }
        let Some(state) = state else {
            return Ok(exit.map_or(Status::Created, Status::Exited));
        };
        if let Some(exit) = exit {
            // Who was to start it again may be gone.
            let again = lives(&state.supervisor)?;
            return Ok(match again {
                true => Status::Restarting(exit),
                false => Status::Exited(exit),
            });
        }
        let (pid, started) = (state.process.pid, started(&state, &Clock::read()));
        let running = Status::Running { pid, started };
        if lives(&state.process)? {
            return Ok(match state.running {
                true if state.cgroups.is_frozen() => Status::Paused { pid, started },
                true => running,
                false => Status::Created,
            });
        }
        // The supervisor may be about to record the end, or just have done so.
        if lives(&state.supervisor)? {
            return Ok(load_exit(bundle)?.map_or(running, Status::Exited));
        }
        Ok(load_exit(bundle)?.map_or(Status::Lost, Status::Exited))
    }
}

/// Clocks are set by less than this without anybody's noticing.
const SLACK: u64 = 60_000_000_000;

/// When the container was started, by the clock as it goes now: one that was set since then tells of a wrong moment, but
/// how old the process is does not depend on it.
fn started(state: &State, clock: &Clock) -> u64 {
    let by_age = clock.time(state.process.started);
    match by_age.abs_diff(state.created) > SLACK {
        true => by_age,
        false => state.created,
    }
}

/// Whether the container's process has ended and its supervisor, which lives, has not written that down: it is about to,
/// or it is stuck.
pub fn is_untold(bundle: &Bundle) -> Result<bool, BundleError> {
    let Some(state) = load(bundle)? else {
        return Ok(false);
    };
    let io = |source| BundleError::Io {
        path: bundle.path().to_path_buf(),
        source,
    };
    let ended = !state.process.lives().map_err(io)? && state.supervisor.lives().map_err(io)?;
    Ok(ended && load_exit(bundle)?.is_none())
}

/// Sends `signal` to the container's first process, whether its supervisor lives or not.
pub fn kill(bundle: &Bundle, signal: i32) -> Result<(), KillError> {
    let id = || bundle.id().to_owned();
    let refused = |source| KillError::Refused {
        id: id(),
        signal,
        source,
    };
    if load_exit(bundle)?.is_some() {
        return Err(KillError::NotRunning(id()));
    }
    let state = load(bundle)?.ok_or_else(|| KillError::NotRunning(id()))?;
    let pidfd = state
        .process
        .open()
        .map_err(refused)?
        .ok_or_else(|| KillError::NotRunning(id()))?;
    sys::process::send_signal(pidfd.as_fd(), signal).map_err(|error| {
        if is_gone(&error) {
            KillError::NotRunning(id())
        } else {
            refused(error)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_name_with_brackets() {
        let text = b"7 (a) b) (c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 99 1";
        assert_eq!(parse_stat(text), Some((b'S', 4242)));
        assert_eq!(parse_stat(b"7 no brackets"), None);
    }

    #[test]
    fn this_process_is_found_and_a_stranger_with_its_number_is_not() {
        let me = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(me.open().unwrap().is_some());
        let earlier = ProcessId {
            started: me.started - 1,
            ..me.clone()
        };
        assert!(earlier.open().unwrap().is_none());
        let other_boot = ProcessId {
            boot: "another".into(),
            ..me
        };
        assert!(other_boot.open().unwrap().is_none());
    }

    #[test]
    fn a_clock_that_was_set_makes_nobody_older() {
        let clock = Clock::read();
        let process = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        let begun = clock.time(process.started);
        let state = |created| State {
            version: bundle::VERSION,
            process: process.clone(),
            supervisor: process.clone(),
            created,
            running: true,
            cgroups: CgroupPaths::default(),
            restarts: 0,
        };
        let hour = 3_600_000_000_000;
        for (recorded, told) in [
            (begun + 5, begun + 5),
            (begun - hour, begun),
            (begun + hour, begun),
        ] {
            assert_eq!(started(&state(recorded), &clock), told);
        }
    }

    #[test]
    fn from_created_to_lost() {
        let temp = tempfile::tempdir().unwrap();
        let bundle = Bundle::create(temp.path(), "c").unwrap();
        assert_eq!(read(&bundle).unwrap(), Status::Created);
        assert!(matches!(kill(&bundle, 0), Err(KillError::NotRunning(_))));

        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id().try_into().unwrap();
        let started = now();
        let mut state = State {
            version: bundle::VERSION,
            process: ProcessId::of(pid).unwrap(),
            supervisor: ProcessId::of(pid).unwrap(),
            created: started,
            running: true,
            cgroups: CgroupPaths::default(),
            restarts: 0,
        };
        bundle.write_json(bundle::STATE, &state).unwrap();
        assert_eq!(read(&bundle).unwrap(), Status::Running { pid, started });
        kill(&bundle, rustix::process::Signal::KILL.as_raw()).unwrap();
        child.wait().unwrap();
        assert_eq!(read(&bundle).unwrap(), Status::Lost);
        assert!(matches!(kill(&bundle, 0), Err(KillError::NotRunning(_))));

        // The supervisor lives on and has not written yet.
        state.supervisor = ProcessId::of(std::process::id().try_into().unwrap()).unwrap();
        bundle.write_json(bundle::STATE, &state).unwrap();
        assert_eq!(read(&bundle).unwrap(), Status::Running { pid, started });

        let exit = Exit {
            code: 137,
            signal: Some(9),
            at: 6,
            oom: false,
            warnings: Vec::new(),
            again: None,
        };
        bundle.write_json(bundle::EXIT, &exit).unwrap();
        assert_eq!(read(&bundle).unwrap(), Status::Exited(exit.clone()));

        let exit = Exit {
            again: Some(7),
            ..exit
        };
        bundle.write_json(bundle::EXIT, &exit).unwrap();
        assert_eq!(read(&bundle).unwrap(), Status::Restarting(exit.clone()));
        state.supervisor = state.process.clone();
        bundle.write_json(bundle::STATE, &state).unwrap();
        assert_eq!(read(&bundle).unwrap(), Status::Exited(exit));
    }
}
