//! Other limits for a container that runs.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::node::{Node, controllers, open};
use super::settings::{self, Setting};
use super::{Cgroup, CgroupError, Hierarchies, failed};

/// What can be changed, by controller: its files, and what they hold where nothing is limited. Of v1, memory and swap
/// together come before the memory, which may not be above it.
const UNIFIED: [(&str, &[(&str, &str)]); 3] = [
    ("memory", &[("memory.max", "max"), ("memory.swap.max", "max")]),
    ("cpu", &[("cpu.max", "max")]),
    ("pids", &[("pids.max", "max")]),
];
const V1: [(&str, &[(&str, &str)]); 3] = [
    (
        "memory",
        &[
            ("memory.memsw.limit_in_bytes", "-1"),
            ("memory.limit_in_bytes", "-1"),
        ],
    ),
    ("cpu", &[("cpu.cfs_quota_us", "-1")]),
    ("pids", &[("pids.max", "max")]),
];

impl Cgroup {
    /// Limits memory, time of processors and number of tasks as `resources` say, and lifts the limits of these that they do
    /// not name.
    ///
    /// # Errors
    /// The kernel refuses a value; or a limit needs a v1 hierarchy that the container was not put into when it was started.
    /// Limits that come before the one that is refused hold by then.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let hierarchies = Hierarchies::find()
            .map_err(|source| failed("find", Path::new("/proc/self/mountinfo"), source))?;
        let mount = hierarchies.unified();
        let offered = mount.map(controllers).unwrap_or_default();
        let needed = settings::needed(resources);
        for (controller, free) in UNIFIED {
            let limit = needed.iter().find(|one| one.unified == controller);
            match (&self.unified, mount) {
                (Some(node), Some(mount)) if offered.iter().any(|known| known == controller) => {
                    let settings = limit.map(|one| one.v2()).transpose()?.unwrap_or_default();
                    if let Some(first) = settings.first() {
                        enable(mount, node, controller, first.limit)?;
                    }
                    set(node, free, &settings)?;
                }
                _ => {
                    let free = V1.iter().find(|(known, _)| *known == controller);
                    let free = free.map_or(&[][..], |(_, free)| *free);
                    let settings = limit.map(|one| one.v1()).transpose()?.unwrap_or_default();
                    self.update_v1(free, &settings)?;
                }
            }
        }
        Ok(())
    }

    fn update_v1(&self, free: &[(&str, &str)], settings: &[Setting]) -> Result<(), CgroupError> {
        let has = |node: &&Node| free.iter().any(|(file, _)| node.path.join(file).exists());
        match (self.v1.iter().find(has), settings.first()) {
            (Some(node), _) => {
                // One after the other may not be above its neighbour on the way.
                set(node, free, &[])?;
                set(node, &[], settings)
            }
            (None, Some(first)) => Err(CgroupError::Unsupported {
                limit: first.limit,
                because: "the container was started without one, and on cgroup v1 a process that runs is not put under it; \
                          it holds from the next start on",
            }),
            (None, None) => Ok(()),
        }
    }
}

/// Lifts what is limited and not among `settings`, then sets those.
fn set(node: &Node, free: &[(&str, &str)], settings: &[Setting]) -> Result<(), CgroupError> {
    for (file, value) in free {
        let wanted = settings.iter().any(|setting| setting.file == *file);
        if !wanted && node.path.join(file).exists() {
            node.write(file, value).map_err(|source| CgroupError::Limit {
                limit: "lifting a limit",
                path: node.path.join(file),
                value: (*value).to_owned(),
                source,
            })?;
        }
    }
    settings.iter().try_for_each(|setting| node.set(setting))
}

/// Gives `node` a controller, from the root of the hierarchy down.
fn enable(mount: &Path, node: &Node, controller: &str, limit: &'static str) -> Result<(), CgroupError> {
    let place = node.path.strip_prefix(mount).unwrap_or(Path::new(""));
    let mut here = open(mount)?;
    for name in place {
        here.enable(&[controller], limit)?;
        let path = here.path.join(name);
        let dir = here.dir.open_dir(name);
        here = Node {
            dir: dir.map_err(|source| failed("open", &path, source))?,
            path,
        };
    }
    Ok(())
}
