//! [`pause`]: what runs in a container stands still as long as somebody looks at it.

use std::io;

use crate::bundle::{Bundle, BundleError};
use crate::cgroup::{Cgroup, CgroupError};
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

/// A container whose processes stand still; they go on when it is dropped. Signals that would end the calling thread, or
/// threads that it starts, wait until then: a caller that ended in between would leave the container as it is.
#[derive(Debug)]
pub struct Paused {
    cgroup: Cgroup,
    _signals: Attention,
}

/// Stops all processes of a container; `None` where nothing runs.
///
/// # Errors
/// [`PauseError`]; its processes go on then.
pub fn pause(bundle: &Bundle) -> Result<Option<Paused>, PauseError> {
    let Some(state) = state::load(bundle)? else {
        return Ok(None);
    };
    let signals = Attention::begin().map_err(PauseError::Signals)?;
    let paused = Paused {
        cgroup: Cgroup::open(&state.cgroups)?,
        _signals: signals,
    };
    paused.cgroup.freeze()?;
    Ok(Some(paused))
}

impl Drop for Paused {
    fn drop(&mut self) {
        // One that was removed meanwhile has nothing to let go on.
        let _ = self.cgroup.thaw();
    }
}
