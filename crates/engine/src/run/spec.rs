//! What the container's specification is made of: the request, the image's configuration, and where the container is.

use std::path::PathBuf;

use image::config::Execution;
use oci_spec::image::Config;
use runtime::bundle::Bundle;
use runtime::options::ContainerOptions;
use runtime::options::namespaces::{Joined, NamespaceOption};
use runtime::spec::{self, Context, Host};
use runtime::user;
use store::ContainerError;

use super::base::Base;
use super::start::RunError;
use super::{Request, etc};
use crate::Engine;
use crate::state::State;

/// Digits of the id that are the host name of a container that was given none.
const SHORT: usize = 12;

/// The version of the runtime specification that every OCI runtime knows.
const OLD_VERSION: &str = "1.0.2";

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
    /// The machine does not tell what it has.
    #[error("asking the kernel what it has: {0}")]
    Host(#[source] std::io::Error),
    /// What was asked contradicts itself, or the machine cannot give it.
    #[error(transparent)]
    Build(#[from] spec::SpecError),
}

/// Everything that is known before there is a root file system.
pub(super) struct Draft {
    options: ContainerOptions,
    image: Option<Config>,
    /// The program and its arguments.
    pub(super) command: Vec<String>,
    /// The name that the container calls itself by.
    hostname: String,
    /// The container whose network is joined, by id.
    network_of: Option<String>,
    /// Another OCI runtime will read the specification.
    foreign_runtime: bool,
}

impl Draft {
    /// Looks up what the request names.
    pub(super) fn new(engine: &Engine, request: &Request, base: &Base, id: &str) -> Result<Draft, SpecError> {
        let mut options = request.container.clone();
        let mut network_of = None;
        for (flag, kind, option) in [
            ("--network", "net", &mut options.network),
            ("--pid", "pid", &mut options.pid),
            ("--ipc", "ipc", &mut options.ipc),
            ("--uts", "uts", &mut options.uts),
        ] {
            if let NamespaceOption::Container(name) = option {
                let (other, joined) = engine.namespace_of(flag, kind, name)?;
                if kind == "net" {
                    network_of = Some(other);
                }
                *option = NamespaceOption::Joined(joined);
            }
        }
        let hostname = match (&options.hostname, &options.uts) {
            (Some(asked), _) => asked.clone(),
            (None, NamespaceOption::Host) => {
                rustix::system::uname().nodename().to_string_lossy().into_owned()
            }
            (None, _) => id[..SHORT].to_owned(),
        };
        let image = base.image.as_ref().map(|_| config(&base.execution));
        let command = spec::command(&options, image.as_ref())?;
        Ok(Draft {
            options,
            image,
            command,
            hostname,
            network_of,
            foreign_runtime: request.runtime.is_some(),
        })
    }

    /// The signal that asks the process to end, by name or number; none for SIGTERM.
    pub(super) fn stop_signal(&self) -> Option<String> {
        let asked = self.options.stop_signal.map(|signal| signal.to_string());
        asked.or_else(|| self.image.as_ref()?.stop_signal().clone())
    }

    /// Writes what the bundle of a mounted root still lacks: the files that are bound into it, and `config.json`.
    pub(super) fn write(&self, engine: &Engine, request: &Request, bundle: &Bundle) -> Result<(), RunError> {
        let mut files = Vec::new();
        for (name, target, text) in self.files(engine, request) {
            bundle.write(name, text.as_bytes(), 0o644)?;
            files.push((bundle.path().join(name), PathBuf::from(target)));
        }
        let spec = self.spec(bundle, &files).map_err(Box::new)?;
        Ok(bundle.write_spec(&spec)?)
    }

    fn spec(
        &self,
        bundle: &Bundle,
        files: &[(PathBuf, PathBuf)],
    ) -> Result<oci_spec::runtime::Spec, SpecError> {
        let root = sys::Dir::open_ambient(bundle.rootfs()).map_err(SpecError::Host)?;
        let wanted = spec::wanted_user(&self.options, self.image.as_ref());
        let user = user::resolve(&root, wanted, &self.options.group_add)?;
        let context = Context {
            id: bundle.id(),
            image: self.image.as_ref(),
            user: &user,
            host: &Host::probe().map_err(SpecError::Host)?,
            hostname: Some(&self.hostname),
            files,
        };
        let mut spec = spec::build(&self.options, &context)?;
        if self.foreign_runtime {
            // An older runtime refuses a newer version's name, although it knows everything that is said here.
            spec.set_version(OLD_VERSION.to_owned());
        }
        Ok(spec)
    }

    /// Name in the bundle, path in the container, and text of the files that say where the container is. In another
    /// container's network they are the other's.
    fn files(&self, engine: &Engine, request: &Request) -> [(&'static str, &'static str, String); 3] {
        let host = |path: &str| {
            std::fs::read(path)
                .map(|text| String::from_utf8_lossy(&text).into_owned())
                .ok()
        };
        let other = |name: &str| {
            let bundle = Bundle::open(&engine.bundle_path(self.network_of.as_deref()?)).ok()?;
            Some(String::from_utf8_lossy(&bundle.read(name).ok()??).into_owned())
        };
        let own_network = self.options.network != NamespaceOption::Host;
        let base = other("hosts").or_else(|| if own_network { None } else { host("/etc/hosts") });
        let hosts = etc::hosts(base.as_deref(), &self.hostname, &request.hosts);
        let resolv = other("resolv.conf").unwrap_or_else(|| {
            etc::resolv_conf(
                &host("/etc/resolv.conf").unwrap_or_default(),
                &request.dns,
                own_network,
            )
        });
        [
            ("hosts", "/etc/hosts", hosts),
            ("hostname", "/etc/hostname", self.hostname.clone() + "\n"),
            ("resolv.conf", "/etc/resolv.conf", resolv),
        ]
    }
}

/// The image's wishes in the form that the OCI specification's library has. What is empty there was not said.
fn config(execution: &Execution) -> Config {
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

impl Engine {
    /// A namespace of a running container, and the container's id.
    fn namespace_of(
        &self,
        flag: &'static str,
        kind: &str,
        name: &str,
    ) -> Result<(String, Joined), SpecError> {
        let joined = |source| SpecError::Joined {
            flag,
            name: name.to_owned(),
            source: Box::new(source),
        };
        let row = self.store.find_container(self.ns(), name).map_err(joined)?;
        match self.state(&row.id) {
            State::Running { pid, .. } => {
                let path = format!("/proc/{pid}/ns/{kind}").into();
                Ok((
                    row.id,
                    Joined {
                        path,
                        root: Some(format!("/proc/{pid}/root").into()),
                    },
                ))
            }
            _ => Err(SpecError::NotRunning {
                flag,
                name: name.to_owned(),
            }),
        }
    }
}
