//! What the container's specification is made of: the request, the image's configuration, and where the container is.

use std::path::Path;

use super::stopgap::{self as spec, Image};
use runtime::bundle::Bundle;
use runtime::options::ContainerOptions;
use runtime::options::mounts::{MountKind, MountOption};
use runtime::options::namespaces::{Joined, NamespaceOption};
use store::ContainerError;

use super::base::Base;
use super::start::RunError;
use super::{Request, etc};
use crate::Engine;
use crate::state::State;

/// Digits of the id that are the host name of a container that was given none.
const SHORT: usize = 12;

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
    /// What was asked cannot be put into a specification: an unknown user, a device that does not exist.
    #[error(transparent)]
    Build(#[from] spec::BuildError),
}

/// Everything that is known before there is a root file system.
pub(super) struct Draft {
    options: ContainerOptions,
    image: Image,
    /// The container whose network is joined, by id.
    network_of: Option<String>,
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
        if options.hostname.is_none() && options.uts == NamespaceOption::Private {
            options.hostname = Some(id[..SHORT].to_owned());
        }
        let execution = base.execution.clone();
        let image = Image {
            entrypoint: execution.entrypoint,
            cmd: execution.cmd,
            env: execution.env,
            working_dir: execution.working_dir,
            user: execution.user,
            stop_signal: execution.stop_signal,
        };
        Ok(Draft {
            options,
            image,
            network_of,
        })
    }

    /// The program and its arguments.
    pub(super) fn command(&self) -> Vec<String> {
        spec::command(&self.options, &self.image)
    }

    /// The signal that asks the process to end, by name or number; none for SIGTERM.
    pub(super) fn stop_signal(&self) -> Option<String> {
        let asked = self.options.stop_signal.map(|signal| signal.to_string());
        asked.or_else(|| Some(self.image.stop_signal.clone()).filter(|signal| !signal.is_empty()))
    }

    /// Writes what the bundle of a mounted root still lacks: the files that are bound into it, and `config.json`.
    pub(super) fn write(
        &mut self,
        engine: &Engine,
        request: &Request,
        bundle: &Bundle,
    ) -> Result<(), RunError> {
        let root = bundle
            .dir()
            .open_dir("rootfs")
            .map_err(|source| RunError::State {
                what: "opening",
                path: bundle.rootfs(),
                source,
            })?;
        for (name, target, text) in self.files(engine, request) {
            // A mount of the user's own over the same file goes before ours.
            if self
                .options
                .mounts
                .iter()
                .any(|mount| mount.destination == Path::new(target))
            {
                continue;
            }
            bundle.write(name, text.as_bytes(), 0o644)?;
            self.options.mounts.push(MountOption {
                destination: target.into(),
                kind: MountKind::Bind {
                    source: bundle.path().join(name),
                },
                options: ["bind", "rprivate"].map(str::to_owned).to_vec(),
                relabel: false,
            });
        }
        let spec = spec::build(&self.options, &self.image, &root).map_err(SpecError::from)?;
        Ok(bundle.write_spec(&spec)?)
    }

    /// Name in the bundle, path in the container, and text of the files that say where the container is. In another
    /// container's network they are the other's.
    fn files(&self, engine: &Engine, request: &Request) -> Vec<(&'static str, &'static str, String)> {
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
        let hostname = match (&self.options.hostname, other("hostname")) {
            (_, Some(hostname)) => hostname.trim_end().to_owned(),
            (Some(hostname), None) => hostname.clone(),
            (None, None) => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        };
        let base = other("hosts").or_else(|| if own_network { None } else { host("/etc/hosts") });
        let hosts = etc::hosts(base.as_deref(), &hostname, &request.hosts);
        let resolv = other("resolv.conf").unwrap_or_else(|| {
            etc::resolv_conf(
                &host("/etc/resolv.conf").unwrap_or_default(),
                &request.dns,
                own_network,
            )
        });
        vec![
            ("hosts", "/etc/hosts", hosts),
            ("hostname", "/etc/hostname", hostname + "\n"),
            ("resolv.conf", "/etc/resolv.conf", resolv),
        ]
    }
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
