//! SELinux: the labels of a container, and of what it is given of the machine's.
//!
//! The policy says which type containers and their files have (`lxc_contexts`, as for every engine). What keeps containers
//! from each other is the level: two categories that no other container has, the same for processes and files.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use runtime::options::ContainerOptions;
use runtime::options::container::LabelOptions;
use runtime::options::mounts::{MountKind, MountOption};
use runtime::options::namespaces::NamespaceOption;
use runtime::spec::Labels;
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};
use sys::Dir;

use super::ConfineError;

const CONFIG: &str = "/etc/selinux/config";
const POLICIES: &str = "/etc/selinux";
const CONTEXTS: &str = "contexts/lxc_contexts";

/// Where a distribution keeps what its policy does not say.
const SHARED_CONTEXTS: &str = "/usr/share/containers/selinux/contexts";

const ATTRIBUTE: &str = "security.selinux";

/// Categories of a policy with levels, c0 to c1023.
const CATEGORIES: u16 = 1024;

/// Directories of the machine's that many programs need with the labels that they have.
const MACHINES: [&str; 22] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/media", "/mnt", "/opt", "/proc",
    "/root", "/run", "/sbin", "/srv", "/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log",
];

/// One label: `USER:ROLE:TYPE[:LEVEL]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    user: String,
    role: String,
    kind: String,
    level: Option<String>,
}

impl Label {
    /// Reads one; `None` for what is none.
    pub(super) fn parse(text: &str) -> Option<Label> {
        let mut parts = text.splitn(4, ':').map(str::to_owned);
        let label = Label {
            user: parts.next()?,
            role: parts.next()?,
            kind: parts.next()?,
            level: parts.next(),
        };
        let words = [&label.user, &label.role, &label.kind];
        words.iter().all(|word| !word.is_empty()).then_some(label)
    }

    /// What keeps containers from each other.
    pub(super) fn level(&self) -> Option<&str> {
        self.level.as_deref()
    }

    /// The level without categories, which all containers may share.
    fn shared_level(&self) -> Option<String> {
        let level = self.level.as_deref()?;
        Some(level.split([':', '-']).next().unwrap_or(level).to_owned())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.user, self.role, self.kind)?;
        match &self.level {
            Some(level) => write!(f, ":{level}"),
            None => Ok(()),
        }
    }
}

/// What the machine's policy has for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Policy {
    process: Label,
    files: Label,
    /// Of layers, which containers may read.
    layers: Label,
}

impl Policy {
    /// Reads it; `None` where the policy knows no containers.
    pub(super) fn read() -> Result<Option<Policy>, ConfineError> {
        let read = |path: PathBuf| match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConfineError::Policy { path, source }),
        };
        let config = read(CONFIG.into())?.unwrap_or_default();
        let own = match policy_of(&config) {
            Some(name) => read(Path::new(POLICIES).join(name).join(CONTEXTS))?,
            None => None,
        };
        let text = match own {
            Some(text) => Some(text),
            None => read(SHARED_CONTEXTS.into())?,
        };
        Ok(text.and_then(|text| Policy::parse(&text)))
    }

    /// Lines `KEY = "LABEL"`.
    fn parse(text: &str) -> Option<Policy> {
        let value = |key: &str| {
            text.lines().find_map(|line| {
                let (name, value) = line.split_once('=')?;
                (name.trim() == key).then(|| Label::parse(value.trim().trim_matches('"')))?
            })
        };
        Some(Policy {
            process: value("process")?,
            layers: value("ro_file").or_else(|| value("file"))?,
            files: value("file")?,
        })
    }

    /// The labels of a container, `level` being the one that is its own.
    pub(super) fn labels(self, asked: &LabelOptions, level: Option<String>) -> Labels {
        let Policy {
            mut process,
            mut files,
            ..
        } = self;
        for label in [&mut process, &mut files] {
            if label.level.is_some() {
                label.level = asked
                    .level
                    .clone()
                    .or_else(|| level.clone())
                    .or(label.level.take());
            }
            label.user = asked.user.clone().unwrap_or_else(|| label.user.clone());
        }
        process.role = asked.role.clone().unwrap_or(process.role);
        process.kind = asked.kind.clone().unwrap_or(process.kind);
        files.kind = asked.file_kind.clone().unwrap_or(files.kind);
        Labels {
            process: process.to_string(),
            files: files.to_string(),
        }
    }

    /// A level that none of `taken` is; none where the policy has no levels.
    pub(super) fn free_level(&self, taken: &HashSet<String>) -> Result<Option<String>, ConfineError> {
        let Some(sensitivity) = self.process.shared_level() else {
            return Ok(None);
        };
        loop {
            let mut random = [0; 4];
            getrandom(&mut random, GetRandomFlags::empty())
                .map_err(|errno| ConfineError::Random(errno.into()))?;
            let [a, b, c, d] = random;
            let (one, other) = (
                u16::from_le_bytes([a, b]) % CATEGORIES,
                u16::from_le_bytes([c, d]) % CATEGORIES,
            );
            let level = format!("{sensitivity}:c{},c{}", one.min(other), one.max(other));
            // There are half a million pairs; where all were taken, one would have to be shared.
            let full = taken.len() > usize::from(CATEGORIES) * usize::from(CATEGORIES) / 4;
            if one != other && (full || !taken.contains(&level)) {
                return Ok(Some(level));
            }
        }
    }
}

/// The policy that a configuration names.
fn policy_of(config: &str) -> Option<&str> {
    let name = config
        .lines()
        .find_map(|line| line.trim().strip_prefix("SELINUXTYPE="))?;
    Some(name.trim().trim_matches('"'))
}

/// Whether a container of these options has labels, as the peers have it: not one that sees the machine's processes or
/// shares its memory.
pub(super) fn is_wanted(options: &ContainerOptions) -> bool {
    let shared = [&options.pid, &options.ipc].contains(&&NamespaceOption::Host);
    !options.privileged && !options.label.disable && !shared && runtime::selinux::is_enabled()
}

/// Labels what is mounted of the machine's: `volumes` where they have no label of containers yet, and all that asks for it.
pub(super) fn label_sources(
    labels: &Labels,
    volumes: &[MountOption],
    mounts: &[MountOption],
) -> Result<(), ConfineError> {
    let Some(own) = Label::parse(&labels.files) else {
        return Ok(());
    };
    let shared = Label {
        level: own.shared_level(),
        ..own.clone()
    };
    let unasked = volumes.iter().map(|mount| (mount, true));
    for (mount, is_volume) in unasked.chain(mounts.iter().map(|mount| (mount, false))) {
        let MountKind::Bind { source } = &mount.kind else {
            continue;
        };
        if !mount.relabel && !is_volume {
            continue;
        }
        let label = if mount.private_label { &own } else { &shared };
        let has = Label::parse(&label_of(source)?);
        let is_labelled = match (&has, mount.relabel) {
            (Some(has), true) => has == label,
            (Some(has), false) => has.kind == own.kind,
            (None, _) => false,
        };
        if !is_labelled {
            if !is_volume && is_the_machines(source)? {
                return Err(ConfineError::Machines(source.clone()));
            }
            label_tree(source, &label.to_string())?;
        }
    }
    Ok(())
}

/// Whether relabelling would take something from the whole machine.
fn is_the_machines(path: &Path) -> Result<bool, ConfineError> {
    let path = path.canonicalize().map_err(|source| failed(path, source))?;
    let is_home = path.parent() == Some(Path::new("/home"));
    Ok(is_home || MACHINES.iter().any(|machines| path == Path::new(machines)))
}

fn label_of(path: &Path) -> Result<String, ConfineError> {
    let look = || {
        let (dir, name) = place(path)?;
        current(&dir, &name)
    };
    look().map_err(|source| failed(path, source))
}

/// Gives a file, or a directory and all beneath it, a label. A directory is labelled after what is in it, so that one that
/// has the label is done.
pub(super) fn label_tree(path: &Path, label: &str) -> Result<(), ConfineError> {
    let walk = || {
        let (dir, name) = place(path)?;
        label_all(&dir, &name, label, Order::InnerFirst)
    };
    walk().map_err(|source| failed(path, source))
}

/// Has all that lies in the directory of layers readable by containers, and what will lie there: the kernel's overlay shows a
/// container's label on everything, but what a program has mapped is checked by the label in the layer.
pub(super) fn label_layers(path: &Path, policy: &Policy) -> Result<(), ConfineError> {
    let layers = &policy.layers;
    if Label::parse(&label_of(path)?).is_some_and(|has| has.kind == layers.kind) {
        return Ok(());
    }
    let label = layers.to_string();
    let walk = || {
        let dir = Dir::open_ambient(path)?;
        let each = |again: bool| -> io::Result<()> {
            for entry in dir.entries()? {
                if !again || current(&dir, &entry.name)? != label {
                    unless_gone(label_all(&dir, &entry.name, &label, Order::OuterFirst))?;
                }
            }
            Ok(())
        };
        each(false)?;
        // What is made from here on is labelled by the kernel; what was made meanwhile is not.
        label_file(dir.as_fd(), &label)?;
        each(true)
    };
    walk().map_err(|source| failed(path, source))
}

/// Gives one open file a label.
pub(super) fn label_file(file: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    unless_unsupported(sys::xattr::set(file, ATTRIBUTE, label.as_bytes()))
}

/// The directory that a file lies in, and its name there.
fn place(path: &Path) -> io::Result<(Dir, OsString)> {
    let path = path.canonicalize()?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    Ok((Dir::open_ambient(parent)?, name.to_owned()))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// A directory that has the label is done.
    InnerFirst,
    /// What is made in a directory meanwhile has the label.
    OuterFirst,
}

fn label_all(dir: &Dir, name: &OsStr, label: &str, order: Order) -> io::Result<()> {
    let set = || match current(dir, name)? == label {
        true => Ok(()),
        false => unless_unsupported(dir.set_xattr(name, ATTRIBUTE, label.as_bytes())),
    };
    let is_dir = FileType::from_raw_mode(dir.stat(name)?.st_mode) == FileType::Directory;
    if order == Order::OuterFirst || !is_dir {
        set()?;
    }
    if is_dir {
        let below = dir.open_dir(name)?;
        for entry in below.entries()? {
            unless_gone(label_all(&below, &entry.name, label, order))?;
        }
    }
    match order == Order::InnerFirst && is_dir {
        true => set(),
        false => Ok(()),
    }
}

/// Somebody may have taken away what was just seen.
fn unless_gone(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A file system may have no labels of its own.
fn unless_unsupported(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

fn current(dir: &Dir, name: &OsStr) -> io::Result<String> {
    let label = dir.get_xattr(name, ATTRIBUTE)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&label).trim_end_matches('\0').to_owned())
}

fn failed(path: &Path, source: io::Error) -> ConfineError {
    ConfineError::Label {
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str = "# containers\nprocess = \"system_u:system_r:container_t:s0\"\ncontent = \"system_u:object_r:virt_var_lib_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\nro_file=\"system_u:object_r:container_ro_file_t:s0\"\n";

    #[test]
    fn labels_are_the_policys_with_a_level_of_ones_own() {
        assert_eq!(
            policy_of("# x\nSELINUX=enforcing\nSELINUXTYPE=targeted \n"),
            Some("targeted")
        );
        let policy = Policy::parse(CONTEXTS).unwrap();
        let labels = policy
            .clone()
            .labels(&LabelOptions::default(), Some("s0:c1,c2".into()));
        assert_eq!(labels.process, "system_u:system_r:container_t:s0:c1,c2");
        assert_eq!(labels.files, "system_u:object_r:container_file_t:s0:c1,c2");
        let asked = LabelOptions {
            user: Some("u".into()),
            role: Some("r".into()),
            kind: Some("t".into()),
            file_kind: Some("f".into()),
            level: Some("s0:c5".into()),
            ..LabelOptions::default()
        };
        let labels = policy.labels(&asked, Some("s0:c1,c2".into()));
        assert_eq!(labels.process, "u:r:t:s0:c5");
        assert_eq!(labels.files, "u:object_r:f:s0:c5");
        // A policy without levels.
        let plain = Policy::parse("process=a:b:c\nfile=a:d:e\n").unwrap();
        assert_eq!(plain.free_level(&HashSet::new()).unwrap(), None);
        assert_eq!(plain.labels(&LabelOptions::default(), None).files, "a:d:e");
        assert_eq!(Policy::parse("process = \"a:b:c\"\n"), None);
    }

    #[test]
    fn levels_are_pairs_that_nobody_has() {
        let policy = Policy::parse(CONTEXTS).unwrap();
        let mut taken = HashSet::new();
        for _ in 0..2000 {
            let level = policy.free_level(&taken).unwrap().unwrap();
            let (one, other) = level.strip_prefix("s0:c").unwrap().split_once(",c").unwrap();
            let (one, other): (u16, u16) = (one.parse().unwrap(), other.parse().unwrap());
            assert!(one < other && other < CATEGORIES, "{level}");
            assert!(taken.insert(level));
        }
    }

    #[test]
    fn parts_of_a_label() {
        let label = Label::parse("a:b:c:s0-s0:c0.c1023").unwrap();
        assert_eq!(label.shared_level().as_deref(), Some("s0"));
        assert_eq!(label.to_string(), "a:b:c:s0-s0:c0.c1023");
        for none in ["", "unlabeled", "a:b", "a::c"] {
            assert_eq!(Label::parse(none), None, "{none}");
        }
    }

    #[test]
    fn what_is_the_machines_keeps_its_labels() {
        for path in ["/", "/usr", "/etc/../usr/"] {
            assert!(is_the_machines(Path::new(path)).unwrap(), "{path}");
        }
        assert!(!is_the_machines(Path::new("/usr/share")).unwrap());
    }
}
