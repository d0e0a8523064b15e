//! `ps`: the containers of the namespace.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::Serialize;
use store::Fault;

use crate::Engine;
use crate::find::familiar;
use crate::state::State;

/// A container, as lists show it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The image's name, `host`, or a directory.
    pub image: String,
    /// What was run: the entry point and its arguments.
    pub command: Vec<String>,
    /// When it was made.
    pub created: Timestamp,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it goes when its process ends.
    #[serde(rename = "AutoRemove")]
    pub ephemeral: bool,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
}

/// Why the containers could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PsError {
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// The containers, newest first; those that do not run only when `all` is asked for.
    ///
    /// # Errors
    /// See [`PsError`].
    pub fn ps(&self, all: bool) -> Result<Vec<Container>, PsError> {
        let list = || -> Result<Vec<Container>, PsError> {
            let rows = self.store.containers(self.ns())?;
            let states: Vec<State> = rows.iter().map(|row| self.state(row)).collect();
            self.remember(rows.iter().zip(&states));
            Ok(rows
                .into_iter()
                .zip(states)
                .map(|(row, state)| listed(row, state))
                .collect())
        };
        let mut listed = list()?;
        // One that was to go with its process, and did not: its end was seen by nobody. A bundle too many: the one
        // who was removing it was killed.
        let dead = listed
            .iter()
            .any(|c| c.ephemeral && !c.state.is_up() && c.state != State::Created);
        if dead || self.has_orphans(&listed) {
            self.sweep()?;
            listed = list()?;
        }
        listed.retain(|c| all || c.state.is_up());
        Ok(listed)
    }

    fn has_orphans(&self, listed: &[Container]) -> bool {
        let known: HashSet<&str> = listed.iter().map(|c| &*c.id).collect();
        let entries = sys::Dir::open_ambient(self.bundles())
            .and_then(|dir| dir.entries())
            .unwrap_or_default();
        entries
            .iter()
            .any(|entry| entry.name.to_str().is_some_and(|name| !known.contains(name)))
    }
}

fn listed(row: store::Container, state: State) -> Container {
    let details = crate::run::Details::of(&row);
    Container {
        state,
        image: row.image.as_deref().map_or(details.source, familiar),
        command: details.command,
        id: row.id,
        name: row.name,
        created: row.created,
        labels: row.labels,
        ephemeral: row.ephemeral,
    }
}
