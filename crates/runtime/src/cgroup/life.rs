//! All processes of a cgroup at once: listing, killing, freezing; and its end.

use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags, Timespec};
use rustix::process::{Pid, Signal};
use sys::Dir;

use super::node::{Node, is_made};
use super::{Cgroup, CgroupError, failed};

/// How long processes that were killed may take to end. A process in the middle of writing to a slow disk takes long;
/// one longer than this is stuck in the kernel.
const END: Duration = Duration::from_secs(20);

/// For errors.
fn freezing(frozen: bool) -> &'static str {
    if frozen { "freeze" } else { "thaw" }
}

impl Cgroup {
    /// The processes in it, and in cgroups that the container made below.
    ///
    /// # Errors
    /// The kernel's; a cgroup that goes while it is read is empty.
    pub fn pids(&self) -> Result<Vec<i32>, CgroupError> {
        let Some(node) = self.unified.iter().chain(&self.v1).next() else {
            return Ok(vec![]);
        };
        let mut pids = Vec::new();
        gather(&node.dir, &mut pids).map_err(|source| failed("read", &node.path, source))?;
        Ok(pids)
    }

    /// Kills every process in it, those that are being born too. Returns at once; see [`Cgroup::remove`].
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&self) -> Result<(), CgroupError> {
        if let Some(node) = &self.unified {
            match node.write("cgroup.kill", "1") {
                // Before Linux 5.14: stopped first, so that none is born and no number changes hands.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    let frozen = self.freeze();
                    let killed = self.kill_each();
                    let _ = node.write("cgroup.freeze", "0");
                    return frozen.and(killed);
                }
                other => return other.map_err(|source| failed("kill", &node.path, source)),
            }
        }
        self.kill_each()
    }

    fn kill_each(&self) -> Result<(), CgroupError> {
        for pid in self.pids()?.into_iter().filter_map(Pid::from_raw) {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        Ok(())
    }

    /// Stops every process in it until [`Cgroup::thaw`], and waits until all have stopped.
    ///
    /// # Errors
    /// Without a cgroup2 (5.2 or newer) it cannot be done; processes in the kernel for long may not stop in time.
    pub fn freeze(&self) -> Result<(), CgroupError> {
        self.set_frozen(true)
    }

    /// Lets them go on. A cgroup that is gone holds nobody: a process that was killed ends though it is frozen, and those who
    /// saw it end may have taken the cgroup away by now.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`], but for those of a cgroup that is gone.
    pub fn thaw(&self) -> Result<(), CgroupError> {
        if self.unified.is_none() {
            return Ok(());
        }
        match self.set_frozen(false) {
            Err(error) if error.is_gone() => Ok(()),
            other => other,
        }
    }

    fn set_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        self.ask_frozen(frozen)?;
        self.wait_frozen(frozen)
    }

    /// Asks for every process in it to stop, or to go on, and does not wait until they do.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn ask_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(node) = &self.unified else {
            let because = "freezing needs a cgroup2, and the container has none";
            return Err(CgroupError::Unsupported {
                limit: "freezing",
                because,
            });
        };
        let written = node.write("cgroup.freeze", if frozen { "1" } else { "0" });
        written.map_err(|source| failed(freezing(frozen), &node.path, source))
    }

    /// Waits until they do what was asked.
    ///
    /// # Errors
    /// As [`Cgroup::freeze`].
    pub fn wait_frozen(&self, frozen: bool) -> Result<(), CgroupError> {
        let Some(node) = &self.unified else {
            return Ok(());
        };
        let fail = |source| failed(freezing(frozen), &node.path, source);
        let wanted = if frozen { "1" } else { "0" };
        match node.wait("frozen", wanted, Instant::now() + END).map_err(fail)? {
            true => Ok(()),
            false => Err(fail(io::ErrorKind::TimedOut.into())),
        }
    }

    /// How many processes the kernel has killed in it for want of memory; `None` where no memory controller counts.
    pub fn oom_kills(&self) -> Option<u64> {
        let v2 = self.unified.iter().map(|node| node.read("memory.events"));
        let v1 = self.v1.iter().map(|node| node.read("memory.oom_control"));
        v2.chain(v1)
            .flatten()
            .find_map(|text| value(&text, "oom_kill")?.parse().ok())
    }

    /// Kills what is left in it, waits until it has ended, and removes it with all that the container made below and
    /// with parents that strata made and that are empty now.
    ///
    /// # Errors
    /// [`CgroupError::DoesNotEnd`] when processes are stuck in the kernel; the cgroup is then still there.
    pub fn remove(self) -> Result<(), CgroupError> {
        let deadline = Instant::now() + END;
        self.end(deadline)?;
        self.settle();
        if let Some(unit) = &self.unit {
            // Empty, it ends by itself as well.
            let _ = unit.stop();
        }
        for node in self.unified.iter().chain(&self.v1) {
            let mut pause = Duration::from_micros(200);
            loop {
                match remove_tree(node) {
                    Ok(()) => break,
                    // The last process has left but is not quite gone, or a new cgroup was made below.
                    Err(error) if busy(&error) && Instant::now() < deadline => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(20));
                    }
                    Err(source) => return Err(failed("remove", &node.path, source)),
                }
            }
            remove_parents(node);
        }
        Ok(())
    }

    /// Kills, and waits for the end.
    fn end(&self, deadline: Instant) -> Result<(), CgroupError> {
        let mut pause = Duration::from_micros(200);
        loop {
            let Some(node) = self.unified.iter().chain(&self.v1).next() else {
                return Ok(());
            };
            let empty = match &self.unified {
                Some(node) => match node.event("populated") {
                    Ok(value) => value.as_deref() == Some("0"),
                    // Somebody else removed it: its own supervisor, when `rm -f` comes in between.
                    Err(error) => gone(&error),
                },
                None => self.pids()?.is_empty(),
            };
            if empty {
                return Ok(());
            }
            if let Err(error) = self.kill() {
                match &self.unified {
                    Some(node) if node.event("populated").is_err_and(|error| gone(&error)) => return Ok(()),
                    _ => return Err(error),
                }
            }
            match &self.unified {
                Some(node) => {
                    let soon = deadline.min(Instant::now() + Duration::from_secs(1));
                    match node.wait("populated", "0", soon) {
                        Err(error) if gone(&error) => return Ok(()),
                        other => other.map_err(|source| failed("watch", &node.path, source))?,
                    };
                }
                None => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(Duration::from_millis(20));
                }
            }
            if Instant::now() >= deadline {
                return Err(CgroupError::DoesNotEnd {
                    path: node.path.clone(),
                    pids: self.pids()?,
                });
            }
        }
    }
}

impl Node {
    /// Whether no process is in it, nor in one below it.
    pub(super) fn is_idle(&self) -> bool {
        match self.event("populated") {
            Ok(populated) => populated.as_deref() == Some("0"),
            // A hierarchy of v1, which has no such file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let mut pids = Vec::new();
                gather(&self.dir, &mut pids).is_ok() && pids.is_empty()
            }
            Err(_) => false,
        }
    }

    /// A value of `cgroup.events`.
    fn event(&self, key: &str) -> io::Result<Option<String>> {
        Ok(value(&self.read("cgroup.events")?, key).map(str::to_owned))
    }

    /// Waits until a value of `cgroup.events` is `wanted`; false when it is not by the deadline.
    fn wait(&self, key: &str, wanted: &str, deadline: Instant) -> io::Result<bool> {
        // Opened before it is read, so that no change between the two is missed.
        let events = self
            .dir
            .open_file("cgroup.events", OFlags::RDONLY, Mode::empty())?;
        loop {
            let mut text = [0; 256];
            let length = rustix::io::pread(&events, &mut text, 0)?;
            if value(&String::from_utf8_lossy(&text[..length]), key) == Some(wanted) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: i64::from(left.subsec_nanos()),
            };
            let mut polled = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
            match rustix::event::poll(&mut polled, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// The value of `key` in lines of `key value`.
pub(super) fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
}

fn busy(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ResourceBusy | io::ErrorKind::DirectoryNotEmpty
    )
}

/// Whether a cgroup is not there any more; ENODEV is what the kernel answers for files of a removed one.
pub(super) fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
}

fn gather(dir: &Dir, pids: &mut Vec<i32>) -> io::Result<()> {
    let mut text = String::new();
    let read = dir
        .open_file("cgroup.procs", OFlags::RDONLY, Mode::empty())
        .and_then(|mut file| io::Read::read_to_string(&mut file, &mut text));
    match read {
        Err(error) if gone(&error) => return Ok(()),
        // A threaded cgroup below lists its processes in the one above.
        Err(error) if error.raw_os_error() == Some(95) => {}
        other => drop(other?),
    }
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for name in children(dir)? {
        match dir.open_dir(&name) {
            Ok(child) => gather(&child, pids)?,
            Err(error) if gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn children(dir: &Dir) -> io::Result<Vec<std::ffi::OsString>> {
    let directory = |entry: &sys::Entry| entry.file_type.0 == rustix::fs::FileType::Directory;
    match dir.entries() {
        Ok(entries) => Ok(entries
            .into_iter()
            .filter(directory)
            .map(|entry| entry.name)
            .collect()),
        Err(error) if gone(&error) => Ok(vec![]),
        Err(error) => Err(error),
    }
}

/// Removes a cgroup with those below it.
pub(super) fn remove_tree(node: &Node) -> io::Result<()> {
    fn below(dir: &Dir) -> io::Result<()> {
        for name in children(dir)? {
            match dir.open_dir(&name) {
                Ok(child) => below(&child)?,
                Err(error) if gone(&error) => continue,
                Err(error) => return Err(error),
            }
            ignore_gone(dir.rmdir(&name))?;
        }
        Ok(())
    }
    let (Some(parent), Some(name)) = (node.path.parent(), node.path.file_name()) else {
        return Ok(());
    };
    below(&node.dir)?;
    match Dir::open_ambient(parent) {
        Ok(parent) => ignore_gone(parent.rmdir(name)),
        Err(error) if gone(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

fn ignore_gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if gone(&error) => Ok(()),
        other => other,
    }
}

/// Removes parents that strata made, as long as they are empty; another container in one of them keeps it.
pub(super) fn remove_parents(node: &Node) {
    for path in node.path.ancestors().skip(1) {
        let (Ok(dir), Some(above), Some(name)) = (Dir::open_ambient(path), path.parent(), path.file_name())
        else {
            return;
        };
        if !is_made(&dir)
            || Dir::open_ambient(above)
                .and_then(|above| above.rmdir(name))
                .is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_flat_files() {
        let text = "low 0\noom 3\noom_kill 2\noom_group_kill 0\n";
        assert_eq!(value(text, "oom_kill"), Some("2"));
        assert_eq!(value(text, "oom"), Some("3"));
        assert_eq!(value(text, "max"), None);
        assert_eq!(
            value("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "oom_kill"),
            Some("1")
        );
    }
}
