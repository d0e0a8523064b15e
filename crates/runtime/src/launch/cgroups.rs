//! The container's cgroups, as far as whoever launches it deals with them: ours, or none where another runtime makes its
//! own.

use std::os::fd::BorrowedFd;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use sys::Dir;

use crate::cgroup::{Cgroup, CgroupPaths, DeviceControl, Door, Hierarchies, Manager};
use crate::control::Concern;
use crate::devices::Loaded;

use super::{CgroupView, Fault, Result, sibling};

/// The cgroup of one container and what a mount of type `cgroup` shows in it.
pub(crate) struct Cgroups {
    own: Option<Cgroup>,
    view: CgroupView,
}

impl Cgroups {
    /// Of a container that somebody else looks after.
    pub(crate) fn none() -> Cgroups {
        Cgroups {
            own: None,
            view: CgroupView::None,
        }
    }

    /// Those of a container that is made already.
    pub(crate) fn of(own: Cgroup) -> Cgroups {
        Cgroups {
            own: Some(own),
            view: CgroupView::None,
        }
    }

    /// Makes what the spec asks for; `loaded` is used where it is the device program needed.
    pub(crate) fn create(spec: &Spec, id: &str, loaded: Option<&Loaded>) -> Result<Cgroups> {
        let hierarchies = Hierarchies::find().map_err(|error| fault(&error))?;
        let own = Cgroup::create_in(&hierarchies, spec, id, loaded).map_err(|error| fault(&error))?;
        Ok(Cgroups::viewed(own, &hierarchies, spec))
    }

    /// As [`Cgroups::create`], by `manager` where one is given, for an engine that looks into the hierarchies itself.
    pub(crate) fn create_for_engine(manager: Option<&Manager>, spec: &Spec, id: &str) -> Result<Cgroups> {
        let hierarchies = Hierarchies::find().map_err(|error| fault(&error))?;
        let own = match manager {
            Some(manager) => Cgroup::create_as_unit(manager, &hierarchies, spec, id),
            None => Cgroup::create_in(&hierarchies, spec, id, None),
        };
        let mut own = own.map_err(|error| fault(&error))?;
        own.go_everywhere(&hierarchies, spec, id);
        Ok(Cgroups::viewed(own, &hierarchies, spec))
    }

    fn viewed(own: Cgroup, hierarchies: &Hierarchies, spec: &Spec) -> Cgroups {
        let listed = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref());
        let namespaced = listed
            .into_iter()
            .flatten()
            .any(|one| one.typ() == LinuxNamespaceType::Cgroup);
        let view = match hierarchies.unified() {
            None => CgroupView::None,
            // Only its own cgroup is a root that hides the host's.
            Some(_) if namespaced && own.fd().is_some() => CgroupView::Namespaced,
            Some(_) if namespaced => CgroupView::None,
            Some(mount) => CgroupView::Host(mount.to_path_buf()),
        };
        Cgroups { own: Some(own), view }
    }

    /// The cgroup2 that the process is born in.
    pub(crate) fn birth_place(&self) -> Option<BorrowedFd<'_>> {
        self.own.as_ref().and_then(Cgroup::fd)
    }

    /// The one that a further process is born in where that takes none, beside the container's first process.
    pub(crate) fn place_below(&self, first: BorrowedFd<'_>) -> Option<Dir> {
        self.own.as_ref()?.place_below(|| sibling::number(first).ok())
    }

    /// The ways into the others, which it has to go by itself.
    pub(crate) fn doors(&self) -> Result<Vec<Door>> {
        let doors = self.own.as_ref().map(Cgroup::doors);
        doors.unwrap_or(Ok(Vec::new())).map_err(|error| fault(&error))
    }

    /// Whether there is none.
    pub(crate) fn is_none(&self) -> bool {
        self.own.as_ref().is_none_or(Cgroup::is_none)
    }

    /// The container's first process is there.
    pub(crate) fn settle(&self) {
        self.own.iter().for_each(Cgroup::settle);
    }

    /// Whether they refuse the devices that the spec refuses.
    pub(crate) fn refuse_devices(&self) -> bool {
        self.own
            .as_ref()
            .is_none_or(|own| own.devices() != DeviceControl::Missing)
    }

    /// What a mount of type `cgroup` shows.
    pub(crate) fn view(&self) -> CgroupView {
        self.view.clone()
    }

    /// Where they are, for those who come when no supervisor is left.
    pub(crate) fn paths(&self) -> CgroupPaths {
        self.own.as_ref().map(Cgroup::paths).unwrap_or_default()
    }

    /// Whether the kernel killed one of the container's processes for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        self.own
            .as_ref()
            .and_then(Cgroup::oom_kills)
            .is_some_and(|kills| kills > 0)
    }

    /// Asks for all processes to stand still, or to go on; does not wait until they do.
    pub(crate) fn hold_still(&self, still: bool) -> std::io::Result<()> {
        match &self.own {
            Some(own) => own.ask_frozen(still).map_err(std::io::Error::other),
            None => Err(std::io::Error::other("its cgroup is another runtime's")),
        }
    }

    /// Kills what is left in them; what went wrong, if something did.
    pub(crate) fn kill(&self) -> Option<String> {
        self.own
            .as_ref()
            .and_then(|own| own.kill().err())
            .map(|error| error.to_string())
    }

    /// Removes them; what went wrong, if something did.
    pub(crate) fn end(self) -> Option<String> {
        self.own
            .and_then(|own| own.remove().err())
            .map(|error| error.to_string())
    }
}

fn fault(error: &dyn std::fmt::Display) -> Fault {
    Fault::new(error.to_string()).about(Concern::Cgroup)
}

/// Puts the calling process, which has one thread, into all that these lead to.
pub(super) fn enter(doors: &[Door]) -> Result<()> {
    doors
        .iter()
        .try_for_each(Door::enter)
        .map_err(|error| fault(&error))
}
