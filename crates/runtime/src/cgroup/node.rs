//! One directory of a cgroup in one hierarchy: making it, and the files in it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use sys::Dir;

use super::settings::Setting;
use super::{Cgroup, CgroupError, CgroupPaths, failed, life};

/// One directory of it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) dir: Dir,
    pub(super) path: PathBuf,
}

impl Node {
    pub(super) fn join(&self, pid: i32) -> Result<(), CgroupError> {
        self.write("cgroup.procs", &pid.to_string())
            .map_err(|source| failed("join", &self.path, source))
    }

    pub(super) fn write(&self, file: &str, value: &str) -> io::Result<()> {
        let file = self.dir.open_file(file, OFlags::WRONLY, Mode::empty())?;
        // One write: to the kernel each is a command.
        rustix::io::write(&file, value.as_bytes())?;
        Ok(())
    }

    pub(super) fn read(&self, file: &str) -> io::Result<String> {
        let mut text = String::new();
        let mut file = self.dir.open_file(file, OFlags::RDONLY, Mode::empty())?;
        io::Read::read_to_string(&mut file, &mut text)?;
        Ok(text)
    }

    pub(super) fn set(&self, setting: &Setting) -> Result<(), CgroupError> {
        let (mut file, mut value) = (&setting.file, &setting.value);
        let mut written = self.write(file, value);
        if let (Err(error), Some((other, its_value))) = (&written, &setting.instead)
            && error.kind() == io::ErrorKind::NotFound
        {
            (file, value) = (other, its_value);
            written = self.write(file, value);
        }
        if setting.file == REALTIME
            && let Err(error) = &written
            && error.kind() == io::ErrorKind::InvalidInput
            && let Ok(wanted) = value.parse()
            && self.raise_parents(wanted).is_ok()
        {
            written = self.write(file, value);
        }
        written.map_err(|source| CgroupError::Limit {
            limit: setting.limit,
            path: self.path.join(file),
            value: value.clone(),
            source,
        })
    }

    /// Gives those parents that strata made as much time for real-time processes as those in them have, of which this one is to
    /// have `wanted`: a new one has none, and none more than the one that it is in.
    fn raise_parents(&self, wanted: u64) -> io::Result<()> {
        let read = |dir: &Dir, file: &str| -> io::Result<u64> {
            let mut text = String::new();
            let mut file = dir.open_file(file, OFlags::RDONLY, Mode::empty())?;
            io::Read::read_to_string(&mut file, &mut text)?;
            text.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
        };
        let mut parents = Vec::new();
        let mut below = (self.path.file_name().map(ToOwned::to_owned), wanted);
        for path in self.path.ancestors().skip(1) {
            let parent = Dir::open_ambient(path)?;
            if !is_made(&parent) {
                break;
            }
            let period = read(&parent, REALTIME_PERIOD)?;
            let mut all = 0;
            for entry in parent.entries()? {
                if entry.file_type.0 != FileType::Directory {
                    continue;
                }
                let child = parent.open_dir(&entry.name)?;
                let runtime = match below.0.as_ref() == Some(&entry.name) {
                    true => below.1,
                    false => read(&child, REALTIME)?,
                };
                let scaled = u128::from(runtime) * u128::from(period);
                all += scaled.div_ceil(u128::from(read(&child, REALTIME_PERIOD)?.max(1)));
            }
            below = (
                path.file_name().map(ToOwned::to_owned),
                u64::try_from(all).unwrap_or(u64::MAX),
            );
            parents.push((parent, below.1));
        }
        for (parent, runtime) in parents.iter().rev() {
            let file = parent.open_file(REALTIME, OFlags::WRONLY, Mode::empty())?;
            rustix::io::write(&file, runtime.to_string().as_bytes())?;
        }
        Ok(())
    }

    /// A v1 cpuset begins empty and takes no process so: every one on the way takes its parent's CPUs and nodes.
    pub(super) fn inherit_cpuset(&self, mount: &Path, place: &Path) -> Result<(), CgroupError> {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let mut above = match std::fs::read_to_string(mount.join(file)) {
                Ok(text) => text,
                // Not the cpuset hierarchy.
                Err(_) => return Ok(()),
            };
            let mut dir = open(mount)?;
            for name in place {
                let fail = |source| failed("prepare", &self.path, source);
                dir = Node {
                    dir: dir.dir.open_dir(name).map_err(fail)?,
                    path: dir.path.join(name),
                };
                let own = dir.read(file).map_err(fail)?;
                if own.trim().is_empty() {
                    dir.write(file, above.trim()).map_err(fail)?;
                } else {
                    above = own;
                }
            }
        }
        Ok(())
    }
}

/// The way into a v1 directory for a process that goes by itself.
///
/// A thread that moves itself, by its file `tasks`, need not wait until nobody on the machine forks or ends any more, as
/// every move by `cgroup.procs` and of somebody else does (since Linux 5.5): 30 µs in place of 5 to 20 ms. A process just
/// forked is one thread.
#[derive(Debug)]
pub struct Door {
    file: OwnedFd,
    path: PathBuf,
}

impl Door {
    pub(super) fn of(node: &Node) -> Result<Door, CgroupError> {
        let opened = node.dir.open_file("tasks", OFlags::WRONLY, Mode::empty());
        Ok(Door {
            file: opened
                .map_err(|source| failed("open", &node.path, source))?
                .into(),
            path: node.path.clone(),
        })
    }

    /// Puts the calling thread there, which is to be the only one of its process.
    ///
    /// # Errors
    /// The kernel refuses it.
    pub fn enter(&self) -> Result<(), CgroupError> {
        match rustix::io::write(&self.file, b"0") {
            Ok(_) => Ok(()),
            Err(error) => Err(failed("join", &self.path, error.into())),
        }
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Mark a directory that strata made for others to lie in: it is removed when it is empty. The second is an ordinary
/// user's, who may not set the first.
pub(super) const MADE: [&str; 2] = ["trusted.strata.parent", "user.strata.parent"];

/// Time that the real-time processes of a v1 cgroup may have, and in which period.
const REALTIME: &str = "cpu.rt_runtime_us";
const REALTIME_PERIOD: &str = "cpu.rt_period_us";

/// Whether strata made a directory for others to lie in.
pub(super) fn is_made(dir: &Dir) -> bool {
    let has = |mark: &&str| sys::xattr::get(dir.as_fd(), mark).is_ok_and(|mark| mark.is_some());
    MADE.iter().any(has)
}

/// Makes the directory `place` below `mount`, new and empty, with `controllers` enabled for it.
pub(super) fn make(
    mount: &Path,
    place: &Path,
    controllers: &[&str],
    limit: Option<&'static str>,
) -> Result<Node, CgroupError> {
    let path = mount.join(place);
    let mut tries = 0;
    loop {
        match try_make(mount, place, controllers, limit) {
            // Another container, the last in a parent, took the parent away while we were about to go into it.
            Err(CgroupError::Io { source, .. } | CgroupError::Limit { source, .. })
                if tries < 50 && life::gone(&source) =>
            {
                tries += 1;
            }
            Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {
                // Left by a machine or a supervisor that died; it has limits of its own, so it is not used again.
                let mut stale = Cgroup::open(&CgroupPaths::default())?;
                stale.v1.push(open(&path)?);
                if tries > 50 || stale.pids().is_ok_and(|pids| !pids.is_empty()) || stale.remove().is_err() {
                    return Err(CgroupError::InUse { path });
                }
                tries += 1;
            }
            other => return other,
        }
    }
}

fn try_make(
    mount: &Path,
    place: &Path,
    controllers: &[&str],
    limit: Option<&'static str>,
) -> Result<Node, CgroupError> {
    let mut here = open(mount)?;
    let mut names = place.iter().peekable();
    while let Some(name) = names.next() {
        if !controllers.is_empty() {
            here.enable(controllers, limit.unwrap_or("a limit"))?;
        }
        let path = here.path.join(name);
        let made = here.dir.mkdir(name, Mode::from_raw_mode(0o755));
        let last = names.peek().is_none();
        match &made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && !last => {}
            Err(_) => {
                return Err(failed(
                    "make",
                    &path,
                    made.err().unwrap_or_else(|| io::ErrorKind::Other.into()),
                ));
            }
            Ok(()) => {}
        }
        let dir = here
            .dir
            .open_dir(name)
            .map_err(|source| failed("open", &path, source))?;
        if made.is_ok() && !last {
            // Without the mark it stays, which is no more than untidy.
            let _ = MADE
                .iter()
                .any(|mark| sys::xattr::set(dir.as_fd(), mark, b"1").is_ok());
        }
        here = Node { dir, path };
    }
    Ok(here)
}

impl Node {
    /// Lets the cgroups below this one have `controllers`.
    pub(super) fn enable(&self, controllers: &[&str], limit: &'static str) -> Result<(), CgroupError> {
        let file = "cgroup.subtree_control";
        let enabled = self
            .read(file)
            .map_err(|source| failed("read", &self.path, source))?;
        let missing: Vec<String> = controllers
            .iter()
            .filter(|wanted| !enabled.split_whitespace().any(|has| has == **wanted))
            .map(|wanted| format!("+{wanted}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.write(file, &missing.join(" "))
            .map_err(|source| match source.raw_os_error() {
                Some(16) => CgroupError::Controller {
                    limit,
                    controller: missing.join(" ").replace('+', ""),
                    because: format!(
                        "{} holds processes itself, so it can give it to none below",
                        self.path.display()
                    ),
                },
                _ => CgroupError::Limit {
                    limit,
                    path: self.path.join(file),
                    value: missing.join(" "),
                    source,
                },
            })
    }
}

impl Cgroup {
    /// The cgroup2 directory below this one in which `first` is, the container's first process, if nobody else can be in this
    /// one: it has given controllers to those below, and so holds no process itself (the kernel's `cgroup-v2.rst`, "No Internal
    /// Process Constraint"). An init system does that in its container.
    pub(crate) fn place_below(&self, first: impl FnOnce() -> Option<i32>) -> Option<Dir> {
        let node = self.unified.as_ref()?;
        let enabled = node.read("cgroup.subtree_control").ok()?;
        if enabled.trim().is_empty() {
            return None;
        }
        let listed = crate::state::read_proc(format!("/proc/{}/cgroup", first()?)).ok()?;
        let below = beneath(&node.path, &String::from_utf8_lossy(&listed))?;
        node.dir.open_dir(below).ok()
    }
}

/// What of a process's path in the cgroup2 hierarchy, as `/proc/PID/cgroup` has it, lies below the cgroup at `path`, which
/// begins with where the hierarchy is mounted; `None` where it is not below.
fn beneath(path: &Path, listed: &str) -> Option<PathBuf> {
    let place = Path::new(listed.lines().find_map(|line| line.strip_prefix("0::/"))?);
    let mut names = path.components();
    // The mount point's own names come first; the longest rest that the process's path begins with is the place.
    while names.next().is_some() {
        match place.strip_prefix(names.as_path()) {
            Ok(below) if below != place && below.parent().is_some() => return Some(below.to_owned()),
            _ => {}
        }
    }
    None
}

/// The controllers that a cgroup2 can give to those below it.
pub(super) fn controllers(mount: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap_or_default();
    text.split_whitespace().map(str::to_owned).collect()
}

pub(super) fn open(path: &Path) -> Result<Node, CgroupError> {
    let dir = Dir::open_ambient(path).map_err(|source| failed("open", path, source))?;
    Ok(Node {
        dir,
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_process_is_below_its_container() {
        let own = Path::new("/sys/fs/cgroup/unified/strata/abc");
        let found = |listed: &str| beneath(own, listed).map(|path| path.display().to_string());
        let v1 = "4:memory:/strata/abc\n";
        assert_eq!(
            found(&format!("{v1}0::/strata/abc/init.scope\n")).as_deref(),
            Some("init.scope")
        );
        assert_eq!(found("0::/strata/abc/a/b\n").as_deref(), Some("a/b"));
        for none in [
            "0::/strata/abc\n",
            "0::/strata/abcd/x\n",
            "0::/other\n",
            "0::/\n",
            "0::/../x\n",
            v1,
        ] {
            assert_eq!(found(none), None, "{none}");
        }
        // Where that stands in the kernel's table it is not followed: the rest is opened beneath.
        assert_eq!(found("0::/strata/abc/../x\n").as_deref(), Some("../x"));
    }
}
