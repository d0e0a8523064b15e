//! What a test program leaves behind fails it: mounts, processes, control groups.
//!
//! So that mounts of others are not taken for a test's, the tests get a mount namespace of their own. Its root is
//! shared, as systemd has it on most machines, whatever this machine has: what mounts without thinking of propagation
//! shows here.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::mount::MountPropagationFlags as Propagation;
use rustix::process::{Pid, Signal, WaitOptions};

/// Enters a mount namespace of our own. Whoever copies the machine's mounts meanwhile does not keep our disks in use.
pub(crate) fn own_mounts() -> Result<()> {
    sys::process::unshare(sys::process::namespaces::MOUNT).context("a mount namespace for the tests")?;
    rustix::mount::mount_change("/", Propagation::PRIVATE | Propagation::REC)
        .context("a mount namespace for the tests")?;
    rustix::mount::mount_change("/", Propagation::SHARED | Propagation::REC)
        .context("a mount namespace for the tests")
}

/// [`own_mounts`]; and takes in the orphans of everything that is started from now on.
pub(crate) fn set_apart() -> Result<()> {
    own_mounts()?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("becoming the reaper of orphans")?;
    Ok(())
}

/// Reaps the orphans that have ended, as the first process of a machine does, while the test program `child` runs: who
/// looks whether a process is still there takes one that nobody reaped for alive.
pub(crate) fn reap(child: u32) {
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
    let orphans = children.split(' ').filter_map(|pid| pid.parse().ok());
    for orphan in orphans
        .filter(|pid| *pid != child.cast_signed())
        .filter_map(Pid::from_raw)
    {
        let _ = rustix::process::waitpid(Some(orphan), WaitOptions::NOHANG);
    }
}

/// What there was before a test program ran.
pub(crate) struct Before {
    mounts: BTreeSet<PathBuf>,
    groups: BTreeSet<PathBuf>,
}

impl Before {
    pub(crate) fn look() -> Before {
        Before {
            mounts: mounts(),
            groups: groups(),
        }
    }

    /// What is there now and was not then, in words. Orphans get a moment to end, then they are killed.
    pub(crate) fn left(&self) -> Vec<String> {
        let deadline = Instant::now() + Duration::from_secs(3);
        loop {
            let orphans = orphans();
            let mounts: Vec<_> = mounts().difference(&self.mounts).cloned().collect();
            let groups: Vec<_> = groups()
                .difference(&self.groups)
                .filter(|group| is_unused(group))
                .cloned()
                .collect();
            if orphans.is_empty() && mounts.is_empty() && groups.is_empty() {
                return Vec::new();
            }
            if Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            for (pid, _) in &orphans {
                let _ = rustix::process::kill_process(*pid, Signal::KILL);
            }
            for mount in mounts.iter().rev() {
                let _ = sys::mount::detach_at(mount);
            }
            let process = |(pid, words): &(Pid, String)| format!("process {} {words}", pid.as_raw_nonzero());
            let words = orphans.iter().map(process);
            let words = words.chain(mounts.iter().map(|path| format!("mount {}", path.display())));
            return words
                .chain(
                    groups
                        .iter()
                        .map(|path| format!("control group {}", path.display())),
                )
                .collect();
        }
    }
}

fn mounts() -> BTreeSet<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

/// Our children that still run, with their command lines. Those that have ended are reaped.
fn orphans() -> Vec<(Pid, String)> {
    while matches!(rustix::process::wait(WaitOptions::NOHANG), Ok(Some(_))) {}
    let own = rustix::process::getpid().as_raw_nonzero().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
            .and_then(Pid::from_raw)
        else {
            continue;
        };
        // The command's name, in parentheses, may hold anything; the parent is the second word after it (proc(5)).
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat
            .rsplit(')')
            .next()
            .and_then(|rest| rest.split_whitespace().nth(1));
        if parent == Some(own.as_str()) {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((
                pid,
                String::from_utf8_lossy(&words)
                    .replace('\0', " ")
                    .trim_end()
                    .to_owned(),
            ));
        }
    }
    found
}

/// Control groups of containers, in every hierarchy: those whose name holds a container's id.
fn groups() -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut dirs = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name
                .split(|c: char| !c.is_ascii_hexdigit())
                .any(|part| part.len() == 64)
            {
                found.insert(entry.path());
            }
            dirs.push(entry.path());
        }
    }
    found
}

/// Nobody is in it. (A container of somebody else's may run beside the tests.)
fn is_unused(group: &Path) -> bool {
    fs::read_to_string(group.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty())
}
