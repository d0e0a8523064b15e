//! Which namespaces a container gets: made anew, joined by path, or shared with the supervisor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use sys::process::namespaces as kind;

use super::fault::{During, Fault, Result};

/// The namespaces of one container.
#[derive(Debug, Default)]
pub(super) struct Namespaces {
    /// Kinds made anew: bits of [`sys::process::namespaces`].
    pub(super) new: u64,
    /// Kinds joined, in the order the spec gives them.
    pub(super) joined: Vec<Joined>,
    /// A new network namespace that was made ahead of time: joined in place of one that `clone3` would make.
    pub(super) ready: Option<SpareNetwork>,
}

/// A network namespace that nobody is in. To make one is the dearest part of making a process with namespaces, and
/// needs to know nothing of the container: a supervisor does it while it waits to be told what to start.
#[derive(Debug)]
pub(crate) struct SpareNetwork(OwnedFd);

impl SpareNetwork {
    /// Makes one if it can be made; the calling process stays in its own. After a fault it did not come back.
    pub(crate) fn make() -> Result<Option<SpareNetwork>> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let current = || rustix::fs::openat(CWD, "/proc/self/ns/net", flags, Mode::empty());
        let Ok(own) = current() else { return Ok(None) };
        // Whoever is root of a user namespace alone does not come back to the machine's network: it may not even go
        // where it is.
        let returns = sys::process::setns(own.as_fd(), kind::NETWORK).is_ok();
        if !returns || sys::process::unshare(kind::NETWORK).is_err() {
            return Ok(None);
        }
        let made = current().ok().map(SpareNetwork);
        sys::process::setns(own.as_fd(), kind::NETWORK)
            .during(|| "going back to the network namespace".into())?;
        Ok(made)
    }
}

/// A namespace that exists already.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) kind: u64,
    path: PathBuf,
    fd: OwnedFd,
}

impl Joined {
    /// Moves the calling process into it (of a pid namespace: its later children).
    pub(super) fn enter(&self) -> Result<()> {
        sys::process::setns(self.fd.as_fd(), self.kind)
            .during(|| format!("joining the namespace {}", self.path.display()))
    }
}

fn bit(of: LinuxNamespaceType) -> u64 {
    match of {
        LinuxNamespaceType::Mount => kind::MOUNT,
        LinuxNamespaceType::Cgroup => kind::CGROUP,
        LinuxNamespaceType::Uts => kind::UTS,
        LinuxNamespaceType::Ipc => kind::IPC,
        LinuxNamespaceType::User => kind::USER,
        LinuxNamespaceType::Pid => kind::PID,
        LinuxNamespaceType::Network => kind::NETWORK,
        LinuxNamespaceType::Time => kind::TIME,
    }
}

/// The kinds that a spec gives its container of its own, made anew or joined.
pub(super) fn listed(spec: &Spec) -> u64 {
    let listed = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    listed
        .into_iter()
        .flatten()
        .fold(0, |all, one| all | bit(one.typ()))
}

/// Whether a spec gives its container a new namespace of this kind.
pub(crate) fn makes(spec: &Spec, kind: u64) -> bool {
    let listed = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.namespaces().as_ref());
    let own = |path: &Option<PathBuf>| path.as_deref().is_none_or(|path| path == Path::new(""));
    listed
        .into_iter()
        .flatten()
        .any(|one| bit(one.typ()) == kind && own(one.path()))
}

impl Namespaces {
    /// Reads them from the spec and opens those to join: a path is resolved here, on the host.
    pub(super) fn of(spec: &Spec) -> Result<Namespaces> {
        let mut namespaces = Namespaces::default();
        let mut seen = 0;
        let listed = spec
            .linux()
            .as_ref()
            .and_then(|linux| linux.namespaces().as_ref());
        for namespace in listed.into_iter().flatten() {
            let kind = bit(namespace.typ());
            if seen & kind != 0 {
                return Err(Fault::new(format!(
                    "the {} namespace is given twice",
                    namespace.typ()
                )));
            }
            seen |= kind;
            match namespace.path().as_deref() {
                None => namespaces.new |= kind,
                Some(path) if path == Path::new("") => namespaces.new |= kind,
                Some(path) => {
                    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
                    let fd = rustix::fs::openat(CWD, path, flags, Mode::empty())
                        .during(|| format!("opening the namespace {}", path.display()))?;
                    namespaces.joined.push(Joined {
                        kind,
                        path: path.to_path_buf(),
                        fd,
                    });
                }
            }
        }
        if seen & kind::MOUNT == 0 {
            return Err(Fault::new(
                "a container without a mount namespace of its own is not supported",
            ));
        }
        Ok(namespaces)
    }

    /// Uses `spare`, if a network namespace is wanted that belongs to the host's users as the spare does.
    pub(super) fn take_ready(&mut self, spare: Option<SpareNetwork>) {
        if self.makes(kind::NETWORK) && !self.has(kind::USER) {
            self.ready = spare;
        }
    }

    /// Whether the kinds in `bits` are all made anew.
    pub(super) fn makes(&self, bits: u64) -> bool {
        self.new & bits == bits
    }

    /// Whether the kind is not the supervisor's.
    pub(super) fn has(&self, kind: u64) -> bool {
        self.makes(kind) || self.joins(kind).is_some()
    }

    /// The one of this kind that is joined.
    pub(super) fn joins(&self, kind: u64) -> Option<&Joined> {
        self.joined.iter().find(|joined| joined.kind == kind)
    }

    /// The network namespace that the container comes into, where it is not born with one of its own.
    pub(super) fn network(&self) -> Option<BorrowedFd<'_>> {
        let joined = self.joins(kind::NETWORK).map(|joined| joined.fd.as_fd());
        joined.or(self.ready.as_ref().map(|SpareNetwork(fd)| fd.as_fd()))
    }

    /// Whether the network namespace that is joined belongs to others than the container's own users, who could not set
    /// it up.
    pub(super) fn borrow_a_network(&self) -> bool {
        self.makes(kind::USER) && self.joins(kind::NETWORK).is_some()
    }

    /// What `clone3` makes. The time namespace is the supervisor's to make first (only its children are in it), and
    /// the cgroup namespace is made by the child once it is in its cgroup: it is rooted where its maker is.
    pub(super) fn for_clone(&self) -> u64 {
        let ready = match self.ready {
            Some(_) => kind::NETWORK,
            None => 0,
        };
        self.new & !(kind::TIME | kind::CGROUP | ready)
    }

    /// Whether the child is in a namespace of this kind that is joined from its birth on. Of two kinds it could not be
    /// otherwise; and a user namespace of its own gives it no right to go into others.
    fn is_born_in(&self, kind: u64) -> bool {
        matches!(kind, kind::PID | kind::TIME)
            || (self.makes(kind::USER) && matches!(kind, kind::NETWORK | kind::IPC | kind::UTS))
    }

    /// Joins those that the child was not born into.
    pub(super) fn enter_in_child(&self) -> Result<()> {
        let by_parent = |joined: &&Joined| joined.kind == kind::USER || self.is_born_in(joined.kind);
        self.joined
            .iter()
            .filter(|joined| !by_parent(joined))
            .try_for_each(Joined::enter)?;
        match &self.ready {
            Some(SpareNetwork(fd)) => sys::process::setns(fd.as_fd(), kind::NETWORK)
                .during(|| "joining the network namespace".into()),
            None => Ok(()),
        }
    }
}

/// While this lives, children of the calling process are born into those namespaces of a container that they cannot enter
/// by themselves.
pub(super) struct BirthPlace {
    back: Vec<(u64, OwnedFd)>,
}

impl BirthPlace {
    pub(super) fn prepare(namespaces: &Namespaces, spec: &Spec) -> Result<BirthPlace> {
        let mut place = BirthPlace { back: Vec::new() };
        for (kind, own) in [
            (kind::PID, "/proc/self/ns/pid"),
            (kind::TIME, "/proc/self/ns/time"),
            (kind::NETWORK, "/proc/self/ns/net"),
            (kind::IPC, "/proc/self/ns/ipc"),
            (kind::UTS, "/proc/self/ns/uts"),
        ] {
            let joined = namespaces.joins(kind).filter(|_| namespaces.is_born_in(kind));
            let makes_time = kind == kind::TIME && namespaces.makes(kind);
            if joined.is_none() && !makes_time {
                continue;
            }
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let fd =
                rustix::fs::openat(CWD, own, flags, Mode::empty()).during(|| format!("opening {own}"))?;
            place.back.push((kind, fd));
            match joined {
                Some(joined) => joined.enter()?,
                None => make_time_namespace(spec)?,
            }
        }
        Ok(place)
    }
}

impl Drop for BirthPlace {
    fn drop(&mut self) {
        for (kind, fd) in &self.back {
            // Going back to where this process itself still is cannot fail; if it does, children would be born in
            // the wrong place and their namespaces would show it.
            let _ = sys::process::setns(fd.as_fd(), *kind);
        }
    }
}

fn make_time_namespace(spec: &Spec) -> Result<()> {
    sys::process::unshare(kind::TIME).during(|| "making a time namespace".into())?;
    let offsets = spec
        .linux()
        .as_ref()
        .and_then(|linux| linux.time_offsets().as_ref());
    let lines: String = offsets
        .into_iter()
        .flatten()
        .map(|(clock, offset)| {
            let (secs, nanosecs) = (offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0));
            format!("{clock} {secs} {nanosecs}\n")
        })
        .collect();
    if lines.is_empty() {
        return Ok(());
    }
    std::fs::OpenOptions::new()
        .write(true)
        .open("/proc/self/timens_offsets")
        .and_then(|mut file| std::io::Write::write_all(&mut file, lines.as_bytes()))
        .during(|| format!("setting the time offsets {:?}", lines.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(namespaces: &str) -> Spec {
        let text = format!(r#"{{"ociVersion":"1.2.0","linux":{{"namespaces":{namespaces}}}}}"#);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn new_and_joined() {
        let spec = spec(
            r#"[{"type":"network","path":"/proc/self/ns/net"},{"type":"mount"},{"type":"pid","path":""},
                {"type":"user","path":"/proc/self/ns/user"},{"type":"cgroup"}]"#,
        );
        let namespaces = Namespaces::of(&spec).unwrap();
        assert_eq!(namespaces.new, kind::MOUNT | kind::PID | kind::CGROUP);
        assert_eq!(namespaces.for_clone(), kind::MOUNT | kind::PID);
        let joined: Vec<_> = namespaces.joined.iter().map(|joined| joined.kind).collect();
        assert_eq!(joined, [kind::NETWORK, kind::USER]);
        assert!(namespaces.has(kind::NETWORK) && !namespaces.has(kind::IPC));
    }

    #[test]
    fn a_spare_is_used_where_it_is_what_is_wanted() {
        // Any descriptor will do for what is decided here.
        let spare = || Some(SpareNetwork(rustix::pipe::pipe().unwrap().0));
        for (listed, used) in [
            (r#"[{"type":"mount"},{"type":"network"}]"#, true),
            (r#"[{"type":"mount"}]"#, false),
            (
                r#"[{"type":"mount"},{"type":"network","path":"/proc/self/ns/net"}]"#,
                false,
            ),
            (r#"[{"type":"mount"},{"type":"network"},{"type":"user"}]"#, false),
        ] {
            let mut namespaces = Namespaces::of(&spec(listed)).unwrap();
            let before = namespaces.for_clone();
            namespaces.take_ready(spare());
            assert_eq!(namespaces.ready.is_some(), used, "{listed}");
            let network = if used { kind::NETWORK } else { 0 };
            assert_eq!(namespaces.for_clone(), before & !network, "{listed}");
        }
    }

    #[test]
    fn twice_or_without_mounts_is_refused() {
        let twice = Namespaces::of(&spec(r#"[{"type":"mount"},{"type":"mount"}]"#)).unwrap_err();
        assert!(twice.text.contains("twice"), "{twice}");
        let none = Namespaces::of(&spec("[]")).unwrap_err();
        assert!(none.text.contains("mount namespace"), "{none}");
        let missing = spec(r#"[{"type":"mount","path":"/proc/self/ns/nothing"}]"#);
        let missing = Namespaces::of(&missing).unwrap_err();
        assert!(missing.text.contains("/proc/self/ns/nothing"), "{missing}");
    }
}
