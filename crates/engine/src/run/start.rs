//! From what was made to a running process, again and again, and back to nothing.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mount::MountError;
use runtime::attach::{self, Ends, Left, Local, Pipes};
use runtime::bundle::{Bundle, BundleError};
use runtime::control::About;
use runtime::state::{Exit, boot_id};
use runtime::terminal::{Attention, Screen, attend};
use runtime::{Running, StartError, StartRequest, Summoned};
use rustix::fs::{FlockOperation, flock};
use store::{ContainerError, Digest, Flaw, Layer};
use sys::Dir;

use super::base::{Base, BaseError};
use super::host::LeftOut;
use super::make::chosen;
use super::spec::{Draft, SpecError};
use super::users::UsersError;
use super::volumes::VolumesError;
use super::{Details, Plan, Request};
use crate::confine::{ConfineError, labelled};
use crate::events;
use crate::network::NetworkError;
use crate::rm::{self, RmError};
use crate::state::{STATE, State};
use crate::{Engine, Setup};

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
    /// A layer beneath its root is not in the store any more, whoever took it away.
    #[error("layer {layer} is damaged in the store: {} is not there", path.display())]
    MissingLayer {
        /// The layer's diff ID.
        layer: Digest,
        /// The directory that should hold it.
        path: PathBuf,
    },
    /// The host's root file system could not be prepared as a layer.
    #[error("preparing the view of the host: {0}")]
    Host(#[source] io::Error),
    /// What was asked of the container cannot be put into a specification.
    #[error(transparent)]
    Spec(#[from] Box<SpecError>),
    /// Its volumes.
    #[error(transparent)]
    Volumes(#[from] Box<VolumesError>),
    /// Its ids.
    #[error(transparent)]
    Users(#[from] Box<UsersError>),
    /// What confines it.
    #[error(transparent)]
    Confine(#[from] Box<ConfineError>),
    /// It could not be attached to its networks.
    #[error(transparent)]
    Network(#[from] Box<NetworkError>),
    /// It could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It runs already.
    #[error("container {0} is running already")]
    Running(String),
    /// It runs, and is held still.
    #[error("container {0} is paused")]
    Paused(String),
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

/// What a container is started from.
struct Parts<'a> {
    bundle: &'a Bundle,
    name: &'a str,
    plan: &'a Plan,
    draft: &'a Draft,
    mounts: &'a [mount::Mount],
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
    /// It has volumes.
    volumes: bool,
    /// It is in networks, which it leaves at its end.
    networked: bool,
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
        if self.remove {
            // Beside the program, instead of after it. What fails here fails again when it is for something.
            let _ = self.engine.store.expect_removal();
        }
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
            volumes,
            networked,
            ..
        } = self;
        // The supervisor takes its cgroups away meanwhile, and writes into the bundle until it leaves.
        let removed = match remove {
            true => match networked {
                true => engine.release_networks_of(&id),
                false => Ok(()),
            }
            .and_then(|()| engine.remove_rows(&id, volumes)),
            false => {
                if let Ok(row) = engine.store.find_container(engine.ns(), &id) {
                    engine.remember([(&row, &State::from(&exit))]);
                }
                engine.detach_ended(&id)
            }
        };
        let left = running.finish();
        let removed = removed.and_then(|()| match &left {
            // Somebody killed it before it was done.
            Ok(false) => engine.end_what_is_left(&id),
            _ => Ok(()),
        });
        let removed = removed.and_then(|()| if remove { engine.remove_bundle(&id) } else { Ok(()) });
        removed.map_err(|e| RunError::Remove {
            name: name.clone(),
            source: Box::new(e),
        })?;
        left.map_err(|source| RunError::Attend { name, source })?;
        Ok(exit)
    }
}

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
            let about = About {
                attributes: events::about(&made.name, made.image.as_deref(), &request.labels),
                made: u64::try_from(made.created.as_nanosecond()).ok(),
                ..About::default()
            };
            let parts = Parts {
                bundle: &bundle,
                name: &made.name,
                plan: &made.plan,
                draft: &made.draft,
                mounts: &made.mounts,
            };
            self.begin(parts, about, streams, supervisor)
        });
        match begun {
            Ok(running) => Ok(Started {
                engine: self,
                running,
                id,
                name: made.name,
                left_out: made.left_out,
                remove: request.remove,
                volumes: !made.plan.container.volumes.is_empty(),
                networked: !made.plan.networks.is_empty(),
            }),
            Err(error) => {
                // What cannot be taken back now is found by the next sweep; the first error is the one to tell.
                let _ = self.remove(&id, true);
                Err(error)
            }
        }
    }

    /// Starts a container that was made before, and that may have run before.
    ///
    /// # Errors
    /// [`RunError`]; then the container is as it was, and does not run.
    pub fn start(&self, name: &str, streams: &Streams<'_>) -> Result<Started<'_>, RunError> {
        let id = self.store.find_container(self.ns(), name)?.id;
        let _starting = self.starting()?;
        let bundle = Bundle::open_or_create(&self.bundles(), &id);
        let locked = bundle.and_then(|bundle| Ok((bundle.lock()?, bundle)));
        // Of one that is being removed it may go in between.
        let (_lock, bundle) = locked.or_else(|error| {
            self.store.find_container(self.ns(), &id)?;
            Err(RunError::from(error))
        })?;
        // Whoever had the lock before may have started it, or removed it.
        let row = self.store.find_container(self.ns(), &id)?;
        match self.state(&row) {
            State::Paused { .. } => return Err(RunError::Paused(row.name)),
            state if state.is_up() => return Err(RunError::Running(row.name)),
            _ => {}
        }
        if self.bundles_of(&row) != self.bundles() {
            // From now on it is seen to run, whatever state directory a command has.
            let noted = self.store.edit_details(self.ns(), [&*row.id], |_, details| {
                details.insert(STATE.to_owned(), serde_json::json!(self.state_dir()));
            });
            noted.map_err(ContainerError::from)?;
        }
        let plan = Details::of(&row).plan;
        let plan = plan.ok_or_else(|| RunError::NoPlan(row.name.clone()))?;
        // Who looked after its last end may still be at it; what nobody looked after is looked after now.
        let cleared = runtime::end(&bundle).map_err(RmError::from);
        let cleared = cleared.and_then(|()| Ok(self.release_networks(&bundle)?));
        let cleared = cleared.and_then(|()| Ok(rm::detach(bundle.path())?));
        cleared.map_err(|source| RunError::LeftOver {
            name: row.name.clone(),
            source: Box::new(source),
        })?;
        let _no_copies = self
            .hold_from_copies(&row)
            .map_err(|error| state_error("waiting for copies in", bundle.path(), error))?;
        let Summons { supervisor, .. } = self.setup.summon_for(id.clone(), 0)?;
        let draft = Draft::new(self, &plan, &id).map_err(Box::new)?;
        let mounts = self
            .store
            .root_mounts(self.ns(), &id)
            .map_err(ContainerError::from)?;
        let about = About {
            attributes: events::about(&row.name, row.image.as_deref(), &row.labels),
            ..About::default()
        };
        let parts = Parts {
            bundle: &bundle,
            name: &row.name,
            plan: &plan,
            draft: &draft,
            mounts: &mounts,
        };
        match self.begin(parts, about, streams, supervisor) {
            Ok(running) => {
                self.note_start(&row);
                Ok(Started {
                    engine: self,
                    running,
                    id,
                    name: row.name,
                    left_out: Vec::new(),
                    remove: row.ephemeral,
                    volumes: !plan.container.volumes.is_empty(),
                    networked: !plan.networks.is_empty(),
                })
            }
            Err(error) => {
                let _ = self.release_networks(&bundle);
                let _ = rm::detach(bundle.path());
                Err(error)
            }
        }
    }

    /// What a start changes in the container's row. A power cut may undo it, and ends the container too.
    fn note_start(&self, row: &store::Container) {
        let _ = self.store.edit_details(self.ns(), [&*row.id], |_, details| {
            details.remove("ended");
            details.remove("stopped");
            details.insert("started".to_owned(), serde_json::json!(Timestamp::now()));
            details.insert("boot".to_owned(), serde_json::json!(boot_id().ok()));
        });
    }

    /// The directory of bundles, made if it is missing, with a lock that says that a container is being started.
    pub(super) fn starting(&self) -> Result<Dir, RunError> {
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

    /// From rows to a process: everything is put in its place in the bundle, and the supervisor told.
    fn begin(
        &self,
        parts: Parts<'_>,
        about: About,
        streams: &Streams<'_>,
        supervisor: Summoned,
    ) -> Result<Running, RunError> {
        let Parts {
            bundle,
            name,
            plan,
            draft,
            mounts,
        } = parts;
        let rootfs = bundle.rootfs();
        let confinement = self.confinement(plan).map_err(Box::new)?;
        // Until it can be seen to run. No sooner: before, its image may have to be pulled, which may replace a layer.
        let _standing = self.store.stand().map_err(ContainerError::from)?;
        for mount in mounts {
            let mount = labelled(mount, confinement.labels.as_ref()).map_err(Box::new)?;
            mount::fuse::attach_with(plan.driver, &self.setup.server, &mount, &rootfs)
                .map_err(|error| self.missing_layer(&draft.id).unwrap_or(RunError::Mount(error)))?;
        }
        let attached = self.attach_networks(bundle, plan).map_err(Box::new)?;
        draft.write(self, plan, bundle, &attached, &confinement)?;
        if !plan.networks.is_empty() {
            self.announce(bundle, name).map_err(Box::new)?;
        }
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
            keep: &attached.sockets,
            size: streams.size,
            runtime: plan.runtime.as_deref(),
            restart: plan.restart,
            about: About {
                attached: !matches!(streams.stdio, Stdio::Held(None)),
                volumes: events::mounted(&plan.container.volumes),
                ..about
            },
            health: plan.health().is_some(),
            pidfile: plan.pidfile.as_deref(),
            cleanup: self.remover(bundle.id()),
            attention: streams.attention,
        })?)
    }

    /// The layer because of which a snapshot cannot be mounted, if it is one that is gone.
    pub(super) fn missing_layer(&self, key: &str) -> Option<RunError> {
        let stack = self.store.stack(self.ns(), key).ok()?;
        let gone = |layer: &Layer| matches!(self.store.flaw(layer.n), Ok(Some(Flaw::Missing(_))));
        let lowers = stack.lowers.into_iter();
        let mut gone = lowers.filter(|lower| lower.layer.as_ref().is_some_and(gone) && !lower.path.exists());
        gone.find_map(|lower| {
            Some(RunError::MissingLayer {
                layer: lower.layer?.diff_id,
                path: lower.path,
            })
        })
    }

    /// The command that looks after the container's end when nobody else does.
    fn remover(&self, id: &str) -> Vec<std::ffi::OsString> {
        match self.setup.remover.as_slice() {
            [] => Vec::new(),
            words => words.iter().cloned().chain([id.into()]).collect(),
        }
    }
}

pub(super) fn state_error(what: &'static str, path: &Path, source: io::Error) -> RunError {
    RunError::State {
        what,
        path: path.to_owned(),
        source,
    }
}
