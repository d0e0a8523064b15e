//! `update`: other limits for a container, at once and from the next start on, and another restart policy.

use runtime::bundle::{Bundle, BundleError};
use runtime::cgroup::{self, Cgroup, CgroupError};
use runtime::control::{Connection, Request, Restart};
use runtime::options::container::ResourceOptions;
use runtime::spec::{self, Host, SpecError};
use runtime::state;
use store::{ContainerError, Fault};

use crate::Engine;
use crate::run::{Details, Plan};

/// What is to be changed; what is `None` stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    /// Limits; 0 and less lift one.
    pub resources: ResourceOptions,
    /// Whether it is started again after its end.
    pub restart: Option<Restart>,
}

/// Why a container was not changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpdateError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// It was made by a strata that kept nothing to start it from.
    #[error("container {0} was made by an older strata, which kept nothing that could be changed")]
    NoPlan(String),
    /// It goes when it ends.
    #[error("container {0} goes when it ends (--rm), so nothing starts it again")]
    Ephemeral(String),
    /// Its cgroup is another runtime's, and strata knows none of it.
    #[error("container {0} is run by another OCI runtime, in a cgroup that strata did not make")]
    Foreign(String),
    /// The machine does not tell what it has.
    #[error("asking the kernel what it has: {0}")]
    Host(#[source] std::io::Error),
    /// Limits that contradict each other, or that the machine does not have.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// Its bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// No cgroup that it could be given would have the limits.
    #[error("container {name}: {source}")]
    Impossible {
        /// Its name.
        name: String,
        /// Why.
        source: CgroupError,
    },
    /// The kernel, of the container that runs. From the next start on the limits hold.
    #[error("container {name}: {source}")]
    Cgroup {
        /// Its name.
        name: String,
        /// Why.
        source: CgroupError,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Update {
    /// Changes what a container is started from.
    fn change(&self, plan: &mut Plan) {
        let resources = std::mem::take(&mut plan.container.resources);
        plan.container.resources = resources.overlaid(&self.resources);
        plan.restart = self.restart.unwrap_or(plan.restart);
    }
}

impl Engine {
    /// Changes a container: what is kept for its next start, then what runs.
    ///
    /// # Errors
    /// See [`UpdateError`]. Nothing is changed then, but for [`UpdateError::Cgroup`].
    pub fn update(&self, name: &str, update: &Update) -> Result<(), UpdateError> {
        let row = self.store.find_container(self.ns(), name)?;
        let no_plan = || UpdateError::NoPlan(row.name.clone());
        let plan = Details::of(&row).plan.ok_or_else(no_plan)?;
        if row.ephemeral && update.restart.is_some_and(|restart| restart != Restart::No) {
            return Err(UpdateError::Ephemeral(row.name));
        }
        if plan.runtime.is_some() && self.state(&row).is_running() {
            return Err(UpdateError::Foreign(row.name));
        }
        let host = Host::probe().map_err(UpdateError::Host)?;
        self.check_possible(&row, &plan, update, &host)?;
        // On what is kept at that moment: somebody else may change something too.
        let mut checked = Ok(());
        self.edit_plan(&row, |plan| {
            let mut changed = plan.clone();
            update.change(&mut changed);
            checked = spec::limits(&changed.container, &host).map(drop);
            if checked.is_ok() {
                *plan = changed;
            }
        })?;
        checked?;
        self.note_container(&row, "update", &[]);
        let Ok(bundle) = Bundle::open(&self.bundle_of(&row)) else {
            return Ok(());
        };
        if let Some(restart) = update.restart
            && let Ok(connection) = Connection::open(&bundle)
        {
            // One that ends at this moment does so by the policy it has.
            let _ = connection.send(&Request::Policy { restart }, &[]);
        }
        match update.resources == ResourceOptions::default() {
            true => Ok(()),
            false => self.apply_limits(&row, &bundle, &host),
        }
    }

    /// Refuses limits that would keep the container from being started ever again. One that runs in a cgroup has the same
    /// from whoever started it, which the caller need not be able to make.
    fn check_possible(
        &self,
        row: &store::Container,
        plan: &Plan,
        update: &Update,
        host: &Host,
    ) -> Result<(), UpdateError> {
        let has_cgroup = || {
            let state = Bundle::open(&self.bundle_of(row)).ok()?;
            let state = state::load(&state).ok()??;
            Cgroup::open(&state.cgroups).ok().filter(|own| !own.is_none())
        };
        if update.resources == ResourceOptions::default()
            || self.state(row).is_running() && has_cgroup().is_some()
        {
            return Ok(());
        }
        let mut asked = plan.container.clone();
        asked.resources = update.resources.clone();
        // What contradicts what is kept is refused where the two meet.
        let Ok(mut limits) = spec::limits(&asked, host) else {
            return Ok(());
        };
        if update.resources.pids_limit.is_none() {
            limits.set_pids(None);
        }
        let place = spec::cgroup(&plan.container, host, &row.id);
        cgroup::could_limit(&limits, &place).map_err(|source| UpdateError::Impossible {
            name: row.name.clone(),
            source,
        })
    }

    /// Has a container that runs keep to what its row says. One after the other, so that what the last of several wrote into
    /// the row is what holds.
    fn apply_limits(&self, row: &store::Container, bundle: &Bundle, host: &Host) -> Result<(), UpdateError> {
        let _lock = bundle.lock()?;
        let row = self.store.find_container(self.ns(), &row.id)?;
        let state = self.state(&row);
        let Some(plan) = Details::of(&row).plan.filter(|_| state.is_up()) else {
            return Ok(());
        };
        let mut limits = spec::limits(&plan.container, host)?;
        let mut spec = bundle.spec()?;
        let running = spec.linux().as_ref();
        let running = running.and_then(|linux| linux.resources().as_ref());
        if plan.container.resources.pids_limit.is_none() && running.is_none_or(|all| all.pids().is_none()) {
            // Nobody asked for a limit of them, and it was started where there was none.
            limits.set_pids(None);
        }
        let cgroup = |source| UpdateError::Cgroup {
            name: row.name.clone(),
            source,
        };
        if state.is_running()
            && let Some(state) = state::load(bundle)?
        {
            let changed = Cgroup::open(&state.cgroups).and_then(|own| own.update(&limits));
            changed.map_err(cgroup)?;
        }
        // What others read, and what a supervisor starts it from again.
        if let Some(linux) = spec.linux_mut().as_mut() {
            let mut all = linux.resources().clone().unwrap_or_default();
            all.set_memory(*limits.memory())
                .set_cpu(limits.cpu().clone())
                .set_pids(*limits.pids())
                .set_block_io(limits.block_io().clone());
            linux.set_resources(Some(all));
        }
        Ok(bundle.write_spec(&spec)?)
    }
}
