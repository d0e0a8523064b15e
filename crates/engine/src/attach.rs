//! `attach`: to the streams of a container that runs.

use std::io;

use runtime::Running;
use runtime::attach::Pipes;
use runtime::bundle::{Bundle, BundleError};
use store::ContainerError;

use crate::Engine;
use crate::run::Details;

pub use runtime::attach::{Left, Local, stay};

/// Why nobody is attached.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// It does not run.
    #[error("container {0} is not running")]
    NotRunning(String),
    /// Its bundle cannot be read.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its supervisor refused, or is gone.
    #[error("attaching to container {name}: {source}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
}

/// A container that one is attached to.
#[derive(Debug)]
pub struct Attached {
    /// What its supervisor says.
    pub running: Running,
    /// Its streams.
    pub pipes: Pipes,
    /// It has a terminal.
    pub terminal: bool,
}

impl Engine {
    /// Attaches to the streams of a container, with what is typed where its input was kept open and `input` wants it.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn attach(&self, name: &str, input: bool) -> Result<Attached, AttachError> {
        let row = self.store.find_container(self.ns(), name)?;
        if !self.state(&row).is_up() {
            return Err(AttachError::NotRunning(row.name));
        }
        let details = Details::of(&row);
        let bundle = Bundle::open(&self.bundle_of(&row))?;
        let attached = runtime::attach::attach(&bundle, input && details.interactive);
        let (running, pipes) = attached.map_err(|source| AttachError::Refused {
            name: row.name,
            source,
        })?;
        Ok(Attached {
            running,
            pipes,
            terminal: details.tty,
        })
    }
}
