//! The state directory of one container, and what the container does.

use std::collections::HashMap;
use std::fmt;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::Dir;

use super::{OciError, Result, Warnings, failed};
use crate::bundle::{self, Bundle, BundleError};
use crate::cgroup::{Cgroup, CgroupPaths, Manager};
use crate::launch::hooks::HookState;
use crate::names::{self, Known};
use crate::state::ProcessId;

/// Where a created container waits to be started.
pub(super) const START: &str = "start.sock";
/// The same while somebody takes it.
pub(super) const STARTING: &str = "starting.sock";

/// All containers of one `--root`.
#[derive(Debug)]
pub struct Containers {
    root: PathBuf,
    pub(super) manager: Manager,
    pub(super) warnings: Warnings,
}

/// One container.
#[derive(Debug)]
pub struct Container {
    pub(super) files: Bundle,
    pub(super) spec: Spec,
    /// Missing where whoever created it did not come so far.
    pub(super) record: Option<Record>,
    manager: Manager,
    pub(super) warnings: Warnings,
}

/// Contents of `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// [`bundle::VERSION`] of the one who wrote it.
    pub(super) version: u32,
    pub(super) process: ProcessId,
    pub(super) bundle: PathBuf,
    /// In nanoseconds since 1970.
    pub(super) created: u64,
    /// User number of the one who created it.
    pub(super) owner: u32,
    #[serde(default)]
    pub(super) cgroups: CgroupPaths,
}

/// What a container does (OCI runtime spec, "State"; `paused` is runc's).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Status {
    /// Somebody makes it at this moment.
    Creating,
    /// Made, and not started.
    Created,
    /// Its program runs.
    Running,
    /// As running, but its processes are held still.
    Paused,
    /// Its first process has ended.
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// What `state` and `list` tell: the spec's fields, and runc's `rootfs`, `created` and `owner`.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Version of the specification that its configuration states.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Number of its first process; 0 where that has ended.
    pub pid: i32,
    /// What it does.
    pub status: Status,
    /// Absolute path of its bundle.
    pub bundle: PathBuf,
    /// Absolute path of its root file system.
    pub rootfs: PathBuf,
    /// When it was created, in RFC 3339.
    pub created: String,
    /// What its configuration says of it.
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// Name of the user who created it, `#` and the number where it has none.
    pub owner: String,
}

impl Containers {
    /// Those whose state lies in `root`, which need not exist. Cgroups that are to be units of systemd's are `manager`'s,
    /// which need not exist either. What is amiss and fails nothing is told by `warnings`.
    pub fn at(root: &Path, manager: Manager, warnings: Warnings) -> Result<Containers> {
        let root = std::path::absolute(root).map_err(failed(root.display().to_string()))?;
        Ok(Containers {
            root,
            manager,
            warnings,
        })
    }

    /// Takes an id; whoever makes the rest holds the lock.
    pub(super) fn reserve(&self, id: &str) -> Result<(Bundle, OwnedFd)> {
        check_id(id)?;
        let shown = self.root.display().to_string();
        let mut builder = DirBuilder::new();
        // Who may look into it sees names of containers; each of those is closed.
        builder.recursive(true).mode(0o711);
        builder.create(&self.root).map_err(failed(shown.clone()))?;
        let root = Dir::open_ambient(&self.root).map_err(failed(shown))?;
        match root.mkdir(id, Mode::RWXU) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(OciError::Exists(id.to_owned()));
            }
            other => other.map_err(failed(self.root.join(id).display().to_string()))?,
        }
        let files = Bundle::look(&self.root.join(id))?;
        let lock = lock(&files)?;
        Ok((files, lock))
    }

    /// Finds one.
    pub fn open(&self, id: &str) -> Result<Container> {
        check_id(id)?;
        let files = match Bundle::look(&self.root.join(id)) {
            Err(BundleError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::Unknown(id.to_owned()));
            }
            other => other?,
        };
        // Nothing is there yet where it is being created.
        let spec = match files.read(bundle::CONFIG)? {
            Some(text) => read(&files, &text)?.value,
            None => Spec::default(),
        };
        let record = files.read_json(bundle::STATE)?;
        Ok(Container {
            files,
            spec,
            record,
            manager: self.manager.clone(),
            warnings: self.warnings.clone(),
        })
    }

    /// All of them, by id. One that goes meanwhile is left out.
    pub fn list(&self) -> Result<Vec<Container>> {
        let shown = self.root.display().to_string();
        let entries = match Dir::open_ambient(&self.root).and_then(|root| root.entries()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed(shown))?,
        };
        let mut ids: Vec<String> = entries
            .into_iter()
            .filter_map(|entry| entry.name.into_string().ok())
            .filter(|name| check_id(name).is_ok())
            .collect();
        ids.sort_unstable();
        let mut all = Vec::new();
        for id in ids {
            match self.open(&id) {
                Ok(container) => all.push(container),
                Err(OciError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(all)
    }
}

/// Reads the text of the configuration that lies in `files`.
pub(super) fn read(files: &Bundle, text: &[u8]) -> Result<Known<Spec>> {
    let path = || files.path().join(bundle::CONFIG);
    names::parse(text).map_err(|source| BundleError::Json { path: path(), source }.into())
}

/// runc's rule.
fn check_id(id: &str) -> Result<()> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte);
    match id.is_empty() || id == "." || id == ".." || id.len() > 255 || !id.bytes().all(good) {
        true => Err(OciError::Id(id.to_owned())),
        false => Ok(()),
    }
}

/// Keeps others from creating or deleting the container while the descriptor is open.
pub(super) fn lock(files: &Bundle) -> Result<OwnedFd> {
    let doing = format!("locking {}", files.path().display());
    // Opened anew: a descriptor that was duplicated would be locked together with the one it comes from.
    let dir = files.dir().open_dir(".").map_err(failed(doing.clone()))?;
    match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Err(OciError::Busy(files.id().to_owned())),
        Err(error) => Err(failed(doing)(error)),
        Ok(()) => Ok(OwnedFd::from(dir)),
    }
}

impl Container {
    /// Its id.
    pub fn id(&self) -> &str {
        self.files.id()
    }

    /// The spec that it was created from.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// Its cgroups, as far as they are there.
    pub fn cgroups(&self) -> CgroupPaths {
        self.record
            .as_ref()
            .map(|record| record.cgroups.clone())
            .unwrap_or_default()
    }

    /// Its first process by number, whether that still is there or not; 0 where there never was one.
    pub fn first(&self) -> i32 {
        self.record.as_ref().map_or(0, |record| record.process.pid)
    }

    pub(super) fn cgroup(&self) -> Result<Cgroup> {
        Ok(match &self.record {
            Some(record) => Cgroup::open(&record.cgroups)?,
            // Created by one that died before it could write down where.
            None => match Cgroup::is_units(&self.spec) {
                true => Cgroup::find_unit(&self.manager, &self.spec, self.id())?,
                false => Cgroup::find(&self.spec, self.id())?,
            },
        })
    }

    /// A descriptor of its first process; `None` where that has ended.
    pub(super) fn process(&self) -> Result<Option<OwnedFd>> {
        match &self.record {
            Some(record) => record
                .process
                .open()
                .map_err(failed(format!("looking at process {}", record.process.pid))),
            None => Ok(None),
        }
    }

    /// What it does.
    pub fn status(&self) -> Result<Status> {
        let Some(record) = &self.record else {
            return Ok(match lock(&self.files) {
                Err(OciError::Busy(_)) => Status::Creating,
                // Whoever created it is gone.
                _ => Status::Stopped,
            });
        };
        if self.process()?.is_none() {
            return Ok(Status::Stopped);
        }
        if record.cgroups.is_frozen() {
            return Ok(Status::Paused);
        }
        let waits = self
            .files
            .dir()
            .try_stat(START)
            .map_err(failed(self.files.path().join(START).display().to_string()))?;
        Ok(match waits {
            Some(_) => Status::Created,
            None => Status::Running,
        })
    }

    /// Everything that `state` tells.
    pub fn state(&self) -> Result<State> {
        let status = self.status()?;
        let (bundle, created, owner) = match &self.record {
            Some(record) => (record.bundle.clone(), record.created, record.owner),
            None => (PathBuf::new(), 0, 0),
        };
        let created = jiff::Timestamp::from_nanosecond(created.into()).unwrap_or_default();
        Ok(State {
            oci_version: self.spec.version().clone(),
            id: self.id().to_owned(),
            pid: match status {
                Status::Stopped => 0,
                _ => self.record.as_ref().map_or(0, |record| record.process.pid),
            },
            status,
            rootfs: match self.spec.root() {
                Some(root) => bundle.join(root.path()),
                None => PathBuf::new(),
            },
            bundle,
            created: created.to_string(),
            annotations: self.spec.annotations().clone().unwrap_or_default(),
            owner: name_of(owner),
        })
    }

    /// Absolute path of the bundle that it was created from.
    pub(super) fn bundle(&self) -> &Path {
        let record = self.record.as_ref();
        record.map_or(Path::new(""), |record| &record.bundle)
    }

    /// What hooks are told of it.
    pub(super) fn hook_state<'a>(&'a self, status: &'a str, pid: Option<i32>) -> HookState<'a> {
        HookState::new(&self.spec, self.id(), self.bundle(), status, pid)
    }
}

/// What the machine's users call this one.
fn name_of(user: u32) -> String {
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(user)).then_some(name)
    });
    name.map_or_else(|| format!("#{user}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_runcs() {
        for good in ["a", "a.b", "a+b-c_d", ".x", "9"] {
            check_id(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "ä", &"x".repeat(256)] {
            assert!(matches!(check_id(bad), Err(OciError::Id(_))), "{bad}");
        }
    }

    #[test]
    fn found_listed_and_never_taken_twice() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("not/yet");
        let all = Containers::at(&root, Manager::machine(), Warnings::default()).unwrap();
        assert!(all.list().unwrap().is_empty());
        assert!(matches!(all.open("one"), Err(OciError::Unknown(_))));
        let (files, held) = all.reserve("one").unwrap();
        assert!(matches!(all.reserve("one"), Err(OciError::Exists(_))));
        let one = all.open("one").unwrap();
        assert_eq!(one.status().unwrap(), Status::Creating);
        assert!(matches!(lock(&files), Err(OciError::Busy(_))));
        drop(held);
        // Whoever created it died.
        assert_eq!(one.status().unwrap(), Status::Stopped);
        assert_eq!(one.state().unwrap().pid, 0);
        assert_eq!(all.list().unwrap().len(), 1);
    }
}
