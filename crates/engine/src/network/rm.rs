//! `network rm` and `network prune`.

use std::collections::HashSet;
use std::path::Path;

use ::network::definition::{Catalog, DEFAULT, Network};
use ::network::{firewall, netlink};

use super::NetworkError;
use crate::Engine;

impl Engine {
    /// Removes a network, its bridge, and what is kept of addresses and names in it.
    ///
    /// # Errors
    /// One that containers are to be in, whether they run or not; the default one; [`NetworkError::Catalog`].
    pub fn remove_network(&self, name: &str) -> Result<Network, NetworkError> {
        let catalog = self.catalog()?;
        let _lock = catalog.lock_exclusive()?;
        if name == DEFAULT {
            return Err(NetworkError::Default);
        }
        let network = catalog.find(name)?;
        let containers = self.containers_in(&network.name)?;
        if !containers.is_empty() {
            return Err(NetworkError::InUse {
                network: network.name,
                containers: containers.into_iter().map(|row| row.name).collect(),
            });
        }
        self.take_away(&catalog, &network)?;
        Ok(network)
    }

    /// Removes the networks that no container is to be in, but for `gone` ones, and that fit; returns those. With `dry_run`
    /// nothing is removed.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub(crate) fn prune_networks(
        &self,
        gone: &HashSet<String>,
        dry_run: bool,
        fits: impl Fn(&Network) -> bool,
    ) -> Result<Vec<Network>, NetworkError> {
        // Whoever prunes may have a full disk, or one that cannot be written to.
        let networks = self.store.root().join("networks");
        let Some(catalog) = Catalog::open_existing(&networks, self.ns())? else {
            return Ok(Vec::new());
        };
        let _lock = catalog.lock_exclusive()?;
        let mut idle = Vec::new();
        for network in catalog.list()? {
            let mut users = self.containers_in(&network.name)?.into_iter();
            if network.name != DEFAULT && fits(&network) && users.all(|row| gone.contains(&row.id)) {
                if !dry_run {
                    self.take_away(&catalog, &network)?;
                }
                idle.push(network);
            }
        }
        Ok(idle)
    }

    /// The definition goes last: what a crash leaves before is removed by the next try.
    fn take_away(&self, catalog: &Catalog, network: &Network) -> Result<(), NetworkError> {
        netlink::delete_link(&network.bridge).map_err(|source| NetworkError::Kernel {
            what: format!(
                "removing the bridge {} of network {}",
                network.bridge, network.name
            ),
            source,
        })?;
        firewall::forget(&network.bridge);
        for kept in ["addresses", "names"] {
            let place = self.network_state().join(kept);
            remove(&place, &network.name).map_err(|source| NetworkError::Kernel {
                what: format!("removing {}", place.join(&network.name).display()),
                source,
            })?;
        }
        catalog.remove(network)?;
        self.note_network("destroy", &network.id, &network.name, None);
        Ok(())
    }
}

fn remove(place: &Path, name: &str) -> std::io::Result<()> {
    match sys::Dir::open_ambient(place).and_then(|dir| dir.remove_tree(name)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
