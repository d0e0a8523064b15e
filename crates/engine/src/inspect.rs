//! `inspect`: everything about a container or an image, in docker's shape where docker has one.

use std::collections::BTreeMap;

use image::config::{ConfigError, ImageConfig};
use mount::overlay::Overlay;
use oci_spec::runtime::{Process, Spec};
use runtime::bundle::Bundle;
use runtime::health::{Health, HealthCheck};
use runtime::options::mounts::{MountKind, MountOption};
use runtime::options::namespaces::NamespaceOption;
use runtime::options::process;
use runtime::options::volumes::is_read_only;
use serde_json::{Value, json};
use store::{BlobError, ContainerError, Fault, SnapshotError};

use crate::Engine;
use crate::find::{FindImageError, familiar};
use crate::network;
use crate::run::{Details, Plan};
use crate::state::State;
use crate::volumes::Volume;

/// What a name is to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
}

/// Why something could not be inspected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Neither a container nor an image.
    #[error("there is no container and no image {0:?}")]
    NotFound(String),
    /// No such container, or several.
    #[error(transparent)]
    Container(ContainerError),
    /// No such image, or several.
    #[error(transparent)]
    Image(FindImageError),
    /// A blob of the image.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// Its configuration.
    #[error("image {name}: {source}")]
    Config {
        /// The image.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// Its layers.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// Everything about the container, or else the image, of that name or id.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn inspect(&self, name: &str, kind: Option<Kind>) -> Result<Value, InspectError> {
        if kind != Some(Kind::Image) {
            match self.store.find_container(self.ns(), name) {
                Ok(row) => return self.inspect_container(row),
                Err(ContainerError::NotFound(_)) if kind.is_none() => {}
                Err(error) => return Err(InspectError::Container(error)),
            }
        }
        match self.find_image(name) {
            Ok(image) => self.inspect_image(&image),
            Err(FindImageError::NotFound(name)) if kind.is_none() => Err(InspectError::NotFound(name)),
            Err(error) => Err(InspectError::Image(error)),
        }
    }

    fn inspect_container(&self, row: store::Container) -> Result<Value, InspectError> {
        let (details, now) = (Details::of(&row), self.state(&row));
        self.remember([(&row, &now)]);
        let bundle = self.bundle_path(&row.id);
        // After a reboot there is none, and what only it knew is unknown.
        let spec = Bundle::open(&bundle).and_then(|bundle| bundle.spec()).ok();
        let asked = details.plan.as_ref().and_then(Plan::health);
        let health = asked.as_ref().and_then(|_| self.health(&row.id));
        let bound = self.mounts_of(&details, spec.as_ref());
        let process = spec.as_ref().and_then(|spec| spec.process().as_ref());
        let mounts = self.store.root_mounts(self.ns(), &row.id)?;
        let overlay = mounts
            .first()
            .map(|mount| Overlay::parse(&mount.options))
            .unwrap_or_default();
        let lower: Vec<_> = overlay
            .lower
            .iter()
            .map(|path| path.display().to_string())
            .collect();
        let (upper, work) = overlay.writable.unzip();
        let image = match (&row.image, &row.manifest) {
            (Some(name), Some(_)) => self
                .store
                .find_image(self.ns(), name)?
                .map(|image| image.id.to_string()),
            _ => None,
        };
        let plan = details.plan.clone().unwrap_or_default();
        let record = self.network_record(&row.id);
        // Of a container that a power cut took half of there may be nothing to measure.
        let quota = self.store.quota(self.ns(), &row.id).ok().flatten();
        Ok(json!({
            "Id": row.id,
            "Created": row.created,
            "Name": row.name,
            "Path": details.command.first(),
            "Args": details.command.get(1..).unwrap_or_default(),
            "State": state(&now, health),
            "Image": image,
            "ImageName": row.image.as_deref().map_or(details.source, familiar),
            "ImageDigest": row.manifest.map(|digest| digest.to_string()),
            "Driver": "overlay",
            "Platform": "linux",
            "BundlePath": bundle,
            "OCIConfigPath": bundle.join("config.json"),
            "HostnamePath": bundle.join("hostname"),
            "HostsPath": bundle.join("hosts"),
            "ResolvConfPath": bundle.join("resolv.conf"),
            "Mounts": bound,
            "Config": {
                "Hostname": spec.as_ref().and_then(|spec| spec.hostname().clone()),
                "User": process.map(user),
                "Env": process.and_then(|p| p.env().clone()),
                "Cmd": process.and_then(|p| p.args().clone()).unwrap_or(details.command),
                "WorkingDir": process.map(Process::cwd),
                "Tty": details.tty,
                "OpenStdin": details.interactive,
                "StopSignal": details.stop_signal.as_deref().map(stop_signal),
                "Labels": row.labels,
                "ExposedPorts": exposed(&plan),
                "Healthcheck": asked.as_ref().map(healthcheck),
                "Annotations": spec.as_ref().and_then(|spec| spec.annotations().clone()),
            },
            "HostConfig": {
                "AutoRemove": row.ephemeral,
                "NetworkMode": network_mode(&plan),
                "PortBindings": bindings(&plan),
                "PublishAllPorts": plan.publish_all,
                "Dns": plan.dns,
                "DnsSearch": plan.dns_search,
                "DnsOptions": plan.dns_options,
                "ReadonlyRootfs": spec.as_ref().and_then(|s| s.root().as_ref()).map(|root| root.readonly()),
                "Runtime": details.runtime,
                "StorageOpt": quota.map(|quota| json!({ "size": quota.limit.to_string() })),
            },
            "NetworkSettings": network::settings(&bundle, record.as_ref(), &plan),
            "SizeRw": quota.map(|quota| quota.bytes),
            "GraphDriver": {
                "Name": "overlay",
                "Data": {
                    "LowerDir": lower.join(":"),
                    "UpperDir": upper,
                    "WorkDir": work,
                    "MergedDir": bundle.join("rootfs"),
                },
            },
        }))
    }

    /// What of the machine is mounted in a container, in docker's words.
    fn mounts_of(&self, details: &Details, spec: Option<&Spec>) -> Vec<Value> {
        let Some(plan) = &details.plan else {
            return spec.map(binds).unwrap_or_default();
        };
        let mut mounts = Vec::new();
        for volume in &plan.container.volumes {
            let name = volume.name.as_deref().unwrap_or_default();
            let found = self.store.find_volume(self.ns(), name).ok();
            let source = found.map(|found| Volume::from(found).mountpoint);
            let mut told = mount(&volume.bind(source.unwrap_or_default()));
            told["Type"] = json!("volume");
            told["Name"] = json!(name);
            told["Driver"] = json!("local");
            mounts.push(told);
        }
        mounts.extend(plan.container.mounts.iter().map(mount));
        mounts
    }

    fn inspect_image(&self, image: &store::Image) -> Result<Value, InspectError> {
        let text = self.store.read_blob(&image.config.digest, image.config.size)?;
        let config = ImageConfig::parse(&text, usize::try_from(image.layers).unwrap_or(usize::MAX)).map_err(
            |source| InspectError::Config {
                name: familiar(&image.name),
                source,
            },
        )?;
        let names = self.store.images_by_id_prefix(self.ns(), &image.id.hex())?;
        let tags: Vec<String> = names.iter().map(|image| familiar(&image.name)).collect();
        let layers = self.store.manifest_layers(&image.manifest.digest)?;
        let directories: Vec<_> = layers
            .iter()
            .rev()
            .map(|layer| self.store.layer_path(layer.layer_n))
            .collect();
        let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
        Ok(json!({
            "Id": image.id.to_string(),
            "RepoTags": tags,
            "Digest": image.target.digest.to_string(),
            "ManifestDigest": image.manifest.digest.to_string(),
            "Created": config.created,
            "Author": config.author,
            "Os": image.os,
            "Architecture": image.architecture,
            "Variant": image.variant,
            "Size": image.usage.bytes,
            "Config": config.config,
            "RootFS": { "Type": "layers", "Layers": diff_ids },
            "History": config.history,
            "Labels": config.config.labels,
            "GraphDriver": { "Name": "overlay", "Data": { "LowerDirs": directories } },
        }))
    }
}

/// `--network` in docker's words.
fn network_mode(plan: &Plan) -> String {
    match (&plan.container.network, plan.networks.first()) {
        (NamespaceOption::Private, None) => "none".to_owned(),
        (NamespaceOption::Private, Some(first)) => first.network.clone(),
        (NamespaceOption::Host, _) => "host".to_owned(),
        (NamespaceOption::Container(name), _) => format!("container:{name}"),
        (NamespaceOption::Joined(joined), _) => format!("ns:{}", joined.path.display()),
    }
}

/// What was asked to be published, by the container's port; an empty port of the host is any.
fn bindings(plan: &Plan) -> BTreeMap<String, Vec<Value>> {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for asked in &plan.publish {
        for (offset, port) in (asked.container.0..=asked.container.1).enumerate() {
            let host = match asked.host {
                None => String::new(),
                Some((first, last)) if asked.container.0 == asked.container.1 && first != last => {
                    format!("{first}-{last}")
                }
                Some((first, _)) => (usize::from(first) + offset).to_string(),
            };
            let place = json!({
                "HostIp": asked.host_ip.map(|address| address.to_string()).unwrap_or_default(),
                "HostPort": host,
            });
            bindings
                .entry(format!("{port}/{}", asked.protocol))
                .or_default()
                .push(place);
        }
    }
    bindings
}

fn exposed(plan: &Plan) -> Option<BTreeMap<String, Value>> {
    let ports = plan.exposed().flat_map(|exposed| {
        let (first, last) = exposed.ports;
        (first..=last).map(move |port| (format!("{port}/{}", exposed.protocol), json!({})))
    });
    let ports: BTreeMap<String, Value> = ports.collect();
    (!ports.is_empty()).then_some(ports)
}

fn state(state: &State, health: Option<Health>) -> Value {
    let (code, at, oom) = match state {
        State::Exited { code, at, oom } => (*code, *at, *oom),
        _ => (0, None, false),
    };
    let (pid, started) = match state {
        State::Running { pid, started } | State::Paused { pid, started } => (*pid, Some(*started)),
        _ => (0, None),
    };
    let mut told = json!({
        "Status": state.word(),
        "Running": state.is_up(),
        "Paused": matches!(state, State::Paused { .. }),
        "Restarting": matches!(state, State::Restarting { .. }),
        "Pid": pid,
        "ExitCode": code,
        "OOMKilled": oom,
        "StartedAt": started,
        "FinishedAt": at,
    });
    if let Some(health) = health {
        let log = health.log.iter().map(|probe| {
            json!({
                "Start": crate::state::time(probe.start),
                "End": crate::state::time(probe.end),
                "ExitCode": probe.code,
                "Output": probe.output,
            })
        });
        told["Health"] = json!({
            "Status": health.status.word(),
            "FailingStreak": health.failing,
            "Log": log.collect::<Vec<_>>(),
        });
    }
    told
}

/// In docker's words and nanoseconds.
fn healthcheck(check: &HealthCheck) -> Value {
    let test: Vec<&str> = ["CMD"]
        .into_iter()
        .chain(check.command.iter().map(String::as_str))
        .collect();
    json!({
        "Test": test,
        "Interval": u64::try_from(check.interval.as_nanos()).unwrap_or(u64::MAX),
        "Timeout": u64::try_from(check.timeout.as_nanos()).unwrap_or(u64::MAX),
        "StartPeriod": u64::try_from(check.start_period.as_nanos()).unwrap_or(u64::MAX),
        "StartInterval": u64::try_from(check.start_interval.as_nanos()).unwrap_or(u64::MAX),
        "Retries": check.retries,
    })
}

/// By name, as docker has it, where the image gave a number.
fn stop_signal(word: &str) -> String {
    process::signal(word).map_or_else(|| word.to_owned(), process::signal_name)
}

fn user(process: &Process) -> String {
    format!("{}:{}", process.user().uid(), process.user().gid())
}

/// A mount in docker's words.
fn mount(mount: &MountOption) -> Value {
    let (kind, source) = match &mount.kind {
        MountKind::Bind { source } => ("bind", Some(source)),
        MountKind::Tmpfs => ("tmpfs", None),
    };
    let propagation = |word: &&String| {
        ["shared", "slave", "private"]
            .iter()
            .any(|known| word.trim_start_matches('r') == *known)
    };
    json!({
        "Type": kind,
        "Source": source.map(|source| source.display().to_string()).unwrap_or_default(),
        "Destination": mount.destination,
        "Mode": mount.options.join(","),
        "RW": !is_read_only(&mount.options),
        "Propagation": mount.options.iter().find(propagation).map_or("", String::as_str),
    })
}

/// What of the host was bound into a container that was made by an older strata.
fn binds(spec: &Spec) -> Vec<Value> {
    let mounts = spec.mounts().as_deref().unwrap_or_default().iter();
    let bound = mounts.filter(|m| m.typ().as_deref() == Some("bind"));
    bound
        .map(|m| {
            let options = m.options().clone().unwrap_or_default();
            json!({
                "Type": "bind",
                "Source": m.source(),
                "Destination": m.destination(),
                "Mode": options.join(","),
                "RW": !options.iter().any(|option| option == "ro"),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::stop_signal;

    #[test]
    fn signals_are_shown_by_name() {
        for (word, shown) in [
            ("9", "SIGKILL"),
            ("term", "SIGTERM"),
            ("SIGRTMIN+3", "SIGRTMIN+3"),
            ("what", "what"),
        ] {
            assert_eq!(stop_signal(word), shown);
        }
    }
}
