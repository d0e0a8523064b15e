//! Networks: made, looked at, removed; containers in them, from their start to their end.
//!
//! What a network is and how a container comes into one is [`network`](::network)'s. Here that is joined to containers:
//! [`attach`] when one starts and ends, [`connect`] while it runs, [`create`], [`rm`] and [`inspect`] for networks
//! themselves, [`settings`] for what others are told of it.
//!
//! | where | what | until |
//! |---|---|---|
//! | `<root>/networks/<namespace>/<name>.json` | a network as it was made | it is removed |
//! | `<state>/.networks/<namespace>/addresses/<name>/` | addresses that are taken (`host-local`'s) | the machine goes down |
//! | `<state>/.networks/<namespace>/names/<name>/` | names that are known there | the machine goes down |
//! | `<state>/<namespace>/<id>/network.json`, `netns` | what a container is attached to | its end |
//!
//! Lock order: the directory of bundles and the bundle's lock (see [`crate::rm`]), the directory of networks, the sandbox's,
//! the names'.

mod attach;
mod connect;
mod create;
mod inspect;
mod rm;
mod settings;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use ::network::cni::{CniError, Plugins};
pub use ::network::connection::{self, Connection};
use ::network::definition::{Catalog, DEFAULT};
pub use ::network::definition::{CatalogError, Network};
use ::network::names::Names;
use ::network::pasta;
pub use ::network::pasta::PastaError;
pub use ::network::ports::{PortError, Protocol, Publish};
pub use ::network::publish::{self, Expose};
pub use ::network::sandbox::SandboxError;
pub use ::network::subnet::{Subnet, SubnetError};
use runtime::events::Event;
use store::{ContainerError, Fault};

pub(crate) use self::attach::Attached;
pub use self::create::NewNetwork;
pub use self::settings::Port;
pub(crate) use self::settings::{ports, settings};
use crate::{Engine, Setup};

/// How networks are made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Networking {
    /// Where plug-ins lie.
    pub plugins: Plugins,
    /// The network of a container that asks for none.
    pub default: Option<String>,
    /// An ordinary user's: bridges, addresses and rules are the machine's, which the user has no right to change. The one
    /// network is [`pasta`].
    pub unprivileged: bool,
}

/// Why something was not done with networks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// Their definitions.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// An ordinary user's container.
    #[error("network {0}: an ordinary user cannot change the machine's networks")]
    Unprivileged(String),
    /// What gives an ordinary user's container a network is not installed.
    #[error("network pasta: {0}")]
    Pasta(PastaError),
    /// A container's attachment.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// A program that networks need is not installed.
    #[error("network {network}: {source}")]
    NotInstalled {
        /// The network.
        network: String,
        /// What is missing.
        source: CniError,
    },
    /// A port that was to be published.
    #[error(transparent)]
    Port(#[from] PortError),
    /// What the network cannot give.
    #[error("network {network}: {problem}")]
    Unfit {
        /// The network.
        network: String,
        /// Why not.
        problem: String,
    },
    /// What a new network is to be cannot be.
    #[error("{flag} {value}: {problem}")]
    Wrong {
        /// The flag.
        flag: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No range of addresses is free.
    #[error("no range of addresses is free for network {0}")]
    NoRange(String),
    /// The kernel was asked.
    #[error("{what}: {source}")]
    Kernel {
        /// What was attempted.
        what: String,
        /// The errno.
        source: std::io::Error,
    },
    /// Containers are in it.
    #[error("network {network} is that of {}", containers.join(", "))]
    InUse {
        /// The network.
        network: String,
        /// The containers.
        containers: Vec<String>,
    },
    /// The one that is always there.
    #[error("the network {DEFAULT} is strata's own")]
    Default,
    /// A container that is in no network.
    #[error("container {name} {problem}")]
    Container {
        /// Its name.
        name: String,
        /// Why it cannot be connected or disconnected.
        problem: String,
    },
    /// The container's row.
    #[error(transparent)]
    Row(#[from] ContainerError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Setup {
    /// The network of a container that asks for none, and why it is that.
    pub fn default_network(&self) -> (String, String) {
        if let Some(name) = &self.networking.default {
            return (name.clone(), "the configuration's default_network".to_owned());
        }
        if self.networking.unprivileged {
            return match pasta::find() {
                Ok(_) => (pasta::NAME.to_owned(), "it is installed".to_owned()),
                Err(missing) => (
                    "none".to_owned(),
                    format!("{} is lacking: {missing}", pasta::NAME),
                ),
            };
        }
        match self.networking.plugins.complete() {
            Ok(()) => (DEFAULT.to_owned(), "its plug-ins are installed".to_owned()),
            Err(missing) => ("none".to_owned(), format!("{DEFAULT} is lacking: {missing}")),
        }
    }
}

impl Engine {
    /// The networks of the namespace.
    fn catalog(&self) -> Result<Catalog, CatalogError> {
        Catalog::open(&self.store.root().join("networks"), self.ns())
    }

    /// What lives as long as the machine is up. No namespace's name begins with a dot.
    fn network_state(&self) -> PathBuf {
        self.state_dir().join(".networks").join(self.ns())
    }

    /// Where addresses are kept track of that are taken.
    fn addresses(&self) -> PathBuf {
        self.network_state().join("addresses")
    }

    fn names(&self) -> Names {
        Names::new(self.network_state().join("names"), self.bundles())
    }

    /// Writes down that something was done to a network, or that a container came into it or left it.
    fn note_network(&self, action: &str, id: &str, name: &str, container: Option<&str>) {
        let mut attributes = BTreeMap::from([
            ("name".to_owned(), name.to_owned()),
            ("type".to_owned(), "bridge".to_owned()),
        ]);
        attributes.extend(container.map(|id| ("container".to_owned(), id.to_owned())));
        self.note_event(Event::now("network", action, id, attributes));
    }

    /// Containers of the namespace that are to be in a network, by name.
    fn containers_in(&self, network: &str) -> Result<Vec<store::Container>, Fault> {
        let mut rows = self.store.containers(self.ns())?;
        rows.retain(|row| {
            let plan = crate::run::Details::of(row).plan;
            plan.is_some_and(|plan| plan.networks.iter().any(|one| one.network == network))
        });
        Ok(rows)
    }
}
