//! Host ports that lead to a container: held for it, so that nobody else takes them.
//!
//! `portmap` rewrites packets and takes no port: two containers could be given the same one, or one that a program of the
//! machine listens at, and the packets would go to whoever came first. So each port is bound here, before a rule is made, and
//! the sockets go to the container's supervisor, which keeps them as long as it looks after it. Nobody answers at them.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};
use serde::{Deserialize, Serialize};

/// What a port is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        })
    }
}

/// Ports that are asked to be published: as many of the container as there are of the host, or one of the container and a
/// choice of the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publish {
    /// The host's address; every one.
    pub host_ip: Option<IpAddr>,
    /// First and last port of the host; any that is free.
    pub host: Option<(u16, u16)>,
    /// First and last port of the container.
    pub container: (u16, u16),
    /// Of which protocol.
    pub protocol: Protocol,
}

/// A host port that leads to a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// The host's address; every one.
    pub host_ip: Option<IpAddr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// Of which protocol.
    pub protocol: Protocol,
}

/// Ports that are held, and what each leads to.
#[derive(Debug, Default)]
pub struct Held {
    /// The sockets: a port is held for as long as they are open, by whoever has them.
    pub sockets: Vec<OwnedFd>,
    /// In the order in which they were asked for.
    pub mappings: Vec<Mapping>,
}

/// Why a port could not be held.
#[derive(Debug, thiserror::Error)]
#[error("port {port}/{protocol} of {}: {}", place(.address), why(.source))]
pub struct PortError {
    /// The port, or the range of which none is free.
    pub port: String,
    /// Of which protocol.
    pub protocol: Protocol,
    /// The host's address.
    pub address: Option<IpAddr>,
    /// The errno.
    pub source: io::Error,
}

fn place(address: &Option<IpAddr>) -> String {
    address.map_or_else(|| "this machine".to_owned(), |address| address.to_string())
}

fn why(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "it is in use".to_owned(),
        io::ErrorKind::AddrNotAvailable => "the machine has no such address".to_owned(),
        _ => error.to_string(),
    }
}

/// How often a port that the kernel named is taken before it is bound, or in the other family, before that is an error.
const ATTEMPTS: usize = 16;

/// Holds everything that is asked for, or nothing. Where no address is given a port is held for IPv4, and for IPv6 too where
/// the container has such an address.
///
/// # Errors
/// See [`PortError`].
pub fn hold(asked: &[Publish], v6: bool) -> Result<Held, PortError> {
    let mut held = Held::default();
    for publish in asked {
        let (first, last) = publish.container;
        for (offset, container_port) in (first..=last).enumerate() {
            let (port, sockets) = one(publish, first == last, offset, v6)?;
            held.sockets.extend(sockets);
            held.mappings.push(Mapping {
                host_ip: publish.host_ip,
                host_port: port,
                container_port,
                protocol: publish.protocol,
            });
        }
    }
    Ok(held)
}

/// Holds the host port of one of the container's.
fn one(publish: &Publish, single: bool, offset: usize, v6: bool) -> Result<(u16, Vec<OwnedFd>), PortError> {
    let addresses: Vec<IpAddr> = match publish.host_ip {
        Some(address) => vec![address],
        None if v6 => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        None => vec![Ipv4Addr::UNSPECIFIED.into()],
    };
    let error = |port: String, source: io::Error| PortError {
        port,
        protocol: publish.protocol,
        address: publish.host_ip,
        source,
    };
    let Some((low, high)) = publish.host else {
        let chosen = any_port(&addresses, publish.protocol);
        return chosen.map_err(|source| error("any".to_owned(), source));
    };
    let candidates = match single {
        // A choice of host ports for one of the container.
        true => low..=high,
        false => {
            // As many of one as of the other: the flag's parser sees to that.
            let port = low.saturating_add(u16::try_from(offset).unwrap_or(u16::MAX));
            port..=port
        }
    };
    let several = candidates.start() != candidates.end();
    let name = match several {
        true => format!("{low}-{high}"),
        false => candidates.start().to_string(),
    };
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for port in candidates {
        match all(&addresses, port, publish.protocol) {
            Ok(sockets) => return Ok((port, sockets)),
            Err(source) if source.kind() == io::ErrorKind::AddrInUse => last = source,
            Err(source) => return Err(error(name, source)),
        }
    }
    Err(error(name, last))
}

fn any_port(addresses: &[IpAddr], protocol: Protocol) -> io::Result<(u16, Vec<OwnedFd>)> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..ATTEMPTS {
        let first = addresses.first().ok_or(io::ErrorKind::InvalidInput)?;
        // The kernel names one that is free. It is bound by its number then: a port that the kernel chose is given back
        // when listening is over.
        let probe = socket(*first, protocol)?;
        rustix::net::bind(&probe, &SocketAddr::new(*first, 0))?;
        let port = SocketAddr::try_from(rustix::net::getsockname(&probe)?)?.port();
        drop(probe);
        match all(addresses, port, protocol) {
            Ok(sockets) => return Ok((port, sockets)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}

fn all(addresses: &[IpAddr], port: u16, protocol: Protocol) -> io::Result<Vec<OwnedFd>> {
    addresses
        .iter()
        .map(|address| bind(*address, port, protocol))
        .collect()
}

fn socket(address: IpAddr, protocol: Protocol) -> io::Result<OwnedFd> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, proto) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, ipproto::TCP),
        Protocol::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(proto))?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    Ok(socket)
}

/// A socket that nobody can bind beside, and nobody answers at.
fn bind(address: IpAddr, port: u16, protocol: Protocol) -> io::Result<OwnedFd> {
    let socket = socket(address, protocol)?;
    if protocol == Protocol::Udp {
        rustix::net::bind(&socket, &SocketAddr::new(address, port))?;
        return Ok(socket);
    }
    // Connections of one who has left, which linger in TIME_WAIT, are in nobody's way only with SO_REUSEADDR; but a port
    // that is bound so can be bound beside by whoever asks for the same, unless it is listened at. To have been listening
    // takes that from the port for as long as the socket lives (the bind bucket's `fastreuse`), and with the option off
    // again and the listening over, connections are refused as if nobody were there.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &SocketAddr::new(address, port))?;
    rustix::net::listen(&socket, 1)?;
    sockopt::set_socket_reuseaddr(&socket, false)?;
    rustix::net::shutdown(&socket, rustix::net::Shutdown::Read)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn publish(host: Option<(u16, u16)>, container: (u16, u16), protocol: Protocol) -> Publish {
        Publish {
            host_ip: Some(HOME),
            host,
            container,
            protocol,
        }
    }

    #[test]
    fn a_port_that_is_held_is_nobody_elses_and_does_not_answer() {
        let held = hold(&[publish(None, (80, 80), Protocol::Tcp)], false).unwrap();
        let port = held.mappings[0].host_port;
        // The standard library binds with SO_REUSEADDR, as servers do.
        let error = TcpListener::bind((HOME, port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(
            bind(HOME, port, Protocol::Tcp).unwrap_err().kind(),
            io::ErrorKind::AddrInUse
        );
        let everywhere = bind(Ipv4Addr::UNSPECIFIED.into(), port, Protocol::Tcp).unwrap_err();
        assert_eq!(everywhere.kind(), io::ErrorKind::AddrInUse);
        let error = TcpStream::connect((HOME, port)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        drop(held);
        TcpListener::bind((HOME, port)).unwrap();
    }

    #[test]
    fn connections_that_linger_are_in_nobodys_way() {
        let listener = TcpListener::bind((HOME, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = TcpStream::connect((HOME, port)).unwrap();
        // Who closes first is the one that lingers.
        drop(listener.accept().unwrap());
        drop(listener);
        drop(client);
        hold(&[publish(Some((port, port)), (80, 80), Protocol::Tcp)], false).unwrap();
    }

    #[test]
    fn a_port_in_use_is_named() {
        let listener = TcpListener::bind((HOME, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = hold(&[publish(Some((port, port)), (80, 80), Protocol::Tcp)], false).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("port {port}/tcp of 127.0.0.1: it is in use")
        );
        // The same port of the other protocol is another.
        hold(&[publish(Some((port, port)), (53, 53), Protocol::Udp)], false).unwrap();
        let udp = UdpSocket::bind((HOME, 0)).unwrap();
        let port = udp.local_addr().unwrap().port();
        assert!(hold(&[publish(Some((port, port)), (53, 53), Protocol::Udp)], false).is_err());
        let nowhere = Publish {
            host_ip: Some("192.0.2.1".parse().unwrap()),
            ..publish(None, (80, 80), Protocol::Tcp)
        };
        let error = hold(&[nowhere], false).unwrap_err().to_string();
        assert!(
            error.contains("192.0.2.1: the machine has no such address"),
            "{error}"
        );
    }

    #[test]
    fn ranges_and_choices() {
        let one = UdpSocket::bind((HOME, 0)).unwrap();
        let low = one.local_addr().unwrap().port();
        let high = low.saturating_add(20);
        // One of the container, and the first of the host's that is free.
        let held = hold(&[publish(Some((low, high)), (53, 53), Protocol::Udp)], false).unwrap();
        assert!(held.mappings[0].host_port > low && held.mappings[0].host_port <= high);
        // As many as there are.
        let error = hold(&[publish(Some((low, low + 1)), (53, 54), Protocol::Udp)], false).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("port {low}/udp")),
            "{error}"
        );
        let twice = [publish(None, (80, 80), Protocol::Tcp); 2];
        let held = hold(&twice, false).unwrap();
        assert_ne!(held.mappings[0].host_port, held.mappings[1].host_port);
    }

    #[test]
    fn both_families_have_the_same_port() {
        let everywhere = Publish {
            host_ip: None,
            ..publish(None, (80, 81), Protocol::Tcp)
        };
        let held = hold(&[everywhere], true).unwrap();
        assert_eq!((held.mappings.len(), held.sockets.len()), (2, 4));
        let ports: Vec<u16> = held
            .sockets
            .iter()
            .map(|socket| {
                SocketAddr::try_from(rustix::net::getsockname(socket).unwrap())
                    .unwrap()
                    .port()
            })
            .collect();
        assert!(ports[0] == ports[1] && ports[2] == ports[3], "{ports:?}");
    }
}
