//! One more program in a container that runs. Its supervisor makes the process, so that it goes on when whoever asked for
//! it is gone, and belongs to the container alone.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};

use oci_spec::runtime::Process;
use rustix::fs::MemfdFlags;
use sys::Dir;

use crate::bundle::{Bundle, BundleError};
use crate::control::{ANSWER, Connection, Request};
use crate::start::{Running, StartError};
use crate::state;
use crate::terminal::Attention;

/// What to execute, and in which container.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The container's.
    pub bundle: &'a Bundle,
    /// The process: see [`crate::spec::exec_process`].
    pub process: &'a Process,
    /// Its standard input, output and error, where it asks for no terminal. They are inherited.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Rows and columns of the terminal, where it asks for one.
    pub size: Option<(u16, u16)>,
    /// Signals that the caller holds back: one that comes before the program runs is the program's.
    pub attention: Option<&'a Attention>,
}

/// Why a program was not executed. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// Nobody is there who could make the process: the container does not run, or its supervisor was killed.
    #[error("container {0} has no supervisor that could run a program in it")]
    NoSupervisor(String),
    /// Its supervisor was stopped, or is stuck.
    #[error("the supervisor of container {0} does not answer")]
    Stuck(String),
    /// The request could not be written down.
    #[error("preparing the request: {0}")]
    Prepare(io::Error),
    /// The supervisor could not do it.
    #[error(transparent)]
    Start(#[from] StartError),
}

/// Executes a program in the container; returns when it runs. The value is that program's: its terminal, its signals,
/// its end. Dropping it leaves the program running.
pub fn exec(request: &ExecRequest<'_>) -> Result<Running, ExecError> {
    let connection = ask(request.bundle).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ExecError::NoSupervisor(request.bundle.id().to_owned())
        }
        io::ErrorKind::TimedOut => ExecError::Stuck(request.bundle.id().to_owned()),
        _ => ExecError::Prepare(error),
    })?;
    let file = write_down(request.process).map_err(ExecError::Prepare)?;
    let [stdin, stdout, stderr] = request.stdio;
    let fds = [stdin, stdout, stderr, file.as_fd()];
    let mut running = Running::of(connection);
    let order = Request::Exec { size: request.size };
    running.order(&order, &fds, request.attention, request.bundle.path())?;
    Ok(running)
}

/// A connection to a supervisor that answers: one that is stuck would keep the descriptors that it is sent, and whoever
/// reads from them would wait for it. How long the program then takes to begin depends on what lies in the container.
fn ask(bundle: &Bundle) -> io::Result<Connection> {
    let connection = Connection::open(bundle)?;
    connection.send(&Request::Kill { signal: 0 }, &[])?;
    // That nothing runs is an answer too; so it will say again.
    connection.answer(ANSWER)?;
    Ok(connection)
}

/// A message may not be as long as arguments and environment may be.
pub(crate) fn write_down(process: &Process) -> io::Result<File> {
    let mut file = File::from(rustix::fs::memfd_create("process", MemfdFlags::CLOEXEC)?);
    file.write_all(&serde_json::to_vec(process)?)?;
    file.rewind()?;
    Ok(file)
}

/// The container's root as its first process sees it at this moment; `None` where that has ended. Beneath it lies what the
/// container may have put there: see [`Dir::open_in_root`].
pub fn root(bundle: &Bundle) -> Result<Option<Dir>, BundleError> {
    let open = || -> io::Result<Option<Dir>> {
        let state = state::load(bundle).map_err(io::Error::other)?;
        let Some(state) = state else { return Ok(None) };
        let Some(pidfd) = state.process.open()? else {
            return Ok(None);
        };
        let root = Dir::open_ambient(format!("/proc/{}/root", state.process.pid))?;
        // It still lives, so the number was its own when the root was opened.
        Ok(sys::process::send_signal(pidfd.as_fd(), 0)
            .is_ok()
            .then_some(root))
    };
    open().map_err(|source| BundleError::Io {
        path: bundle.path().to_path_buf(),
        source,
    })
}
