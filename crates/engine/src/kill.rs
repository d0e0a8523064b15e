//! `kill`: a signal to the process of a container.

use std::time::Duration;

use runtime::bundle::{Bundle, BundleError};
use runtime::control::{Connection, Reply, Request};
use runtime::options::process;
use runtime::state::KillError as Refused;
use rustix::process::Signal;
use store::ContainerError;

use crate::Engine;
use crate::run::Details;

/// How long a supervisor may take to answer before its container is told without it.
pub(crate) const SOON: Duration = Duration::from_secs(2);

/// Why no signal was sent.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KillError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Its bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The kernel refused.
    #[error("container {name}: {message}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        message: String,
    },
}

impl Engine {
    /// Sends a signal to the process of a container. One that is meant to end it, SIGKILL or its own stop signal, also
    /// keeps its policy from starting it again.
    ///
    /// # Errors
    /// See [`KillError`].
    pub fn kill(&self, name: &str, signal: i32) -> Result<(), KillError> {
        let row = self.store.find_container(self.ns(), name)?;
        if !self.state(&row).is_running() {
            return Err(KillError::NotRunning(row.name));
        }
        let own = Details::of(&row).stop_signal.as_deref().and_then(process::signal);
        let ends = signal == Signal::KILL.as_raw() || signal == own.unwrap_or(Signal::TERM.as_raw());
        let bundle = Bundle::open(&self.bundle_of(&row))?;
        let request = match ends {
            true => Request::Stop { signal },
            false => Request::Kill { signal },
        };
        let refused = |message| KillError::Refused {
            name: row.name.clone(),
            message,
        };
        let answer = Connection::open(&bundle).and_then(|connection| {
            connection.send(&request, &[])?;
            connection.answer(SOON)
        });
        let sent = match answer {
            Ok(Some(Reply::Error { message })) => Err(refused(message)),
            Ok(_) => Ok(()),
            // Its supervisor was killed, or is stuck.
            Err(_) => runtime::state::kill(&bundle, signal).map_err(|error| match error {
                Refused::NotRunning(_) => KillError::NotRunning(row.name.clone()),
                error => refused(error.to_string()),
            }),
        };
        sent?;
        self.note_container(&row, "kill", &[("signal", &signal.to_string())]);
        if ends {
            // One that is held still would not hear of it.
            self.thaw(&bundle).map_err(|error| refused(error.to_string()))?;
        }
        Ok(())
    }
}
