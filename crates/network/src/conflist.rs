//! The configuration of the plug-ins for a network: a standard CNI network configuration list.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::definition::{Network, Pool};

/// The version of the specification that configurations and results have. Plug-ins since 2021 know it.
pub const CNI_VERSION: &str = "1.0.0";

/// The plug-ins of a network, in the order in which they are called.
pub const PLUGINS: [&str; 3] = ["bridge", "portmap", "firewall"];

/// What those call themselves.
pub const IPAM: &str = "host-local";

/// What one container asks of a network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    /// Addresses, one a family at most.
    pub addresses: &'a [IpAddr],
    /// The interface's hardware address.
    pub mac: Option<&'a str>,
    /// Host ports that lead to it.
    pub ports: &'a [crate::ports::Mapping],
    /// The way out of the container leads through this network.
    pub way_out: bool,
}

/// The list for one container's attachment to `network`. Addresses that are taken are kept track of in `addresses`, a
/// directory that goes with the machine's state.
pub fn compose(network: &Network, addresses: &Path, asked: Asked<'_>) -> Value {
    let mut bridge = json!({
        "type": "bridge",
        "bridge": network.bridge,
        "isGateway": !network.internal,
        "ipMasq": network.masquerade && !network.internal,
        "hairpinMode": true,
        "capabilities": { "ips": true, "mac": true },
        "ipam": {
            "type": IPAM,
            "dataDir": addresses,
            "ranges": network.pools.iter().map(|pool| [range(pool, asked.addresses)]).collect::<Vec<_>>(),
            "routes": routes(network, asked.way_out),
        },
    });
    if let Some(mtu) = network.mtu {
        bridge["mtu"] = mtu.into();
    }
    let mut plugins = vec![bridge];
    if !asked.ports.is_empty() {
        plugins.push(json!({ "type": "portmap", "capabilities": { "portMappings": true } }));
    }
    // What comes from another bridge is not let through: networks are apart.
    plugins.push(json!({ "type": "firewall", "ingressPolicy": "same-bridge" }));
    json!({ "cniVersion": CNI_VERSION, "name": network.name, "plugins": plugins })
}

/// What plug-ins that declare a capability are told of it.
pub fn capabilities(asked: Asked<'_>) -> Value {
    let mut told = json!({});
    if !asked.addresses.is_empty() {
        told["ips"] = json!(asked.addresses);
    }
    if let Some(mac) = asked.mac {
        told["mac"] = mac.into();
    }
    if !asked.ports.is_empty() {
        let ports = asked.ports.iter().map(|port| {
            json!({
                "hostPort": port.host_port,
                "containerPort": port.container_port,
                "protocol": port.protocol,
                "hostIP": port.host_ip.map(|address| address.to_string()).unwrap_or_default(),
            })
        });
        told["portMappings"] = ports.collect();
    }
    told
}

fn range(pool: &Pool, asked: &[IpAddr]) -> Value {
    let mut range = json!({ "subnet": pool.subnet, "gateway": pool.gateway });
    // An address that is asked for may lie outside of the part that others are chosen from.
    let chosen = !asked.iter().any(|address| pool.subnet.contains(*address));
    if let Some(part) = pool.range.filter(|_| chosen) {
        let (first, last) = part.ends();
        // The first and last address of the whole range are no container's, nor is the gateway's: host-local knows.
        range["rangeStart"] = json!(if first == pool.subnet.ends().0 {
            pool.subnet.first()
        } else {
            first
        });
        range["rangeEnd"] = json!(last);
    }
    range
}

fn routes(network: &Network, way_out: bool) -> Vec<Value> {
    let everywhere = |pool: &Pool| if pool.subnet.is_v6() { "::/0" } else { "0.0.0.0/0" };
    let pools = network.pools.iter().filter(|_| way_out && !network.internal);
    pools.map(|pool| json!({ "dst": everywhere(pool) })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::definition::tests::network;
    use crate::ports::{Mapping, Protocol};

    #[test]
    fn a_list_is_a_standard_one() {
        let network = network("n", &["10.1.0.0/16", "fd00::/64"]);
        let asked = Asked {
            way_out: true,
            ..Asked::default()
        };
        let list = compose(&network, Path::new("/run/a"), asked);
        assert_eq!(
            (&list["cniVersion"], &list["name"]),
            (&json!("1.0.0"), &json!("n"))
        );
        let types: Vec<_> = list["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| &p["type"])
            .collect();
        assert_eq!(types, ["bridge", "firewall"]);
        let ipam = &list["plugins"][0]["ipam"];
        assert_eq!(
            ipam["ranges"][0][0],
            json!({ "subnet": "10.1.0.0/16", "gateway": "10.1.0.1" })
        );
        assert_eq!(ipam["routes"], json!([{ "dst": "0.0.0.0/0" }, { "dst": "::/0" }]));
        assert_eq!(capabilities(asked), json!({}));
    }

    #[test]
    fn an_internal_network_leads_nowhere() {
        let mut network = network("n", &["10.1.0.0/16"]);
        network.internal = true;
        let asked = Asked {
            way_out: true,
            ..Asked::default()
        };
        let bridge = &compose(&network, Path::new("/a"), asked)["plugins"][0];
        assert_eq!(
            (&bridge["isGateway"], &bridge["ipMasq"]),
            (&json!(false), &json!(false))
        );
        assert_eq!(bridge["ipam"]["routes"], json!([]));
    }

    #[test]
    fn what_a_container_asks_is_told_by_capabilities() {
        let port = Mapping {
            host_ip: None,
            host_port: 8080,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        let asked = Asked {
            addresses: &["10.1.0.9".parse().unwrap()],
            mac: Some("02:00:00:00:00:01"),
            ports: &[port],
            way_out: false,
        };
        let told = capabilities(asked);
        assert_eq!(told["ips"], json!(["10.1.0.9"]));
        assert_eq!(
            told["portMappings"],
            json!([{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "" }])
        );
        let mut network = network("n", &["10.1.0.0/16"]);
        network.pools[0].range = Some("10.1.5.0/24".parse().unwrap());
        let list = compose(&network, Path::new("/a"), asked);
        assert_eq!(list["plugins"][1]["type"], "portmap");
        // What is asked for may lie anywhere in the network.
        assert_eq!(list["plugins"][0]["ipam"]["ranges"][0][0].get("rangeStart"), None);
        let list = compose(&network, Path::new("/a"), Asked::default());
        let range = &list["plugins"][0]["ipam"]["ranges"][0][0];
        assert_eq!(
            (&range["rangeStart"], &range["rangeEnd"]),
            (&json!("10.1.5.0"), &json!("10.1.5.255"))
        );
    }
}
