//! What a container is before it runs: an id, a name, rows, and a writable directory.

use std::path::Path;

use image::progress::Silent;
use jiff::Timestamp;
use runtime::state::boot_id;
use rustix::rand::{GetRandomFlags, getrandom};
use store::{ContainerError, NewContainer, PrepareOptions, SnapshotError, VolumeError};
use sys::Dir;

use super::base::{self, Base};
use super::host::{self, HostView, LeftOut};
use super::spec::Draft;
use super::start::{RunError, state_error};
use super::users::UsersError;
use super::{Details, Plan, Request, volumes};
use crate::{Engine, names};

/// A container that was made and not started.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
}

/// A container whose rows are there.
pub(super) struct Made {
    pub(super) plan: Plan,
    pub(super) draft: Draft,
    pub(super) name: String,
    /// The image's name, if there is one.
    pub(super) image: Option<String>,
    pub(super) created: Timestamp,
    pub(super) mounts: Vec<mount::Mount>,
    pub(super) left_out: Vec<LeftOut>,
}

/// A name that was made up may be taken; so many others are tried.
const ATTEMPTS: u32 = 16;

impl Engine {
    /// Makes a container on what [`Engine::base`] found, and does not start it.
    ///
    /// # Errors
    /// [`RunError`]; then nothing of the container is left.
    pub fn create(&self, request: &Request, base: Base) -> Result<Created, RunError> {
        let _starting = self.starting()?;
        let (id, dice) = chosen(&self.setup.state)?;
        let made = self.make(request, base, &id, dice, None)?;
        if let Ok(row) = self.store.find_container(self.ns(), &id) {
            self.note_container(&row, "create", &[]);
        }
        Ok(Created { id, name: made.name })
    }

    /// Rows, directories, and all that is known of a container before its root is mounted. A failure takes them back.
    pub(super) fn make(
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
        // No network that it names is removed before its row is there.
        let (networks, _kept) = self.resolve_networks(&request.plan.networks).map_err(Box::new)?;
        let (mut base, mut left) = (base, base::ATTEMPTS);
        let (plan, draft, (new, mounts)) = loop {
            left -= 1;
            let mut plan = self
                .with_volumes(request, base.execution.as_ref())
                .map_err(Box::new)?;
            plan.networks.clone_from(&networks);
            let _chosen = self.choose_ids(&mut plan).map_err(Box::new)?;
            if plan.container.users.ids().is_some() && view.is_some() {
                return Err(Box::new(UsersError::HostView).into());
            }
            plan.labels = self.choose_labels(&plan).map_err(Box::new)?;
            let draft = Draft::new(self, &plan, id).map_err(Box::new)?;
            match self.create_rows(request, &base, &plan, &draft, view.as_ref(), dice, started) {
                // Somebody removed the image since it was found: it is looked for again, or pulled.
                Err(RunError::Container(error)) if left > 0 && image_is_gone(&error) => {
                    base = self.base(request, &Silent).map_err(Box::new)?;
                }
                // Somebody removed a volume since it was seen: it is made.
                Err(RunError::Container(ContainerError::Volume(VolumeError::NotFound(_)))) if left > 0 => {}
                created => break (plan, draft, created?),
            }
        };
        if let Some(view) = &view
            && let Err(error) = self.prepare_view(id, view)
        {
            let _ = self.remove(id, true);
            return Err(error);
        }
        Ok(Made {
            plan,
            draft,
            name: new.name,
            image: new.image,
            created: new.created,
            mounts,
            left_out: view.map(|view| view.left_out).unwrap_or_default(),
        })
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
    ) -> Result<(NewContainer, Vec<mount::Mount>), RunError> {
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
                .chain(
                    plan.container
                        .volumes
                        .iter()
                        .map(|volume| volume.destination.clone()),
                )
                .collect(),
            plan: Some(plan.clone()),
            state: Some(self.state_dir().to_owned()),
            started,
            boot: started.and_then(|_| boot_id().ok().cloned()),
            stopped: false,
            ended: None,
            hidden: view.map(|view| view.hidden().collect()).unwrap_or_default(),
        };
        let ids = plan.container.users.ids();
        let snapshot = PrepareOptions {
            lower: base.lower.clone(),
            volatile: request.remove,
            driver: plan.driver,
            size: plan.container.storage_size,
            uid_map: ids.as_ref().map(|ids| ids.users.to_string()),
            gid_map: ids.as_ref().map(|ids| ids.groups.to_string()),
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
            details: details.kept(),
        };
        let volumes = volumes::wanted(plan);
        let mut attempt = 0;
        loop {
            new.name = request.name.clone().unwrap_or_else(|| names::name(dice, attempt));
            match self
                .store
                .create_container_with(&new, Some((parent.as_deref(), &snapshot)), &volumes)
            {
                Ok((mounts, made)) => {
                    for name in made {
                        self.note("volume", "create", &name);
                    }
                    return Ok((new, mounts));
                }
                Err(ContainerError::NameInUse { .. }) if request.name.is_none() && attempt < ATTEMPTS => {
                    attempt += 1
                }
                Err(error) => {
                    let gone = parent.as_deref().and_then(|chain| self.missing_layer(chain));
                    return Err(gone.unwrap_or(error.into()));
                }
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
}

/// Whether what a container was to stand on is not there any more.
fn image_is_gone(error: &ContainerError) -> bool {
    matches!(
        error,
        ContainerError::ManifestGone(_) | ContainerError::Snapshot(SnapshotError::NotFound(_))
    )
}

/// An id, and where among the names that are made up one is sought.
pub(super) fn chosen(state: &Path) -> Result<(String, u16), RunError> {
    let mut random = [0; 34];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|e| state_error("reading random bytes for", state, e.into()))?;
    let [id @ .., high, low] = random;
    let id = id.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((id, u16::from_be_bytes([high, low])))
}
