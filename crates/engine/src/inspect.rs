//! `inspect`: everything about a container, an image, a network or a volume, in docker's shape where docker has one.

mod host_config;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use image::config::{ConfigError, Execution, ImageConfig};
use image::reference::Reference;
use jiff::Timestamp;
use mount::overlay::Overlay;
use oci_spec::runtime::Spec;
use runtime::bundle::Bundle;
use runtime::health::{Health, HealthCheck};
use runtime::options::mounts::{MountKind, MountOption};
use runtime::options::process;
use runtime::options::volumes::is_read_only;
use runtime::spec::{self, environment, wanted_user};
use serde_json::{Value, json};
use store::{BlobError, ContainerError, Fault, SnapshotError, VolumeError};

use crate::Engine;
use crate::find::{FindImageError, familiar};
use crate::network::{self, CatalogError, NetworkError};
use crate::run::{Details, Plan, SHORT, config};
use crate::state::State;
use crate::volumes::Volume;

/// What a name is to be taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
}

impl Kind {
    /// In the order in which a name is looked for, which is docker's.
    const ALL: [Kind; 4] = [Kind::Container, Kind::Image, Kind::Network, Kind::Volume];
}

/// Why something could not be inspected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// Nothing is called that.
    #[error("there is no container, image, network or volume {0:?}")]
    NotFound(String),
    /// No such container, or several.
    #[error(transparent)]
    Container(ContainerError),
    /// No such image, or several.
    #[error(transparent)]
    Image(FindImageError),
    /// No such network, or several; their definitions.
    #[error(transparent)]
    Network(NetworkError),
    /// No such volume.
    #[error(transparent)]
    Volume(VolumeError),
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

impl InspectError {
    /// Nothing of the kind is called that.
    fn is_absence(&self) -> bool {
        matches!(
            self,
            InspectError::Container(ContainerError::NotFound(_))
                | InspectError::Image(FindImageError::NotFound(_))
                | InspectError::Network(NetworkError::Catalog(CatalogError::NotFound(_)))
                | InspectError::Volume(VolumeError::NotFound(_) | VolumeError::Invalid(_))
        )
    }
}

impl Engine {
    /// Everything about what has that name or id: a container, or else an image, a network, a volume. With `size` what a
    /// container takes is told too, for which its files are counted.
    ///
    /// # Errors
    /// See [`InspectError`].
    pub fn inspect(&self, name: &str, kind: Option<Kind>, size: bool) -> Result<Value, InspectError> {
        if let Some(kind) = kind {
            return self.inspect_as(name, kind, size);
        }
        for kind in Kind::ALL {
            match self.inspect_as(name, kind, size) {
                Err(error) if error.is_absence() => {}
                other => return other,
            }
        }
        Err(InspectError::NotFound(name.to_owned()))
    }

    /// Whether there is one of the kind that has that name or id.
    ///
    /// # Errors
    /// See [`InspectError`]: the store; several.
    pub fn exists(&self, name: &str, kind: Kind) -> Result<bool, InspectError> {
        match self.inspect_as(name, kind, false) {
            Err(error) if error.is_absence() => Ok(false),
            found => found.map(|_| true),
        }
    }

    fn inspect_as(&self, name: &str, kind: Kind, size: bool) -> Result<Value, InspectError> {
        match kind {
            Kind::Container => {
                let row = self.store.find_container(self.ns(), name);
                self.inspect_container(row.map_err(InspectError::Container)?, size)
            }
            Kind::Image => self.inspect_image(&self.find_image(name).map_err(InspectError::Image)?),
            Kind::Network => self.inspect_network(name).map_err(InspectError::Network),
            Kind::Volume => {
                let volume = self.volume(name).map_err(InspectError::Volume)?;
                Ok(json!(volume))
            }
        }
    }

    fn inspect_container(&self, row: store::Container, size: bool) -> Result<Value, InspectError> {
        let (details, now) = (Details::of(&row), self.state(&row));
        self.remember([(&row, &now)]);
        let bundle = self.bundle_of(&row);
        // After a reboot there is none, and what only it knew is unknown.
        let opened = Bundle::open(&bundle).ok();
        let spec = opened.as_ref().and_then(|bundle| bundle.spec().ok());
        let asked = details.plan.as_ref().and_then(Plan::health);
        let health = asked.as_ref().and_then(|_| self.health(&row));
        let bound = self.mounts_of(&details, spec.as_ref());
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
        let name = row.image.as_deref().map_or(details.source, familiar);
        let (entrypoint, cmd) = words(&plan);
        let runs = now.is_up();
        let record = self.network_record(&row.id);
        let last = opened
            .as_ref()
            .and_then(|bundle| runtime::state::load(bundle).ok()?);
        let restarts = last.as_ref().map_or(0, |state| state.restarts);
        let started = last.map(|state| crate::state::time(state.created));
        let started = started.or(details.started);
        let log = plan
            .log
            .and_then(|_| self.store.log_path(self.ns(), &row.id).ok());
        let log = log.map(|dir| dir.join(runtime::log::FILE));
        // Of a container that a power cut took half of there may be nothing to measure.
        let quota = self.store.quota(self.ns(), &row.id).ok().flatten();
        let size = size.then(|| self.size(&row.id).ok()).flatten();
        let asks = Asks::new(&plan, &row.id, spec.as_ref());
        let process = spec.as_ref().and_then(|spec| spec.process().as_ref());
        let profile = process.and_then(|process| process.apparmor_profile().as_deref());
        let label = process.and_then(|process| process.selinux_label().as_deref());
        let linux = spec.as_ref().and_then(|spec| spec.linux().as_ref());
        let files = linux.and_then(|linux| linux.mount_label().as_deref());
        let mut told = json!({
            "Id": row.id,
            "Created": row.created,
            "Name": row.name,
            "Path": details.command.first(),
            "Args": details.command.get(1..).unwrap_or_default(),
            "RestartCount": restarts,
            "LogPath": log,
            "State": state(&now, started, health),
            "Image": image,
            "ImageName": name,
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
                "Hostname": asks.hostname,
                "User": asks.user,
                "Env": asks.env,
                "Cmd": cmd,
                "WorkingDir": asks.workdir,
                "Tty": details.tty,
                "OpenStdin": details.interactive,
                "Image": name,
                "Entrypoint": entrypoint,
                "Volumes": volumes(&plan),
                "StdinOnce": false,
                "AttachStdin": false,
                "AttachStdout": false,
                "AttachStderr": false,
                "Domainname": "",
                "StopTimeout": plan.stop_timeout,
                "StopSignal": details.stop_signal.as_deref().map(stop_signal),
                "Labels": row.labels,
                "ExposedPorts": exposed(&plan),
                "Healthcheck": asked.as_ref().map(healthcheck),
                "Annotations": spec.as_ref().and_then(|spec| spec.annotations().clone()),
            },
            "HostConfig": host_config::told(&plan, &row, quota.as_ref(), spec.as_ref().filter(|_| runs)),
            "NetworkSettings": network::settings(&bundle, record.as_ref(), &plan),
            "SizeRw": size.map(|size| size.own).or(quota.map(|quota| quota.bytes)),
            "SizeRootFs": size.map(|size| size.whole),
            "GraphDriver": {
                "Name": "overlay",
                "Data": {
                    "LowerDir": lower.join(":"),
                    "UpperDir": upper,
                    "WorkDir": work,
                    "MergedDir": bundle.join("rootfs"),
                },
            },
        });
        told["AppArmorProfile"] = json!(profile.unwrap_or_default());
        told["ProcessLabel"] = json!(label.unwrap_or_default());
        told["MountLabel"] = json!(files.unwrap_or_default());
        Ok(told)
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
        let digests = names.iter().filter_map(|image| {
            let name = Reference::parse(&image.name).ok()?.familiar_repository();
            Some(format!("{name}@{}", image.target.digest))
        });
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
            "RepoDigests": digests.collect::<BTreeSet<_>>(),
            "Parent": "",
            "Comment": "",
            "Digest": image.target.digest.to_string(),
            "ManifestDigest": image.manifest.digest.to_string(),
            "Created": config.created,
            "Author": config.author.unwrap_or_default(),
            "Os": image.os,
            "Architecture": image.architecture,
            "Variant": image.variant.as_deref().unwrap_or_default(),
            "Size": image.usage.bytes,
            "Config": wishes(&config.config),
            "RootFS": { "Type": "layers", "Layers": diff_ids },
            "History": config.history,
            "Labels": config.config.labels,
            "GraphDriver": { "Name": "overlay", "Data": { "LowerDirs": directories } },
        }))
    }
}

/// How an image wants to be run, in docker's shape: what it does not say is said, too, for programs that ask for it.
fn wishes(said: &Execution) -> Value {
    let mut told = json!({
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "ExposedPorts": null,
        "Env": null,
        "Cmd": null,
        "Image": "",
        "Volumes": null,
        "WorkingDir": "",
        "Entrypoint": null,
        "OnBuild": null,
        "Labels": null,
        "Healthcheck": null,
        "StopSignal": "",
    });
    if let (Some(told), Value::Object(said)) = (told.as_object_mut(), json!(said)) {
        told.extend(said);
    }
    told
}

/// What a container's process is given: as it was started with last, or else as it will be.
struct Asks {
    hostname: String,
    /// As it was asked for, by name or number.
    user: String,
    env: Vec<String>,
    workdir: PathBuf,
}

impl Asks {
    fn new(plan: &Plan, id: &str, spec: Option<&Spec>) -> Asks {
        let (options, image) = (&plan.container, plan.image.as_ref().map(config));
        let process = spec.and_then(|spec| spec.process().as_ref());
        let hostname = spec.and_then(|spec| spec.hostname().clone());
        let hostname = hostname.or_else(|| options.hostname.clone());
        let hostname = hostname.unwrap_or_else(|| id[..SHORT.min(id.len())].to_owned());
        let env = process.and_then(|process| process.env().clone());
        let workdir = process.map(|process| process.cwd().clone());
        Asks {
            user: wanted_user(options, image.as_ref()).to_owned(),
            // Where its user's home is, its files tell when it is started.
            env: env.unwrap_or_else(|| environment(options, image.as_ref(), Some(&hostname), None)),
            workdir: workdir.unwrap_or_else(|| spec::workdir(options, image.as_ref())),
            hostname,
        }
    }
}

/// What is always run, and its arguments, as flags and image say.
fn words(plan: &Plan) -> (Option<Vec<String>>, Option<Vec<String>>) {
    let options = &plan.container;
    let image = plan.image.as_ref();
    let entrypoint = match &options.entrypoint {
        Some(asked) => asked.clone(),
        None => image.map(|image| image.entrypoint.clone()).unwrap_or_default(),
    };
    let cmd = match (&options.entrypoint, options.command.is_empty()) {
        (None, true) => image.map(|image| image.cmd.clone()).unwrap_or_default(),
        _ => options.command.clone(),
    };
    let told = |words: Vec<String>| (!words.is_empty()).then_some(words);
    (told(entrypoint), told(cmd))
}

/// Where volumes are, of which nobody but this container knows by a name.
fn volumes(plan: &Plan) -> Option<BTreeMap<String, Value>> {
    let anonymous = plan.container.volumes.iter().filter(|volume| volume.anonymous);
    let places: BTreeMap<_, _> = anonymous
        .map(|volume| (volume.destination.display().to_string(), json!({})))
        .collect();
    (!places.is_empty()).then_some(places)
}

fn exposed(plan: &Plan) -> Option<BTreeMap<String, Value>> {
    let ports = plan.exposed().flat_map(|exposed| {
        let (first, last) = exposed.ports;
        (first..=last).map(move |port| (format!("{port}/{}", exposed.protocol), json!({})))
    });
    let ports: BTreeMap<String, Value> = ports.collect();
    (!ports.is_empty()).then_some(ports)
}

/// What docker says of a time that has not come.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// `last` is when it was started last.
fn state(state: &State, last: Option<Timestamp>, health: Option<Health>) -> Value {
    let (code, at, oom) = match state {
        State::Exited { code, at, oom } => (*code, *at, *oom),
        State::Restarting { code, at } => (*code, Some(*at), false),
        _ => (0, None, false),
    };
    let (pid, started) = match state {
        State::Running { pid, started } | State::Paused { pid, started } => (*pid, Some(*started)),
        State::Created => (0, None),
        _ => (0, last),
    };
    let told = |time: Option<Timestamp>| time.map_or_else(|| NEVER.to_owned(), |time| time.to_string());
    let health = health.map(|health| {
        let log = health.log.iter().map(|probe| {
            json!({
                "Start": crate::state::time(probe.start),
                "End": crate::state::time(probe.end),
                "ExitCode": probe.code,
                "Output": probe.output,
            })
        });
        json!({
            "Status": health.status.word(),
            "FailingStreak": health.failing,
            "Log": log.collect::<Vec<_>>(),
        })
    });
    json!({
        "Status": state.word(),
        "Running": state.is_up(),
        "Paused": matches!(state, State::Paused { .. }),
        "Restarting": matches!(state, State::Restarting { .. }),
        "Pid": pid,
        "Dead": false,
        "ExitCode": code,
        "Error": "",
        "OOMKilled": oom,
        "StartedAt": told(started),
        "FinishedAt": told(at),
        "Health": health,
    })
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
