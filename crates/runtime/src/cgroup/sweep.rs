//! Cgroups that nobody will remove: their supervisors were killed, and the stores that knew of them are gone.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sys::Dir;

use super::life::{remove_parents, remove_tree};
use super::node::{Node, open};
use super::{DEFAULT_PARENT, Hierarchies};

/// How long an empty cgroup may wait for the process that it was made for: a start takes milliseconds.
pub const FORGOTTEN: Duration = Duration::from_secs(60);

/// Removes what lies where containers' cgroups lie when nothing else is asked, has been there for `age`, and holds no
/// process. Of a container that is being started the cgroup is there for a moment before there is a process; of one that
/// runs there always is one.
pub fn sweep(age: Duration) {
    let Ok(hierarchies) = Hierarchies::find() else {
        return;
    };
    let mounts = hierarchies.unified().map(std::path::Path::to_path_buf);
    let mounts = mounts.into_iter().chain(hierarchies.all_v1().unwrap_or_default());
    for mount in mounts {
        let Ok(parent) = open(&mount.join(DEFAULT_PARENT.trim_start_matches('/'))) else {
            continue;
        };
        for entry in parent.dir.entries().unwrap_or_default() {
            let Ok(dir) = parent.dir.open_dir(&entry.name) else {
                continue;
            };
            let path = parent.path.join(&entry.name);
            let node = Node { dir, path };
            if is_older(&node.dir, age) && node.is_idle() && remove_tree(&node).is_ok() {
                remove_parents(&node);
            }
        }
    }
}

fn is_older(dir: &Dir, age: Duration) -> bool {
    let Ok(stat) = rustix::fs::fstat(dir) else {
        return false;
    };
    let changed = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_ctime).unwrap_or_default());
    SystemTime::now()
        .duration_since(changed)
        .is_ok_and(|since| since >= age)
}
