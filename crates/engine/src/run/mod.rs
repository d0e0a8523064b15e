//! `run`: a container from an image, from the host, or from a directory; its process; and what is left to do when
//! that has ended.
//!
//! The way: the image is found or pulled ([`base`]); rows for container and snapshot are put into the store in one
//! transaction ([`make`]); a bundle is made; the root is mounted at its `rootfs`; the files that say where the container is
//! ([`etc`]) and the specification ([`spec`]) are written; the supervisor starts the process. A failure on the way
//! takes everything back.

mod base;
mod etc;
mod host;
mod make;
mod plan;
mod spec;
mod start;
mod users;
mod volumes;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use runtime::options::volumes::VolumesFrom;
use serde::{Deserialize, Serialize};

pub use self::base::{Base, BaseError};
pub use self::host::LeftOut;
pub use self::make::Created;
pub use self::plan::Plan;
pub use self::spec::SpecError;
pub(crate) use self::spec::{SHORT, config, shared_memory};
pub use self::start::{RunError, Started, Stdio, Streams, Summons};
pub use self::users::UsersError;
pub use self::volumes::VolumesError;
pub(crate) use self::volumes::made_up_name;
pub use crate::pull::Registries;

/// Where the read-only part of a container's root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// An image, by name or the beginning of its id.
    Image(String),
    /// The machine's own root file system.
    Host,
    /// A directory, absolute.
    Directory(PathBuf),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Image(name) => f.write_str(name),
            Source::Host => f.write_str("host"),
            Source::Directory(path) => path.display().fmt(f),
        }
    }
}

/// When an image is fetched from its registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PullPolicy {
    /// Before every run, so that the newest is used.
    Always,
    /// As always, but where that fails the store's own will do.
    Newer,
    /// When the store lacks it.
    #[default]
    Missing,
    /// Never: an image that the store lacks is an error.
    Never,
}

/// What `run` is asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// What the root is made of.
    pub source: Source,
    /// When to fetch the image.
    pub pull: PullPolicy,
    /// The platform wanted, as `os/architecture[/variant]`; the machine's.
    pub platform: Option<String>,
    /// How registries are spoken to.
    pub registries: Registries,
    /// The container's name; one is made up.
    pub name: Option<String>,
    /// Everything of the container goes when its process ends.
    pub remove: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Containers whose volumes it is to have too.
    pub volumes_from: Vec<VolumesFrom>,
    /// What is asked of each start.
    pub plan: Plan,
}

impl Request {
    /// A request that asks for nothing but the image's own command.
    pub fn new(source: Source) -> Request {
        Request {
            source,
            pull: PullPolicy::default(),
            platform: None,
            registries: Registries::default(),
            name: None,
            remove: false,
            labels: BTreeMap::new(),
            volumes_from: Vec::new(),
            plan: Plan::default(),
        }
    }
}

/// What the store keeps of a container for the engine, beyond what its own columns hold: what must still be known when
/// the bundle is gone with a reboot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Details {
    /// `host`, a directory, or the image as it was asked for.
    pub(crate) source: String,
    /// The program and its arguments.
    pub(crate) command: Vec<String>,
    pub(crate) tty: bool,
    pub(crate) interactive: bool,
    pub(crate) stop_signal: Option<String>,
    pub(crate) runtime: Option<PathBuf>,
    /// Paths in the container that strata hid before it was started.
    pub(crate) hidden: Vec<PathBuf>,
    /// Where the user has something mounted in the container, or the image wants a directory.
    pub(crate) mounts: Vec<PathBuf>,
    /// What it is started from; rows of before there was `start` lack it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Plan>,
    /// The state directory that it was made or started with last; rows of before there was this lack it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<PathBuf>,
    /// When it was started last; never where this is absent, but in those rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<Timestamp>,
    /// In which run of the machine that was; rows of before there was this lack it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
    /// Somebody stopped it, and nobody has started it since.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stopped: bool,
    /// How it ended, once somebody has seen it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ended: Option<crate::state::Ended>,
}

impl Details {
    /// Of a row; an older or newer strata's may lack some, or have more.
    pub(crate) fn of(row: &store::Container) -> Details {
        Details::deserialize(&row.details).unwrap_or_default()
    }

    /// As a row keeps them.
    pub(crate) fn kept(&self) -> serde_json::Value {
        let mut details = plan::sparse(self);
        if let Some(plan) = &self.plan {
            details["plan"] = plan.kept();
        }
        details
    }
}
