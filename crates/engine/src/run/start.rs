//! From a request to a running process, and back to nothing.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use image::progress::Silent;
use jiff::Timestamp;
use mount::MountError;
use runtime::attach::{self, Ends, Left, Local, Pipes};
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
use super::{Details, Plan, Request};
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
    /// It runs already.
    #[error("container {0} is running already")]
    Running(String),
    /// It was made by a strata that kept too little of it.
    #[error("container {0} was made by an older strata, which did not keep what it is started from")]
    NoPlan(String),
    /// Something of its last start cannot be taken away.
    #[error("container {name}: what its last start left cannot be removed: {source}")]
    LeftOver {
        /// Its name.
        name: String,
        /// Why not.
        source: Box<RmError>,
    },
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
    /// Where its standard streams are.
    pub stdio: Stdio<'a>,
    /// Rows and columns of the terminal it is to have.
    pub size: Option<(u16, u16)>,
    /// Signals that the caller holds back: one that asks to end, before the process runs, ends the start.
    pub attention: Option<&'a Attention>,
}

impl Streams<'_> {
    /// Those of a container that is left to itself.
    pub fn held() -> Streams<'static> {
        Streams {
            stdio: Stdio::Held(None),
            size: None,
            attention: None,
        }
    }
}

/// Where a container's standard streams are.
#[derive(Debug, Clone, Copy)]
pub enum Stdio<'a> {
    /// With the caller: the process inherits them, unless it has a terminal of its own. Nobody else can attach, and
    /// nothing is logged.
    Given([BorrowedFd<'a>; 3]),
    /// With the supervisor, which logs what is printed; the caller is attached from the first where it says how.
    Held(Option<&'a Ends>),
}

/// A container that was made and not started.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
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
        let (id, dice) = chosen(&self.state)?;
        self.summon_for(id, dice)
    }

    fn summon_for(&self, id: String, dice: u16) -> Result<Summons, RunError> {
        let supervisor = runtime::summon(&self.helper, &self.bundles().join(&id))?;
        Ok(Summons { id, dice, supervisor })
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

    /// Stays attached to a container whose streams its supervisor holds, until it has ended, or the user leaves it: then
    /// it runs on, and is nobody's.
    ///
    /// # Errors
    /// As those of [`Started::attend`].
    pub fn stay(
        mut self,
        pipes: Pipes,
        attention: Option<&Attention>,
        local: Local<'_>,
    ) -> Result<Left, RunError> {
        let left = attach::stay(&mut self.running, pipes, attention, local);
        let left = left.map_err(|source| RunError::Attend {
            name: self.name.clone(),
            source,
        })?;
        match left {
            Left::Ended(exit) => Ok(Left::Ended(self.end(exit)?)),
            Left::Detached => Ok(Left::Detached),
        }
    }

    fn end(self, exit: Exit) -> Result<Exit, RunError> {
        if exit.again.is_some() {
            // Its supervisor looks after it.
            return Ok(exit);
        }
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
                engine.detach_ended(&id)
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

/// A container whose rows are there.
struct Made {
    plan: Plan,
    draft: Draft,
    name: String,
    mounts: Vec<mount::Mount>,
    left_out: Vec<LeftOut>,
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
        let Summons { id, dice, supervisor } = summons;
        let made = self.make(request, base, &id, dice, Some(Timestamp::now()))?;
        let begun = Bundle::create(&self.bundles(), &id).map_err(RunError::from);
        let begun = begun.and_then(|bundle| {
            self.begin(
                &bundle,
                &made.plan,
                &made.draft,
                &made.mounts,
                streams,
                supervisor,
            )
        });
        match begun {
            Ok(running) => Ok(Started {
                engine: self,
                running,
                id,
                name: made.name,
                left_out: made.left_out,
                remove: request.remove,
            }),
            Err(error) => {
                // What cannot be taken back now is found by the next sweep; the first error is the one to tell.
                let _ = self.remove(&id);
                Err(error)
            }
        }
    }

    /// Makes a container on what [`Engine::base`] found, and does not start it.
    ///
    /// # Errors
    /// [`RunError`]; then nothing of the container is left.
    pub fn create(&self, request: &Request, base: Base) -> Result<Created, RunError> {
        let _starting = self.starting()?;
        let (id, dice) = chosen(&self.setup.state)?;
        let made = self.make(request, base, &id, dice, None)?;
        Ok(Created { id, name: made.name })
    }

    /// Starts a container that was made before, and that may have run before.
    ///
    /// # Errors
    /// [`RunError`]; then the container is as it was, and does not run.
    pub fn start(&self, name: &str, streams: &Streams<'_>) -> Result<Started<'_>, RunError> {
        let id = self.store.find_container(self.ns(), name)?.id;
        let _starting = self.starting()?;
        let bundle = Bundle::open_or_create(&self.bundles(), &id)?;
        let _lock = bundle.lock()?;
        // Whoever had the lock before may have started it, or removed it.
        let row = self.store.find_container(self.ns(), &id)?;
        if self.state(&row).is_up() {
            return Err(RunError::Running(row.name));
        }
        let plan = Details::of(&row).plan;
        let plan = plan.ok_or_else(|| RunError::NoPlan(row.name.clone()))?;
        // Who looked after its last end may still be at it; what nobody looked after is looked after now.
        let cleared = runtime::end(&bundle).map_err(RmError::from);
        let cleared = cleared.and_then(|()| Ok(rm::detach(bundle.path())?));
        cleared.map_err(|source| RunError::LeftOver {
            name: row.name.clone(),
            source: Box::new(source),
        })?;
        let Summons { supervisor, .. } = self.setup.summon_for(id.clone(), 0)?;
        let draft = Draft::new(self, &plan, &id).map_err(Box::new)?;
        let mounts = self.store.mounts(self.ns(), &id).map_err(ContainerError::from)?;
        match self.begin(&bundle, &plan, &draft, &mounts, streams, supervisor) {
            Ok(running) => {
                self.note_start(&row);
                Ok(Started {
                    engine: self,
                    running,
                    id,
                    name: row.name,
                    left_out: Vec::new(),
                    remove: row.ephemeral,
                })
            }
            Err(error) => {
                let _ = rm::detach(bundle.path());
                Err(error)
            }
        }
    }

    /// What a start changes in the container's row. A power cut may undo it, and ends the container too.
    fn note_start(&self, row: &store::Container) {
        let mut details = row.details.clone();
        if let Some(fields) = details.as_object_mut() {
            fields.remove("ended");
            fields.remove("stopped");
            fields.insert("started".to_owned(), serde_json::json!(Timestamp::now()));
            let _ = self.store.set_details(self.ns(), &[(&row.id, details)]);
        }
    }

    /// Rows, directories, and all that is known of a container before its root is mounted. A failure takes them back.
    fn make(
        &self,
        request: &Request,
        base: Base,
        id: &str,
        dice: u16,
        started: Option<Timestamp>,
    ) -> Result<Made, RunError> {
        let view = base
            .lower
            .as_deref()
            .map(|lower| self.host_view(lower))
            .transpose()?;
        let (mut base, mut left) = (base, base::ATTEMPTS);
        let (plan, draft, (name, mounts)) = loop {
            left -= 1;
            let plan = Plan {
                image: base.execution.clone(),
                ..request.plan.clone()
            };
            let draft = Draft::new(self, &plan, id).map_err(Box::new)?;
            match self.create_rows(request, &base, &plan, &draft, view.as_ref(), dice, started) {
                // Somebody removed the image since it was found: it is looked for again, or pulled.
                Err(RunError::Container(error)) if left > 0 && image_is_gone(&error) => {
                    base = self.base(request, &Silent).map_err(Box::new)?;
                }
                created => break (plan, draft, created?),
            }
        };
        if let Some(view) = &view
            && let Err(error) = self.prepare_view(id, view)
        {
            let _ = self.remove(id);
            return Err(error);
        }
        Ok(Made {
            plan,
            draft,
            name,
            mounts,
            left_out: view.map(|view| view.left_out).unwrap_or_default(),
        })
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
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a column's, and there is one caller"
    )]
    fn create_rows(
        &self,
        request: &Request,
        base: &Base,
        plan: &Plan,
        draft: &Draft,
        view: Option<&HostView>,
        dice: u16,
        started: Option<Timestamp>,
    ) -> Result<(String, Vec<mount::Mount>), RunError> {
        let details = Details {
            source: request.source.to_string(),
            command: draft.command.clone(),
            tty: plan.container.tty,
            interactive: plan.interactive,
            stop_signal: draft.stop_signal(),
            runtime: plan.runtime.clone(),
            mounts: plan
                .container
                .mounts
                .iter()
                .map(|mount| mount.destination.clone())
                .chain(draft.volumes().map(PathBuf::from))
                .collect(),
            plan: Some(plan.clone()),
            started,
            stopped: false,
            ended: None,
            hidden: view.map(|view| view.hidden().collect()).unwrap_or_default(),
        };
        let snapshot = PrepareOptions {
            lower: base.lower.clone(),
            volatile: request.remove,
            driver: plan.driver,
            size: plan.container.storage_size,
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

    /// Hides in the writable directory what is not to appear of the machine.
    fn prepare_view(&self, id: &str, view: &HostView) -> Result<(), RunError> {
        let upper = self
            .store
            .upper_path(self.ns(), id)
            .map_err(ContainerError::from)?;
        let prepare = || view.prepare(&Dir::open_ambient(&upper)?);
        prepare().map_err(RunError::Host)
    }

    /// From rows to a process: everything is put in its place in the bundle, and the supervisor told.
    fn begin(
        &self,
        bundle: &Bundle,
        plan: &Plan,
        draft: &Draft,
        mounts: &[mount::Mount],
        streams: &Streams<'_>,
        supervisor: Summoned,
    ) -> Result<Running, RunError> {
        let rootfs = bundle.rootfs();
        for mount in mounts {
            mount::fuse::attach_with(plan.driver, &self.setup.server, mount, &rootfs)?;
        }
        draft.write(self, plan, bundle)?;
        let log = match (streams.stdio, plan.log) {
            (Stdio::Held(_), Some(limits)) => {
                let dir = self.store.log_dir(self.ns(), &draft.id);
                Some((dir.map_err(ContainerError::from)?, limits))
            }
            _ => None,
        };
        let held = match streams.stdio {
            Stdio::Given(stdio) => runtime::Streams::Given(stdio),
            Stdio::Held(attach) => runtime::Streams::Held {
                stdin: plan.interactive,
                log: log.as_ref().map(|(dir, limits)| (dir.as_fd(), *limits)),
                attach,
            },
        };
        Ok(supervisor.start(&StartRequest {
            helper: &self.setup.helper,
            bundle: bundle.path(),
            streams: held,
            size: streams.size,
            runtime: plan.runtime.as_deref(),
            restart: plan.restart,
            cleanup: self.remover(bundle.id()),
            attention: streams.attention,
        })?)
    }

    /// The command that looks after the container's end when nobody else does.
    fn remover(&self, id: &str) -> Vec<std::ffi::OsString> {
        match self.setup.remover.as_slice() {
            [] => Vec::new(),
            words => words.iter().cloned().chain([id.into()]).collect(),
        }
    }
}

/// An id, and where among the names that are made up one is sought.
fn chosen(state: &Path) -> Result<(String, u16), RunError> {
    let mut random = [0; 34];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|e| state_error("reading random bytes for", state, e.into()))?;
    let [id @ .., high, low] = random;
    let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((id, u16::from_be_bytes([high, low])))
}

fn state_error(what: &'static str, path: &Path, source: io::Error) -> RunError {
    RunError::State {
        what,
        path: path.to_owned(),
        source,
    }
}
