//! [`pause`]: what runs in a container stands still as long as somebody looks at it.
//!
//! The supervisor holds it still on behalf of a connection, and lets it go on when the last such connection is closed:
//! whatever becomes of the one who looks, killed at any moment, the container does not stay as it is.

use std::io;

use crate::bundle::{Bundle, BundleError};
use crate::cgroup::{Cgroup, CgroupError};
use crate::control::{ANSWER, Connection, Reply, Request};
use crate::state;
use crate::terminal::Attention;

/// Why a container could not be paused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its processes: freezing needs a cgroup2.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Signals cannot be held back.
    #[error("holding signals back: {0}")]
    Signals(#[source] io::Error),
}

/// A container whose processes stand still; they go on when it is dropped, or the process that has it ends.
#[derive(Debug)]
pub struct Paused {
    _by: By,
}

#[derive(Debug)]
enum By {
    /// The supervisor, as long as this is open.
    Supervisor(Connection),
    /// Ourselves. Signals that would end the calling thread, or threads that it starts, wait until then: a caller that
    /// ended in between would leave the container as it is.
    Us {
        cgroup: Box<Cgroup>,
        _signals: Attention,
    },
}

/// Stops all processes of a container; `None` where nothing runs.
///
/// # Errors
/// [`PauseError`]; its processes go on then.
pub fn pause(bundle: &Bundle) -> Result<Option<Paused>, PauseError> {
    let Some(state) = state::load(bundle)? else {
        return Ok(None);
    };
    let cgroup = Cgroup::open(&state.cgroups)?;
    let still = |done: Result<(), CgroupError>| match done {
        Ok(()) => Ok(true),
        // It ended in between.
        Err(error) if error.is_gone() => Ok(false),
        Err(error) => Err(error),
    };
    if let Ok(connection) = ask(bundle) {
        let held = By::Supervisor(connection);
        return Ok(still(cgroup.wait_frozen(true))?.then_some(Paused { _by: held }));
    }
    // An older supervisor, one that is stuck, another runtime's container, or a kernel that cannot do it, which says so here.
    let signals = Attention::begin().map_err(PauseError::Signals)?;
    let held = By::Us {
        cgroup: Box::new(cgroup),
        _signals: signals,
    };
    let frozen = match &held {
        By::Us { cgroup, .. } => still(cgroup.freeze())?,
        By::Supervisor(_) => true,
    };
    Ok(frozen.then_some(Paused { _by: held }))
}

/// A connection for which the supervisor holds the container still.
fn ask(bundle: &Bundle) -> io::Result<Connection> {
    let connection = Connection::open(bundle)?;
    connection.send(&Request::Pause, &[])?;
    match connection.answer(ANSWER)? {
        Some(Reply::Done) => Ok(connection),
        Some(Reply::Error { message }) => Err(io::Error::other(message)),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

impl Drop for By {
    fn drop(&mut self) {
        // A container that has ended meanwhile has nothing to let go on.
        match self {
            By::Supervisor(connection) => {
                let asked = connection.send(&Request::Unpause, &[]);
                let _ = asked.and_then(|()| connection.answer(ANSWER));
            }
            By::Us { cgroup, .. } => drop(cgroup.thaw()),
        }
    }
}
