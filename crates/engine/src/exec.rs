//! `exec`: one more program in a container that runs.

use std::os::fd::BorrowedFd;

use runtime::bundle::{Bundle, BundleError};
use runtime::spec::{ExecOptions, Host, Who, exec_process};
use runtime::terminal::Attention;
use runtime::user::{self, UserError};
use runtime::{ExecRequest, Running};
use store::ContainerError;
use sys::Dir;

use crate::Engine;
use crate::state::State;

/// What is to be executed, and what it gets of the caller's.
#[derive(Debug)]
pub struct Request<'a> {
    /// The program and its surroundings.
    pub options: ExecOptions,
    /// Standard input, output and error. The program inherits them, unless it has a terminal.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Rows and columns of its terminal.
    pub size: Option<(u16, u16)>,
    /// Signals that the caller holds back: one that comes before the program runs is the program's.
    pub attention: Option<&'a Attention>,
}

/// Why a program was not executed. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// No such container.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Nothing runs in it.
    #[error("container {name} is not running ({state})")]
    NotRunning {
        /// Its name.
        name: String,
        /// What it does instead.
        state: &'static str,
    },
    /// Its processes are held still.
    #[error("container {0} is paused")]
    Paused(String),
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// A user that the container does not know.
    #[error(transparent)]
    User(#[from] UserError),
    /// The machine does not tell what it has.
    #[error("asking the kernel what it has: {0}")]
    Host(#[source] std::io::Error),
    /// It could not be started.
    #[error("container {name}: {source}")]
    Exec {
        /// The container's name.
        name: String,
        /// Why.
        source: runtime::ExecError,
    },
}

impl Engine {
    /// Executes a program in a container; returns when it runs. Dropping the value leaves it running.
    ///
    /// # Errors
    /// See [`ExecError`].
    pub fn exec(&self, name: &str, request: &Request<'_>) -> Result<Running, ExecError> {
        let row = self.store.find_container(self.ns(), name)?;
        let state = self.state(&row);
        let not_running = || ExecError::NotRunning {
            name: row.name.clone(),
            state: state.word(),
        };
        match state {
            State::Running { .. } => {}
            State::Paused { .. } => return Err(ExecError::Paused(row.name)),
            _ => return Err(not_running()),
        }
        let bundle = Bundle::open(&self.bundle_of(&row))?;
        let spec = bundle.spec()?;
        let first = spec.process().as_ref().ok_or_else(not_running)?;
        let options = &request.options;
        let mut asked = None;
        if let Some(user) = options.user.as_deref().filter(|user| !user.is_empty()) {
            // As its files are now: the container may have made the user itself.
            let root = runtime::root(&bundle)?.ok_or_else(not_running)?;
            let ids = Host::probe().map_err(ExecError::Host)?.ids;
            asked = Some((
                user::resolve(&root, user, &[], ids.as_ref())?,
                home_of(&root, first.user().uid()),
            ));
        }
        let who = asked
            .as_ref()
            .map_or(Who::Same, |(found, home)| Who::Other(found, home.as_deref()));
        let all = match options.privileged {
            true => Host::probe().map_err(ExecError::Host)?.capabilities,
            false => Default::default(),
        };
        let process = exec_process(options, first, who, &all);
        let started = runtime::exec(&ExecRequest {
            bundle: &bundle,
            process: &process,
            stdio: request.stdio,
            size: request.size,
            attention: request.attention,
        });
        started.map_err(|source| ExecError::Exec {
            name: row.name.clone(),
            source,
        })
    }
}

/// The home directory of a user by number, where the container's files tell.
fn home_of(root: &Dir, uid: u32) -> Option<String> {
    user::resolve(root, &uid.to_string(), &[], None)
        .ok()
        .map(|user| user.home)
}
