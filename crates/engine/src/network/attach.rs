//! A container comes into its networks when it starts, and leaves them at its end.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use ::network::conflist::Asked;
use ::network::definition::{DEFAULT, Network};
use ::network::pasta;
use ::network::ports::{self, Mapping, Publish};
use ::network::sandbox::{Attachment, Sandbox, SandboxError, Wanted};
use runtime::bundle::Bundle;

use super::{Connection, NetworkError, publish};
use crate::Engine;
use crate::run::Plan;

/// Digits of the id that a container is known by too.
const SHORT: usize = 12;

/// Ports of one container that can be published: each is a socket of its supervisor, two where there is IPv6, and a supervisor
/// has as few files open as it may by default (1,024).
const MOST_PORTS: usize = 400;

/// What a container has that is in its networks.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// Hold the host ports that lead to it.
    pub(crate) sockets: Vec<OwnedFd>,
    /// Its addresses, the first network's first.
    pub(crate) addresses: Vec<IpAddr>,
    /// What stands for the machine from inside.
    pub(crate) gateway: Option<IpAddr>,
}

impl Engine {
    /// Networks as they are called, where they exist; the default one is made if it is asked for and missing. None of them
    /// is removed while the file is open.
    ///
    /// # Errors
    /// One that does not exist, or is named twice; an address that it does not have; programs that are missing.
    pub(crate) fn resolve_networks(
        &self,
        asked: &[Connection],
    ) -> Result<(Vec<Connection>, Option<File>), NetworkError> {
        let Some(first) = asked.first() else {
            return Ok((Vec::new(), None));
        };
        if self.setup.networking.unprivileged {
            return Ok((vec![users_own(asked)?], None));
        }
        self.installed(&first.network)?;
        let catalog = self.catalog()?;
        if asked.iter().any(|one| one.network == DEFAULT) {
            self.ensure_default(&catalog)?;
        }
        let lock = catalog.lock_shared()?;
        let mut resolved: Vec<Connection> = Vec::new();
        for connection in asked {
            let network = catalog.find(&connection.network)?;
            if resolved.iter().any(|one| one.network == network.name) {
                let problem = "it is named twice".to_owned();
                return Err(unfit(&network, problem));
            }
            fits(&network, connection)?;
            resolved.push(Connection {
                network: network.name,
                ..connection.clone()
            });
        }
        Ok((resolved, Some(lock)))
    }

    pub(super) fn installed(&self, network: &str) -> Result<(), NetworkError> {
        if self.setup.networking.unprivileged {
            return Err(NetworkError::Unprivileged(network.to_owned()));
        }
        let complete = self.setup.networking.plugins.complete();
        complete.map_err(|source| NetworkError::NotInstalled {
            network: network.to_owned(),
            source,
        })
    }

    /// Makes a container's network namespace and attaches it. After an error, [`Engine::release_networks`] takes back what
    /// was done.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub(crate) fn attach_networks(&self, bundle: &Bundle, plan: &Plan) -> Result<Attached, NetworkError> {
        let Some(first) = plan.networks.first() else {
            return Ok(Attached::default());
        };
        if self.setup.networking.unprivileged {
            return self.attach_users_own(bundle, plan);
        }
        self.installed(&first.network)?;
        let catalog = self.catalog()?;
        let networks: Vec<Network> = plan
            .networks
            .iter()
            .map(|one| catalog.find(&one.network))
            .collect::<Result<_, _>>()?;
        // The way out, and the way in, lead through the first that has one.
        let way_out = networks.iter().position(|network| !network.internal);
        let v6 = way_out.is_some_and(|place| networks[place].has_v6());
        let asked = published(plan);
        not_too_many(&asked, &networks[0].name)?;
        let held = ports::hold(&asked, v6)?;
        let mut sandbox = Sandbox::create(bundle, &self.setup.networking.plugins, &held.mappings)?;
        for (place, (network, connection)) in networks.iter().zip(&plan.networks).enumerate() {
            let is_way_out = way_out == Some(place);
            let ports: &[Mapping] = if is_way_out { &held.mappings } else { &[] };
            sandbox.attach(network, &self.addresses(), wanted(connection, ports, is_way_out))?;
            self.note_network("connect", &network.id, &network.name, Some(bundle.id()));
        }
        let attachments = &sandbox.record().attachments;
        let gateways = attachments
            .iter()
            .flat_map(|one| one.made().ips)
            .filter_map(|ip| ip.gateway);
        let mut gateways: Vec<IpAddr> = gateways.collect();
        gateways.sort_by_key(IpAddr::is_ipv6);
        Ok(Attached {
            sockets: held.sockets,
            addresses: attachments.iter().flat_map(Attachment::addresses).collect(),
            gateway: gateways.first().copied().filter(|_| way_out.is_some()),
        })
    }

    /// A network namespace of an ordinary user's container, which pasta serves.
    fn attach_users_own(&self, bundle: &Bundle, plan: &Plan) -> Result<Attached, NetworkError> {
        let program = users_program(&plan.networks)?;
        let asked = published(plan);
        not_too_many(&asked, pasta::NAME)?;
        // Those that are taken are told as they are to root, and free ones are chosen; then they are pasta's.
        let ports::Held { mappings, sockets } = ports::hold(&asked, false)?;
        drop(sockets);
        let mut sandbox = Sandbox::create(bundle, &self.setup.networking.plugins, &mappings)?;
        sandbox.serve_by_pasta(&program)?;
        Ok(Attached::default())
    }

    /// Makes a container that is attached known by name in its networks, and the others to it. Its hosts file is there.
    ///
    /// # Errors
    /// The names cannot be kept.
    pub(crate) fn announce(&self, bundle: &Bundle, name: &str) -> Result<(), NetworkError> {
        let Some(record) = ::network::sandbox::read(bundle)? else {
            return Ok(());
        };
        let known = record.attachments.iter().filter(|one| one.network != DEFAULT);
        known
            .into_iter()
            .try_for_each(|one| self.announce_in(bundle.id(), name, one))
    }

    pub(super) fn announce_in(
        &self,
        id: &str,
        name: &str,
        attachment: &Attachment,
    ) -> Result<(), NetworkError> {
        let mut names = vec![name];
        names.extend(attachment.aliases.iter().map(String::as_str));
        names.push(&id[..SHORT.min(id.len())]);
        let announced = self
            .names()
            .announce(&attachment.network, id, &attachment.addresses(), &names);
        announced.map_err(|source| NetworkError::Kernel {
            what: format!("keeping the names of network {}", attachment.network),
            source,
        })
    }

    /// Takes a container out of all its networks, and its namespace away; one that is in none is left alone.
    ///
    /// # Errors
    /// The first of several; what could be done was done.
    pub(crate) fn release_networks(&self, bundle: &Bundle) -> Result<(), SandboxError> {
        let Some(sandbox) = Sandbox::open(bundle)? else {
            return Ok(());
        };
        for one in &sandbox.record().attachments {
            // Names that stay are written over by the next who comes or goes.
            let _ = self.names().withdraw(&one.network, bundle.id());
            self.note_network("disconnect", &one.network_id, &one.network, Some(bundle.id()));
        }
        sandbox.release()
    }

    /// Gives up what [`Engine::release_networks`] could not take away, and frees its addresses.
    ///
    /// # Errors
    /// See [`SandboxError`].
    pub(crate) fn abandon_networks(&self, bundle: &Bundle) -> Result<(), SandboxError> {
        match Sandbox::open(bundle)? {
            Some(sandbox) => sandbox.abandon(&self.addresses()),
            None => Ok(()),
        }
    }

    /// [`Engine::release_networks`], by the container's id.
    pub(crate) fn release_networks_of(&self, id: &str) -> Result<(), crate::rm::RmError> {
        match Bundle::open(&self.bundle_path(id)) {
            Ok(bundle) => Ok(self.release_networks(&bundle)?),
            // Somebody removed the container, and gave all back.
            Err(_) => Ok(()),
        }
    }

    /// Asks the plug-ins whether everything is as they made it for a container.
    ///
    /// # Errors
    /// What is not, in words.
    pub(crate) fn check_networks(&self, id: &str) -> Result<(), String> {
        let check = || -> Result<(), SandboxError> {
            match Sandbox::open(&Bundle::open(&self.bundle_path(id))?)? {
                Some(sandbox) => sandbox.check(),
                None => Ok(()),
            }
        };
        check().map_err(|error| error.to_string())
    }

    /// Whether a container's networks were not taken away yet.
    pub(crate) fn holds_networks(&self, id: &str) -> bool {
        self.bundle_path(id).join("network.json").exists()
    }
}

pub(super) fn wanted<'a>(connection: &'a Connection, ports: &'a [Mapping], way_out: bool) -> Wanted<'a> {
    Wanted {
        aliases: &connection.aliases,
        asked: Asked {
            addresses: &connection.addresses,
            mac: connection.mac.as_deref(),
            ports,
            way_out,
        },
    }
}

/// Whether the network can give what is asked of it.
pub(super) fn fits(network: &Network, connection: &Connection) -> Result<(), NetworkError> {
    for address in &connection.addresses {
        let pool = network.pools.iter().find(|pool| pool.subnet.contains(*address));
        let Some(pool) = pool else {
            return Err(unfit(
                network,
                format!("the address {address} is in none of its ranges"),
            ));
        };
        if pool.gateway == *address {
            return Err(unfit(network, format!("the address {address} is its gateway's")));
        }
    }
    let families = connection
        .addresses
        .iter()
        .filter(|address| address.is_ipv6())
        .count();
    if families > 1 || connection.addresses.len() - families > 1 {
        return Err(unfit(
            network,
            "one address of each family can be asked for".to_owned(),
        ));
    }
    Ok(())
}

fn unfit(network: &Network, problem: String) -> NetworkError {
    NetworkError::Unfit {
        network: network.name.clone(),
        problem,
    }
}

fn not_too_many(asked: &[Publish], network: &str) -> Result<(), NetworkError> {
    let ports = asked
        .iter()
        .map(|one| usize::from(one.container.1 - one.container.0) + 1);
    let count: usize = ports.sum();
    match count > MOST_PORTS {
        true => Err(NetworkError::Unfit {
            network: network.to_owned(),
            problem: format!("{count} ports are to be published, and {MOST_PORTS} can be"),
        }),
        false => Ok(()),
    }
}

/// The network of an ordinary user's container, where that is what is asked for.
fn users_own(asked: &[Connection]) -> Result<Connection, NetworkError> {
    users_program(asked)?;
    let problem = match asked {
        [one] if !one.addresses.is_empty() || one.mac.is_some() => "its addresses are the machine's",
        [one] if !one.aliases.is_empty() => "nobody else is in it to know a container by a name",
        [one] => return Ok(one.clone()),
        _ => "it is named twice",
    };
    Err(NetworkError::Unfit {
        network: pasta::NAME.to_owned(),
        problem: problem.to_owned(),
    })
}

/// The program that serves it.
fn users_program(asked: &[Connection]) -> Result<PathBuf, NetworkError> {
    match asked.iter().find(|one| one.network != pasta::NAME) {
        Some(other) => Err(NetworkError::Unprivileged(other.network.clone())),
        None => pasta::find().map_err(NetworkError::Pasta),
    }
}

/// What is published: what was asked for, and where everything is, the ports that image and flags name and that are not
/// published yet.
fn published(plan: &Plan) -> Vec<Publish> {
    let mut all = plan.publish.clone();
    if plan.publish_all {
        for exposed in plan.exposed() {
            for port in exposed.ports.0..=exposed.ports.1 {
                let there = |one: &Publish| {
                    one.protocol == exposed.protocol && (one.container.0..=one.container.1).contains(&port)
                };
                if !all.iter().any(there) {
                    let one = publish::Expose {
                        ports: (port, port),
                        ..exposed
                    };
                    all.push(one.publish());
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::network::ports::Protocol;

    #[test]
    fn all_that_is_exposed_is_published_once() {
        let plan = Plan {
            publish: vec![publish::publish("8080:80").unwrap()],
            publish_all: true,
            expose: vec![
                publish::expose("79-81").unwrap(),
                publish::expose("80/udp").unwrap(),
            ],
            ..Plan::default()
        };
        let all: Vec<(u16, Protocol)> = published(&plan)
            .iter()
            .map(|one| (one.container.0, one.protocol))
            .collect();
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        assert_eq!(all, [(80, tcp), (79, tcp), (81, tcp), (80, udp)]);
    }
}
