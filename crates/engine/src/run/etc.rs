//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container: their text.
//!
//! They lie in the bundle and are bound over the image's, as docker and podman do, since they say where the
//! container is and not what the image is.

use std::fmt::Write as _;
use std::net::IpAddr;

/// What every hosts file says.
const HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// `/etc/hosts`: on the host's network the host's own lines, else those of loopback and the container's name, which leads
/// to its addresses where it has any; then what the user adds.
pub(super) fn hosts(
    host_file: Option<&str>,
    hostname: &str,
    addresses: &[IpAddr],
    added: &[(String, IpAddr)],
) -> String {
    // One with a domain is found without it too.
    let names = match hostname.split_once('.') {
        Some((short, _)) if !short.is_empty() => format!("{hostname} {short}"),
        _ => hostname.to_owned(),
    };
    let mut text = match (host_file, addresses) {
        (Some(own), _) => own.to_owned(),
        (None, []) => format!("{HOSTS}127.0.0.1\t{names}\n"),
        (None, addresses) => {
            let lines = addresses.iter().map(|address| format!("{address}\t{names}\n"));
            std::iter::once(HOSTS.to_owned()).chain(lines).collect()
        }
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for (name, address) in added {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{address}\t{name}");
    }
    text
}

/// What the user wants of the resolver instead of what the host has.
#[derive(Debug, Default)]
pub(super) struct Resolver<'a> {
    pub(super) servers: &'a [IpAddr],
    pub(super) search: &'a [String],
    pub(super) options: &'a [String],
}

/// The address of a line that names a server.
fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_ascii_whitespace();
    let is_server = words.next() == Some("nameserver");
    // An IPv6 address may name its interface after a %.
    let address = words.next().and_then(|address| address.split('%').next());
    address
        .filter(|_| is_server)
        .and_then(|address| address.parse().ok())
}

/// Whether a server can be reached from a network of a container's own.
pub(super) fn reaches_a_server(host_file: &str) -> bool {
    host_file
        .lines()
        .filter_map(server)
        .any(|address| !address.is_loopback())
}

/// `/etc/resolv.conf`: the host's, with the user's name servers, domains and options instead of its own where there are
/// any. In a network of the container's own a server on the host's loopback cannot be reached, and is left out.
pub(super) fn resolv_conf(host_file: &str, asked: &Resolver<'_>, own_network: bool) -> String {
    let mut text = String::new();
    for line in host_file.lines() {
        let keep = match line.split_ascii_whitespace().next() {
            Some("nameserver") if !asked.servers.is_empty() => false,
            Some("nameserver") if own_network => server(line).is_some_and(|address| !address.is_loopback()),
            Some("search" | "domain") if !asked.search.is_empty() => false,
            Some("options") if !asked.options.is_empty() => false,
            Some("search" | "domain" | "options" | "sortlist" | "nameserver") => true,
            _ => false,
        };
        if keep {
            text.push_str(line.trim());
            text.push('\n');
        }
    }
    for server in asked.servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    // A single dot asks for no domain at all, as docker has it.
    let search: Vec<&str> = asked
        .search
        .iter()
        .map(String::as_str)
        .filter(|domain| *domain != ".")
        .collect();
    for (word, values) in [
        ("search", search),
        ("options", asked.options.iter().map(String::as_str).collect()),
    ] {
        if !values.is_empty() {
            let _ = writeln!(text, "{word} {}", values.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_knows_itself_and_what_was_added() {
        let added = [("db".to_owned(), "10.0.0.2".parse().unwrap())];
        let text = hosts(None, "box", &[], &added);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("127.0.0.1\tbox\n10.0.0.2\tdb\n"));
        assert!(hosts(None, "box.lan", &[], &[]).ends_with("127.0.0.1\tbox.lan box\n"));
        assert_eq!(
            hosts(Some("1.2.3.4 a"), "box", &[], &added),
            "1.2.3.4 a\n10.0.0.2\tdb\n"
        );
    }

    #[test]
    fn name_servers_that_cannot_be_reached_are_left_out() {
        let own =
            "# by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\nsearch a.b\n";
        assert_eq!(
            resolv_conf(own, &Resolver::default(), true),
            "nameserver 9.9.9.9\nnameserver fe80::1%eth0\nsearch a.b\n"
        );
        assert!(resolv_conf(own, &Resolver::default(), false).contains("127.0.0.53"));
        assert!(reaches_a_server(own) && !reaches_a_server("nameserver 127.0.0.53\nsearch 9.9.9.9\n"));
        assert_eq!(
            resolv_conf(
                own,
                &Resolver {
                    servers: &["1.1.1.1".parse().unwrap()],
                    ..Resolver::default()
                },
                true
            ),
            "search a.b\nnameserver 1.1.1.1\n"
        );
        let asked = Resolver {
            servers: &[],
            search: &["c.d".to_owned(), "e".to_owned()],
            options: &["ndots:1".to_owned()],
        };
        assert_eq!(
            resolv_conf("nameserver 9.9.9.9\nsearch a.b\noptions edns0\n", &asked, true),
            "nameserver 9.9.9.9\nsearch c.d e\noptions ndots:1\n"
        );
        let none = Resolver {
            search: &[".".to_owned()],
            ..Resolver::default()
        };
        assert_eq!(
            resolv_conf(own, &none, true),
            "nameserver 9.9.9.9\nnameserver fe80::1%eth0\n"
        );
    }

    #[test]
    fn in_a_network_the_name_leads_to_its_addresses() {
        let addresses = ["10.1.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let text = hosts(None, "box", &addresses, &[]);
        assert!(text.ends_with("10.1.0.2\tbox\nfd00::2\tbox\n") && !text.contains("127.0.0.1\tbox"));
    }
}
