//! What others are told of a container's networks: docker's `NetworkSettings`, and its ports.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ::network::ports::Protocol;
use ::network::sandbox::{Attachment, Record};
use runtime::bundle::Bundle;
use serde::Serialize;
use serde_json::{Value, json};

use crate::Engine;
use crate::run::Plan;

/// A port of a container, and where it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Port {
    /// The host's address; `None` where it is not published.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: Option<u16>,
    /// The container's.
    pub container_port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

impl Engine {
    /// What is recorded of the networks of a container that runs.
    pub(crate) fn network_record(&self, id: &str) -> Option<Record> {
        let bundle = Bundle::open(&self.bundle_path(id)).ok()?;
        ::network::sandbox::read(&bundle).ok()?
    }

    /// The ports of a container that runs, by its own port.
    ///
    /// # Errors
    /// None of that name or id; the store.
    pub fn published_ports(&self, name: &str) -> Result<Vec<Port>, store::ContainerError> {
        let row = self.store.find_container(self.ns(), name)?;
        let record = self.network_record(&row.id);
        Ok(record.map(|record| published(&record)).unwrap_or_default())
    }
}

/// Where published ports are reached: for a port of every address, one of each family.
fn published(record: &Record) -> Vec<Port> {
    let v6 = record.ports.iter().any(|port| port.host_ip.is_none())
        && record.attachments.iter().any(|one| {
            // The ports lead through the one that was told of them.
            one.capabilities.get("portMappings").is_some() && one.addresses().iter().any(IpAddr::is_ipv6)
        });
    let mut ports = Vec::new();
    for mapping in &record.ports {
        let addresses = match mapping.host_ip {
            Some(address) => vec![address],
            None if v6 => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
            None => vec![Ipv4Addr::UNSPECIFIED.into()],
        };
        ports.extend(addresses.into_iter().map(|address| Port {
            host_ip: Some(address),
            host_port: Some(mapping.host_port),
            container_port: mapping.container_port,
            protocol: mapping.protocol,
        }));
    }
    ports.sort_by_key(|port| (port.container_port, port.protocol, port.host_ip));
    ports
}

/// The ports of a container: those that are published, and those that it only says it listens at.
pub(crate) fn ports(record: Option<&Record>, plan: &Plan) -> Vec<Port> {
    let mut ports = record.map(published).unwrap_or_default();
    for exposed in plan.exposed() {
        for number in exposed.ports.0..=exposed.ports.1 {
            if !ports
                .iter()
                .any(|port| port.container_port == number && port.protocol == exposed.protocol)
            {
                ports.push(Port {
                    host_ip: None,
                    host_port: None,
                    container_port: number,
                    protocol: exposed.protocol,
                });
            }
        }
    }
    ports.sort_by_key(|port| (port.container_port, port.protocol, port.host_ip));
    ports
}

/// Docker's `NetworkSettings`: of a container that does not run, the networks that it will be in.
pub(crate) fn settings(bundle: &std::path::Path, record: Option<&Record>, plan: &Plan) -> Value {
    let attachments = record
        .map(|record| record.attachments.as_slice())
        .unwrap_or_default();
    let mut networks = BTreeMap::new();
    for connection in &plan.networks {
        let attached = attachments.iter().find(|one| one.network == connection.network);
        let mut told = endpoint(attached);
        told["Aliases"] = json!(connection.aliases);
        told["IPAMConfig"] = match &connection.addresses[..] {
            [] => Value::Null,
            asked => {
                let of = |v6: bool| asked.iter().find(|address| address.is_ipv6() == v6);
                json!({ "IPv4Address": of(false), "IPv6Address": of(true) })
            }
        };
        networks.insert(connection.network.as_str(), told);
    }
    let mut bound: BTreeMap<String, Option<Vec<Value>>> = BTreeMap::new();
    for port in ports(record, plan) {
        let key = format!("{}/{}", port.container_port, port.protocol);
        let places = bound.entry(key).or_default();
        if let (Some(address), Some(number)) = (port.host_ip, port.host_port) {
            let place = json!({ "HostIp": address, "HostPort": number.to_string() });
            places.get_or_insert_default().push(place);
        }
    }
    // As docker has it, the first network's at the top too.
    let mut told = endpoint(attachments.first());
    if let Some(fields) = told.as_object_mut() {
        fields.remove("NetworkID");
    }
    told["SandboxID"] = json!(
        record
            .and_then(|_| bundle.file_name()?.to_str())
            .unwrap_or_default()
    );
    told["SandboxKey"] = json!(record.map(|_| bundle.join(::network::sandbox::NAMESPACE)));
    told["Ports"] = json!(bound);
    told["Networks"] = json!(networks);
    told
}

/// An attachment as docker tells of one; of none, the same with nothing in it.
fn endpoint(attached: Option<&Attachment>) -> Value {
    let made = attached.map(Attachment::made).unwrap_or_default();
    let of = |v6: bool| {
        made.ips.iter().find_map(|ip| {
            let (address, prefix) = ip.parts()?;
            (address.is_ipv6() == v6).then(|| {
                (
                    address.to_string(),
                    prefix,
                    ip.gateway.map(|gateway| gateway.to_string()),
                )
            })
        })
    };
    let (v4, v6) = (of(false).unwrap_or_default(), of(true).unwrap_or_default());
    json!({
        "NetworkID": attached.map(|one| one.network_id.as_str()).unwrap_or_default(),
        "InterfaceName": attached.map(|one| one.interface.as_str()).unwrap_or_default(),
        "IPAddress": v4.0,
        "IPPrefixLen": v4.1,
        "Gateway": v4.2.unwrap_or_default(),
        "GlobalIPv6Address": v6.0,
        "GlobalIPv6PrefixLen": v6.1,
        "IPv6Gateway": v6.2.unwrap_or_default(),
        "MacAddress": attached.and_then(Attachment::mac).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Connection, publish};

    fn record(addresses: &[&str]) -> Record {
        let ips: Vec<Value> = addresses
            .iter()
            .map(|address| json!({ "address": address }))
            .collect();
        serde_json::from_value(json!({
            "plugins": ["/p"],
            "ports": [
                { "host_ip": null, "host_port": 8080, "container_port": 80, "protocol": "tcp" },
                { "host_ip": "127.0.0.1", "host_port": 5353, "container_port": 53, "protocol": "udp" },
            ],
            "attachments": [{
                "network": "n", "network_id": "abc", "interface": "eth0", "list": {},
                "capabilities": { "portMappings": [] },
                "result": {
                    "ips": ips,
                    "interfaces": [{ "name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": "/n" }],
                },
            }],
        }))
        .unwrap()
    }

    #[test]
    fn ports_are_told_as_docker_tells_them() {
        let plan = Plan {
            networks: vec![Connection {
                network: "n".into(),
                ..Connection::default()
            }],
            expose: vec![publish::expose("80").unwrap(), publish::expose("443").unwrap()],
            ..Plan::default()
        };
        let record = record(&["10.1.0.2/16", "fd00::2/64"]);
        let told = settings(std::path::Path::new("/s/abc"), Some(&record), &plan);
        let place = |ip: &str, port: &str| json!({ "HostIp": ip, "HostPort": port });
        assert_eq!(
            told["Ports"],
            json!({
                "80/tcp": [place("0.0.0.0", "8080"), place("::", "8080")],
                "53/udp": [place("127.0.0.1", "5353")],
                "443/tcp": null,
            })
        );
        assert_eq!(told["IPAddress"], "10.1.0.2");
        assert_eq!(told["Networks"]["n"]["GlobalIPv6Address"], "fd00::2");
        assert_eq!(told["Networks"]["n"]["MacAddress"], "02:00:00:00:00:01");
        let stopped = settings(std::path::Path::new("/s/abc"), None, &plan);
        assert_eq!(
            (&stopped["IPAddress"], &stopped["Networks"]["n"]["IPAddress"]),
            (&json!(""), &json!(""))
        );
    }

    #[test]
    fn without_addresses_of_ipv6_none_is_published() {
        let ports: Vec<_> = published(&record(&["10.1.0.2/16"]))
            .iter()
            .map(|port| port.host_ip)
            .collect();
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        assert_eq!(ports, [ip("127.0.0.1"), ip("0.0.0.0")]);
    }
}
