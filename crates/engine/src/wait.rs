//! `wait`: for the end of a container.

use runtime::bundle::Bundle;
use runtime::control::{Connection, Reply, Request};
use runtime::health::Status;
use store::ContainerError;

use crate::Engine;
use crate::run::Details;
use crate::state::State;

/// Why a container's end cannot be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WaitError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// It has not been started.
    #[error("container {0} was not started yet")]
    NotStarted(String),
    /// Nothing asks how it is.
    #[error("container {0} has no health check")]
    NoCheck(String),
    /// It does not run, so that nobody can say how it is.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Nobody saw how it ended.
    #[error("nobody knows how container {0} ended: its supervisor was killed, or the machine was restarted")]
    Lost(String),
}

impl Engine {
    /// Waits until a container does not run any more, and tells its exit code.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub fn wait(&self, name: &str) -> Result<i32, WaitError> {
        let row = self.store.find_container(self.ns(), name)?;
        loop {
            match self.state(&row) {
                State::Exited { code, .. } => return Ok(code),
                State::Created => return Err(WaitError::NotStarted(row.name)),
                // One that was to go with its process may be gone with its bundle.
                State::Lost => return Err(WaitError::Lost(row.name)),
                _ => {}
            }
            let told = Bundle::open(&self.bundle_path(&row.id)).ok().and_then(|bundle| {
                let connection = Connection::open(&bundle).ok()?;
                connection.send(&Request::Wait, &[]).ok()?;
                match connection.receive::<Reply>().ok()?? {
                    (Reply::Exited(exit), _) => Some(exit),
                    _ => None,
                }
            });
            match told {
                // It will run again: that is not the end that is waited for.
                Some(exit) if exit.again.is_some() => {}
                Some(exit) => return Ok(exit.code.into()),
                // Without a supervisor there is only to look.
                None => std::thread::sleep(std::time::Duration::from_millis(50)),
            }
        }
    }

    /// Waits until a container that runs is well.
    ///
    /// # Errors
    /// [`WaitError::NoCheck`]; [`WaitError::NotRunning`] where it does not run, or ends meanwhile.
    pub fn wait_healthy(&self, name: &str) -> Result<(), WaitError> {
        let row = self.store.find_container(self.ns(), name)?;
        if Details::of(&row).plan.and_then(|plan| plan.health()).is_none() {
            return Err(WaitError::NoCheck(row.name));
        }
        while self.state(&row).is_up() {
            if self
                .health(&row.id)
                .is_some_and(|health| health.status == Status::Healthy)
            {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(WaitError::NotRunning(row.name))
    }
}
