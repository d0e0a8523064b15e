//! Containers that another engine looks after: podman, containerd or buildah call strata as they call runc, once for each
//! step of a container's life (OCI runtime spec, "Runtime and Lifecycle"), and nothing of strata stays beside it.
//!
//! [`create`](Containers::create) has the launcher make everything and leaves the container's first process behind, as
//! an orphan that the engine's own monitor takes in and reaps. The process waits in `accept` on a socket in the state
//! directory, which it was born with: nothing of the host's has to be reachable in the container.
//! [`start`](Container::start) connects; the process goes on to its program and says over that connection what comes of
//! it. Where it has died, nobody listens any more.
//!
//! ```text
//! <root>/<id>/            0700; the root is --root, /run/strata-oci
//!   config.json           the spec as it was created from: the engine may change its own
//!   state.json            the process, told apart from a reused number; the bundle; the cgroups
//!   start.sock            there until it is started
//! ```
//!
//! What a container does is never read from a file: whether its process lives, is frozen, or was started, is asked of
//! the kernel ([`Container::status`]).
//!
//! Lock: who creates or deletes a container holds a flock on its directory. Nobody waits for it; who meets it is told.

mod cgroup_mounts;
mod console;
mod container;
mod create;
mod end;
mod exec;
mod features;
mod fresh;
mod limits;
mod process;
mod warnings;

use std::io;
use std::path::PathBuf;

use crate::bundle::BundleError;
use crate::cgroup::CgroupError;
use crate::control::Concern;
use crate::launch::{Fault, NOT_FOUND};

pub use container::{Container, Containers, State, Status};
pub use create::CreateRequest;
pub use exec::{ExecFlags, ExecRequest, places_below, read_process};
pub use features::features;
pub use fresh::default_spec;
pub use process::{Process, Wish, inherited};
pub use warnings::Warnings;

/// Why something could not be done to a container. The words that engines look for in them are runc's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OciError {
    /// No such container.
    #[error("container {0:?} does not exist")]
    Unknown(String),
    /// The id is taken.
    #[error("container with given ID already exists: {0}")]
    Exists(String),
    /// The id is no name for a directory.
    #[error("invalid container ID {0:?}: letters, digits, `_`, `+`, `-`, `.`")]
    Id(String),
    /// It is not in the state that is needed.
    #[error("cannot {verb} container {id:?}: it is {status}, not {wanted}")]
    State {
        /// What was asked.
        verb: &'static str,
        /// The container.
        id: String,
        /// What it is.
        status: Status,
        /// What it should be.
        wanted: &'static str,
    },
    /// Its first process has ended.
    #[error("container not running")]
    NotRunning,
    /// Somebody else creates or deletes it at this moment.
    #[error("container {0:?} is being created or deleted by another process")]
    Busy(String),
    /// What was asked contradicts itself.
    #[error("{0}")]
    Request(&'static str),
    /// The container, or one more process in it, could not be made.
    #[error("unable to start container process: {text}")]
    Launch {
        /// What failed, in one line.
        text: String,
        /// 126 or 127 where the program cannot be run or is not there, else 125.
        code: u8,
    },
    /// The calling program cannot be put out of the container's reach as it is. Nothing was made: it is to be executed from a
    /// copy ([`crate::execute_from_a_copy`]), and asked the same.
    #[error("unable to start container process: {0}")]
    OnDisk(String),
    /// Its processes do not end.
    #[error("container {0:?}: its first process does not end")]
    DoesNotEnd(String),
    /// The bundle, or the state directory.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// Its cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// Anything else that the kernel refuses.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

pub(crate) type Result<T> = std::result::Result<T, OciError>;

impl From<Fault> for OciError {
    fn from(fault: Fault) -> OciError {
        // Engines tell a program that is not there by runc's words, and give an exit code for it.
        let text = match fault.code {
            NOT_FOUND => fault
                .text
                .replace(
                    "not found in the container's PATH",
                    "executable file not found in $PATH",
                )
                .replace("no such file", "no such file or directory"),
            _ => fault.text,
        };
        if fault.concern == Concern::OnDisk {
            return OciError::OnDisk(text);
        }
        OciError::Launch {
            text,
            code: fault.code,
        }
    }
}

/// Says what was being done when the kernel refused.
fn failed<E: Into<io::Error>>(what: impl Into<String>) -> impl FnOnce(E) -> OciError {
    let what = what.into();
    move |source| OciError::Io {
        what,
        source: source.into(),
    }
}

/// Of containers whose configuration is not to be found where it should be.
fn no_configuration(path: PathBuf) -> OciError {
    OciError::Io {
        what: format!("{} (is the bundle's directory given?)", path.display()),
        source: rustix::io::Errno::NOENT.into(),
    }
}
