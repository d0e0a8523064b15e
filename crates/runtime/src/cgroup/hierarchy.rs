//! Where the machine keeps its cgroups.

use std::cell::OnceCell;
use std::io;
use std::path::{Path, PathBuf};

/// `CGROUP_SUPER_MAGIC` and `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP_MAGIC: u32 = 0x0027_e0eb;
const CGROUP2_MAGIC: u32 = 0x6367_7270;

/// Where everybody mounts the v1 hierarchy that every start wants.
const USUAL_PIDS: &str = "/sys/fs/cgroup/pids";

/// The hierarchies of a machine: unified (v2), v1, or both beside each other (hybrid), where the v2 one usually has no
/// controllers but everything else.
#[derive(Debug)]
pub struct Hierarchies {
    unified: Option<PathBuf>,
    v1: OnceCell<Vec<Legacy>>,
}

/// A v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Legacy {
    controllers: Vec<String>,
    mount: PathBuf,
}

/// The controllers of v1; other words among a cgroup mount's options are not names of one.
const V1_CONTROLLERS: [&str; 12] = [
    "blkio", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "memory", "net_cls", "net_prio",
    "pids", "rdma",
];

impl Hierarchies {
    /// Finds the unified hierarchy in the two usual places with two system calls, elsewhere by the mount table. The v1
    /// ones are looked up only when they are asked for.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn find() -> io::Result<Hierarchies> {
        for usual in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            if is(usual, CGROUP2_MAGIC) {
                return Ok(Hierarchies {
                    unified: Some(usual.into()),
                    v1: OnceCell::new(),
                });
            }
        }
        Ok(Hierarchies::from_table(mount::table::read()?))
    }

    fn from_table(table: Vec<mount::table::Entry>) -> Hierarchies {
        let unified = table
            .iter()
            .find(|entry| entry.kind == "cgroup2")
            .map(|entry| entry.target.clone());
        let hierarchies = Hierarchies {
            unified,
            v1: OnceCell::new(),
        };
        let _ = hierarchies.v1.set(legacy(table));
        hierarchies
    }

    /// Where cgroup2 is mounted.
    pub fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Where the v1 hierarchy with this controller is mounted. That of `pids` is looked for in its usual place first: with
    /// many containers the mount table is long.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn v1(&self, controller: &str) -> io::Result<Option<PathBuf>> {
        if controller == "pids" && self.v1.get().is_none() && is(USUAL_PIDS, CGROUP_MAGIC) {
            return Ok(Some(USUAL_PIDS.into()));
        }
        let has = |one: &&Legacy| one.controllers.iter().any(|known| known == controller);
        Ok(self.legacy()?.iter().find(has).map(|one| one.mount.clone()))
    }

    /// Where every v1 hierarchy with a controller is mounted.
    ///
    /// # Errors
    /// The mount table cannot be read.
    pub fn all_v1(&self) -> io::Result<Vec<PathBuf>> {
        Ok(self.legacy()?.iter().map(|one| one.mount.clone()).collect())
    }

    /// Whether processes can be counted in every cgroup beneath `parent`, a place below the root of a hierarchy: by
    /// cgroup2, or in a hierarchy of v1 in which cgroups may be made.
    pub fn counts_processes(&self, parent: &Path) -> bool {
        self.gives("pids", Some("pids"), parent)
    }

    /// The same of any controller, by its name in v2, and in v1 where that will do.
    pub(super) fn gives(&self, unified: &str, legacy: Option<&str>, parent: &Path) -> bool {
        let in_v1 = |legacy: &str| {
            let mount = self.v1(legacy).ok().flatten();
            mount.is_some_and(|mount| rustix::fs::access(mount, rustix::fs::Access::WRITE_OK).is_ok())
        };
        self.gives_unified(unified, parent) || legacy.is_some_and(in_v1)
    }

    fn gives_unified(&self, wanted: &str, parent: &Path) -> bool {
        let Some(mount) = &self.unified else { return false };
        let place = mount.join(parent.strip_prefix("/").unwrap_or(parent));
        let levels = place.ancestors().take_while(|level| level.starts_with(mount));
        for level in levels.filter(|level| level.is_dir()) {
            let read = |file: &str| std::fs::read_to_string(level.join(file)).unwrap_or_default();
            let has = |file| {
                read(file)
                    .split_whitespace()
                    .any(|controller| controller == wanted)
            };
            if has("cgroup.subtree_control") {
                return true;
            }
            // It has to give the controller to those below, which one that has processes itself does not, but for the
            // root, which alone has no type.
            let writable =
                rustix::fs::access(level.join("cgroup.subtree_control"), rustix::fs::Access::WRITE_OK);
            let gives = !level.join("cgroup.type").exists() || read("cgroup.procs").is_empty();
            if writable.is_err() || !gives {
                return false;
            }
            if has("cgroup.controllers") {
                return true;
            }
        }
        false
    }

    fn legacy(&self) -> io::Result<&[Legacy]> {
        if self.v1.get().is_none() {
            let _ = self.v1.set(legacy(mount::table::read()?));
        }
        Ok(self.v1.get().map_or(&[], Vec::as_slice))
    }

    /// Whether memory and swap are counted together, so that `--memory` can bound swap too.
    pub fn counts_swap(&self) -> bool {
        // The root cgroup2 has no swap file of its own; a hierarchy with the memory controller has it below.
        match self.v1("memory") {
            Ok(Some(mount)) => mount.join("memory.memsw.limit_in_bytes").exists(),
            _ => self.unified.as_ref().is_some_and(|mount| {
                let has_memory = std::fs::read_to_string(mount.join("cgroup.controllers"))
                    .is_ok_and(|text| text.split_whitespace().any(|c| c == "memory"));
                has_memory && Path::new("/proc/swaps").exists()
            }),
        }
    }
}

fn is(path: &str, magic: u32) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u32 == magic)
}

fn legacy(table: Vec<mount::table::Entry>) -> Vec<Legacy> {
    table
        .into_iter()
        .filter(|entry| entry.kind == "cgroup")
        .map(|entry| {
            let options = entry.super_options.to_string_lossy().into_owned();
            let known = |word: &&str| V1_CONTROLLERS.contains(word);
            Legacy {
                controllers: options.split(',').filter(known).map(str::to_owned).collect(),
                mount: entry.target,
            }
        })
        .filter(|one| !one.controllers.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchies(text: &str) -> Hierarchies {
        Hierarchies::from_table(mount::table::parse(text.as_bytes()))
    }

    #[test]
    fn a_hybrid_machine() {
        let found = hierarchies(
            "30 25 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw,nsdelegate\n\
             31 25 0:27 / /sys/fs/cgroup/systemd rw shared:6 - cgroup cgroup rw,xattr,name=systemd\n\
             32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:7 - cgroup cgroup rw,cpu,cpuacct\n\
             33 25 0:29 / /sys/fs/cgroup/memory rw shared:8 - cgroup cgroup rw,memory\n",
        );
        assert_eq!(found.unified(), Some(Path::new("/sys/fs/cgroup/unified")));
        assert_eq!(
            found.v1("cpu").unwrap(),
            Some("/sys/fs/cgroup/cpu,cpuacct".into())
        );
        assert_eq!(found.v1("memory").unwrap(), Some("/sys/fs/cgroup/memory".into()));
        assert_eq!(found.v1("systemd").unwrap(), None);
        assert_eq!(found.v1("pids").unwrap(), None);
    }

    #[test]
    fn a_machine_without() {
        let found = hierarchies("22 1 8:1 / / rw - ext4 /dev/sda1 rw\n");
        assert_eq!(found.unified(), None);
        assert_eq!(found.v1("memory").unwrap(), None);
        assert!(!found.counts_swap());
    }
}
