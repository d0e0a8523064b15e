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

/// `/etc/hosts`: on the host's network the host's own lines, else those of loopback and the container's name; then
/// what the user adds.
pub(super) fn hosts(host_file: Option<&str>, hostname: &str, added: &[(String, IpAddr)]) -> String {
    let mut text = match host_file {
        Some(own) => own.to_owned(),
        None => format!("{HOSTS}127.0.0.1\t{hostname}\n"),
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

/// `/etc/resolv.conf`: the host's, with the user's name servers instead of its own where there are any. In a network
/// of the container's own a server on the host's loopback cannot be reached, and is left out.
pub(super) fn resolv_conf(host_file: &str, servers: &[IpAddr], own_network: bool) -> String {
    let mut text = String::new();
    for line in host_file.lines() {
        let mut words = line.split_ascii_whitespace();
        let keep = match words.next() {
            Some("nameserver") if !servers.is_empty() => false,
            Some("nameserver") if own_network => {
                // An IPv6 address may name its interface after a %.
                let address = words
                    .next()
                    .and_then(|a| a.split('%').next())
                    .and_then(|a| a.parse::<IpAddr>().ok());
                address.is_some_and(|a| !a.is_loopback())
            }
            Some("search" | "domain" | "options" | "sortlist" | "nameserver") => true,
            _ => false,
        };
        if keep {
            text.push_str(line.trim());
            text.push('\n');
        }
    }
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_knows_itself_and_what_was_added() {
        let added = [("db".to_owned(), "10.0.0.2".parse().unwrap())];
        let text = hosts(None, "box", &added);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("127.0.0.1\tbox\n10.0.0.2\tdb\n"));
        assert_eq!(
            hosts(Some("1.2.3.4 a"), "box", &added),
            "1.2.3.4 a\n10.0.0.2\tdb\n"
        );
    }

    #[test]
    fn name_servers_that_cannot_be_reached_are_left_out() {
        let own =
            "# by hand\nnameserver 127.0.0.53\nnameserver 9.9.9.9\nnameserver fe80::1%eth0\nsearch a.b\n";
        assert_eq!(
            resolv_conf(own, &[], true),
            "nameserver 9.9.9.9\nnameserver fe80::1%eth0\nsearch a.b\n"
        );
        assert!(resolv_conf(own, &[], false).contains("127.0.0.53"));
        assert_eq!(
            resolv_conf(own, &["1.1.1.1".parse().unwrap()], true),
            "search a.b\nnameserver 1.1.1.1\n"
        );
    }
}
