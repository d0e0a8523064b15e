//! `--network NAME`, with what is asked of that network: docker's and podman's forms.

use std::net::IpAddr;

use runtime::options::OptionError;
use serde::{Deserialize, Serialize};

use crate::definition::{DEFAULT, is_name};

/// A network that a container is to be in, and what it asks there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// The network's name or, as it was asked for, the beginning of its id.
    pub network: String,
    /// Other names of the container.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Addresses, one a family at most; any that is free.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The hardware address; one is made up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
}

const FORM: &str = "write none, host, container:NAME, ns:PATH or the name of a network, as NAME or NAME:ip=ADDRESS,alias=NAME";

/// Parses `--network`, where it names a network: `NAME`, podman's `NAME:KEY=VALUE,…` and docker's `name=NAME,KEY=VALUE,…`.
///
/// # Errors
/// What is no name; keys other than `ip`, `ip6`, `mac`, `alias` and docker's spellings of those.
pub fn network(value: &str) -> Result<Connection, OptionError> {
    let wrong = |problem: String| OptionError::new("--network", value, problem, FORM);
    let is_name_field = |field: &&str| field.starts_with("name=");
    let (name, fields) = match value.split_once(':') {
        _ if value.split(',').any(|field| is_name_field(&field)) => {
            let (names, fields): (Vec<&str>, Vec<&str>) = value.split(',').partition(is_name_field);
            match names[..] {
                [name] => (&name["name=".len()..], fields),
                _ => return Err(wrong("it names several networks".to_owned())),
            }
        }
        Some((name, fields)) => (name, fields.split(',').collect()),
        None => (value, Vec::new()),
    };
    // Docker's other name for it.
    let name = if name == "default" { DEFAULT } else { name };
    if !is_name(name) {
        return Err(wrong(format!("{name:?} is no name of a network")));
    }
    let mut asked = Connection {
        network: name.to_owned(),
        ..Connection::default()
    };
    for field in fields {
        let (key, text) = field
            .split_once('=')
            .ok_or_else(|| wrong(format!("{field:?} has no value")))?;
        match key {
            "ip" | "ip6" => asked.addresses.push(address("--network", text)?),
            "mac" | "mac-address" => asked.mac = Some(mac("--network", text)?),
            "alias" => asked.aliases.push(alias("--network", text)?),
            _ => {
                return Err(wrong(format!(
                    "{key:?} is nothing that can be asked of a network"
                )));
            }
        }
    }
    Ok(asked)
}

/// Parses `--ip` and `--ip6`.
///
/// # Errors
/// No address.
pub fn address(flag: &'static str, value: &str) -> Result<IpAddr, OptionError> {
    let parsed = value.parse::<IpAddr>().ok();
    let parsed = parsed.filter(|address| match flag {
        "--ip" => address.is_ipv4(),
        "--ip6" => address.is_ipv6(),
        _ => true,
    });
    parsed.ok_or_else(|| {
        let hint = match flag {
            "--ip6" => "write an address of one of the network's ranges, as fd00:1::9",
            _ => "write an address of one of the network's ranges, as 10.62.0.9",
        };
        OptionError::new(flag, value, format!("{value:?} is no such address"), hint)
    })
}

/// Parses `--mac-address`: six bytes, of which the first is even: odd ones are of groups.
///
/// # Errors
/// Anything else.
pub fn mac(flag: &'static str, value: &str) -> Result<String, OptionError> {
    let wrong = |problem: &str| {
        OptionError::new(
            flag,
            value,
            problem.to_owned(),
            "write six bytes, as 02:42:0a:3e:00:09",
        )
    };
    let bytes: Vec<u8> = value
        .split([':', '-'])
        .filter(|part| part.len() == 2)
        .filter_map(|part| u8::from_str_radix(part, 16).ok())
        .collect();
    match bytes[..] {
        [first, ..] if bytes.len() == 6 && value.len() == 17 => match first % 2 {
            0 if bytes.iter().any(|byte| *byte != 0) => {
                let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                Ok(bytes.join(":"))
            }
            _ => Err(wrong("it is no address of one interface")),
        },
        _ => Err(wrong("it is no hardware address")),
    }
}

/// Parses `--network-alias`: a word of a hosts file.
///
/// # Errors
/// Anything else.
pub fn alias(flag: &'static str, value: &str) -> Result<String, OptionError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    match !value.is_empty() && value.len() <= 253 && value.bytes().all(good) {
        true => Ok(value.to_owned()),
        false => {
            let hint = "use letters, digits, - , _ and dots";
            Err(OptionError::new(
                flag,
                value,
                format!("{value:?} is no name"),
                hint,
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_and_what_is_asked_of_it() {
        let whole = Connection {
            network: "n".into(),
            aliases: vec!["db".into(), "sql".into()],
            addresses: vec!["10.1.0.9".parse().unwrap(), "fd00::9".parse().unwrap()],
            mac: Some("02:42:0a:3e:00:09".into()),
        };
        for value in [
            "n:ip=10.1.0.9,ip=fd00::9,mac=02:42:0A:3E:00:09,alias=db,alias=sql",
            "name=n,ip=10.1.0.9,ip6=fd00::9,mac-address=02-42-0a-3e-00-09,alias=db,alias=sql",
        ] {
            assert_eq!(network(value).unwrap(), whole, "{value}");
        }
        assert_eq!(network("default").unwrap().network, "bridge");
        for bad in [
            "",
            "a b",
            "-n",
            "n:",
            "n:x=1",
            "n:ip=1",
            "n:mac=1",
            "n:alias=a b",
            "ip=10.0.0.1",
            "name=a,name=b",
            "a=b",
        ] {
            assert!(network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses() {
        assert!(address("--ip", "::1").is_err() && address("--ip6", "10.0.0.1").is_err());
        assert_eq!(address("--ip6", "fd00::1").unwrap().to_string(), "fd00::1");
        for bad in [
            "",
            "02:42:0a:3e:00",
            "02:42:0a:3e:00:0g",
            "0242:0a:3e:00:09",
            "01:42:0a:3e:00:09",
            "00:00:00:00:00:00",
            "02:42:0a:3e:00:09:",
        ] {
            assert!(mac("--mac-address", bad).is_err(), "{bad}");
        }
        assert!(alias("--network-alias", "a/b").is_err());
    }
}
