//! How a container is: what its bundle says, and what is true.

use jiff::Timestamp;
use runtime::bundle::Bundle;
use runtime::state::Status;
use serde::Serialize;

use crate::Engine;

/// The state of a container's process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "Status", rename_all = "lowercase", rename_all_fields = "PascalCase")]
pub enum State {
    /// Made, and not started yet.
    Created,
    /// Its process runs.
    Running {
        /// The process, as the host numbers it.
        pid: i32,
        /// When it was started.
        started: Timestamp,
    },
    /// Its process has ended.
    Exited {
        /// The exit code; 128 and the signal's number where a signal ended it.
        code: i32,
        /// When; unknown where the machine went down meanwhile.
        at: Option<Timestamp>,
        /// Whether the kernel killed it for want of memory.
        oom: bool,
    },
    /// Its supervisor is gone and did not say how it ended, or the machine was restarted.
    Lost,
}

impl State {
    /// `created`, `running`, `exited` or `lost`.
    pub fn word(&self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running { .. } => "running",
            State::Exited { .. } => "exited",
            State::Lost => "lost",
        }
    }

    /// Whether the process runs.
    pub fn is_running(&self) -> bool {
        matches!(self, State::Running { .. })
    }
}

/// A time in nanoseconds since 1970, as bundles have it.
fn time(nanoseconds: u64) -> Timestamp {
    // What a u64 holds lies within what a timestamp holds.
    Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default()
}

impl From<Status> for State {
    fn from(status: Status) -> State {
        match status {
            Status::Created => State::Created,
            Status::Running { pid, started } => State::Running {
                pid,
                started: time(started),
            },
            Status::Exited(exit) => State::Exited {
                code: exit.code.into(),
                at: Some(time(exit.at)),
                oom: exit.oom,
            },
            _ => State::Lost,
        }
    }
}

impl Engine {
    /// How the container is, as far as its bundle tells. Without a bundle it was lost with the machine's state.
    pub(crate) fn state(&self, id: &str) -> State {
        let read = Bundle::open(&self.bundle_path(id)).and_then(|bundle| runtime::state::read(&bundle));
        read.map_or(State::Lost, State::from)
    }
}
