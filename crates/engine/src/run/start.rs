//! From a request to a running process, and back to nothing.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use image::progress::Silent;
use jiff::Timestamp;
use mount::MountError;
use runtime::bundle::{Bundle, BundleError};
use runtime::state::Exit;
use runtime::terminal::{Attention, Screen, attend};
use runtime::{Running, StartError, StartRequest, Summoned};
use rustix::fs::{FlockOperation, flock};
use rustix::rand::{GetRandomFlags, getrandom};
use store::{ContainerError, NewContainer, PrepareOptions, SnapshotError};
use sys::Dir;

use super::base::{self, Base, BaseError};
use super::host::{self, HostView, LeftOut};
use super::spec::{Draft, SpecError};
use super::{Asked, Details, Request};
use crate::rm::{self, RmError};
use crate::state::State;
use crate::{Engine, Setup, names};

/// Why a container was not run. Nothing of it is left.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Its rows.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Its image, which somebody removed after it was found.
    #[error(transparent)]
    Base(#[from] Box<BaseError>),
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The state directory.
    #[error("{what} {}: {source}", path.display())]
    State {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// Its root could not be mounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// The host's root file system could not be prepared as a layer.
    #[error("preparing the view of the host: {0}")]
    Host(#[source] io::Error),
    /// What was asked of the container cannot be put into a specification.
    #[error(transparent)]
    Spec(#[from] Box<SpecError>),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It was started, and its end is not known.
    #[error("container {name}: {source}")]
    Attend {
        /// Its name.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It has ended, and something of it could not be removed.
    #[error("container {name} has ended, but was not removed: {source}")]
    Remove {
        /// Its name.
        name: String,
        /// Why.
        source: Box<RmError>,
    },
}

/// What a container's process is given of the caller's.
#[derive(Debug, Clone, Copy)]
pub struct Streams<'a> {
    /// Standard input, output and error. The process inherits them, unless it has a terminal of its own.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Rows and columns of the terminal it is to have.
    pub size: Option<(u16, u16)>,
    /// Signals that the caller holds back: one that asks to end, before the process runs, ends the start.
    pub attention: Option<&'a Attention>,
}

/// A container to be: it has an id, and its supervisor comes up. Dropped, it leaves again.
#[derive(Debug)]
pub struct Summons {
    id: String,
    /// Where among the names that are made up its own is sought.
    dice: u16,
    supervisor: Summoned,
}

impl Setup {
    /// Begins to run a container, with what takes a while and needs to know nothing of it: the supervisor is started,
    /// and comes up beside everything until [`Engine::run`] tells it what to do.
    ///
    /// # Errors
    /// [`RunError::Start`], [`RunError::State`].
    pub fn summon(&self) -> Result<Summons, RunError> {
        let mut random = [0; 34];
        getrandom(&mut random, GetRandomFlags::empty())
            .map_err(|e| state_error("reading random bytes for", &self.state, e.into()))?;
        let [id @ .., high, low] = random;
        let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        let supervisor = runtime::summon(&self.helper, &self.bundles().join(&id))?;
        Ok(Summons {
            id,
            dice: u16::from_be_bytes([high, low]),
            supervisor,
        })
    }
}

/// A container whose process runs.
pub struct Started<'a> {
    engine: &'a Engine,
    running: Running,
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What of the machine does not appear in it, when it is a view of the host.
    pub left_out: Vec<LeftOut>,
    remove: bool,
}

impl Started<'_> {
    /// Stays with the container until it has ended, and takes away what then is nobody's. Signals that `attention`
    /// holds are forwarded; without it they do to the caller what they do. `screen` is the caller's side of the
    /// container's terminal, and needs attention too.
    ///
    /// # Errors
    /// [`RunError::Attend`], [`RunError::Remove`].
    pub fn attend(
        mut self,
        attention: Option<&Attention>,
        screen: Option<Screen<'_>>,
    ) -> Result<Exit, RunError> {
        let exit = match attention {
            Some(attention) => attend(&mut self.running, attention, screen),
            None => self.running.wait(),
        };
        let exit = exit.map_err(|source| RunError::Attend {
            name: self.name.clone(),
            source,
        })?;
        self.end(exit)
    }

    fn end(self, exit: Exit) -> Result<Exit, RunError> {
        let Started {
            engine,
            running,
            id,
            name,
            remove,
            ..
        } = self;
        // The supervisor takes its cgroups away meanwhile, and writes into the bundle until it leaves.
        let removed = match remove {
            true => engine.remove_rows(&id),
            false => {
                if let Ok(row) = engine.store.find_container(engine.ns(), &id) {
                    engine.remember([(&row, &State::from(&exit))]);
                }
                rm::detach(&engine.bundle_path(&id)).map_err(RmError::from)
            }
        };
        let left = running.finish();
        let removed = removed.and_then(|()| if remove { engine.remove_bundle(&id) } else { Ok(()) });
        removed.map_err(|e| RunError::Remove {
            name: name.clone(),
            source: Box::new(e),
        })?;
        left.map_err(|source| RunError::Attend { name, source })?;
        Ok(exit)
    }
}

/// Whether what a container was to stand on is not there any more.
fn image_is_gone(error: &ContainerError) -> bool {
    matches!(
        error,
        ContainerError::ManifestGone(_) | ContainerError::Snapshot(SnapshotError::NotFound(_))
    )
}

/// A name that was made up may be taken; so many others are tried.
const ATTEMPTS: u32 = 16;

impl Engine {
    /// Runs a container on what [`Engine::base`] found: returns when its process was executed. `summons` is this
    /// engine's own [`Setup`]'s.
    ///
    /// # Errors
    /// [`RunError`]; then nothing of the container is left.
    pub fn run(
        &self,
        summons: Summons,
        request: &Request,
        base: Base,
        streams: &Streams<'_>,
    ) -> Result<Started<'_>, RunError> {
        // Held until the process runs, so that nobody takes the container for one that died: see `sweep`.
        let _starting = self.starting()?;
        let view = base
            .lower
            .as_deref()
            .map(|lower| self.host_view(lower))
            .transpose()?;
        let Summons { id, dice, supervisor } = summons;
        let (mut base, mut left) = (base, base::ATTEMPTS);
        let (draft, (name, mounts)) = loop {
            left -= 1;
            let draft = Draft::new(self, request, &base, &id).map_err(Box::new)?;
            match self.create(request, &base, &draft, view.as_ref(), dice) {
                // Somebody removed the image since it was found: it is looked for again, or pulled.
                Err(RunError::Container(error)) if left > 0 && image_is_gone(&error) => {
                    base = self.base(request, &Silent).map_err(Box::new)?;
                }
                created => break (draft, created?),
            }
        };
        let result = self
            .prepare(request, &draft, &mounts, view.as_ref())
            .and_then(|bundle| Ok(supervisor.start(&self.order(request, &bundle, streams))?));
        match result {
            Ok(running) => Ok(Started {
                engine: self,
                running,
                id,
                name,
                left_out: view.map(|view| view.left_out).unwrap_or_default(),
                remove: request.remove,
            }),
            Err(error) => {
                // What cannot be taken back now is found by the next sweep; the first error is the one to tell.
                let _ = self.remove(&id);
                Err(error)
            }
        }
    }

    /// The directory of bundles, made if it is missing, with a lock that says that a container is being started.
    fn starting(&self) -> Result<Dir, RunError> {
        let path = self.bundles();
        let open = || -> io::Result<Dir> {
            let dir = match Dir::open_ambient(&path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
                    Dir::open_ambient(&path)?
                }
                other => other?,
            };
            flock(&dir, FlockOperation::LockShared)?;
            Ok(dir)
        };
        open().map_err(|e| state_error("state directory", &path, e))
    }

    fn host_view(&self, lower: &Path) -> Result<HostView, RunError> {
        let mounts = mount::table::read().map_err(RunError::Host)?;
        let canonical =
            |path: &Path| std::fs::canonicalize(path).map_err(|e| state_error("finding", path, e));
        let (store, state) = (canonical(self.store.root())?, canonical(self.state_dir())?);
        Ok(host::view(&mounts, lower, &[&store, &state]))
    }

    /// The rows, under the name that was asked for or one that is free.
    fn create(
        &self,
        request: &Request,
        base: &Base,
        draft: &Draft,
        view: Option<&HostView>,
        dice: u16,
    ) -> Result<(String, Vec<mount::Mount>), RunError> {
        let details = Details {
            source: request.source.to_string(),
            command: draft.command.clone(),
            tty: request.container.tty,
            interactive: request.interactive,
            stop_signal: draft.stop_signal(),
            runtime: request.runtime.clone(),
            mounts: request
                .container
                .mounts
                .iter()
                .map(|mount| mount.destination.clone())
                .chain(draft.volumes().map(PathBuf::from))
                .collect(),
            asked: Asked::of(&request.container),
            ended: None,
            hidden: view.map(|view| view.hidden().collect()).unwrap_or_default(),
        };
        let snapshot = PrepareOptions {
            lower: base.lower.clone(),
            volatile: request.remove,
            driver: request.driver,
            size: request.container.storage_size,
            ..PrepareOptions::default()
        };
        let parent = base
            .image
            .as_ref()
            .and_then(|image| image.top_chain)
            .map(|chain| chain.to_string());
        let mut new = NewContainer {
            ns: self.ns().to_owned(),
            id: draft.id.clone(),
            name: String::new(),
            image: base.image.as_ref().map(|image| image.name.clone()),
            manifest: base.image.as_ref().map(|image| image.manifest.digest),
            labels: request.labels.clone(),
            created: Timestamp::now(),
            ephemeral: request.remove,
            details: serde_json::to_value(details).unwrap_or_default(),
        };
        let mut attempt = 0;
        loop {
            new.name = request.name.clone().unwrap_or_else(|| names::name(dice, attempt));
            match self
                .store
                .create_container(&new, Some((parent.as_deref(), &snapshot)))
            {
                Ok(mounts) => return Ok((new.name, mounts)),
                Err(ContainerError::NameInUse { .. }) if request.name.is_none() && attempt < ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// From rows to a bundle in which everything is in its place.
    fn prepare(
        &self,
        request: &Request,
        draft: &Draft,
        mounts: &[mount::Mount],
        view: Option<&HostView>,
    ) -> Result<Bundle, RunError> {
        if let Some(view) = view {
            let upper = self
                .store
                .upper_path(self.ns(), &draft.id)
                .map_err(ContainerError::from)?;
            let prepare = || view.prepare(&Dir::open_ambient(&upper)?);
            prepare().map_err(RunError::Host)?;
        }
        let bundle = Bundle::create(&self.bundles(), &draft.id)?;
        let rootfs = bundle.rootfs();
        for mount in mounts {
            mount::fuse::attach_with(request.driver, &self.setup.server, mount, &rootfs)?;
        }
        draft.write(self, request, &bundle)?;
        Ok(bundle)
    }

    /// What the supervisor is told.
    fn order<'a>(
        &'a self,
        request: &'a Request,
        bundle: &'a Bundle,
        streams: &Streams<'a>,
    ) -> StartRequest<'a> {
        StartRequest {
            helper: &self.setup.helper,
            bundle: bundle.path(),
            stdio: streams.stdio,
            size: streams.size,
            runtime: request.runtime.as_deref(),
            cleanup: self.remover(bundle.id()),
            attention: streams.attention,
        }
    }

    /// The command that looks after the container's end when nobody else does.
    fn remover(&self, id: &str) -> Vec<std::ffi::OsString> {
        match self.setup.remover.as_slice() {
            [] => Vec::new(),
            words => words.iter().cloned().chain([id.into()]).collect(),
        }
    }
}

fn state_error(what: &'static str, path: &Path, source: io::Error) -> RunError {
    RunError::State {
        what,
        path: path.to_owned(),
        source,
    }
}
