//! `-p`, `--publish` and `--expose`: which ports, as docker and podman spell them.

use std::net::IpAddr;

use runtime::options::OptionError;
use serde::{Deserialize, Serialize};

use crate::ports::{Protocol, Publish};

/// Ports of a container that it says it listens at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expose {
    /// First and last.
    pub ports: (u16, u16),
    /// Of which protocol.
    pub protocol: Protocol,
}

impl Expose {
    /// Each port by itself, published at any of the host's that is free.
    pub fn publish(self) -> Publish {
        Publish {
            host_ip: None,
            host: None,
            container: self.ports,
            protocol: self.protocol,
        }
    }
}

const FORM: &str = "write [[ADDRESS:]HOST:]CONTAINER[/tcp|/udp], as 8080:80 or 127.0.0.1:8000-8009:80-89/udp";

/// Parses `--publish`: an address of IPv6 stands in brackets.
///
/// # Errors
/// No port, a range that is none, ranges of different lengths, a protocol that is neither tcp nor udp.
pub fn publish(value: &str) -> Result<Publish, OptionError> {
    let wrong = |problem: String| OptionError::new("--publish", value, problem, FORM);
    let (rest, protocol) = protocol(value).map_err(wrong)?;
    // From the right: an address in brackets holds colons too.
    let (rest, container) = match rest.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, rest),
    };
    let container = ports(container).map_err(wrong)?;
    let (host_ip, host) = match rest.map(|rest| split_address(rest)) {
        None => (None, None),
        Some((address, host)) => {
            let address = address
                .map(|address| parse_address(address).map_err(wrong))
                .transpose()?
                .flatten();
            let host = (!host.is_empty())
                .then(|| ports(host).map_err(wrong))
                .transpose()?;
            (address, host)
        }
    };
    let count = |(first, last): (u16, u16)| u32::from(last) - u32::from(first) + 1;
    // Docker's 0 is no choice either.
    let host = host.filter(|host| *host != (0, 0));
    if let Some(host) = host {
        if host.0 == 0 {
            return Err(wrong("0 is no port".to_owned()));
        }
        if count(container) != 1 && count(container) != count(host) {
            let (ours, theirs) = (count(host), count(container));
            return Err(wrong(format!(
                "{ours} ports of the host cannot lead to {theirs} of the container"
            )));
        }
    }
    if container.0 == 0 {
        return Err(wrong("0 is no port".to_owned()));
    }
    Ok(Publish {
        host_ip,
        host,
        container,
        protocol,
    })
}

/// Parses `--expose`, and an image's `EXPOSE`.
///
/// # Errors
/// No port, a range that is none, a protocol that is neither tcp nor udp.
pub fn expose(value: &str) -> Result<Expose, OptionError> {
    let wrong = |problem: String| {
        OptionError::new(
            "--expose",
            value,
            problem,
            "write PORT[-PORT][/tcp|/udp], as 8080 or 53/udp",
        )
    };
    let (rest, protocol) = protocol(value).map_err(wrong)?;
    let ports = ports(rest).map_err(wrong)?;
    if ports.0 == 0 {
        return Err(wrong("0 is no port".to_owned()));
    }
    Ok(Expose { ports, protocol })
}

fn protocol(value: &str) -> Result<(&str, Protocol), String> {
    match value.rsplit_once('/') {
        None => Ok((value, Protocol::Tcp)),
        Some((rest, word)) if word.eq_ignore_ascii_case("tcp") => Ok((rest, Protocol::Tcp)),
        Some((rest, word)) if word.eq_ignore_ascii_case("udp") => Ok((rest, Protocol::Udp)),
        Some((_, word)) => Err(format!("{word:?} is neither tcp nor udp")),
    }
}

fn ports(text: &str) -> Result<(u16, u16), String> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let port = digits.then(|| text.parse::<u16>().ok()).flatten();
        port.ok_or_else(|| format!("{text:?} is no port: they go from 1 to 65535"))
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    match first <= last {
        true => Ok((first, last)),
        false => Err(format!("the range {text} ends before it begins")),
    }
}

/// What stands before the last colon, and what after it; a single part is a port.
fn split_address(text: &str) -> (Option<&str>, &str) {
    match text.rsplit_once(':') {
        Some((address, port)) => (Some(address), port),
        None => (None, text),
    }
}

fn parse_address(text: &str) -> Result<Option<IpAddr>, String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse::<std::net::Ipv6Addr>().map(IpAddr::V6),
        None if text.is_empty() => return Ok(None),
        None => text.parse::<std::net::Ipv4Addr>().map(IpAddr::V4),
    };
    address
        .map(Some)
        .map_err(|_| match text.contains(':') && bare.is_none() {
            true => format!("{text:?} is no address; one of IPv6 stands in brackets"),
            false => format!("{text:?} is no address"),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_publish() {
        let ip = |text: &str| text.parse::<IpAddr>().ok();
        for (value, host_ip, host, container, protocol) in [
            ("80", None, None, (80, 80), Protocol::Tcp),
            ("8080:80", None, Some((8080, 8080)), (80, 80), Protocol::Tcp),
            ("8080:80/udp", None, Some((8080, 8080)), (80, 80), Protocol::Udp),
            ("53:53/UDP", None, Some((53, 53)), (53, 53), Protocol::Udp),
            (
                "127.0.0.1:8080:80",
                ip("127.0.0.1"),
                Some((8080, 8080)),
                (80, 80),
                Protocol::Tcp,
            ),
            ("127.0.0.1::80", ip("127.0.0.1"), None, (80, 80), Protocol::Tcp),
            ("127.0.0.1:0:80", ip("127.0.0.1"), None, (80, 80), Protocol::Tcp),
            (
                "[::1]:8080:80",
                ip("::1"),
                Some((8080, 8080)),
                (80, 80),
                Protocol::Tcp,
            ),
            ("[::]::80", ip("::"), None, (80, 80), Protocol::Tcp),
            (":80", None, None, (80, 80), Protocol::Tcp),
            ("::80", None, None, (80, 80), Protocol::Tcp),
            (
                "8000-8009:80-89",
                None,
                Some((8000, 8009)),
                (80, 89),
                Protocol::Tcp,
            ),
            ("8000-8009:80", None, Some((8000, 8009)), (80, 80), Protocol::Tcp),
            ("80-89", None, None, (80, 89), Protocol::Tcp),
            (
                "1-65535:1-65535",
                None,
                Some((1, 65535)),
                (1, 65535),
                Protocol::Tcp,
            ),
        ] {
            let expected = Publish {
                host_ip,
                host,
                container,
                protocol,
            };
            assert_eq!(publish(value).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn what_is_no_port_is_told() {
        for (value, problem) in [
            ("", "\"\" is no port"),
            ("http", "\"http\" is no port"),
            ("65536", "\"65536\" is no port"),
            ("-1", "\"\" is no port"),
            ("+80", "\"+80\" is no port"),
            ("80:", "\"\" is no port"),
            ("x:80", "\"x\" is no port"),
            ("90-80", "ends before it begins"),
            ("8000-8001:80-82", "2 ports of the host cannot lead to 3"),
            ("8000:80-82", "1 ports of the host cannot lead to 3"),
            ("80/sctp", "\"sctp\" is neither"),
            ("80/", "\"\" is neither"),
            ("0", "0 is no port"),
            ("0-5:0-5", "0 is no port"),
            ("1.2.3:80:80", "\"1.2.3\" is no address"),
            ("::1:80:80", "stands in brackets"),
            ("[1.2.3.4]:80:80", "is no address"),
            ("host:80:80", "\"host\" is no address"),
        ] {
            let error = publish(value).unwrap_err().to_string();
            assert!(error.contains(problem), "{value}: {error}");
        }
        assert_eq!(expose("53/udp").unwrap().ports, (53, 53));
        for bad in ["", "0", "80:80", "9-8", "80/x"] {
            assert!(expose(bad).is_err(), "{bad}");
        }
    }
}
