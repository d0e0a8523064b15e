//! What a supervisor writes down of what happens to its container: see [`crate::events`].

use std::collections::BTreeMap;
use std::path::Path;

use crate::control::About;
use crate::events::{Event, Log};
use crate::health::Status;
use crate::state::{self, Exit};

/// Writes events of one container.
pub(super) struct Told {
    log: Option<Log>,
    id: String,
    about: About,
}

/// Characters of a command line that go with an event.
const COMMAND: usize = 1024;

/// A program that came later, as events have it.
pub(super) struct Named {
    /// No two programs of one supervisor have the same.
    number: u64,
    /// The words of its command line.
    command: String,
    /// When it was asked for, until that is written down.
    made: Option<u64>,
}

impl Named {
    pub(super) fn new(number: u64, words: &[String]) -> Named {
        Named {
            number,
            command: words.join(" ").chars().take(COMMAND).collect(),
            made: Some(state::now()),
        }
    }
}

impl Told {
    pub(super) fn new(bundle: &Path, about: About) -> Told {
        let id = bundle
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        Told {
            log: Log::of_bundle(bundle).filter(|_| !about.attributes.is_empty()),
            id: id.to_owned(),
            about,
        }
    }

    fn attributes(&self, more: &[(&str, String)]) -> BTreeMap<String, String> {
        let more = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
        self.about.attributes.clone().into_iter().chain(more).collect()
    }

    fn event(&self, time: u64, action: &str, more: &[(&str, String)]) -> Event {
        Event {
            time,
            ..Event::now("container", action, &self.id, self.attributes(more))
        }
    }

    fn write(&self, events: impl IntoIterator<Item = Event>) {
        if let Some(log) = &self.log {
            log.append(&events.into_iter().collect::<Vec<_>>());
        }
    }

    /// Its program runs, for the `first` time or again. Nobody waits for this to be written down.
    pub(super) fn started(&self, first: bool) {
        let now = state::now();
        let made = self.about.made.filter(|_| first);
        let made = made.map(|time| self.event(time, "create", &[]));
        let attached = (first && self.about.attached).then(|| self.event(now, "attach", &[]));
        let mounts = self.about.volumes.iter().map(|volume| {
            let more = [
                ("container", self.id.clone()),
                ("destination", volume.destination.clone()),
                ("driver", "local".to_owned()),
                ("propagation", String::new()),
                ("read/write", (!volume.read_only).to_string()),
            ];
            of_volume(&volume.name, "mount", &more)
        });
        let started = self.event(now, "start", &[]);
        self.write(made.into_iter().chain(attached).chain(mounts).chain([started]));
    }

    /// It is well now, or not any more.
    pub(super) fn health(&self, status: Status) {
        let action = format!("health_status: {}", status.word());
        self.write([self.event(state::now(), &action, &[])]);
    }

    /// Somebody attaches to its streams.
    pub(super) fn attached(&self) {
        self.write([self.event(state::now(), "attach", &[])]);
    }

    /// Somebody leaves them.
    pub(super) fn detached(&self) {
        self.write([self.event(state::now(), "detach", &[])]);
    }

    /// A program that came later runs.
    pub(super) fn exec_started(&self, exec: &mut Named) {
        let made = self.exec_made(exec.made.take(), exec);
        let action = format!("exec_start: {}", exec.command);
        let started = self.event(state::now(), &action, &exec_id(exec));
        self.write(made.into_iter().chain([started]));
    }

    /// It has ended, or did not come to run.
    pub(super) fn exec_ended(&self, exec: &Named, code: u8) {
        let made = self.exec_made(exec.made, exec);
        let [id] = exec_id(exec);
        let ended = self.event(state::now(), "exec_die", &[id, ("exitCode", code.to_string())]);
        self.write(made.into_iter().chain([ended]));
    }

    fn exec_made(&self, time: Option<u64>, exec: &Named) -> Option<Event> {
        let action = format!("exec_create: {}", exec.command);
        time.map(|time| self.event(time, &action, &exec_id(exec)))
    }

    /// It has ended.
    pub(super) fn ended(&self, exit: &Exit) {
        let oom = exit.oom.then(|| self.event(exit.at, "oom", &[]));
        let ended = self.event(exit.at, "die", &[("exitCode", exit.code.to_string())]);
        let unmounts = self.about.volumes.iter().map(|volume| {
            let more = [("container", self.id.clone()), ("driver", "local".to_owned())];
            of_volume(&volume.name, "unmount", &more)
        });
        self.write(oom.into_iter().chain([ended]).chain(unmounts));
    }
}

fn exec_id(exec: &Named) -> [(&'static str, String); 1] {
    [("execID", exec.number.to_string())]
}

fn of_volume(name: &str, action: &str, more: &[(&str, String)]) -> Event {
    let more = more.iter().map(|(key, value)| ((*key).to_owned(), value.clone()));
    Event::now("volume", action, name, more.collect())
}
