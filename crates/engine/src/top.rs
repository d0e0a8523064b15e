//! `top`: the processes of a container.

use runtime::bundle::{Bundle, BundleError};
use runtime::cgroup::CgroupError;
use runtime::processes::{self, Process};
use runtime::state;
use store::ContainerError;

use crate::Engine;
use crate::run::Details;

/// Why the processes of a container could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Nothing runs in it.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Its cgroup is another runtime's, and strata knows none of it.
    #[error("container {0} is run by another OCI runtime, in a cgroup that strata did not make")]
    Foreign(String),
    /// Its bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its cgroup cannot be read.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
}

impl Engine {
    /// The processes of a container, in the order of their numbers.
    ///
    /// # Errors
    /// See [`TopError`].
    pub fn top(&self, name: &str) -> Result<Vec<Process>, TopError> {
        let row = self.store.find_container(self.ns(), name)?;
        if !self.state(&row).is_running() {
            return Err(TopError::NotRunning(row.name));
        }
        if Details::of(&row).runtime.is_some() {
            return Err(TopError::Foreign(row.name));
        }
        match state::load(&Bundle::open(&self.bundle_of(&row))?)? {
            Some(state) => Ok(processes::list(&state.cgroups, state.process.pid)?),
            None => Err(TopError::NotRunning(row.name)),
        }
    }
}
