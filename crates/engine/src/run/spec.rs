//! What the container's specification is made of: the request, the image's configuration, and where the container is.

use std::borrow::Cow;
use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use ::network::sandbox::NAMESPACE as NETWORK;
use image::config::Execution;
use oci_spec::image::Config;
use oci_spec::runtime::LinuxNamespaceType;
use runtime::bundle::Bundle;
use runtime::options::mounts::MountOption;
use runtime::options::namespaces::{Joined, NamespaceOption};
use runtime::options::{ContainerOptions, process};
use runtime::spec::{self, Confinement, Context, Host};
use runtime::user;
use rustix::fs::Mode;
use store::ContainerError;
use sys::Dir;
use sys::ids::Ids;

use super::start::RunError;
use super::{Plan, etc};
use crate::Engine;
use crate::confine::{label_files, label_sources};
use crate::network::Attached;
use crate::state::State;

/// Digits of the id that are the host name of a container that was given none.
pub(crate) const SHORT: usize = 12;

/// The version of the runtime specification that every OCI runtime knows.
const OLD_VERSION: &str = "1.0.2";

/// The directory of a bundle that stands for the root of the container whose IPC namespace is joined.
const SHARED: &str = "shared";

/// What of it is shared, beneath [`SHARED`].
const MEMORY: &str = "dev/shm";

/// Why no specification can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A namespace of another container, which does not exist.
    #[error("{flag} container:{name}: {source}")]
    Joined {
        /// The flag.
        flag: &'static str,
        /// The other container.
        name: String,
        /// Why not.
        source: Box<ContainerError>,
    },
    /// A namespace of another container, which has none since it does not run.
    #[error("{flag} container:{name}: it does not run")]
    NotRunning {
        /// The flag.
        flag: &'static str,
        /// The other container.
        name: String,
    },
    /// The image or the caller names a user that the root does not know.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// Another container's `/dev/shm` could not be shared.
    #[error("sharing /dev/shm with --ipc: {0}")]
    Memory(#[source] io::Error),
    /// Nothing stands for the machine where there is no network, or none with a way out.
    #[error("--add-host …:host-gateway: the container has no way to this machine")]
    NoGateway,
    /// The machine does not tell what it has.
    #[error("asking the kernel what it has: {0}")]
    Host(#[source] io::Error),
    /// What was asked contradicts itself, or the machine cannot give it.
    #[error(transparent)]
    Build(#[from] spec::SpecError),
}

/// Everything that is known before there is a root file system.
pub(super) struct Draft {
    /// The container's id.
    pub(super) id: String,
    options: ContainerOptions,
    image: Option<Config>,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// The name that the container calls itself by.
    hostname: String,
    /// The container whose network is joined, by id.
    network_of: Option<String>,
    /// The process whose `/dev/shm` is shared.
    memory_of: Option<i32>,
    /// Seconds between the signal that asks it to end and the one that ends it.
    stop_timeout: Option<u32>,
    /// Another OCI runtime will read the specification.
    foreign_runtime: bool,
}

impl Draft {
    /// Looks up what the plan names.
    pub(super) fn new(engine: &Engine, plan: &Plan, id: &str) -> Result<Draft, SpecError> {
        let mut options = plan.container.clone();
        let (mut network_of, mut memory_of, mut named_as) = (None, None, None);
        for (flag, kind, option) in [
            ("--network", "net", &mut options.network),
            ("--pid", "pid", &mut options.pid),
            ("--ipc", "ipc", &mut options.ipc),
            ("--uts", "uts", &mut options.uts),
        ] {
            if let NamespaceOption::Container(name) = option {
                let (other, pid) = engine.process_of(flag, name)?;
                match kind {
                    "net" => {
                        named_as = Some(other.clone());
                        network_of = Some(other);
                    }
                    "uts" => named_as = Some(other),
                    "ipc" => memory_of = Some(pid),
                    _ => {}
                }
                let root = (kind == "ipc").then(|| engine.bundle_path(id).join(SHARED));
                let path = format!("/proc/{pid}/ns/{kind}").into();
                *option = NamespaceOption::Joined(Joined { path, root });
            }
        }
        let hostname = match (&options.hostname, &options.uts) {
            (Some(asked), _) => asked.clone(),
            // In another's network or under its name it is called as the other, whose hosts file knows that.
            (None, _) if named_as.is_some() => {
                let name = named_as.and_then(|other| engine.file_of(&other, "hostname"));
                name.unwrap_or_default().trim_end().to_owned()
            }
            // In the host's network it is called as the host too, which that network's names lead to.
            (None, uts) if [uts, &options.network].contains(&&NamespaceOption::Host) => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            (None, _) => id[..SHORT].to_owned(),
        };
        let image = plan.image.as_ref().map(config);
        let command = spec::command(&options, image.as_ref())?;
        Ok(Draft {
            id: id.to_owned(),
            options,
            image,
            command,
            hostname,
            network_of,
            memory_of,
            stop_timeout: plan.stop_timeout,
            foreign_runtime: plan.runtime.is_some(),
        })
    }

    /// The signal that asks the process to end, by name or number; none for SIGTERM.
    pub(super) fn stop_signal(&self) -> Option<String> {
        let asked = self.options.stop_signal.map(process::signal_name);
        asked.or_else(|| self.image.as_ref()?.stop_signal().clone())
    }

    /// Writes what the bundle of a mounted root still lacks: the files that are bound into it, and `config.json`.
    pub(super) fn write(
        &self,
        engine: &Engine,
        plan: &Plan,
        bundle: &Bundle,
        attached: &Attached,
        confinement: &Confinement,
    ) -> Result<(), RunError> {
        let mut files = Vec::new();
        let ids = plan.container.users.ids();
        for (name, target, text) in self.files(engine, plan, attached).map_err(Box::new)? {
            bundle.write(name, text.as_bytes(), 0o644)?;
            if let Some((uid, gid)) = ids.as_ref().and_then(root_of) {
                let given = bundle.dir().set_owner(name, uid, gid);
                given.map_err(|e| Box::new(SpecError::Host(e)))?;
            }
            files.push((bundle.path().join(name), PathBuf::from(target)));
        }
        if let Some(pid) = self.memory_of {
            share_memory(pid, bundle).map_err(|e| Box::new(SpecError::Memory(e)))?;
        }
        let root = Dir::open_ambient(bundle.rootfs()).map_err(|e| Box::new(SpecError::Host(e)))?;
        let volumes = engine.mount_volumes(plan, &root).map_err(Box::new)?;
        if let Some(labels) = &confinement.labels {
            let label = || {
                label_files(labels, &files)?;
                label_sources(labels, &volumes, &plan.container.mounts)
            };
            label().map_err(Box::new)?;
        }
        let mut spec = self
            .spec(bundle, &root, &files, volumes, confinement)
            .map_err(Box::new)?;
        if !plan.networks.is_empty() {
            in_namespace(&mut spec, bundle.path().join(NETWORK));
        }
        if let Some(check) = plan.health() {
            runtime::health::write(bundle, &spec, &check)?;
        }
        Ok(bundle.write_spec(&spec)?)
    }

    fn spec(
        &self,
        bundle: &Bundle,
        root: &Dir,
        files: &[(PathBuf, PathBuf)],
        volumes: Vec<MountOption>,
        confinement: &Confinement,
    ) -> Result<oci_spec::runtime::Spec, SpecError> {
        let wanted = spec::wanted_user(&self.options, self.image.as_ref());
        let mut host = Host::probe().map_err(SpecError::Host)?;
        host.ids = self.options.users.ids().or(host.ids);
        let user = user::resolve(root, wanted, &self.options.group_add, host.ids.as_ref())?;
        let context = Context {
            id: bundle.id(),
            image: self.image.as_ref(),
            user: &user,
            host: &host,
            hostname: Some(&self.hostname),
            files,
            confinement,
        };
        let mut options = Cow::Borrowed(&self.options);
        if !volumes.is_empty() {
            options.to_mut().mounts.extend(volumes);
        }
        if let Some(seconds) = self.stop_timeout {
            let said = (spec::STOP_TIMEOUT_ANNOTATION.to_owned(), seconds.to_string());
            options.to_mut().annotations.push(said);
        }
        let mut spec = spec::build(&options, &context)?;
        if self.foreign_runtime {
            // An older runtime refuses a newer version's name, although it knows everything that is said here.
            spec.set_version(OLD_VERSION.to_owned());
        }
        Ok(spec)
    }

    /// Name in the bundle, path in the container, and text of the files that say where the container is. In another
    /// container's network they are the other's.
    fn files(
        &self,
        engine: &Engine,
        plan: &Plan,
        attached: &Attached,
    ) -> Result<[(&'static str, &'static str, String); 3], SpecError> {
        let host = |path: &str| {
            std::fs::read(path)
                .map(|text| String::from_utf8_lossy(&text).into_owned())
                .ok()
        };
        let other = |name: &str| engine.file_of(self.network_of.as_deref()?, name);
        let own_network = self.options.network != NamespaceOption::Host;
        let base = other("hosts").or_else(|| if own_network { None } else { host("/etc/hosts") });
        let mut added = plan.hosts.clone();
        if !plan.gateway_names.is_empty() {
            let machine = if own_network {
                attached.gateway
            } else {
                Some(Ipv4Addr::LOCALHOST.into())
            };
            let machine = machine.ok_or(SpecError::NoGateway)?;
            added.extend(plan.gateway_names.iter().map(|name| (name.clone(), machine)));
        }
        let hosts = etc::hosts(base.as_deref(), &self.hostname, &attached.addresses, &added);
        let asked = etc::Resolver {
            servers: &plan.dns,
            search: &plan.dns_search,
            options: &plan.dns_options,
        };
        let resolv = other("resolv.conf").unwrap_or_else(|| {
            let mut own = host("/etc/resolv.conf").unwrap_or_default();
            if !plan.networks.is_empty() && !etc::reaches_a_server(&own) {
                // The machine asks a server of its own, which keeps here whom that asks.
                own = host("/run/systemd/resolve/resolv.conf").unwrap_or(own);
            }
            etc::resolv_conf(&own, &asked, own_network)
        });
        Ok([
            ("hosts", "/etc/hosts", hosts),
            ("hostname", "/etc/hostname", self.hostname.clone() + "\n"),
            ("resolv.conf", "/etc/resolv.conf", resolv),
        ])
    }
}

/// What root of a namespace with these ids is outside.
fn root_of(ids: &Ids) -> Option<(u32, u32)> {
    ids.users.outside(0).zip(ids.groups.outside(0))
}

/// Has the container join the network namespace that was made for it, and that is its own all the same.
fn in_namespace(spec: &mut oci_spec::runtime::Spec, path: PathBuf) {
    let namespaces = spec
        .linux_mut()
        .as_mut()
        .and_then(|linux| linux.namespaces_mut().as_mut());
    for namespace in namespaces.into_iter().flatten() {
        if namespace.typ() == LinuxNamespaceType::Network {
            namespace.set_path(Some(path.clone()));
        }
    }
}

/// The image's wishes in the form that the OCI specification's library has. What is empty there was not said.
pub(crate) fn config(execution: &Execution) -> Config {
    let words = |words: &[String]| (!words.is_empty()).then(|| words.to_vec());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let mut config = Config::default();
    config
        .set_entrypoint(words(&execution.entrypoint))
        .set_cmd(words(&execution.cmd))
        .set_env(words(&execution.env))
        .set_working_dir(text(&execution.working_dir))
        .set_user(text(&execution.user))
        .set_stop_signal(text(&execution.stop_signal));
    config
}

/// Attaches the `/dev/shm` of another container in the bundle, to be bound from there.
fn share_memory(pid: i32, bundle: &Bundle) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let memory = sys::mount::clone_tree_in(namespace.as_fd(), &Path::new("/").join(MEMORY))?;
    let place = bundle
        .dir()
        .mkdir_all(Path::new(SHARED).join(MEMORY), Mode::RWXU)?;
    sys::mount::attach(memory.as_fd(), place.as_fd())
}

/// Where [`share_memory`] attached something in a bundle, if it did.
pub(crate) fn shared_memory(bundle: &Path) -> PathBuf {
    bundle.join(SHARED).join(MEMORY)
}

impl Engine {
    /// The text of a file in a container's bundle.
    fn file_of(&self, id: &str, name: &str) -> Option<String> {
        let text = Bundle::open(&self.bundle_path(id)).ok()?.read(name).ok()??;
        Some(String::from_utf8_lossy(&text).into_owned())
    }

    /// The id of a running container, and its first process.
    fn process_of(&self, flag: &'static str, name: &str) -> Result<(String, i32), SpecError> {
        let joined = |source| SpecError::Joined {
            flag,
            name: name.to_owned(),
            source: Box::new(source),
        };
        let row = self.store.find_container(self.ns(), name).map_err(joined)?;
        match self.state(&row) {
            State::Running { pid, .. } | State::Paused { pid, .. } => Ok((row.id, pid)),
            _ => Err(SpecError::NotRunning {
                flag,
                name: name.to_owned(),
            }),
        }
    }
}
