//! `ps`: the containers of the namespace.

use std::collections::{BTreeMap, HashSet};
use std::num::NonZero;
use std::path::PathBuf;
use std::thread;

use jiff::Timestamp;
use runtime::bundle::Bundle;
use runtime::health::Health;
use runtime::options::mounts::MountKind;
use serde::Serialize;
use store::{Fault, SnapshotError};

use crate::Engine;
use crate::find::familiar;
use crate::network::{self, Port};
use crate::run::{Details, Plan};
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
    /// How its checks say it is, of one that runs and is asked.
    pub health: Option<&'static str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What of this machine is mounted in it.
    pub mounts: Vec<Mounted>,
    /// Its ports: those that are published, and those that it only says it listens at.
    pub ports: Vec<Port>,
    /// Its networks.
    pub networks: Vec<String>,
    /// Whether it goes when its process ends.
    #[serde(rename = "AutoRemove")]
    pub ephemeral: bool,
    /// How it is.
    #[serde(flatten)]
    pub state: State,
}

/// A volume, or something of the machine's, in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Mounted {
    /// The volume's name, or a path of the machine.
    pub source: String,
    /// The path in the container.
    pub destination: PathBuf,
}

/// Bytes that a container takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// What it wrote.
    pub own: u64,
    /// With what its image has.
    pub whole: u64,
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
        let list = || -> Result<(Vec<Container>, bool), PsError> {
            let rows = self.store.containers(self.ns())?;
            let states = self.states(&rows);
            self.remember(rows.iter().zip(&states));
            // One that was to go with its process, and did not: its end, or that of its start, was seen by nobody.
            let dead = rows
                .iter()
                .zip(&states)
                .any(|(row, state)| row.ephemeral && !state.is_up() && Details::of(row).started.is_some());
            let listed = rows.into_iter().zip(states);
            Ok((
                listed.map(|(row, state)| self.listed_as(row, state)).collect(),
                dead,
            ))
        };
        let (mut listed, dead) = list()?;
        // A bundle too many: the one who was removing it was killed.
        // One that ended unseen, and still has its addresses and ports.
        let holds = |c: &Container| !c.networks.is_empty() && !c.state.is_up() && self.holds_networks(&c.id);
        if dead || listed.iter().any(holds) || self.has_orphans(&listed) {
            self.sweep()?;
            (listed, _) = list()?;
        }
        listed.retain(|c| all || c.state.is_up());
        Ok(listed)
    }

    /// How each is: several at once where there are many, for each is a few files to read.
    fn states(&self, rows: &[store::Container]) -> Vec<State> {
        const FEW: usize = 64;
        let threads = thread::available_parallelism().map_or(1, NonZero::get).min(8);
        let portion = rows.len().div_ceil(threads).max(FEW);
        thread::scope(|scope| {
            let work = |rows: &[store::Container]| rows.iter().map(|row| self.state(row)).collect::<Vec<_>>();
            let (first, rest) = rows.split_at(portion.min(rows.len()));
            let others: Vec<_> = rest
                .chunks(portion)
                .map(|rows| scope.spawn(move || work(rows)))
                .collect();
            let mut states = work(first);
            for other in others {
                states.extend(
                    other
                        .join()
                        .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                );
            }
            states
        })
    }

    /// Ids of the containers that were made from an image, or from one that stands on it; by the image's name or the
    /// beginning of its id. Containers keep the name that they were made by, if it is no image's any more.
    ///
    /// # Errors
    /// The store.
    pub fn made_from(&self, image: &str) -> Result<Vec<String>, Fault> {
        let rows = self.store.containers(self.ns())?;
        let found = self.find_image(image).ok();
        let mut from = Vec::new();
        for row in rows {
            let named = row.image.as_deref().map(familiar);
            let called = named.as_deref().is_some_and(|name| {
                name == image
                    || name
                        .strip_prefix(image)
                        .is_some_and(|tag| tag.starts_with([':', '@']))
            });
            let stands_on = match (&found, row.manifest) {
                (Some(image), Some(manifest)) => {
                    image.manifest.digest == manifest
                        || self
                            .store
                            .manifest_layers(&manifest)?
                            .iter()
                            .any(|layer| image.top_chain == Some(layer.chain_id))
                }
                _ => false,
            };
            if called || stands_on {
                from.push(row.id);
            }
        }
        Ok(from)
    }

    /// What a container takes; its writable directory is walked for it.
    ///
    /// # Errors
    /// It has none; the store.
    pub fn size(&self, id: &str) -> Result<Size, SnapshotError> {
        let own = self.store.usage(self.ns(), id)?.bytes;
        let row = self.store.find_container(self.ns(), id).ok();
        let image = row
            .and_then(|row| row.image)
            .map(|name| self.store.find_image(self.ns(), &name));
        let image = match image.transpose()? {
            Some(Some(image)) => image.usage.bytes,
            _ => 0,
        };
        Ok(Size {
            own,
            whole: own + image,
        })
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

    fn listed_as(&self, row: store::Container, state: State) -> Container {
        let details = Details::of(&row);
        let plan = details.plan.unwrap_or_default();
        // Who is in no network has none on record, and who asks for no checks has no health: neither is looked for.
        let record = (state.is_running() && !plan.networks.is_empty())
            .then(|| self.network_record(&row.id))
            .flatten();
        let ports = match state.is_running() {
            true => network::ports(record.as_ref(), &plan),
            false => Vec::new(),
        };
        let health = (state.is_running() && plan.health().is_some())
            .then(|| self.health(&row))
            .flatten();
        Container {
            mounts: mounted(&plan),
            ports,
            networks: plan.networks.into_iter().map(|one| one.network).collect(),
            health: health.map(|health| health.status.word()),
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

    /// How a container's checks say it is; of one that does not run, how it was.
    pub(crate) fn health(&self, row: &store::Container) -> Option<Health> {
        let bundle = Bundle::open(&self.bundle_of(row)).ok()?;
        runtime::health::load(&bundle).ok().flatten()
    }
}

fn mounted(plan: &Plan) -> Vec<Mounted> {
    let volumes = plan.container.volumes.iter().map(|volume| Mounted {
        source: volume.name.clone().unwrap_or_default(),
        destination: volume.destination.clone(),
    });
    let binds = plan
        .container
        .mounts
        .iter()
        .filter_map(|mount| match &mount.kind {
            MountKind::Bind { source } => Some(Mounted {
                source: source.display().to_string(),
                destination: mount.destination.clone(),
            }),
            _ => None,
        });
    volumes.chain(binds).collect()
}
