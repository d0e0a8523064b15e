//! The container's cgroup: what it may use, and how all of it is stopped at once.
//!
//! Every container has a cgroup2 of its own, also on a machine whose cgroup2 has no controllers and stands beside v1:
//! killing and freezing all processes and refusing devices work there too, and a process can be born in it
//! ([`Cgroup::fd`], `CLONE_INTO_CGROUP`) for a fraction of the cost of joining a v1 hierarchy. A v1 hierarchy is
//! joined only where a limit needs its controller, or [for an engine that looks there](Cgroup::go_everywhere), and a v2
//! controller is enabled, from the root down, only where a limit needs it. With no usable cgroup at all a container without limits runs all the same; one with a limit is
//! refused, and the error names what is missing.
//!
//! An ordinary user makes cgroups beneath one that belongs to the user ([`delegated`]), and has none where there is none.
//!
//! It lies at `linux.cgroupsPath` below the root of each hierarchy, or at `/strata/<id>`. On a machine that systemd
//! manages that is outside of every unit and slice, where systemd leaves it alone. Parents that strata made it
//! removes when they have become empty; nothing stays behind.
//!
//! ```text
//! create(spec, id) → fd() for clone3, doors() for the process itself → … kill(), freeze(), oom_kills() … → remove()
//! ```

mod below;
mod everywhere;
mod hierarchy;
mod life;
mod node;
mod settings;
mod sweep;
mod systemd;
mod update;
mod usage;

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};
use serde::{Deserialize, Serialize};
use sys::Dir;

use crate::devices::{Loaded, RuleError, Rules};
pub use below::Below;
pub use hierarchy::Hierarchies;
pub use node::Door;
use node::{Node, controllers, make, open};
pub use sweep::{FORGOTTEN, sweep};
pub use systemd::{Manager, Unit};

/// Where containers' cgroups lie when nothing else is asked.
pub const DEFAULT_PARENT: &str = "/strata";

/// Why a cgroup cannot be made, or a limit not set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// The path asked for is none.
    #[error("cgroup path {path:?}: {problem}")]
    Path {
        /// `linux.cgroupsPath`, or what was made of it.
        path: PathBuf,
        /// What is wrong.
        problem: &'static str,
    },
    /// There is a cgroup at that place, and processes are in it.
    #[error("cgroup {path:?} exists and is in use")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A limit needs a controller that this machine does not offer.
    #[error("{limit} needs the cgroup controller {controller}, which this machine does not offer: {because}")]
    Controller {
        /// What was asked for.
        limit: &'static str,
        /// The controller by its name in v2.
        controller: String,
        /// Where it was looked for.
        because: String,
    },
    /// A limit that this version of cgroups does not have.
    #[error("{limit} cannot be set: {because}")]
    Unsupported {
        /// What was asked for.
        limit: &'static str,
        /// Why.
        because: &'static str,
    },
    /// systemd does not do its part.
    #[error("cannot {what} ({socket:?}): {problem}")]
    Systemd {
        /// What was tried.
        what: &'static str,
        /// Where it is reached.
        socket: PathBuf,
        /// What it says.
        problem: String,
    },
    /// The kernel does not take a limit.
    #[error("{limit} cannot be set: writing {value:?} to {path:?}: {source}")]
    Limit {
        /// What was asked for.
        limit: &'static str,
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A device rule that means nothing.
    #[error(transparent)]
    DeviceRule(#[from] RuleError),
    /// Anything else that the kernel refuses.
    #[error("cannot {what} cgroup {path:?}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// Processes in it do not end.
    #[error("cgroup {path:?}: processes {pids:?} do not end")]
    DoesNotEnd {
        /// The directory.
        path: PathBuf,
        /// Those left.
        pids: Vec<i32>,
    },
}

impl CgroupError {
    /// Whether the cgroup is not there any more: what was in it has ended, and somebody has taken its remains away.
    pub fn is_gone(&self) -> bool {
        matches!(self, CgroupError::Io { source, .. } if life::gone(source))
    }
}

/// Who refuses devices to the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DeviceControl {
    /// The rules refuse nothing.
    NotNeeded,
    /// A program on the cgroup2.
    Program,
    /// The v1 controller.
    Controller,
    /// Nobody: neither can be had. All that is mounted must be `nodev`, but single devices.
    Missing,
}

/// Where a container's cgroups are: enough to find them again from another process ([`Cgroup::open`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupPaths {
    /// The cgroup2 directory.
    pub unified: Option<PathBuf>,
    /// The v1 directories, one for each hierarchy that was joined.
    pub v1: Vec<PathBuf>,
    /// The scope that they belong to, where systemd made them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<Unit>,
}

impl CgroupPaths {
    /// Whether somebody asked for its processes to be held still.
    pub fn is_frozen(&self) -> bool {
        let Some(path) = &self.unified else { return false };
        crate::state::read_proc(path.join("cgroup.freeze")).is_ok_and(|text| text.starts_with(b"1"))
    }
}

/// A container's cgroup, in every hierarchy where it has one.
#[derive(Debug)]
pub struct Cgroup {
    unified: Option<Node>,
    v1: Vec<Node>,
    devices: DeviceControl,
    /// Of systemd's.
    unit: Option<Unit>,
    placeholder: RefCell<Option<systemd::Placeholder>>,
}

impl Cgroup {
    /// Makes the cgroup that `spec` asks for, with its limits and device rules, with no process in it.
    ///
    /// # Errors
    /// See [`CgroupError`]. Whatever was made until then is removed again.
    pub fn create(spec: &Spec, id: &str) -> Result<Cgroup, CgroupError> {
        let hierarchies = Hierarchies::find()
            .map_err(|source| failed("find", Path::new("/proc/self/mountinfo"), source))?;
        Cgroup::create_in(&hierarchies, spec, id, None)
    }

    /// As [`Cgroup::create`], in hierarchies found before, and with the device program `loaded` where that is the one
    /// needed.
    ///
    /// # Errors
    /// As [`Cgroup::create`].
    pub fn create_in(
        hierarchies: &Hierarchies,
        spec: &Spec,
        id: &str,
        loaded: Option<&Loaded>,
    ) -> Result<Cgroup, CgroupError> {
        let linux = spec.linux().as_ref();
        let place = place_of(spec, id)?;
        let mut cgroup = Cgroup {
            unified: None,
            v1: Vec::new(),
            devices: DeviceControl::Missing,
            unit: None,
            placeholder: RefCell::default(),
        };
        let made = match linux.and_then(|linux| linux.resources().as_ref()) {
            Some(resources) => cgroup.fill(hierarchies, &place, resources, loaded),
            None => cgroup.fill(hierarchies, &place, &LinuxResources::default(), None),
        };
        match made {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // The first error is the one to tell.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// Finds a container's cgroup again. Directories that are gone are left out.
    ///
    /// # Errors
    /// One cannot be opened though it is there.
    pub fn open(paths: &CgroupPaths) -> Result<Cgroup, CgroupError> {
        let open = |path: &PathBuf| match Dir::open_ambient(path) {
            Ok(dir) => Ok(Some(Node {
                dir,
                path: path.clone(),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(failed("open", path, source)),
        };
        let unified = paths.unified.as_ref().map(open).transpose()?.flatten();
        let v1 = paths
            .v1
            .iter()
            .filter_map(|path| open(path).transpose())
            .collect::<Result<_, _>>()?;
        Ok(Cgroup {
            unified,
            v1,
            devices: DeviceControl::NotNeeded,
            unit: paths.unit.clone(),
            placeholder: RefCell::default(),
        })
    }

    /// Finds what is there of the cgroup that `spec` asks for, in every hierarchy, with no record of where it was made:
    /// for one whose supervisor died before or without writing one. An empty `Cgroup` when there is nothing.
    ///
    /// # Errors
    /// As [`Cgroup::open`].
    pub fn find(spec: &Spec, id: &str) -> Result<Cgroup, CgroupError> {
        Cgroup::find_at(&place_of(spec, id)?)
    }

    /// As [`Cgroup::find`], at a place below the root of every hierarchy.
    ///
    /// # Errors
    /// As [`Cgroup::open`].
    pub fn find_at(place: &Path) -> Result<Cgroup, CgroupError> {
        let place = self::place(place)?;
        let fail = |source| failed("find", Path::new("/proc/self/mountinfo"), source);
        let hierarchies = Hierarchies::find().map_err(fail)?;
        let below = |mount: PathBuf| mount.join(&place);
        Cgroup::open(&CgroupPaths {
            unified: hierarchies.unified().map(Path::to_owned).map(below),
            v1: hierarchies
                .all_v1()
                .map_err(fail)?
                .into_iter()
                .map(below)
                .collect(),
            unit: None,
        })
    }

    /// Whether there is none: the container does without.
    pub fn is_none(&self) -> bool {
        self.unified.is_none() && self.v1.is_empty()
    }

    /// Where it is.
    pub fn paths(&self) -> CgroupPaths {
        CgroupPaths {
            unified: self.unified.as_ref().map(|node| node.path.clone()),
            v1: self.v1.iter().map(|node| node.path.clone()).collect(),
            unit: self.unit.clone(),
        }
    }

    /// The cgroup2 directory, for `clone3` with `CLONE_INTO_CGROUP`; `None` on a machine without cgroup2. The cgroup
    /// namespace of a process born so must be unshared by itself, afterwards: `CLONE_NEWCGROUP` in the same call
    /// would take the caller's cgroup as its root.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|node| node.dir.as_fd())
    }

    /// The ways into the v1 hierarchies that limits need: a process is not born there, but can go by itself.
    ///
    /// # Errors
    /// One cannot be opened.
    pub fn doors(&self) -> Result<Vec<Door>, CgroupError> {
        self.v1.iter().map(Door::of).collect()
    }

    /// Puts a process into the cgroup2, for kernels without `CLONE_INTO_CGROUP` (before 5.7).
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn join_unified(&self, pid: i32) -> Result<(), CgroupError> {
        self.unified.iter().try_for_each(|node| node.join(pid))
    }

    /// Who refuses devices.
    pub fn devices(&self) -> DeviceControl {
        self.devices
    }

    fn fill(
        &mut self,
        hierarchies: &Hierarchies,
        place: &Path,
        resources: &LinuxResources,
        loaded: Option<&Loaded>,
    ) -> Result<(), CgroupError> {
        let needed = settings::needed(resources);
        let mut unified = Vec::new();
        let mut legacy: Vec<(PathBuf, Vec<settings::Setting>)> = Vec::new();
        // systemd gives a unit what it gives it.
        let place_of_offer = |mount: &Path| match self.unit {
            Some(_) => mount.join(place),
            None => mount.to_path_buf(),
        };
        let offered = hierarchies.unified().map(place_of_offer);
        let offered = offered.as_deref().map(controllers).unwrap_or_default();
        for one in &needed {
            let at =
                |controller: &'static str| hierarchies.v1(controller).map_err(|e| failed("find", place, e));
            if offered.iter().any(|controller| controller == one.unified) || one.unified == "cgroup" {
                unified.push((one.unified, one.v2().map_err(CgroupError::from)?));
            } else if let Some(mount) = one.legacy.map(at).transpose()?.flatten() {
                let settings = one.v1().map_err(CgroupError::from)?;
                match legacy.iter_mut().find(|(known, _)| *known == mount) {
                    Some((_, list)) => list.extend(settings),
                    None => legacy.push((mount, settings)),
                }
            } else {
                let because = match hierarchies.unified() {
                    None => "no cgroup hierarchy that has it is mounted".to_owned(),
                    Some(mount) if offered.is_empty() => {
                        format!(
                            "the cgroup2 at {} has no controllers, and no v1 hierarchy has it",
                            mount.display()
                        )
                    }
                    Some(mount) => format!("the cgroup2 at {} has {}", mount.display(), offered.join(", ")),
                };
                let controller = one.unified.to_owned();
                return Err(CgroupError::Controller {
                    limit: one.limit(),
                    controller,
                    because,
                });
            }
        }

        if let Some(mount) = hierarchies.unified() {
            let wanted: Vec<&str> = unified
                .iter()
                .map(|(c, _)| *c)
                .filter(|c| *c != "cgroup")
                .collect();
            let limit = needed
                .iter()
                .find(|one| wanted.contains(&one.unified))
                .map(|one| one.limit());
            let made = match self.unit {
                Some(_) => open(&mount.join(place)),
                None => make(mount, place, &wanted, limit),
            };
            match made {
                Ok(node) => self.unified = Some(node),
                // A container without limits does without, unless a place was asked for.
                Err(CgroupError::Io { .. }) if unified.is_empty() && is_default(place) => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(node) = &self.unified {
            for setting in unified.iter().flat_map(|(_, settings)| settings) {
                node.set(setting)?;
            }
        }
        for (mount, settings) in &legacy {
            let has = self.unit.is_some() && mount.join(place).exists();
            self.v1.push(match has {
                true => open(&mount.join(place))?,
                false => make(mount, place, &[], None)?,
            });
            let node = &self.v1[self.v1.len() - 1];
            node.inherit_cpuset(mount, place)?;
            for setting in settings {
                node.set(setting)?;
            }
        }
        if let Some(unit) = &self.unit {
            let written = unified.iter().flat_map(|(_, settings)| settings);
            unit.told(written.map(|one| (one.file.as_str(), one.value.as_str())))?;
        }
        self.control_devices(hierarchies, place, resources, loaded)?;
        if self.unified.is_none() && self.v1.is_empty() && !is_default(place) {
            return Err(CgroupError::Path {
                path: Path::new("/").join(place),
                problem: "no cgroup2 hierarchy is mounted that it could be made in",
            });
        }
        Ok(())
    }

    fn control_devices(
        &mut self,
        hierarchies: &Hierarchies,
        place: &Path,
        resources: &LinuxResources,
        loaded: Option<&Loaded>,
    ) -> Result<(), CgroupError> {
        let rules = Rules::new(resources.devices().as_deref().unwrap_or_default())?;
        if rules.allow_everything() {
            self.devices = DeviceControl::NotNeeded;
            return Ok(());
        }
        if let Some(node) = &self.unified {
            let attached = match loaded.filter(|loaded| *loaded.rules() == rules) {
                Some(loaded) => loaded.attach(&node.dir),
                None => Loaded::new(rules.clone()).and_then(|loaded| loaded.attach(&node.dir)),
            };
            if attached.is_ok() {
                self.devices = DeviceControl::Program;
                return Ok(());
            }
        }
        let mount = hierarchies
            .v1("devices")
            .map_err(|error| failed("find", place, error))?;
        let made = mount.map(|mount| match self.unit.is_some() && mount.join(place).exists() {
            true => open(&mount.join(place)),
            false => make(&mount, place, &[], None),
        });
        let made = made.transpose();
        if let Ok(Some(node)) = made {
            let node = match self.v1.iter().position(|known| known.path == node.path) {
                Some(at) => &self.v1[at],
                None => {
                    self.v1.push(node);
                    &self.v1[self.v1.len() - 1]
                }
            };
            let written = rules
                .v1()
                .into_iter()
                .try_for_each(|(file, value)| node.write(file, &value));
            if written.is_ok() {
                self.devices = DeviceControl::Controller;
            }
        }
        Ok(())
    }
}

/// Refuses limits that no cgroup at `place` could have: none can be made there, or none with their controllers.
///
/// # Errors
/// [`CgroupError::Controller`], of the first limit.
pub fn could_limit(resources: &LinuxResources, place: &Path) -> Result<(), CgroupError> {
    let hierarchies =
        Hierarchies::find().map_err(|source| failed("find", Path::new("/proc/self/mountinfo"), source))?;
    let parent = place.parent().unwrap_or(place);
    let needed = settings::needed(resources);
    let lacking = needed
        .iter()
        .find(|one| one.unified != "cgroup" && !hierarchies.gives(one.unified, one.legacy, parent));
    lacking.map_or(Ok(()), |one| {
        Err(CgroupError::Controller {
            limit: one.limit(),
            controller: one.unified.to_owned(),
            because: format!("no cgroup with it can be made beneath {}", parent.display()),
        })
    })
}

/// Where the cgroup of `spec` lies below the root of a hierarchy.
fn place_of(spec: &Spec, id: &str) -> Result<PathBuf, CgroupError> {
    let asked = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.cgroups_path().as_deref());
    match asked {
        Some(path) if !path.as_os_str().is_empty() => place(path),
        _ => place(&Path::new(DEFAULT_PARENT).join(id)),
    }
}

/// Whether nobody asked for this place, below the root of a hierarchy.
fn is_default(place: &Path) -> bool {
    let place = Path::new("/").join(place);
    place.starts_with(DEFAULT_PARENT) || delegated().is_some_and(|parent| place.starts_with(parent))
}

/// Where containers' cgroups lie, beneath the root of the cgroup2 hierarchy, when nothing else is asked and that root
/// belongs to somebody else: beneath the highest of those cgroups which the calling process is in and which belong to
/// its user. `None` where none does: a process is moved only within what its mover owns (cgroups(7), "Delegation
/// containment").
pub fn delegated() -> Option<PathBuf> {
    let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let hierarchies = Hierarchies::find().ok()?;
    let mount = hierarchies.unified()?;
    let user = rustix::process::geteuid().as_raw();
    let ours = |path: &Path| rustix::fs::stat(mount.join(path)).is_ok_and(|stat| stat.st_uid == user);
    let highest = Path::new(own)
        .ancestors()
        .take_while(|path| !path.as_os_str().is_empty() && ours(path))
        .last()?;
    let parent = DEFAULT_PARENT.trim_start_matches('/');
    Some(Path::new("/").join(highest).join(parent))
}

/// `linux.cgroupsPath` as names below a hierarchy's root.
fn place(path: &Path) -> Result<PathBuf, CgroupError> {
    let wrong = |problem| CgroupError::Path {
        path: path.to_owned(),
        problem,
    };
    if systemd::is_form(path) {
        return Err(wrong(
            "SLICE:PREFIX:NAME is a unit of systemd's: give --systemd-cgroup",
        ));
    }
    let mut names = PathBuf::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => names.push(name),
            _ => return Err(wrong("it leads upwards")),
        }
    }
    if names.as_os_str().is_empty() {
        return Err(wrong("it is the root of the hierarchy"));
    }
    Ok(names)
}

fn failed(what: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

impl From<settings::Unsupported> for CgroupError {
    fn from(unsupported: settings::Unsupported) -> CgroupError {
        CgroupError::Unsupported {
            limit: unsupported.limit,
            because: unsupported.because,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        for (path, expected) in [("/a/b", "a/b"), ("a/b", "a/b"), ("//a/./b/", "a/b")] {
            assert_eq!(place(Path::new(path)).unwrap(), Path::new(expected), "{path}");
        }
        for (path, says) in [
            ("/", "root"),
            ("", "root"),
            ("/a/../b", "upwards"),
            ("system.slice:x:y", "systemd"),
        ] {
            let error = place(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(says), "{path}: {error}");
        }
    }
}
