//! [`Host`]: what a spec needs to know of the machine.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Capability;
use sys::ids::Ids;

use crate::cgroup::Hierarchies;
use crate::seccomp::Abi;

/// Facts of the machine and of who runs strata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Capabilities that can be passed on.
    pub capabilities: HashSet<Capability>,
    /// Major and minor version of the kernel.
    pub kernel: (u32, u32),
    /// The machine's own system call ABI, where strata knows its calls.
    pub abi: Option<Abi>,
    /// Whether memory and swap can be limited together; `None` to look when a limit makes it matter.
    pub counts_swap: Option<bool>,
    /// Whether the number of a container's processes can be limited; `None` to look.
    pub counts_processes: Option<bool>,
    /// CPUs that this process may run on; `None` to look when a limit makes it matter.
    pub cpus: Option<u32>,
    /// The ids of the user namespace that strata is in, where that is not the machine's own.
    pub ids: Option<Ids>,
    /// Where an ordinary user's cgroups lie, if one was given to the user.
    pub cgroup_parent: Option<PathBuf>,
    /// Existing paths below `/sys/devices/system/cpu` that tell of the machine's heat.
    pub thermal: Vec<String>,
}

impl Host {
    /// Looks at the machine: system calls alone, and few that look at a file.
    ///
    /// # Errors
    /// The kernel does not tell the caller's capabilities.
    pub fn probe() -> io::Result<Host> {
        let own = sys::caps::current()?;
        let given = own.bounding.intersection(own.permitted);
        let name = rustix::system::uname();
        let ids = Ids::own()?;
        let thermal = |cpu: usize| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle");
        let exists = |path: &str| rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok();
        Ok(Host {
            // A capability that has no name in the spec cannot be written into one.
            capabilities: given
                .names()
                .filter_map(|name| name.strip_prefix("CAP_")?.parse().ok())
                .collect(),
            kernel: version(&name.release().to_string_lossy()),
            abi: Abi::native(),
            counts_swap: None,
            counts_processes: None,
            cpus: None,
            cgroup_parent: match ids.are_the_machines() {
                true => None,
                false => crate::cgroup::delegated(),
            },
            ids: (!ids.are_the_machines()).then_some(ids),
            // All of them or none.
            thermal: match exists(&thermal(0)) {
                true => (0..).map(thermal).take_while(|path| exists(path)).collect(),
                false => Vec::new(),
            },
        })
    }
}

impl Host {
    /// The highest group that a container can have.
    pub(super) fn highest_group(&self) -> u32 {
        self.ids.as_ref().map_or(u32::MAX, |ids| ids.groups.highest())
    }

    pub(super) fn counts_swap(&self) -> bool {
        let look = || Hierarchies::find().is_ok_and(|hierarchies| hierarchies.counts_swap());
        self.counts_swap.unwrap_or_else(look)
    }

    /// In a cgroup beneath `asked`, where that is said.
    pub(super) fn counts_processes(&self, asked: Option<&str>) -> bool {
        let look = || {
            let usual = self.cgroup_parent.as_deref();
            let usual = usual.unwrap_or(Path::new(crate::cgroup::DEFAULT_PARENT));
            let parent = asked.map_or(usual, Path::new);
            Hierarchies::find().is_ok_and(|found| found.counts_processes(parent))
        };
        self.counts_processes.unwrap_or_else(look)
    }

    /// As the peers count them: those of the machine, less those that strata itself may not use.
    pub(super) fn cpus(&self) -> u32 {
        let look = || rustix::thread::sched_getaffinity(None).map_or(u32::MAX, |set| set.count());
        self.cpus.unwrap_or_else(look)
    }
}

/// `6.1.0-18-cloud-amd64` → (6, 1).
fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map_while(|part| part.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        for (release, expected) in [
            ("6.1.0-18-cloud-amd64", (6, 1)),
            ("5.10", (5, 10)),
            ("6.18.44-fc", (6, 18)),
            ("x", (0, 0)),
        ] {
            assert_eq!(version(release), expected, "{release}");
        }
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let host = Host::probe().unwrap();
        assert!(host.kernel > (4, 0));
    }
}
