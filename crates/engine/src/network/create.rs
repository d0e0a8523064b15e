//! `network create`, and the network that is always there.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ::network::definition::{Catalog, DEFAULT, Network, Pool, VERSION, is_name};
use ::network::netlink;
use ::network::subnet::Subnet;
use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};

use super::NetworkError;
use crate::Engine;

/// What a new network is to be.
#[derive(Debug, Clone, Default)]
pub struct NewNetwork {
    /// Its name.
    pub name: String,
    /// Ranges of addresses, one a family at most; one of IPv4 is chosen where none is given.
    pub subnets: Vec<Subnet>,
    /// The bridge's addresses, each in one of the ranges; the first of each.
    pub gateways: Vec<IpAddr>,
    /// Parts of the ranges that containers get addresses of.
    pub ranges: Vec<Subnet>,
    /// No way out of it.
    pub internal: bool,
    /// Addresses of IPv6 too: a range is chosen where none is given.
    pub v6: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Options of the driver, as docker and podman call them.
    pub options: BTreeMap<String, String>,
}

/// Names that mean something else where a network's is expected.
const RESERVED: [&str; 9] = [
    "none",
    "host",
    DEFAULT,
    "default",
    "private",
    "container",
    "ns",
    "slirp4netns",
    "pasta",
];

/// The kernel's longest name of an interface (`IFNAMSIZ` with its NUL).
const LONGEST_LINK: usize = 15;

impl Engine {
    /// Makes a network; returns its id.
    ///
    /// # Errors
    /// See [`NetworkError`].
    pub fn create_network(&self, new: &NewNetwork) -> Result<Network, NetworkError> {
        let name = &new.name;
        let wrong = |problem: &str| NetworkError::Wrong {
            flag: "network",
            value: format!("{name:?}"),
            problem: problem.to_owned(),
        };
        if !is_name(name) {
            return Err(wrong("it is no name"));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(wrong("it means something else to --network"));
        }
        self.installed(name)?;
        let catalog = self.catalog()?;
        let _lock = catalog.lock_exclusive()?;
        self.make_network(&catalog, new)
    }

    /// The network that is always there: made by the first who needs it.
    pub(super) fn ensure_default(&self, catalog: &Catalog) -> Result<(), NetworkError> {
        if catalog.named(DEFAULT)?.is_some() {
            return Ok(());
        }
        let _lock = catalog.lock_exclusive()?;
        if catalog.named(DEFAULT)?.is_none() {
            let new = NewNetwork {
                name: DEFAULT.to_owned(),
                ..NewNetwork::default()
            };
            self.make_network(catalog, &new)?;
        }
        Ok(())
    }

    fn make_network(&self, catalog: &Catalog, new: &NewNetwork) -> Result<Network, NetworkError> {
        if catalog.named(&new.name)?.is_some() {
            return Err(super::CatalogError::Exists(new.name.clone()).into());
        }
        let id = random_id()?;
        let Options {
            bridge,
            mtu,
            masquerade,
        } = options(&new.options)?;
        let bridge = match bridge {
            Some(bridge) => {
                check_bridge(&bridge)?;
                bridge
            }
            // Twelve digits, as docker has it: fifteen characters are the kernel's limit.
            None => format!("st-{}", &id[..12]),
        };
        let pools = self.pools(catalog, new)?;
        let network = Network {
            version: VERSION,
            id,
            name: new.name.clone(),
            created: Timestamp::now(),
            bridge,
            pools,
            internal: new.internal,
            masquerade,
            mtu,
            labels: new.labels.clone(),
            options: new.options.clone(),
        };
        catalog.add(&network)?;
        self.note_network("create", &network.id, &network.name, None);
        Ok(network)
    }

    /// The ranges: those asked for, where they overlap nothing; else chosen so.
    fn pools(&self, catalog: &Catalog, new: &NewNetwork) -> Result<Vec<Pool>, NetworkError> {
        let networks = catalog.pools_of_all()?;
        let machine =
            netlink::in_use().map_err(|source| kernel("asking which addresses are in use", source))?;
        let mut subnets = new.subnets.clone();
        for subnet in &subnets {
            let wrong = |problem: String| wrong("--subnet", subnet, problem);
            if !subnet.has_room() {
                return Err(wrong("it has no room for a gateway and a container".to_owned()));
            }
            if let Some(other) = networks.iter().find(|other| other.overlaps(*subnet)) {
                return Err(wrong(format!("another network has {other}")));
            }
            if let Some(other) = machine.iter().find(|other| other.overlaps(*subnet)) {
                return Err(wrong(format!(
                    "this machine has {other} among its addresses and routes"
                )));
            }
        }
        for v6 in [false, true] {
            if let [_, second, ..] = subnets.iter().filter(|one| one.is_v6() == v6).collect::<Vec<_>>()[..] {
                return Err(wrong(
                    "--subnet",
                    second,
                    "one of each family can be given".to_owned(),
                ));
            }
        }
        if !subnets.iter().any(|subnet| !subnet.is_v6()) {
            let mut used = [networks, machine].concat();
            used.extend(name_servers());
            let free = Subnet::free(&used).ok_or_else(|| NetworkError::NoRange(new.name.clone()))?;
            subnets.insert(0, free);
        }
        if new.v6 && !subnets.iter().any(|subnet| subnet.is_v6()) {
            let random =
                Subnet::random_v6().map_err(|source| kernel("choosing a range of addresses", source))?;
            subnets.push(random);
        }
        for gateway in &new.gateways {
            if !subnets.iter().any(|subnet| subnet.contains(*gateway)) {
                return Err(wrong(
                    "--gateway",
                    gateway,
                    "it is in none of the network's ranges".to_owned(),
                ));
            }
        }
        for range in &new.ranges {
            let within =
                |subnet: &Subnet| subnet.contains(range.ends().0) && subnet.prefix() <= range.prefix();
            if !subnets.iter().any(within) {
                return Err(wrong(
                    "--ip-range",
                    range,
                    "it is no part of the network's ranges".to_owned(),
                ));
            }
        }
        let pool = |subnet: Subnet| Pool {
            subnet,
            gateway: new
                .gateways
                .iter()
                .copied()
                .find(|gateway| subnet.contains(*gateway))
                .unwrap_or_else(|| subnet.first()),
            range: new
                .ranges
                .iter()
                .copied()
                .find(|range| subnet.contains(range.ends().0)),
        };
        Ok(subnets.into_iter().map(pool).collect())
    }
}

fn wrong(flag: &'static str, value: impl ToString, problem: String) -> NetworkError {
    NetworkError::Wrong {
        flag,
        value: value.to_string(),
        problem,
    }
}

fn kernel(what: &str, source: std::io::Error) -> NetworkError {
    NetworkError::Kernel {
        what: what.to_owned(),
        source,
    }
}

fn random_id() -> Result<String, NetworkError> {
    let mut random = [0; 32];
    getrandom(&mut random, GetRandomFlags::empty())
        .map_err(|error| kernel("reading random bytes", error.into()))?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The name servers that the machine asks: a network must not stand in the way to them.
fn name_servers() -> Vec<Subnet> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"));
    let addresses = lines.filter_map(|rest| rest.trim().parse::<IpAddr>().ok());
    addresses
        .filter_map(|address| Subnet::holding(address, if address.is_ipv4() { 32 } else { 128 }))
        .collect()
}

#[derive(Debug, PartialEq, Eq)]
struct Options {
    bridge: Option<String>,
    mtu: Option<u32>,
    masquerade: bool,
}

/// The options of a bridge that docker and podman name.
fn options(given: &BTreeMap<String, String>) -> Result<Options, NetworkError> {
    let mut options = Options {
        bridge: None,
        mtu: None,
        masquerade: true,
    };
    for (key, value) in given {
        let wrong = |problem: &str| wrong("--opt", format!("{key}={value}"), problem.to_owned());
        match key.as_str() {
            "com.docker.network.bridge.name" => options.bridge = Some(value.clone()),
            "com.docker.network.driver.mtu" | "mtu" => {
                let mtu = value.parse().ok().filter(|mtu| (68..=65535).contains(mtu));
                options.mtu = Some(mtu.ok_or_else(|| wrong("it is no number of bytes from 68 to 65535"))?);
            }
            "com.docker.network.bridge.enable_ip_masquerade" => {
                let masquerade = runtime::options::boolean(value);
                options.masquerade = masquerade.ok_or_else(|| wrong("it is neither true nor false"))?;
            }
            _ => return Err(wrong("a bridge has no such option")),
        }
    }
    Ok(options)
}

/// A bridge that is somebody else's is not taken, since it goes with the network.
fn check_bridge(name: &str) -> Result<(), NetworkError> {
    let wrong = |problem: &str| {
        wrong(
            "--opt",
            format!("com.docker.network.bridge.name={name}"),
            problem.to_owned(),
        )
    };
    if name.is_empty() || name.len() > LONGEST_LINK || !is_name(name) {
        return Err(wrong(
            "it is no name of an interface: 15 letters, digits, - , _ and dots at most",
        ));
    }
    match netlink::link_exists(name) {
        Ok(false) => Ok(()),
        Ok(true) => Err(wrong("there is such an interface already")),
        Err(source) => Err(kernel("asking for interfaces", source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_known_or_refused() {
        let of = |key: &str, value: &str| options(&BTreeMap::from([(key.to_owned(), value.to_owned())]));
        assert_eq!(of("mtu", "1400").unwrap().mtu, Some(1400));
        assert!(
            !of("com.docker.network.bridge.enable_ip_masquerade", "false")
                .unwrap()
                .masquerade
        );
        for (key, value) in [
            ("mtu", "12"),
            ("mtu", "x"),
            ("vlan", "4"),
            ("com.docker.network.bridge.enable_ip_masquerade", "maybe"),
        ] {
            let error = of(key, value).unwrap_err().to_string();
            assert!(error.starts_with(&format!("--opt {key}={value}: ")), "{error}");
        }
        for bad in ["", "a/b", "sixteen-letters-", "lo"] {
            assert!(check_bridge(bad).is_err(), "{bad}");
        }
    }
}
