//! `network ls` and `network inspect`.

use ::network::definition::DEFAULT;
use serde_json::{Value, json};

use super::{Network, NetworkError};
use crate::Engine;

impl Engine {
    /// The networks of the namespace, by name.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn networks(&self) -> Result<Vec<Network>, NetworkError> {
        Ok(self.catalog()?.list()?)
    }

    /// The names of networks that no container is to be in.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn idle_networks(&self) -> Result<Vec<String>, NetworkError> {
        let mut idle = Vec::new();
        for network in self.networks()? {
            if self.containers_in(&network.name)?.is_empty() {
                idle.push(network.name);
            }
        }
        Ok(idle)
    }

    /// Everything about a network, in docker's shape.
    ///
    /// # Errors
    /// None of that name or id.
    pub fn inspect_network(&self, name: &str) -> Result<Value, NetworkError> {
        let catalog = self.catalog()?;
        if name == DEFAULT {
            self.ensure_default(&catalog)?;
        }
        let network = catalog.find(name)?;
        let mut containers = serde_json::Map::new();
        for row in self.containers_in(&network.name)? {
            let Some(record) = self.network_record(&row.id) else {
                continue;
            };
            let attached = record.attachments.iter().find(|one| one.network == network.name);
            let Some(attached) = attached else { continue };
            let made = attached.made();
            let of = |v6: bool| {
                let mut ips = made.ips.iter();
                let own = ips.find(|ip| ip.parts().is_some_and(|(address, _)| address.is_ipv6() == v6));
                own.map(|ip| ip.address.clone()).unwrap_or_default()
            };
            containers.insert(
                row.id,
                json!({
                    "Name": row.name,
                    "InterfaceName": attached.interface,
                    "MacAddress": attached.mac().unwrap_or_default(),
                    "IPv4Address": of(false),
                    "IPv6Address": of(true),
                }),
            );
        }
        let pools = network.pools.iter().map(|pool| {
            let mut told = json!({ "Subnet": pool.subnet, "Gateway": pool.gateway });
            if let Some(range) = pool.range {
                told["IPRange"] = json!(range);
            }
            told
        });
        Ok(json!({
            "Name": network.name,
            "Id": network.id,
            "Created": network.created,
            "Scope": "local",
            "Driver": "bridge",
            "EnableIPv6": network.has_v6(),
            "IPAM": { "Driver": "host-local", "Options": null, "Config": pools.collect::<Vec<_>>() },
            "Internal": network.internal,
            "Interface": network.bridge,
            "Containers": containers,
            "Options": network.options,
            "Labels": network.labels,
        }))
    }
}
