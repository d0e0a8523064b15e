//! `commit`: what a container changed becomes an image.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use image::change::{self, ChangeError};
use image::commit::{Changed, CommitOptions};
use image::config::Execution;
use image::progress::{Event, Progress};
use image::reference::{Reference, ReferenceError};
use image::stored::{Stored, StoredError};
use mount::kernel::MAX_LOWER;
use runtime::PauseError;
use runtime::bundle::Bundle;
use runtime::cgroup::CgroupError;
use runtime::options::ContainerOptions;
use store::ContainerError;
use sys::Dir;

pub use image::capture::CaptureError;
pub use image::commit::CommitError as Refusal;

use crate::Engine;
use crate::diff::{Change, ChangeKind, DiffError};
use crate::load::Loaded;
use crate::run::Details;
use crate::state::State;

/// What is committed, and as what.
#[derive(Debug, Clone, Default)]
pub struct Request<'a> {
    /// The container.
    pub container: &'a str,
    /// Name of the image; without one it is found by its id.
    pub name: Option<&'a str>,
    /// Instructions for its configuration, as a Dockerfile has them.
    pub changes: &'a [String],
    /// Who made it.
    pub author: Option<&'a str>,
    /// A remark for its history.
    pub message: Option<&'a str>,
    /// The container's processes stand still meanwhile.
    pub pause: bool,
}

/// Why a container could not be committed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The image's name is none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The image's name says which digest it has.
    #[error("{0} names an image by its digest, which is not known before it is made")]
    Digest(String),
    /// No such container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// It stands on no image.
    #[error("container {0} is made of no image but of a directory of this machine")]
    NoImage(String),
    /// Its image has as many layers as can be mounted.
    #[error("container {name}: its image has {layers} layers, and an image of more could not be run")]
    TooManyLayers {
        /// The container.
        name: String,
        /// Layers of its image.
        layers: usize,
    },
    /// An instruction.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// Its image cannot be read.
    #[error(transparent)]
    Base(#[from] StoredError),
    /// Its directories.
    #[error(transparent)]
    Diff(#[from] DiffError),
    /// Its processes could not be made to stand still.
    #[error("pausing container {name}: {source}")]
    Pause {
        /// The container.
        name: String,
        /// Why.
        source: PauseError,
    },
    /// Everything else.
    #[error("container {name}: {source}")]
    Commit {
        /// The container.
        name: String,
        /// What went wrong.
        source: Box<Refusal>,
    },
}

impl Engine {
    /// Makes an image of a container: its own image with what the container changed as one more layer, which costs what
    /// that is. It is run as the container was.
    ///
    /// # Errors
    /// See [`CommitError`].
    pub fn commit(&self, request: &Request<'_>, progress: &dyn Progress) -> Result<Loaded, CommitError> {
        let name = request.name.map(Reference::parse).transpose()?;
        if let Some(name) = name.as_ref().filter(|name| name.digest().is_some()) {
            return Err(CommitError::Digest(name.familiar()));
        }
        let row = self.store.find_container(self.ns(), request.container)?;
        let manifest = row
            .manifest
            .ok_or_else(|| CommitError::NoImage(row.name.clone()))?;
        let base = Stored::open(&self.store, &manifest)?;
        let details = Details::of(&row);
        let mut execution = details.execution(&base.config.config);
        execution.labels.extend(row.labels.clone());
        for instruction in request.changes {
            change::apply(&mut execution, instruction)?;
        }

        let paused = match request.pause && matches!(self.state(&row), State::Running { .. }) {
            true => self.hold_still(&row, progress)?,
            false => None,
        };
        let side = self.container_side(&row)?;
        let (_, ours) = side.changes().map_err(DiffError::from)?;
        let leave_out = mount_points(ours);
        let mut layers = side.layers.into_iter().map(|(_, dir)| dir);
        let Some(upper) = layers.next() else {
            return Err(CommitError::NoImage(row.name));
        };
        let lowers: Vec<Dir> = layers.collect();
        if lowers.len() >= MAX_LOWER {
            return Err(CommitError::TooManyLayers {
                name: row.name,
                layers: lowers.len(),
            });
        }
        let changed = Changed {
            upper: &upper,
            lowers: &lowers,
            leave_out: &|path: &Path| leave_out.contains(path),
        };
        let options = CommitOptions {
            name,
            execution,
            created_by: details.command.join(" "),
            author: request.author.map(str::to_owned),
            message: request.message.map(str::to_owned),
            limits: self.setup.limits.clone(),
        };
        let installed =
            image::commit::commit(&self.store, self.ns(), &manifest, &changed, &options, progress);
        drop(paused);
        let installed = installed.map_err(|source| CommitError::Commit {
            name: row.name.clone(),
            source: Box::new(source),
        })?;
        self.note_container(&row, "commit", &[]);
        Ok(Loaded::from(installed))
    }

    /// Makes a running container stand still, where this machine can do that.
    fn hold_still(
        &self,
        row: &store::Container,
        progress: &dyn Progress,
    ) -> Result<Option<runtime::Paused>, CommitError> {
        let paused = Bundle::open(&self.bundle_of(row))
            .map_err(PauseError::from)
            .and_then(|bundle| runtime::pause(&bundle));
        match paused {
            Err(PauseError::Cgroup(error @ CgroupError::Unsupported { .. })) => {
                let text = format!("{} goes on meanwhile: {error}", row.name);
                progress.event(&Event::Note { text: &text });
                Ok(None)
            }
            other => other.map_err(|source| CommitError::Pause {
                name: row.name.clone(),
                source,
            }),
        }
    }
}

/// What strata made in the container so that it could run, by its path in the layer.
fn mount_points(ours: Vec<Change>) -> HashSet<PathBuf> {
    // A directory that was there before may hold more than what is told to be different.
    let made = ours.into_iter().filter(|change| change.kind == ChangeKind::Added);
    made.map(|change| crate::diff::beneath(&change.path).to_owned())
        .collect()
}

impl Details {
    /// How the container is run, of an image that says `image`.
    fn execution(&self, image: &Execution) -> Execution {
        let mut execution = image.clone();
        let nothing = ContainerOptions::default();
        let asked = self.plan.as_ref().map_or(&nothing, |plan| &plan.container);
        if let Some(entrypoint) = &asked.entrypoint {
            execution.entrypoint.clone_from(entrypoint);
            execution.cmd.clone_from(&asked.command);
        } else if !asked.command.is_empty() {
            execution.cmd.clone_from(&asked.command);
        }
        for (name, value) in &asked.env {
            let prefix = format!("{name}=");
            execution.env.retain(|known| !known.starts_with(&prefix));
            if let Some(value) = value {
                execution.env.push(prefix + value);
            }
        }
        if let Some(user) = &asked.user {
            execution.user.clone_from(user);
        }
        if let Some(workdir) = &asked.workdir {
            execution.working_dir.clone_from(workdir);
        }
        if let Some(signal) = &self.stop_signal {
            execution.stop_signal.clone_from(signal);
        }
        execution
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Plan;

    #[test]
    fn an_image_is_run_as_its_container_was() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let image = Execution {
            entrypoint: words(&["/entry"]),
            cmd: words(&["a"]),
            env: words(&["A=1", "B=2", "C=3"]),
            user: "nobody".into(),
            ..Execution::default()
        };
        let details = |container| Details {
            plan: Some(Plan {
                container,
                ..Plan::default()
            }),
            ..Details::default()
        };
        assert_eq!(details(ContainerOptions::default()).execution(&image), image);
        let other = details(ContainerOptions {
            command: words(&["b"]),
            env: vec![("B".into(), Some("x=y".into())), ("C".into(), None)],
            workdir: Some("/w".into()),
            ..ContainerOptions::default()
        });
        let execution = other.execution(&image);
        assert_eq!(
            (execution.entrypoint, execution.cmd),
            (words(&["/entry"]), words(&["b"]))
        );
        assert_eq!(execution.env, words(&["A=1", "B=x=y"]));
        assert_eq!(
            (execution.user.as_str(), execution.working_dir.as_str()),
            ("nobody", "/w")
        );
        let cleared = details(ContainerOptions {
            entrypoint: Some(Vec::new()),
            ..ContainerOptions::default()
        });
        let execution = cleared.execution(&image);
        assert!(execution.entrypoint.is_empty() && execution.cmd.is_empty());
    }
}
