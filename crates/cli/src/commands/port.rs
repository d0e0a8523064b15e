//! `strata port`: where the ports of a container are reached.

use std::net::SocketAddr;

use clap::Args;
use engine::network::{Port, publish};

use super::{Context, Outcome, print};
use crate::failure::Failure;

/// Show where the published ports of a container are reached
#[derive(Debug, Args)]
pub(crate) struct PortArgs {
    /// Container, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Only this port of the container
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

pub(crate) fn run(context: &Context, args: PortArgs) -> Outcome {
    let asked = args
        .port
        .as_deref()
        .map(|port| {
            let one = publish::expose(port)
                .ok()
                .filter(|one| one.ports.0 == one.ports.1);
            one.ok_or_else(|| Failure::user(format!("{port:?} is no port")).hint("write it as 80 or 53/udp"))
        })
        .transpose()?;
    let ports = context.engine()?.published_ports(&args.container)?;
    let fits = |port: &Port| {
        asked.is_none_or(|one| one.ports.0 == port.container_port && one.protocol == port.protocol)
    };
    let fitting: Vec<&Port> = ports.iter().filter(|port| fits(port)).collect();
    if let (Some(port), true) = (&args.port, fitting.is_empty()) {
        return Err(Failure::user(format!(
            "port {port} of container {} is not published",
            args.container
        ))
        .hint(format!("strata port {} lists those that are", args.container)));
    }
    print(|out| {
        for port in fitting {
            if let Some(place) = place(port) {
                match asked {
                    Some(_) => writeln!(out, "{place}")?,
                    None => writeln!(out, "{}/{} -> {place}", port.container_port, port.protocol)?,
                }
            }
        }
        Ok(())
    })
}

fn place(port: &Port) -> Option<SocketAddr> {
    Some(SocketAddr::new(port.host_ip?, port.host_port?))
}

/// The column of lists, in docker's words: what follows each other is put together.
pub(crate) fn column(ports: &[Port]) -> String {
    // Begin and end of a run, as ports of the container.
    let mut runs: Vec<(&Port, u16)> = Vec::new();
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by_key(|port| (port.host_ip, port.protocol, port.container_port));
    for port in sorted {
        let run = runs.iter_mut().find(|(first, last)| {
            let offset = port.container_port.wrapping_sub(first.container_port);
            first.host_ip == port.host_ip
                && first.protocol == port.protocol
                && port.container_port == last.wrapping_add(1)
                && first.host_port.map(|host| host.wrapping_add(offset)) == port.host_port
        });
        match run {
            Some((_, last)) => *last = port.container_port,
            None => runs.push((port, port.container_port)),
        }
    }
    let range = |first: u16, count: u16| match count {
        0 => first.to_string(),
        count => format!("{first}-{}", first.saturating_add(count)),
    };
    let words = runs.into_iter().map(|(first, last)| {
        let count = last - first.container_port;
        let inside = format!("{}/{}", range(first.container_port, count), first.protocol);
        match (first.host_ip, first.host_port) {
            (Some(address), Some(host)) if address.is_ipv6() => {
                format!("[{address}]:{}->{inside}", range(host, count))
            }
            (Some(address), Some(host)) => format!("{address}:{}->{inside}", range(host, count)),
            _ => inside,
        }
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use engine::network::Protocol;

    use super::*;

    #[test]
    fn ports_that_follow_each_other_are_one_range() {
        let port = |ip: &str, host: u16, inside: u16, protocol| Port {
            host_ip: ip.parse().ok(),
            host_port: Some(host).filter(|port| *port > 0),
            container_port: inside,
            protocol,
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        for (ports, text) in [
            (vec![], ""),
            (vec![port("0.0.0.0", 8080, 80, tcp)], "0.0.0.0:8080->80/tcp"),
            (vec![port("", 0, 80, tcp), port("", 0, 81, tcp)], "80-81/tcp"),
            (
                vec![port("0.0.0.0", 8080, 80, tcp), port("::", 8080, 80, tcp)],
                "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
            ),
            (
                vec![
                    port("::", 8000, 80, tcp),
                    port("::", 8001, 81, tcp),
                    port("::", 8002, 82, tcp),
                ],
                "[::]:8000-8002->80-82/tcp",
            ),
            (
                vec![
                    port("::", 8, 80, tcp),
                    port("::", 700, 80, tcp),
                    port("::", 9, 81, tcp),
                ],
                "[::]:8-9->80-81/tcp, [::]:700->80/tcp",
            ),
            (
                vec![
                    port("127.0.0.1", 9, 80, tcp),
                    port("127.0.0.1", 8, 81, tcp),
                    port("127.0.0.1", 9, 81, udp),
                ],
                "127.0.0.1:9->80/tcp, 127.0.0.1:8->81/tcp, 127.0.0.1:9->81/udp",
            ),
        ] {
            assert_eq!(column(&ports), text);
        }
    }
}
