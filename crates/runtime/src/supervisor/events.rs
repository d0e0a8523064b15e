//! What a supervisor writes down of what happens to its container: see [`crate::events`].

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

    fn event(&self, time: u64, action: &str, more: &[(&str, String)]) -> Event {
        let mut attributes = self.about.attributes.clone();
        attributes.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        Event {
            time,
            ..Event::now("container", action, &self.id, attributes)
        }
    }

    fn write(&self, events: &[Event]) {
        if let Some(log) = &self.log {
            log.append(events);
        }
    }

    /// Its program runs. Nobody waits for this to be written down.
    pub(super) fn started(&self) {
        let made = self.about.made.map(|time| self.event(time, "create", &[]));
        let started = self.event(state::now(), "start", &[]);
        self.write(&made.into_iter().chain([started]).collect::<Vec<_>>());
    }

    /// It is well now, or not any more.
    pub(super) fn health(&self, status: Status) {
        let action = format!("health_status: {}", status.word());
        self.write(&[self.event(state::now(), &action, &[])]);
    }

    /// It has ended.
    pub(super) fn ended(&self, exit: &Exit) {
        let oom = exit.oom.then(|| self.event(exit.at, "oom", &[]));
        let ended = self.event(exit.at, "die", &[("exitCode", exit.code.to_string())]);
        self.write(&oom.into_iter().chain([ended]).collect::<Vec<_>>());
    }
}
