//! `pause`, `unpause`: all processes of a container held still, and let go on.

use runtime::bundle::{Bundle, BundleError};
use runtime::cgroup::{Cgroup, CgroupError};
use runtime::state;
use store::ContainerError;

use crate::Engine;
use crate::run::Details;
use crate::state::State;

/// Why a container was not paused, or not let go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Nothing runs in it.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// It is paused already.
    #[error("container {0} is already paused")]
    Already(String),
    /// It is not paused.
    #[error("container {0} is not paused")]
    NotPaused(String),
    /// Its cgroup is another runtime's, and strata knows none of it.
    #[error("container {0} is run by another OCI runtime, in a cgroup that strata did not make")]
    Foreign(String),
    /// Its bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The kernel.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl Engine {
    /// Holds all processes of a container still, and returns when they are.
    ///
    /// # Errors
    /// See [`PauseError`]; then they go on.
    pub fn pause(&self, name: &str) -> Result<(), PauseError> {
        let row = self.store.find_container(self.ns(), name)?;
        match self.state(&row) {
            State::Running { .. } => {}
            State::Paused { .. } => return Err(PauseError::Already(row.name)),
            _ => return Err(PauseError::NotRunning(row.name)),
        }
        if Details::of(&row).runtime.is_some() {
            return Err(PauseError::Foreign(row.name));
        }
        let bundle = Bundle::open(&self.bundle_of(&row))?;
        let Some(state) = state::load(&bundle)? else {
            return Err(PauseError::NotRunning(row.name));
        };
        let cgroup = Cgroup::open(&state.cgroups)?;
        match cgroup.freeze() {
            Ok(()) => {}
            // It ended in between.
            Err(error) if error.is_gone() => return Err(PauseError::NotRunning(row.name)),
            Err(error) => {
                // Half of them still is no state to leave them in.
                let _ = cgroup.thaw();
                return Err(error.into());
            }
        }
        self.note_container(&row, "pause", &[]);
        Ok(())
    }

    /// Lets the processes of a paused container go on.
    ///
    /// # Errors
    /// See [`PauseError`].
    pub fn unpause(&self, name: &str) -> Result<(), PauseError> {
        let row = self.store.find_container(self.ns(), name)?;
        match self.state(&row) {
            State::Paused { .. } => {
                self.thaw(&Bundle::open(&self.bundle_of(&row))?)?;
                self.note_container(&row, "unpause", &[]);
                Ok(())
            }
            State::Running { .. } => Err(PauseError::NotPaused(row.name)),
            _ => Err(PauseError::NotRunning(row.name)),
        }
    }

    /// Lets what runs in a bundle go on, if it is held still.
    pub(crate) fn thaw(&self, bundle: &Bundle) -> Result<(), PauseError> {
        match state::load(bundle)? {
            Some(state) if state.cgroups.is_frozen() => Ok(Cgroup::open(&state.cgroups)?.thaw()?),
            _ => Ok(()),
        }
    }
}
