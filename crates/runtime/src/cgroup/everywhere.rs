//! cgroups in v1 hierarchies that no limit needs, for engines that look into them.

use std::path::Path;

use oci_spec::runtime::Spec;

use super::node::{make, open};
use super::{Cgroup, Hierarchies, place_of};

/// Controllers of v1 that limit or count what a container uses.
const COUNTING: [&str; 6] = ["cpu", "cpuacct", "cpuset", "memory", "blkio", "pids"];

impl Cgroup {
    /// Goes besides into the v1 hierarchies that limit or count what a container uses, whether it has such a limit or not:
    /// engines read there what it has used, and ask for limits while it runs, when no process is moved any more. One that
    /// cannot be had is left out. `spec` and `id` are those that it was made of.
    pub fn go_everywhere(&mut self, hierarchies: &Hierarchies, spec: &Spec, id: &str) {
        let place = match (&self.unit, &self.unified, hierarchies.unified()) {
            (None, ..) => place_of(spec, id).ok(),
            (Some(_), Some(node), Some(mount)) => node.path.strip_prefix(mount).ok().map(Path::to_owned),
            _ => None,
        };
        let Some(place) = place else { return };
        for controller in COUNTING {
            let Some(mount) = hierarchies.v1(controller).ok().flatten() else {
                continue;
            };
            let path = mount.join(&place);
            if self.v1.iter().any(|node| node.path == path) {
                continue;
            }
            let node = match self.unit.is_some() && path.exists() {
                true => open(&path),
                false => make(&mount, &place, &[], None),
            };
            if let Ok(node) = node {
                match node.inherit_cpuset(&mount, &place) {
                    Ok(()) => self.v1.push(node),
                    // Without processors nobody can be in it.
                    Err(_) => drop(std::fs::remove_dir(&path)),
                }
            }
        }
    }
}
