//! `stop`: asks the process of a container to end, and ends it when it does not.

use std::io;
use std::time::{Duration, Instant};

use runtime::EndError;
use runtime::bundle::{Bundle, BundleError};
use runtime::control::{Connection, Reply, Request};
use runtime::options::process;
use runtime::state::KillError;
use rustix::process::Signal;
use store::ContainerError;

use crate::Engine;
use crate::kill::SOON;
use crate::rm::RmError;
use crate::run::Details;

/// How long a process is waited for where nobody says otherwise, as docker has it.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// How a container is stopped.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stop {
    /// The signal that asks; the container's own.
    pub signal: Option<i32>,
    /// How long to wait for its end before it is killed; the container's own.
    pub patience: Option<Patience>,
}

/// How long somebody waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// So long.
    For(Duration),
    /// For as long as it takes.
    Forever,
}

/// Why a container could not be stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StopError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// It could not be asked.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// Its supervisor could not be asked.
    #[error("asking the supervisor of container {name}: {source}")]
    Supervisor {
        /// Its name.
        name: String,
        /// Why not.
        source: io::Error,
    },
    /// It does not end.
    #[error(transparent)]
    End(#[from] EndError),
    /// Something of it could not be taken away after its end.
    #[error(transparent)]
    Remove(#[from] RmError),
}

impl Engine {
    /// Stops a container, and returns when nothing of it runs any more; one that does not run is none to stop. It is not
    /// started again by its policy until somebody starts it.
    ///
    /// # Errors
    /// See [`StopError`].
    pub fn stop(&self, name: &str, how: Stop) -> Result<(), StopError> {
        let row = self.store.find_container(self.ns(), name)?;
        if !self.state(&row).is_up() {
            return Ok(());
        }
        self.note_stop(&row);
        let details = Details::of(&row);
        let own = details.stop_signal.as_deref().and_then(process::signal);
        let signal = how.signal.or(own).unwrap_or(Signal::TERM.as_raw());
        let patience = how.patience.unwrap_or_else(|| {
            let seconds = details.plan.and_then(|plan| plan.stop_timeout);
            Patience::For(seconds.map_or(PATIENCE, |seconds| Duration::from_secs(seconds.into())))
        });
        let bundle = Bundle::open(&self.bundle_of(&row))?;
        let failed = |source| StopError::Supervisor {
            name: row.name.clone(),
            source,
        };
        // One that is held still would not hear of it.
        let thaw = || {
            self.thaw(&bundle)
                .map_err(|error| failed(io::Error::other(error)))
        };
        match ask(&bundle, signal) {
            Ok(Asked::Told(connection)) => {
                thaw()?;
                ended(&connection, patience).map_err(failed)?;
            }
            Ok(Asked::Ended) => {}
            Ok(Asked::Refused(message)) => return Err(failed(io::Error::other(message))),
            // Its supervisor was killed, or is stuck: it is asked itself, and nobody waits for an answer.
            Err(_) => match runtime::state::kill(&bundle, signal) {
                Ok(()) => {
                    thaw()?;
                    self.wait_for_orphan(&row, patience);
                }
                Err(KillError::NotRunning(_)) => {}
                Err(error) => return Err(error.into()),
            },
        }
        // Kills what still runs, and waits for those who take its remains away.
        runtime::end(&bundle)?;
        self.note_container(&row, "stop", &[]);
        Ok(self.reap(&row.id)?)
    }

    /// Keeps a container from being started with the machine, where its policy heeds that. A store that takes no writing
    /// is no reason not to stop it.
    fn note_stop(&self, row: &store::Container) {
        let _ = self.store.edit_details(self.ns(), [&*row.id], |_, details| {
            details.insert("stopped".to_owned(), true.into());
        });
    }

    /// Waits for the end of a container that has no supervisor.
    fn wait_for_orphan(&self, row: &store::Container, patience: Patience) {
        let begun = Instant::now();
        while self.state(row).is_up() {
            match patience {
                Patience::For(time) if begun.elapsed() >= time => break,
                _ => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

/// What the supervisor makes of it that its container is to end.
enum Asked {
    /// The signal was sent; the end will be told here.
    Told(Connection),
    /// It has ended.
    Ended,
    /// No.
    Refused(String),
}

fn ask(bundle: &Bundle, signal: i32) -> io::Result<Asked> {
    let connection = Connection::open(bundle)?;
    connection.send(&Request::Wait, &[])?;
    connection.send(&Request::Stop { signal }, &[])?;
    Ok(match connection.answer(SOON)? {
        None | Some(Reply::Exited(_)) => Asked::Ended,
        Some(Reply::Error { message }) => Asked::Refused(message),
        Some(_) => Asked::Told(connection),
    })
}

/// Waits until the supervisor tells the end, or is gone; false when patience has.
fn ended(connection: &Connection, patience: Patience) -> io::Result<bool> {
    let begun = Instant::now();
    loop {
        let left = match patience {
            Patience::Forever => None,
            Patience::For(time) => Some(time.saturating_sub(begun.elapsed())),
        };
        if !connection.wait(left)? {
            return Ok(false);
        }
        match connection.receive::<Reply>()? {
            None | Some((Reply::Exited(_), _)) => return Ok(true),
            Some(_) => {}
        }
    }
}
