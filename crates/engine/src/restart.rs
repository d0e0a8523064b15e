//! `restart`, and what runs again after the machine's own.

use runtime::control::Restart;
use store::{ContainerError, Fault};

use crate::Engine;
use crate::run::{Details, RunError, Streams};
use crate::state::State;
use crate::stop::{Stop, StopError};

/// Why a container could not be restarted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestartError {
    /// It could not be stopped.
    #[error(transparent)]
    Stop(#[from] StopError),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] RunError),
    /// It was to go at its end.
    #[error("container {0} goes when it ends (--rm)")]
    Ephemeral(String),
}

/// How the streams of a container are.
#[derive(Debug, Clone, Copy)]
pub struct StreamsOf {
    /// It has a terminal.
    pub terminal: bool,
    /// What is typed reaches it.
    pub interactive: bool,
}

impl Engine {
    /// Stops a container if it runs, and starts it.
    ///
    /// # Errors
    /// See [`RestartError`].
    pub fn restart(&self, name: &str, how: Stop) -> Result<(), RestartError> {
        let row = self
            .store
            .find_container(self.ns(), name)
            .map_err(StopError::from)?;
        if row.ephemeral && self.state(&row).is_up() {
            return Err(RestartError::Ephemeral(row.name));
        }
        self.stop(&row.id, how)?;
        self.start(&row.id, &Streams::held())?;
        self.note_container(&row, "restart", &[]);
        Ok(())
    }

    /// Containers that are to run and do not: their policy starts them again, and it was the machine's end, or that of
    /// their supervisor, that ended them. By name.
    ///
    /// # Errors
    /// The store.
    pub fn kept_running(&self) -> Result<Vec<String>, Fault> {
        let rows = self.store.containers(self.ns())?;
        let wanted = rows.into_iter().filter(|row| {
            let details = Details::of(row);
            let Some(plan) = details.plan else { return false };
            let (state, policy) = (self.state(row), plan.restart);
            match (state, policy) {
                (State::Created, _) => false,
                (state, _) if state.is_up() => false,
                (_, Restart::Always) => true,
                (_, Restart::UnlessStopped) => !details.stopped,
                // It was not by itself that it ended.
                (State::Lost | State::Exited { at: None, .. }, Restart::OnFailure { .. }) => true,
                _ => false,
            }
        });
        Ok(wanted.map(|row| row.name).collect())
    }

    /// How the streams of a container are.
    ///
    /// # Errors
    /// None of that name or id; the store.
    pub fn streams_of(&self, name: &str) -> Result<StreamsOf, ContainerError> {
        let details = Details::of(&self.store.find_container(self.ns(), name)?);
        Ok(StreamsOf {
            terminal: details.tty,
            interactive: details.interactive,
        })
    }
}
