//! How a container is: what its bundle says, and what is true.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use runtime::state::{Exit, Status, boot_id};
use serde::{Deserialize, Serialize};

use crate::Engine;
use crate::run::Details;

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
    /// Its processes are held still.
    Paused {
        /// The process, as the host numbers it.
        pid: i32,
        /// When it was started.
        started: Timestamp,
    },
    /// Its process has ended, and it is about to be started again.
    Restarting {
        /// The exit code.
        code: i32,
        /// When it ended.
        at: Timestamp,
    },
    /// Its process has ended.
    Exited {
        /// The exit code; 128 and the signal's number where a signal ended it, and [`WITH_MACHINE`] where the machine
        /// went down meanwhile.
        code: i32,
        /// When; unknown where the machine went down meanwhile.
        at: Option<Timestamp>,
        /// Whether the kernel killed it for want of memory.
        oom: bool,
    },
    /// Its supervisor is gone and did not say how it ended.
    Lost,
}

/// The exit code of what ended with the machine, as docker has it.
pub const WITH_MACHINE: i32 = 255;

impl State {
    /// `created`, `running`, `paused`, `restarting`, `exited` or `lost`.
    pub fn word(&self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running { .. } => "running",
            State::Paused { .. } => "paused",
            State::Restarting { .. } => "restarting",
            State::Exited { .. } => "exited",
            State::Lost => "lost",
        }
    }

    /// The process, if there is one: paused, it is there too.
    pub fn pid(&self) -> Option<i32> {
        match self {
            State::Running { pid, .. } | State::Paused { pid, .. } => Some(*pid),
            _ => None,
        }
    }

    /// Whether the process is there, and may be held still.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether a supervisor looks after it: it runs, or will run again by itself.
    pub fn is_up(&self) -> bool {
        self.is_running() || matches!(self, State::Restarting { .. })
    }
}

/// Where a container's details have the state directory: see [`Details::state`].
pub(crate) const STATE: &str = "state";

/// How a container ended, as its row keeps it: bundles go with the machine's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    code: i32,
    at: Option<Timestamp>,
    oom: bool,
}

impl From<Ended> for State {
    fn from(ended: Ended) -> State {
        let Ended { code, at, oom } = ended;
        State::Exited { code, at, oom }
    }
}

/// A time in nanoseconds since 1970, as bundles have it.
pub(crate) fn time(nanoseconds: u64) -> Timestamp {
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
            Status::Paused { pid, started } => State::Paused {
                pid,
                started: time(started),
            },
            Status::Restarting(exit) => State::Restarting {
                code: exit.code.into(),
                at: time(exit.at),
            },
            Status::Exited(exit) => State::from(&exit),
            _ => State::Lost,
        }
    }
}

impl From<&Exit> for State {
    fn from(exit: &Exit) -> State {
        State::Exited {
            code: exit.code.into(),
            at: Some(time(exit.at)),
            oom: exit.oom,
        }
    }
}

/// The directory of bundles that a container's is in: beneath the state directory that it was made or started with last,
/// which is `state` where its row does not say.
fn bundles_of(state: &Path, row: &store::Container) -> PathBuf {
    let recorded = row.details.get(STATE).and_then(|state| state.as_str());
    recorded.map_or(state, Path::new).join(&row.ns)
}

/// How a container is that was started by somebody whose bundles lie in `state`, unless its row says where.
pub(crate) fn state(state: &Path, row: &store::Container) -> State {
    let bundle = bundles_of(state, row).join(&row.id);
    let told = runtime::state::read_at(&bundle).map_or(State::Lost, State::from);
    if !matches!(told, State::Lost | State::Created) {
        return told;
    }
    match Details::of(row) {
        Details {
            ended: Some(ended), ..
        } => ended.into(),
        Details {
            started: Some(_),
            boot: Some(boot),
            ..
        } if boot_id().is_ok_and(|now| *now != boot) => State::Exited {
            code: WITH_MACHINE,
            at: None,
            oom: false,
        },
        // Made, and never started; rows of before there was `create` say nothing of either.
        Details {
            plan: Some(_),
            started: None,
            ..
        } => State::Created,
        // Created: its bundle was made anew, for a start that came to nothing.
        _ => told,
    }
}

impl Engine {
    /// How the container is: as its bundle tells, or else its row; what neither knows was lost with the machine's
    /// state.
    pub(crate) fn state(&self, row: &store::Container) -> State {
        state(&self.setup.state, row)
    }

    /// The directory of bundles that the container's is in. Another than [`Engine::bundles`] is that of commands with
    /// another state directory: what runs there is theirs to end and to take away.
    pub(crate) fn bundles_of(&self, row: &store::Container) -> PathBuf {
        bundles_of(&self.setup.state, row)
    }

    /// The bundle of a container, which may not exist.
    pub(crate) fn bundle_of(&self, row: &store::Container) -> PathBuf {
        self.bundles_of(row).join(&row.id)
    }

    /// Writes into their rows how containers ended, where that is news and they stay. It is done by whoever happens to
    /// see the end, beside what they were asked; a store that takes no writing is no reason to fail in that.
    pub(crate) fn remember<'a>(&self, seen: impl IntoIterator<Item = (&'a store::Container, &'a State)>) {
        let news: Vec<_> = seen
            .into_iter()
            .filter_map(|(row, state)| match state {
                State::Exited { code, at, oom } if !row.ephemeral && Details::of(row).ended.is_none() => {
                    let (code, at, oom) = (*code, *at, *oom);
                    Some((row, serde_json::to_value(Ended { code, at, oom }).ok()?))
                }
                _ => None,
            })
            .collect();
        if !news.is_empty() {
            let ids = news.iter().map(|(row, _)| &*row.id);
            let _ = self.store.edit_details(self.ns(), ids, |id, details| {
                // One that somebody has started since then has not ended so.
                if let Some((row, ended)) = news.iter().find(|(row, _)| row.id == id)
                    && details.get("started") == row.details.get("started")
                {
                    details.insert("ended".to_owned(), ended.clone());
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn what_ran_when_the_machine_went_down_has_exited() {
        let temp = tempfile::tempdir().unwrap();
        let row = |details| store::Container {
            ns: "default".into(),
            id: "1".repeat(64),
            name: "one".into(),
            image: None,
            manifest: None,
            labels: BTreeMap::new(),
            created: Timestamp::UNIX_EPOCH,
            ephemeral: false,
            details,
        };
        let told = |details| state(temp.path(), &row(details));
        let started = Timestamp::UNIX_EPOCH;
        let this = boot_id().unwrap();
        let (code, at, oom) = (WITH_MACHINE, None, false);
        let exited = State::Exited { code, at, oom };
        let another = json!({ "plan": {}, "started": started, "boot": "another" });
        assert_eq!(told(another.clone()), exited);
        let ended =
            json!({ "started": started, "boot": "another", "ended": { "code": 3, "at": null, "oom": true } });
        let (code, oom) = (3, true);
        assert_eq!(told(ended), State::Exited { code, at, oom });
        // This machine never went down: somebody killed its supervisor.
        let lost = json!({ "plan": {}, "started": started, "boot": this });
        assert_eq!(told(lost), State::Lost);
        assert_eq!(told(json!({ "plan": {}, "started": started })), State::Lost);
        assert_eq!(told(json!({ "plan": {} })), State::Created);
        // A start after that, which came to nothing, made a bundle.
        let bundles = temp.path().join("default");
        std::fs::create_dir(&bundles).unwrap();
        runtime::bundle::Bundle::create(&bundles, &"1".repeat(64)).unwrap();
        assert_eq!(told(another), exited);
    }
}
