//! `info`: where things lie, how much there is, and what this machine offers.

use ::network::pasta;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use image::platform::Platform;
use mount::table::Entry;
use serde::Serialize;
use store::Fault;

use crate::Engine;
use crate::ps::PsError;

/// What `info` tells.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    /// Version of strata.
    pub version: &'static str,
    /// The store.
    pub root: PathBuf,
    /// Bundles and sockets.
    pub state: PathBuf,
    /// The namespace.
    pub namespace: String,
    /// The network of a container that asks for none.
    pub default_network: String,
    /// Why it is that.
    pub default_network_why: String,
    /// Containers of the namespace.
    pub containers: usize,
    /// Those that run.
    pub running: usize,
    /// Names of images in the namespace.
    pub images: usize,
    /// Unpacked layers in the store, of all namespaces.
    pub layers: u64,
    /// Blobs in the store.
    pub blobs: u64,
    /// Type of the file system that holds the store.
    pub file_system: String,
    /// Bytes free on it.
    pub free: u64,
    /// Bytes it has.
    pub total: u64,
    /// The kernel's release.
    pub kernel: String,
    /// Host's name.
    pub hostname: String,
    /// Architecture, as images name it.
    pub architecture: String,
    /// Number of CPUs.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// What the machine offers, and what it lacks with the reason.
    pub features: Vec<Feature>,
}

/// One thing the machine has or lacks.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Feature {
    /// What it is, in two or three words.
    pub name: &'static str,
    /// Whether it can be used.
    pub usable: bool,
    /// How, or what is missing.
    pub detail: String,
}

/// Why it could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// The containers.
    #[error(transparent)]
    Ps(#[from] PsError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
    /// A file or directory that was asked about.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// The errno.
        source: std::io::Error,
    },
}

/// This machine's operating system and architecture as images name them: `linux` and `amd64`.
pub fn machine() -> (String, String) {
    let host = Platform::host();
    (host.os, host.architecture)
}

impl Engine {
    /// Where things lie, how much there is, and what the machine offers.
    ///
    /// # Errors
    /// See [`InfoError`].
    pub fn info(&self) -> Result<Info, InfoError> {
        let containers = self.ps(true)?;
        let counts = self.store.counts()?;
        let root = self.store.root();
        let io = |path: &Path, source: std::io::Error| InfoError::Io {
            path: path.to_owned(),
            source,
        };
        let disk = rustix::fs::statvfs(root).map_err(|e| io(root, e.into()))?;
        let mounts = mount::table::read().map_err(|e| io(Path::new("/proc/self/mountinfo"), e))?;
        let mut features = features(&mounts);
        features.push(quota(root).map_err(|e| io(root, e))?);
        features.push(match self.setup.networking.plugins.complete() {
            _ if self.setup.networking.unprivileged => match pasta::find() {
                Ok(_) => Feature::usable("networks", "by pasta: run --network pasta, -p; others need root"),
                Err(missing) => Feature::missing("networks", missing.to_string()),
            },
            Ok(()) => Feature::usable("networks", "by CNI plug-ins: run --network bridge or NAME, -p"),
            Err(missing) => Feature::missing("networks", missing.to_string()),
        });
        let (default_network, default_network_why) = self.setup.default_network();
        let system = rustix::system::uname();
        let text = |text: &std::ffi::CStr| text.to_string_lossy().into_owned();
        Ok(Info {
            version: env!("CARGO_PKG_VERSION"),
            root: root.to_owned(),
            state: self.state_dir().to_owned(),
            namespace: self.ns().to_owned(),
            default_network,
            default_network_why,
            running: containers.iter().filter(|c| c.state.is_running()).count(),
            containers: containers.len(),
            images: self.store.images(self.ns())?.len(),
            layers: counts.layers,
            blobs: counts.blobs,
            file_system: holder(&mounts, root).map_or_else(|| "unknown".to_owned(), |m| m.kind.clone()),
            free: disk.f_bavail * disk.f_frsize,
            total: disk.f_blocks * disk.f_frsize,
            kernel: text(system.release()),
            hostname: text(system.nodename()),
            architecture: Platform::host().to_string(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory: rustix::system::sysinfo().totalram as u64,
            features,
        })
    }
}

/// The mount that holds `path`.
fn holder<'a>(mounts: &'a [Entry], path: &Path) -> Option<&'a Entry> {
    mounts
        .iter()
        .filter(|m| path.starts_with(&m.target))
        .max_by_key(|m| m.target.components().count())
}

/// What strata uses where it is there, and does without or refuses where it is not.
fn features(mounts: &[Entry]) -> Vec<Feature> {
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .ok()
    };
    let confined = sys::ids::Ids::own().is_ok_and(|ids| !ids.are_the_machines());
    let mut features = vec![overlay(
        read("/proc/filesystems"),
        mount::kernel::takes_layers_singly(),
    )];
    features.push(match confined && runtime::cgroup::delegated().is_none() {
        true => Feature::missing("cgroup", "none is this user's; containers run without limits"),
        false => cgroup(mounts),
    });
    let actions = read("/proc/sys/kernel/seccomp/actions_avail");
    features.push(match actions {
        Some(actions) => Feature::usable("seccomp", actions),
        None => Feature::missing("seccomp", "the kernel has none; containers run without a filter"),
    });
    let modules = read("/sys/kernel/security/lsm").unwrap_or_default();
    features.push(match read("/sys/module/apparmor/parameters/enabled").as_deref() {
        Some("Y") => Feature::usable("apparmor", crate::confine::apparmor_tells()),
        _ if modules.is_empty() => Feature::missing("apparmor", "not enabled in the kernel"),
        _ => Feature::missing(
            "apparmor",
            format!("not enabled in the kernel (which has {modules})"),
        ),
    });
    features.push(match runtime::selinux::is_enabled() {
        true => Feature::usable("selinux", "containers have labels of their own"),
        false => Feature::missing("selinux", "not enabled in the kernel"),
    });
    features
}

/// Whether what a container writes can be limited.
fn quota(store: &Path) -> std::io::Result<Feature> {
    let enforced = sys::quota::enforced(sys::Dir::open_ambient(store)?.as_fd())?;
    Ok(match enforced {
        true => Feature::usable(
            "project quotas",
            "run --storage-opt size=SIZE limits what is written",
        ),
        false => Feature::missing(
            "project quotas",
            "not on the store's file system, or it is mounted without prjquota",
        ),
    })
}

impl Feature {
    fn usable(name: &'static str, detail: impl Into<String>) -> Feature {
        Feature {
            name,
            usable: true,
            detail: detail.into(),
        }
    }

    fn missing(name: &'static str, detail: impl Into<String>) -> Feature {
        Feature {
            name,
            usable: false,
            detail: detail.into(),
        }
    }
}

fn overlay(file_systems: Option<String>, any_length: bool) -> Feature {
    match file_systems {
        Some(list) if !list.split_whitespace().any(|word| word == "overlay") => {
            Feature::missing("overlay", "not loaded in the kernel (modprobe overlay)")
        }
        _ if any_length => Feature::usable("overlay", "up to 500 layers, by the new mount API"),
        _ => Feature::usable(
            "overlay",
            "by mount(2): some dozens of layers, as many as fit in a page",
        ),
    }
}

fn cgroup(mounts: &[Entry]) -> Feature {
    const NAME: &str = "cgroup";
    let unified = mounts.iter().find(|m| m.kind == "cgroup2");
    let v1: Vec<&str> = mounts
        .iter()
        .filter(|m| m.kind == "cgroup")
        .filter_map(|m| m.target.file_name()?.to_str())
        .collect();
    let controllers = unified
        .and_then(|m| std::fs::read_to_string(m.target.join("cgroup.controllers")).ok())
        .map(|text| text.split_whitespace().collect::<Vec<_>>().join(" "))
        .unwrap_or_default();
    match (unified, v1.is_empty()) {
        (Some(_), true) => Feature::usable(NAME, format!("version 2 with {controllers}")),
        (Some(_), false) if controllers.is_empty() => Feature::usable(
            NAME,
            format!(
                "version 2 without controllers, limits by version 1: {}",
                v1.join(" ")
            ),
        ),
        (Some(_), false) => Feature::usable(
            NAME,
            format!("version 2 with {controllers}, version 1 with {}", v1.join(" ")),
        ),
        (None, false) => Feature::usable(NAME, format!("version 1 with {}", v1.join(" "))),
        (None, true) => Feature::missing(NAME, "not mounted; containers run without limits"),
    }
}
