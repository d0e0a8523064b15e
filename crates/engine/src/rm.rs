//! `rm`: removes containers, and what they leave behind.
//!
//! Lock order: the directory of bundles (shared by who starts a container, exclusive by who sweeps), then the lock of one
//! bundle (who starts or removes that container), then that of its directory in the store (who starts it, or copies while it
//! does not run; it takes none of the others then but in passing). Who waits for a supervisor to leave may hold the first
//! two: what a supervisor becomes at the end takes neither, but in passing ([`Engine::detach_ended`]).

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use ::network::sandbox::SandboxError;
use mount::MountError;
use runtime::EndError;
use runtime::bundle::{Bundle, BundleError};
use runtime::cgroup::Cgroup;
use runtime::spec::Host;
use rustix::fs::{FlockOperation, flock};
use store::{ContainerError, Fault};

use crate::Engine;
use crate::run::Details;
use crate::state::State;

/// Where a bundle has its root mounted.
const ROOTFS: &str = "rootfs";

/// What was removed.
#[derive(Debug)]
pub struct Removed {
    /// The container's id.
    pub id: String,
    /// The name of its image is gone, or leads elsewhere: with [`Engine::collect`] the image may go too.
    pub last: bool,
    /// Plug-ins that had made something of its networks are not there any more: what they made is forgotten, and rules of
    /// the packet filter may be left until the machine is restarted.
    pub abandoned: Option<SandboxError>,
}

/// Why a container could not be removed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RmError {
    /// None of that name or id.
    #[error("there is no container {0:?}")]
    NotFound(String),
    /// It runs, and was not to be killed.
    #[error("container {name} is running (process {pid})")]
    Running {
        /// Its name.
        name: String,
        /// Its first process.
        pid: i32,
    },
    /// It is about to be started again, and was not to be stopped.
    #[error("container {0} is being started again")]
    Restarting(String),
    /// It runs, and what is known of that was removed from the state directory.
    #[error("container {0} has processes, and the state directory knows nothing of them")]
    Unrecorded(String),
    /// It runs, and commands with another state directory look after it.
    #[error("container {name} is running with the state directory {}", state.display())]
    Elsewhere {
        /// Its name.
        name: String,
        /// That directory.
        state: PathBuf,
    },
    /// What runs in it could not be ended.
    #[error(transparent)]
    End(#[from] EndError),
    /// Something mounted in its bundle could not be unmounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Its networks could not be taken away.
    #[error(transparent)]
    Network(#[from] SandboxError),
    /// Its bundle could not be removed.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The store.
    #[error(transparent)]
    Container(ContainerError),
}

impl From<ContainerError> for RmError {
    fn from(error: ContainerError) -> RmError {
        match error {
            ContainerError::NotFound(name) => RmError::NotFound(name),
            other => RmError::Container(other),
        }
    }
}

impl Engine {
    /// Removes a container; one that runs is killed first if `force` says so. With `volumes`, and where it was to go at its
    /// end, its anonymous volumes that no other container uses go too.
    ///
    /// # Errors
    /// See [`RmError`].
    pub fn rm(&self, name: &str, force: bool, volumes: bool) -> Result<Removed, RmError> {
        let row = self.store.find_container(self.ns(), name)?;
        let volumes = volumes || row.ephemeral;
        if force && self.bundles_of(&row) != self.bundles() && self.state(&row).is_up() {
            let state = self.bundles_of(&row).parent().unwrap_or(Path::new("")).to_owned();
            return Err(RmError::Elsewhere {
                name: row.name,
                state,
            });
        }
        let abandoned = match force {
            true => self.remove_by_force(&row.id, volumes)?,
            false => self.remove_idle(&row.id, volumes).map(|()| None)?,
        };
        let named = match (&row.image, row.manifest) {
            (Some(name), Some(manifest)) => {
                let image = self
                    .store
                    .find_image(self.ns(), name)
                    .map_err(ContainerError::from)?;
                image.is_some_and(|image| image.manifest.digest == manifest)
            }
            _ => true,
        };
        Ok(Removed {
            id: row.id,
            last: !named,
            abandoned,
        })
    }

    /// What is left to do for a container that has ended when whoever ran it is gone: one that was to be removed is,
    /// of another the root is unmounted and its end written down.
    ///
    /// # Errors
    /// See [`RmError`]; a container that is gone already is none.
    pub fn reap(&self, id: &str) -> Result<(), RmError> {
        match self.store.find_container(self.ns(), id) {
            // Whoever has the lock may be waiting for this process to leave.
            Ok(row) if row.ephemeral => self.remove_unlocked(id, self.bundle(id)?.as_ref(), true),
            Ok(row) => {
                self.remember([(&row, &self.state(&row))]);
                self.detach_ended(id)
            }
            Err(ContainerError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Unmounts the root of a container that has ended. Who starts or removes it at this moment does that himself.
    pub(crate) fn detach_ended(&self, id: &str) -> Result<(), RmError> {
        let Ok(bundle) = Bundle::open(&self.bundle_path(id)) else {
            return Ok(());
        };
        let Some(_lock) = bundle.try_lock()? else {
            return Ok(());
        };
        match self.store.find_container(self.ns(), id) {
            Ok(row) if self.state(&row).is_up() => Ok(()),
            _ => {
                self.release_networks(&bundle)?;
                Ok(detach(bundle.path())?)
            }
        }
    }

    /// Ends a container whatever state it is in, and takes it away. Whatever is gone already is no error, so that two
    /// who try at once both succeed.
    pub(crate) fn remove(&self, id: &str, volumes: bool) -> Result<(), RmError> {
        // Nobody starts it meanwhile.
        let (bundle, _lock) = self.locked_bundle(id)?.unzip();
        self.remove_unlocked(id, bundle.as_ref(), volumes)
    }

    /// As [`Engine::remove`], also where plug-ins of its networks are not installed any more.
    fn remove_by_force(&self, id: &str, volumes: bool) -> Result<Option<SandboxError>, RmError> {
        let (bundle, _lock) = self.locked_bundle(id)?.unzip();
        if let Ok(row) = self.store.find_container(self.ns(), id)
            && let Some(cgroup) = self.unrecorded(&row, bundle.as_ref())?
        {
            cgroup.remove().map_err(EndError::from)?;
        }
        match (self.remove_unlocked(id, bundle.as_ref(), volumes), &bundle) {
            (Err(RmError::Network(error)), Some(bundle)) if error.is_of_missing() => {
                self.abandon_networks(bundle)?;
                self.remove_unlocked(id, Some(bundle), volumes)?;
                Ok(Some(error))
            }
            (removed, _) => removed.map(|()| None),
        }
    }

    /// As [`Engine::remove`], but for one that runs, which is an error.
    pub(crate) fn remove_idle(&self, id: &str, volumes: bool) -> Result<(), RmError> {
        // One that was never started has no bundle yet, and whoever starts it makes one.
        let bundle = match self.bundle(id)? {
            None if self.bundles().exists() => Some(Bundle::open_or_create(&self.bundles(), id)?),
            found => found,
        };
        let _lock = bundle.as_ref().map(Bundle::lock).transpose()?;
        // Whoever had the lock before may have started it.
        match self.store.find_container(self.ns(), id) {
            Ok(row) => match self.state(&row) {
                State::Running { pid, .. } | State::Paused { pid, .. } => {
                    return Err(RmError::Running { name: row.name, pid });
                }
                State::Restarting { .. } => return Err(RmError::Restarting(row.name)),
                _ => {
                    let cgroup = self.unrecorded(&row, bundle.as_ref())?;
                    let pids = cgroup.map(|cgroup| cgroup.pids()).transpose();
                    if pids.map_err(EndError::from)?.is_some_and(|pids| !pids.is_empty()) {
                        return Err(RmError::Unrecorded(row.name));
                    }
                }
            },
            Err(ContainerError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
        self.remove_unlocked(id, bundle.as_ref(), volumes)
    }

    /// The cgroup of a container that was started and of which the bundle records nothing: somebody emptied the state
    /// directory. It may run all the same.
    fn unrecorded(&self, row: &store::Container, bundle: Option<&Bundle>) -> Result<Option<Cgroup>, RmError> {
        let recorded = bundle.map(runtime::state::load).transpose()?.flatten();
        let details = Details::of(row);
        let (Some(plan), Some(_), None) = (details.plan, details.started, recorded) else {
            return Ok(None);
        };
        let place = match Host::probe() {
            Ok(host) => runtime::spec::cgroup(&plan.container, &host, &row.id),
            Err(_) => return Ok(None),
        };
        Ok(Some(Cgroup::find_at(&place).map_err(EndError::from)?))
    }

    /// The bundle of a container, if there is one, and the lock of it; none where somebody has just removed it.
    fn locked_bundle(&self, id: &str) -> Result<Option<(Bundle, File)>, BundleError> {
        let Some(bundle) = self.bundle(id)? else {
            return Ok(None);
        };
        match bundle.lock() {
            Err(BundleError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            lock => lock.map(|lock| Some((bundle, lock))),
        }
    }

    /// The bundle of a container, if there is one.
    fn bundle(&self, id: &str) -> Result<Option<Bundle>, BundleError> {
        match Bundle::open(&self.bundle_path(id)) {
            Err(BundleError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    fn remove_unlocked(&self, id: &str, bundle: Option<&Bundle>, volumes: bool) -> Result<(), RmError> {
        if let Some(bundle) = bundle {
            runtime::end(bundle)?;
            self.release_networks(bundle)?;
        }
        self.clear_copies(id);
        self.remove_rows(id, volumes)?;
        self.remove_bundle(id)
    }

    /// Ends what still runs of a container, and takes away what its supervisor would have.
    pub(crate) fn end_what_is_left(&self, id: &str) -> Result<(), RmError> {
        match self.bundle(id)? {
            Some(bundle) => Ok(runtime::end(&bundle)?),
            None => Ok(()),
        }
    }

    /// Unmounts its root, forgets it, and removes what it wrote; its anonymous volumes too if `volumes` says so.
    pub(crate) fn remove_rows(&self, id: &str, volumes: bool) -> Result<(), RmError> {
        detach(&self.bundle_path(id))?;
        match self.store.remove_container_with(self.ns(), id, volumes) {
            Ok((row, volumes)) => {
                self.note_container(&row, "destroy", &[]);
                for name in volumes {
                    self.note("volume", "destroy", &name);
                }
                Ok(())
            }
            Err(ContainerError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes its bundle, which nothing may be mounted in.
    pub(crate) fn remove_bundle(&self, id: &str) -> Result<(), RmError> {
        match Bundle::open(&self.bundle_path(id)).and_then(Bundle::remove) {
            Err(BundleError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => Ok(()),
            other => Ok(other?),
        }
    }

    /// Removes what nobody else will: containers that were to go with their process and whose end nobody saw, and
    /// bundles that no container has. Does nothing while a container is being started, which could be taken for one.
    pub(crate) fn sweep(&self) -> Result<(), Fault> {
        let path = self.bundles();
        let Some(bundles) = hold_bundles(&path) else {
            return Ok(());
        };
        let rows = self.store.containers(self.ns())?;
        // Those of another state directory are for whoever works with that.
        let ours = |row: &&store::Container| self.bundles_of(row) == path;
        let dead = rows
            .iter()
            .filter(ours)
            .filter(|row| row.ephemeral && Details::of(row).started.is_some() && !self.state(row).is_up())
            .map(|row| &*row.id);
        // What stays and has ended gives its networks back.
        let ended = rows
            .iter()
            .filter(|row| !row.ephemeral && self.holds_networks(&row.id));
        for row in ended.filter(|row| !self.state(row).is_up()) {
            let _ = self.detach_ended(&row.id);
        }
        let entries = bundles.entries().unwrap_or_default();
        let names = entries
            .iter()
            .filter_map(|entry| entry.name.to_str())
            .filter(|name| is_id(name));
        let orphans = names.filter(|name| !rows.iter().any(|row| row.id == *name));
        for id in dead.chain(orphans) {
            // What cannot be removed now (a mount in use) is left to the next sweep.
            let _ = self.remove(id, true);
        }
        Ok(())
    }
}

/// A directory of bundles, held so that no container is being started in it; `None` where one is, or there is none.
pub(crate) fn hold_bundles(path: &Path) -> Option<sys::Dir> {
    let dir = sys::Dir::open_ambient(path).ok();
    dir.filter(|dir| flock(dir, FlockOperation::NonBlockingLockExclusive).is_ok())
}

/// Whether a name in the directory of bundles is a container's.
pub(crate) fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Unmounts what strata mounted in a bundle.
pub(crate) fn detach(bundle: &Path) -> Result<(), MountError> {
    let memory = crate::run::shared_memory(bundle);
    mount::detach(&memory)?;
    mount::fuse::detach(&bundle.join(ROOTFS)).map(drop)
}
