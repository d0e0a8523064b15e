//! `rm`: removes containers, and what they leave behind.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use mount::MountError;
use runtime::bundle::{Bundle, BundleError};
use runtime::cgroup::{Cgroup, CgroupError};
use runtime::state::KillError;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use store::{ContainerError, Fault};

use crate::Engine;
use crate::state::State;

/// How long a killed process may take to end: what waits in the kernel for a disk cannot be hurried.
const END: Duration = Duration::from_secs(10);

/// Where a bundle has its root mounted.
const ROOTFS: &str = "rootfs";

/// What was removed.
#[derive(Debug, Clone)]
pub struct Removed {
    /// The container's id.
    pub id: String,
    /// The name of its image is gone, or leads elsewhere: with [`Engine::collect`] the image may go too.
    pub last: bool,
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
    /// It was killed and does not end.
    #[error("container {name} was killed and has not ended within {} s", END.as_secs())]
    WontEnd {
        /// Its name.
        name: String,
    },
    /// It could not be killed.
    #[error(transparent)]
    Kill(#[from] KillError),
    /// Something mounted in its bundle could not be unmounted.
    #[error(transparent)]
    Mount(#[from] MountError),
    /// Its bundle could not be removed.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// What its supervisor left in its cgroup could not be ended.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
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
    /// Removes a container; one that runs is killed first if `force` says so.
    ///
    /// # Errors
    /// See [`RmError`].
    pub fn rm(&self, name: &str, force: bool) -> Result<Removed, RmError> {
        let row = self.store.find_container(self.ns(), name)?;
        if let State::Running { pid, .. } = self.state(&row.id) {
            if !force {
                return Err(RmError::Running { name: row.name, pid });
            }
            self.kill(&row.id, &row.name)?;
        }
        self.remove(&row.id)?;
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
        })
    }

    /// What is left to do for a container that has ended when whoever ran it is gone: one that was to be removed is,
    /// of another the root is unmounted.
    ///
    /// # Errors
    /// See [`RmError`]; a container that is gone already is none.
    pub fn reap(&self, id: &str) -> Result<(), RmError> {
        match self.store.find_container(self.ns(), id) {
            Ok(row) if row.ephemeral => self.remove(id),
            Ok(_) => Ok(detach(&self.bundle_path(id))?),
            Err(ContainerError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Kills what runs in a container, and waits for its end and that of its supervisor, which until then takes away
    /// what is left of it.
    fn kill(&self, id: &str, name: &str) -> Result<(), RmError> {
        let bundle = Bundle::open(&self.bundle_path(id))?;
        match runtime::state::kill(&bundle, libc::SIGKILL) {
            Ok(()) | Err(KillError::NotRunning(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let Some(state) = runtime::state::load(&bundle)? else {
            return Ok(());
        };
        let deadline = Instant::now() + END;
        for process in [&state.process, &state.supervisor] {
            match process.open() {
                Ok(Some(pidfd)) if !ends(&pidfd, deadline) => {
                    return Err(RmError::WontEnd {
                        name: name.to_owned(),
                    });
                }
                // One that cannot be asked about is as good as gone: what it left is taken away below.
                _ => {}
            }
        }
        Ok(())
    }

    /// Takes away a container that does not run. Whatever is gone already is no error, so that two who try at once
    /// both succeed.
    pub(crate) fn remove(&self, id: &str) -> Result<(), RmError> {
        if let Ok(bundle) = Bundle::open(&self.bundle_path(id)) {
            end_orphans(&bundle)?;
        }
        self.remove_rows(id)?;
        self.remove_bundle(id)
    }

    /// Unmounts its root, forgets it, and removes what it wrote.
    pub(crate) fn remove_rows(&self, id: &str) -> Result<(), RmError> {
        detach(&self.bundle_path(id))?;
        match self.store.remove_container(self.ns(), id) {
            Ok(()) | Err(ContainerError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes its bundle, which nothing may be mounted in.
    pub(crate) fn remove_bundle(&self, id: &str) -> Result<(), RmError> {
        match Bundle::open(&self.bundle_path(id)).and_then(Bundle::remove) {
            Err(BundleError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => Ok(other?),
        }
    }

    /// Removes what nobody else will: containers that were to go with their process and whose end nobody saw, and
    /// bundles that no container has. Does nothing while a container is being started, which could be taken for one.
    pub(crate) fn sweep(&self) -> Result<(), Fault> {
        let path = self.bundles();
        let Ok(bundles) = sys::Dir::open_ambient(&path) else {
            return Ok(());
        };
        if flock(&bundles, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        let rows = self.store.containers(self.ns())?;
        let dead = rows
            .iter()
            .filter(|row| row.ephemeral && !self.state(&row.id).is_running())
            .map(|row| &*row.id);
        let entries = bundles.entries().unwrap_or_default();
        let names = entries
            .iter()
            .filter_map(|entry| entry.name.to_str())
            .filter(|name| is_id(name));
        let orphans = names.filter(|name| !rows.iter().any(|row| row.id == *name));
        for id in dead.chain(orphans) {
            // What cannot be removed now (a mount in use) is left to the next sweep.
            let _ = self.remove(id);
        }
        Ok(())
    }
}

/// Waits for the end of a process, until the deadline at most.
fn ends(pidfd: &OwnedFd, deadline: Instant) -> bool {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) => return false,
            Err(Errno::INTR) => {}
            _ => return true,
        }
    }
}

/// Ends what a supervisor that died without recording an end left in the container's cgroup, and removes that.
fn end_orphans(bundle: &Bundle) -> Result<(), RmError> {
    if runtime::state::load_exit(bundle)?.is_some() {
        return Ok(());
    }
    let Some(state) = runtime::state::load(bundle)? else {
        return Ok(());
    };
    let cgroup = Cgroup::open(&state.cgroups)?;
    cgroup.kill()?;
    Ok(cgroup.remove()?)
}

/// Whether a name in the directory of bundles is a container's.
fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Unmounts what strata mounted in a bundle.
pub(crate) fn detach(bundle: &Path) -> Result<(), MountError> {
    let memory = crate::run::shared_memory(bundle);
    mount::detach(&memory)?;
    mount::detach(&bundle.join(ROOTFS)).map(drop)
}
