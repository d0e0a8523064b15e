//! Other limits for a container that runs.

use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::node::{Node, controllers, open};
use super::settings::{self, Setting};
use super::{Cgroup, CgroupError, Hierarchies, failed};

/// What can be changed, by controller: a file that the controller always has, and the files that are written with what they
/// hold where nothing is limited. Of v1, memory and swap together come before the memory, which may not be above it.
const UNIFIED: [Limited; 7] = [
    (
        "memory",
        "memory.max",
        &[
            ("memory.max", "max"),
            ("memory.swap.max", "max"),
            ("memory.low", "0"),
        ],
    ),
    (
        "cpu",
        "cpu.max",
        &[("cpu.max", "max 100000"), ("cpu.weight", "100")],
    ),
    ("cpuset", "cpuset.cpus", &[]),
    (
        "io",
        "io.max",
        &[("io.bfq.weight", "100"), ("io.weight", "default 100")],
    ),
    ("pids", "pids.max", &[("pids.max", "max")]),
    ("hugetlb", EACH, &[]),
    ("rdma", "rdma.max", &[]),
];
const V1: [Limited; 7] = [
    (
        "memory",
        "memory.limit_in_bytes",
        &[
            ("memory.memsw.limit_in_bytes", "-1"),
            ("memory.limit_in_bytes", "-1"),
            ("memory.soft_limit_in_bytes", "-1"),
        ],
    ),
    (
        "cpu",
        "cpu.shares",
        &[("cpu.cfs_quota_us", "-1"), ("cpu.shares", "1024")],
    ),
    ("cpuset", "cpuset.cpus", &[]),
    (
        "io",
        "blkio.throttle.read_bps_device",
        &[("blkio.weight", "500"), ("blkio.bfq.weight", "100")],
    ),
    ("pids", "pids.max", &[("pids.max", "max")]),
    ("hugetlb", EACH, &[]),
    ("rdma", "rdma.max", &[]),
];

/// In the place of a file that the controller always has, where each has others: one for each size of page.
const EACH: &str = "";

/// A controller, by its name in v2.
type Limited = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

impl Cgroup {
    /// Limits memory, time of processors, block I/O and number of tasks as `resources` say, and lifts the limits of these
    /// that they do not name. Which processors and memory nodes it has, and how much of huge pages and RDMA, is only changed.
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
        let mut written: Vec<(String, String)> = Vec::new();
        for (controller, _, free) in UNIFIED {
            let limit = needed.iter().find(|one| one.unified == controller);
            match (&self.unified, mount) {
                (Some(node), Some(mount)) if offered.iter().any(|known| known == controller) => {
                    let settings = limit.map(|one| one.v2()).transpose()?.unwrap_or_default();
                    if let Some(first) = settings.first() {
                        enable(mount, node, controller, first.limit)?;
                    }
                    set(node, free, &settings)?;
                    let lifted = free.iter().filter(|(file, _)| node.path.join(file).exists());
                    written.extend(lifted.map(|(file, value)| ((*file).to_owned(), (*value).to_owned())));
                    written.extend(settings.into_iter().map(|one| (one.file, one.value)));
                }
                // The kernel's words for v2 mean nothing on v1.
                _ if limit.is_some_and(|limit| limit.legacy.is_none()) => {
                    return Err(CgroupError::Unsupported {
                        limit: "a value of \"unified\"",
                        because: "this machine does not offer its controller on a cgroup2",
                    });
                }
                _ => {
                    let settings = limit.map(|one| one.v1()).transpose()?.unwrap_or_default();
                    for (_, mark, free) in V1.iter().filter(|(known, ..)| *known == controller) {
                        self.update_v1(mark, free, &settings)?;
                    }
                }
            }
        }
        match &self.unit {
            Some(unit) => unit.told(
                written
                    .iter()
                    .map(|(file, value)| (file.as_str(), value.as_str())),
            ),
            None => Ok(()),
        }
    }

    fn update_v1(&self, mark: &str, free: &[(&str, &str)], settings: &[Setting]) -> Result<(), CgroupError> {
        let mark = match (mark, settings.first()) {
            (EACH, Some(first)) => first.file.as_str(),
            (EACH, None) => return Ok(()),
            (mark, _) => mark,
        };
        let has = |node: &&Node| node.path.join(mark).exists();
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
