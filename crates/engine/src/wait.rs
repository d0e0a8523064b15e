//! `wait`: for the end of a container.

use runtime::bundle::Bundle;
use runtime::control::{Connection, Reply, Request};
use store::ContainerError;

use crate::Engine;
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
}
