//! From what a user asks and an image says to an OCI runtime spec (1.2).
//!
//! [`build`] merges [`ContainerOptions`] with the image's configuration over the defaults that docker and podman
//! have. What the spec says is all that the launcher, or another OCI runtime, will do.
//!
//! Where the peers differ, strata takes the stricter:
//! - podman's eleven capabilities (no `NET_RAW`, `MKNOD`, `AUDIT_WRITE`);
//! - both lists of masked paths; the thermal throttling of every CPU;
//! - a read-only bind is read-only all the way down.
//!
//! No limits of resources are set that nobody asked for: rlimits are those of whoever starts the container.
//!
//! Start reading at [`build`]; the lists are in `defaults.rs`. [`exec_process`] makes a further process for a container
//! that has its spec.

mod defaults;
mod exec;
mod host;
mod mounts;
mod resources;
mod rights;

pub(crate) use defaults::{IPC_SYSCTLS, MASKED, READONLY};
pub(crate) use resources::{default_devices, usual_devices};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use oci_spec::image::Config;
use oci_spec::runtime::{
    Capability, Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType,
    LinuxResources, PosixRlimit, Process, Root, Spec, User,
};

use serde::{Deserialize, Serialize};
use sys::ids::{Ids, Map, Range};

use crate::devices::DeviceError;
use crate::options::ContainerOptions;
use crate::options::namespaces::NamespaceOption;
use crate::seccomp::ProfileError;
use crate::user::ExecUser;

pub use exec::{ExecOptions, Who, exec_process};
pub use host::Host;

/// The annotation under which an image's stop signal stands in a spec (OCI image spec, "Conversion to OCI Runtime
/// Configuration").
pub const STOP_SIGNAL_ANNOTATION: &str = "org.opencontainers.image.stopSignal";

/// The annotation that says how many seconds pass between that signal and the end that is forced.
pub const STOP_TIMEOUT_ANNOTATION: &str = "strata.stop-timeout";

/// What a spec is made for, beside what the user asks.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// The container's id.
    pub id: &'a str,
    /// What the image says; `None` for a bare root file system.
    pub image: Option<&'a Config>,
    /// The user, found in the container's root by [`crate::user::resolve`] from [`wanted_user`].
    pub user: &'a ExecUser,
    /// The machine.
    pub host: &'a Host,
    /// Host name where the user chose none and the container has a UTS namespace of its own.
    pub hostname: Option<&'a str>,
    /// Files that are bound over the root's own: where they lie, and the path in the container (`/etc/hosts`).
    pub files: &'a [(PathBuf, PathBuf)],
    /// What confines it unasked.
    pub confinement: &'a Confinement,
}

/// What confines a container unasked where the machine has it; a privileged one it does not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Confinement {
    /// AppArmor profile, which is loaded.
    pub apparmor: Option<String>,
    /// SELinux labels.
    pub labels: Option<Labels>,
}

/// The SELinux labels of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Of its processes.
    pub process: String,
    /// Of its files.
    pub files: String,
}

/// Why no spec can be made of what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// Neither the user nor the image says what to run.
    #[error("no command: {0}")]
    NoCommand(&'static str),
    /// Two options that exclude each other.
    #[error("{one} and {other} exclude each other: {why}")]
    Conflict {
        /// A flag.
        one: String,
        /// Another.
        other: String,
        /// The reason.
        why: &'static str,
    },
    /// A capability that cannot be passed on.
    #[error("--cap-add {0}: strata does not have this capability itself, so it cannot give it")]
    CapabilityMissing(Capability),
    /// A kernel parameter that is not the container's own.
    #[error("--sysctl {key}: {problem}")]
    Sysctl {
        /// The parameter.
        key: String,
        /// Why not.
        problem: &'static str,
    },
    /// Two mounts at one place.
    #[error("two mounts at {0:?}: give one")]
    MountTwice(PathBuf),
    /// A device that cannot be given.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The host's devices cannot be listed.
    #[error("listing the devices of the host: {0}")]
    Devices(std::io::Error),
    /// A profile that cannot be used.
    #[error("--security-opt seccomp={path}: {source}")]
    Seccomp {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: ProfileError,
    },
    /// A filter for a machine whose system calls strata does not know.
    #[error(
        "strata knows system call filters for x86_64 and aarch64 only; use --security-opt seccomp=unconfined"
    )]
    UnknownMachine,
    /// An amount that does not go with another.
    #[error("{flag}: {problem}")]
    Limit {
        /// The flag.
        flag: &'static str,
        /// What is wrong.
        problem: String,
    },
}

/// The user as asked for or as the image says: what to give [`crate::user::resolve`].
pub fn wanted_user<'a>(options: &'a ContainerOptions, image: Option<&'a Config>) -> &'a str {
    options
        .user
        .as_deref()
        .or_else(|| image.and_then(|image| image.user().as_deref()))
        .unwrap_or("")
}

/// Makes the spec of a container.
///
/// Looks at the host's devices where the user names some; otherwise a pure function.
///
/// # Errors
/// [`SpecError`]: what was asked contradicts itself, or this machine cannot give it.
pub fn build(options: &ContainerOptions, context: &Context<'_>) -> Result<Spec, SpecError> {
    let capabilities = rights::capabilities(options, context.host)?;
    let bounding = capabilities.granted.clone();
    let (nodes, rules) = resources::devices(options)?;

    let labels = context.confinement.labels.as_ref();
    let mut linux = Linux::default();
    let ids = options.users.ids();
    let mappings = |map: fn(&Ids) -> &Map| {
        ids.as_ref()
            .map(|ids| map(ids).0.iter().filter_map(mapping).collect())
    };
    linux
        .set_uid_mappings(mappings(|ids| &ids.users))
        .set_gid_mappings(mappings(|ids| &ids.groups))
        .set_namespaces(Some(namespaces(options)))
        .set_cgroups_path(Some(cgroup(options, context.host, context.id)))
        .set_resources(Some(resources::resources(options, context.host, rules)?))
        .set_devices(Some(nodes).filter(|nodes| !nodes.is_empty()))
        .set_sysctl(Some(rights::sysctls(options, context.host)?).filter(|all| !all.is_empty()))
        .set_seccomp(rights::seccomp(options, context.host, &bounding)?)
        .set_rootfs_propagation(mounts::propagation(options))
        .set_mount_label(labels.map(|labels| labels.files.clone()));
    let (masked, readonly) = rights::hidden_paths(options, context.host);
    linux
        .set_masked_paths(Some(masked))
        .set_readonly_paths(Some(readonly));

    let hostname = match (&options.uts, &options.hostname) {
        (NamespaceOption::Private, asked) => asked.as_deref().or(context.hostname),
        (_, None) => None,
        (_, Some(_)) => {
            let why = "the host name belongs to the UTS namespace, which is not the container's own";
            return Err(SpecError::Conflict {
                one: "--hostname".into(),
                other: "--uts".into(),
                why,
            });
        }
    };

    let mut process = Process::default();
    process
        .set_terminal(Some(options.tty))
        .set_user(user(context.user, options.umask))
        .set_oom_score_adj(options.oom_score_adj)
        .set_args(Some(command(options, context.image)?))
        .set_env(Some(environment(
            options,
            context.image,
            hostname,
            Some(&context.user.home),
        )))
        .set_cwd(workdir(options, context.image))
        .set_capabilities(Some(capabilities.sets(context.user.uid == 0)))
        .set_rlimits(Some(rlimits(options)).filter(|limits| !limits.is_empty()))
        .set_no_new_privileges(Some(options.no_new_privileges))
        .set_apparmor_profile(apparmor(options, context.confinement))
        .set_selinux_label(labels.map(|labels| labels.process.clone()));

    let mut root = Root::default();
    root.set_path("rootfs".into())
        .set_readonly(Some(options.read_only));
    let mut spec = Spec::default();
    // The oldest version that has all that is used here, since Debian's crun (1.8) runs no newer one.
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_process(Some(process))
        .set_hostname(hostname.map(str::to_owned))
        .set_mounts(Some(mounts::mounts(options, context)?))
        .set_annotations(Some(annotations(options, context.image)))
        .set_linux(Some(linux));
    Ok(spec)
}

/// The limits alone that a spec has for these options: what [`crate::cgroup::Cgroup::update`] takes.
///
/// # Errors
/// [`SpecError::Limit`]: they contradict each other, or the machine has less.
pub fn limits(options: &ContainerOptions, host: &Host) -> Result<LinuxResources, SpecError> {
    resources::limits(options, host)
}

/// How many processes and threads a container of these options may have: what was asked for, or what it has where
/// nothing was and they can be counted.
pub fn process_limit(options: &ContainerOptions, host: &Host) -> Option<i64> {
    resources::process_limit(options, host)
}

/// The program and its arguments: the user's command after the entrypoint. A new entrypoint drops the image's command
/// with the image's entrypoint.
///
/// # Errors
/// [`SpecError::NoCommand`]: nobody says what to run.
pub fn command(options: &ContainerOptions, image: Option<&Config>) -> Result<Vec<String>, SpecError> {
    let of_image = |pick: fn(&Config) -> &Option<Vec<String>>| image.and_then(|image| pick(image).clone());
    let (mut args, fallback) = match &options.entrypoint {
        Some(entrypoint) => (entrypoint.clone(), None),
        None => (
            of_image(Config::entrypoint).unwrap_or_default(),
            of_image(Config::cmd),
        ),
    };
    args.extend(if options.command.is_empty() {
        fallback.unwrap_or_default()
    } else {
        options.command.clone()
    });
    match (args.is_empty(), &options.entrypoint, image) {
        (false, ..) => Ok(args),
        (true, Some(_), Some(_)) => Err(SpecError::NoCommand(
            "an empty --entrypoint takes the image's away, and its command with it",
        )),
        (true, _, Some(_)) => Err(SpecError::NoCommand("the image has none")),
        (true, _, None) => Err(SpecError::NoCommand("without an image there is none")),
    }
}

/// The directory that it begins in.
pub fn workdir(options: &ContainerOptions, image: Option<&Config>) -> PathBuf {
    let asked = options.workdir.as_deref();
    let wanted = asked
        .or_else(|| image.and_then(|image| image.working_dir().as_deref()))
        .unwrap_or("");
    // An image may say a relative one; it is meant from the root.
    Path::new("/").join(wanted)
}

/// Its environment, in docker's order: what every container has, the image's, the user's; a later one replaces an earlier.
pub fn environment(
    options: &ContainerOptions,
    image: Option<&Config>,
    hostname: Option<&str>,
    home: Option<&str>,
) -> Vec<String> {
    let mut variables = Variables::default();
    let mut set = |name: &str, value: Option<&str>| variables.set(name, value);
    set("PATH", Some(defaults::PATH));
    set("container", Some("strata"));
    if options.tty {
        set("TERM", Some("xterm"));
    }
    if let Some(hostname) = hostname {
        set("HOSTNAME", Some(hostname));
    }
    if let Some(home) = home {
        set("HOME", Some(home));
    }
    for variable in image.iter().flat_map(|image| image.env().iter().flatten()) {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        set(name, Some(value));
    }
    for (name, value) in &options.env {
        set(name, value.as_deref());
    }
    variables.into_lines()
}

/// An environment being made, in the order in which names came first.
#[derive(Default)]
struct Variables(Vec<(String, String)>);

impl Variables {
    fn get(&self, name: &str) -> Option<&str> {
        let known = self.0.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.as_str())
    }

    /// A later value replaces an earlier one; `None` takes the variable out.
    fn set(&mut self, name: &str, value: Option<&str>) {
        let known = self.0.iter().position(|(known, _)| known == name);
        match (known, value) {
            (Some(at), Some(value)) => self.0[at].1 = value.to_owned(),
            (None, Some(value)) => self.0.push((name.to_owned(), value.to_owned())),
            (Some(at), None) => drop(self.0.remove(at)),
            (None, None) => {}
        }
    }

    fn into_lines(self) -> Vec<String> {
        let line = |(name, value)| format!("{name}={value}");
        self.0.into_iter().map(line).collect()
    }
}

fn user(found: &ExecUser, umask: Option<u32>) -> User {
    let mut user = User::default();
    user.set_uid(found.uid)
        .set_gid(found.gid)
        .set_umask(Some(umask.unwrap_or(0o022)));
    // A set-gid program would take a process out of a group that it has as its first alone, and let it at files which
    // deny that group what others may (CVE-2022-36109). So the first is among the others too, as with docker.
    let others = found.groups.iter().filter(|group| **group != found.gid);
    user.set_additional_gids(Some([found.gid].iter().chain(others).copied().collect()));
    user
}

/// The profile that was asked for, or else the one that there is unasked.
fn apparmor(options: &ContainerOptions, confinement: &Confinement) -> Option<String> {
    match options.apparmor.as_deref() {
        Some("unconfined") => None,
        Some(profile) => Some(profile.to_owned()),
        None if options.privileged => None,
        None => confinement.apparmor.clone(),
    }
}

fn rlimits(options: &ContainerOptions) -> Vec<PosixRlimit> {
    let mut limits: Vec<PosixRlimit> = Vec::new();
    for limit in &options.ulimits {
        limits.retain(|known| known.typ() != limit.typ());
        limits.push(*limit);
    }
    limits
}

fn namespaces(options: &ContainerOptions) -> Vec<LinuxNamespace> {
    let own = NamespaceOption::Private;
    let wanted = [
        (LinuxNamespaceType::Mount, &own),
        (LinuxNamespaceType::Cgroup, &own),
        (LinuxNamespaceType::Pid, &options.pid),
        (LinuxNamespaceType::Ipc, &options.ipc),
        (LinuxNamespaceType::Uts, &options.uts),
        (LinuxNamespaceType::Network, &options.network),
    ];
    let namespace = |typ, path: Option<PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(path);
        namespace
    };
    wanted
        .into_iter()
        .chain(options.users.ids().map(|_| (LinuxNamespaceType::User, &own)))
        .filter_map(|(typ, how)| match how {
            NamespaceOption::Host => None,
            NamespaceOption::Joined(joined) => Some(namespace(typ, Some(joined.path.clone()))),
            // The engine has put a path in the place of every name; one that is left is a new namespace.
            NamespaceOption::Private | NamespaceOption::Container(_) => Some(namespace(typ, None)),
        })
        .collect()
}

fn mapping(range: &Range) -> Option<LinuxIdMapping> {
    let mut mapping = LinuxIdMappingBuilder::default();
    mapping = mapping
        .container_id(range.inside)
        .host_id(range.outside)
        .size(range.count);
    mapping.build().ok()
}

/// Where below the root of every hierarchy the cgroup of a container lies.
pub fn cgroup(options: &ContainerOptions, host: &Host, id: &str) -> PathBuf {
    let parent = match (&options.cgroup_parent, &host.cgroup_parent) {
        (Some(asked), _) => Path::new(asked),
        (None, Some(delegated)) => delegated,
        (None, None) => Path::new(crate::cgroup::DEFAULT_PARENT),
    };
    Path::new("/").join(parent).join(id)
}

fn annotations(options: &ContainerOptions, image: Option<&Config>) -> HashMap<String, String> {
    let mut annotations: HashMap<String, String> = HashMap::new();
    let image_signal = image.and_then(|image| image.stop_signal().clone());
    if let Some(signal) = options
        .stop_signal
        .map(|signal| signal.to_string())
        .or(image_signal)
    {
        annotations.insert(STOP_SIGNAL_ANNOTATION.to_owned(), signal);
    }
    if options.init {
        annotations.insert(crate::INIT_ANNOTATION.to_owned(), "true".to_owned());
    }
    annotations.extend(options.annotations.iter().cloned());
    annotations
}

/// A set of capabilities as the spec's type has it.
type Capabilities = HashSet<Capability>;

#[cfg(test)]
mod tests;
