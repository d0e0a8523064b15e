//! `wait`: for the end of a container.

use std::io::{self, ErrorKind};

use runtime::bundle::Bundle;
use runtime::control::{ANSWER, Connection, Reply, Request};
use runtime::health::Status;
use runtime::state::Exit;
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
    /// It has ended, and its supervisor, which was stopped or is stuck, does not tell how.
    #[error("container {0} has ended, and its supervisor does not answer")]
    Stuck(String),
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
            let bundle = Bundle::open(&self.bundle_of(&row));
            let told = bundle.map_or(Ok(None), |bundle| hear(&bundle));
            match told {
                // It will run again: that is not the end that is waited for.
                Ok(Some(exit)) if exit.again.is_some() => {}
                Ok(Some(exit)) => return Ok(exit.code.into()),
                Err(error) if error.kind() == ErrorKind::TimedOut => return Err(WaitError::Stuck(row.name)),
                // Without a supervisor there is only to look.
                _ => std::thread::sleep(std::time::Duration::from_millis(50)),
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
                .health(&row)
                .is_some_and(|health| health.status == Status::Healthy)
            {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Err(WaitError::NotRunning(row.name))
    }
}

/// The end of a container as its supervisor tells it; `None` where that says something else or is gone, `TimedOut` where
/// the process has ended and the supervisor does not say so.
fn hear(bundle: &Bundle) -> io::Result<Option<Exit>> {
    let connection = Connection::open(bundle)?;
    connection.send(&Request::Wait, &[])?;
    while !connection.wait(Some(ANSWER))? {
        if runtime::state::is_untold(bundle).map_err(io::Error::other)? && !connection.wait(Some(ANSWER))? {
            return Err(ErrorKind::TimedOut.into());
        }
    }
    Ok(match connection.receive::<Reply>()? {
        Some((Reply::Exited(exit), _)) => Some(exit),
        _ => None,
    })
}
