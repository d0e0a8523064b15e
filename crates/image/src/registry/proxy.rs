//! Which proxy a request goes through. The caller says which there are; nothing is read from the environment.

use std::net::IpAddr;

use super::url::{Url, is_loopback, split_port};

/// Proxies by the scheme of what is asked for, with the meanings that `http_proxy`, `https_proxy` and `no_proxy`
/// have in the environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http` addresses: `http://host:port`, `socks5://host:port`, with `user:password@` where wanted.
    pub http: Option<String>,
    /// For `https` addresses; the connection is tunnelled (CONNECT).
    pub https: Option<String>,
    /// Hosts that are asked directly: a domain (with its subdomains; with a dot before it, these alone), an
    /// address, a network `10.0.0.0/8`, any of them with `:port`, or `*`. This machine is always asked directly.
    pub no_proxy: Vec<String>,
}

impl Proxies {
    /// The proxy for an address, if any.
    pub(crate) fn choose(&self, url: &Url) -> Option<&str> {
        let proxy = if url.https { &self.https } else { &self.http };
        let proxy = proxy.as_deref().filter(|p| !p.is_empty())?;
        let direct = is_loopback(&url.authority)
            || self
                .no_proxy
                .iter()
                .any(|pattern| matches(pattern.trim(), &url.authority, url.https));
        (!direct).then_some(proxy)
    }
}

fn matches(pattern: &str, authority: &str, https: bool) -> bool {
    let (host, port) = split_port(authority);
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_ascii_lowercase();
    let port = port.unwrap_or(if https { 443 } else { 80 });
    let pattern = pattern.to_ascii_lowercase();
    if pattern == "*" {
        return true;
    }
    if let Ok(ip) = host.parse::<IpAddr>()
        && let Some((net, bits)) = pattern.split_once('/')
    {
        return net
            .parse()
            .is_ok_and(|net| bits.parse().is_ok_and(|bits| in_network(ip, net, bits)));
    }
    // An IPv6 address has colons of its own; only one in brackets can have a port behind it.
    let (pattern, wanted) = match pattern.parse::<IpAddr>() {
        Ok(_) => (pattern.as_str(), None),
        Err(_) => split_port(&pattern),
    };
    if wanted.is_some_and(|wanted| wanted != port) {
        return false;
    }
    let pattern = pattern.trim_start_matches('[').trim_end_matches(']');
    let pattern = pattern.strip_prefix('*').unwrap_or(pattern);
    match pattern.strip_prefix('.') {
        Some("") | None if pattern.trim_matches('.').is_empty() => false,
        Some(_) => host.ends_with(pattern),
        None => host
            .strip_suffix(pattern)
            .is_some_and(|sub| sub.is_empty() || sub.ends_with('.')),
    }
}

fn in_network(ip: IpAddr, net: IpAddr, bits: u32) -> bool {
    let (ip, net, width) = match (ip, net) {
        (IpAddr::V4(ip), IpAddr::V4(net)) => (ip.to_bits() as u128, net.to_bits() as u128, 32),
        (IpAddr::V6(ip), IpAddr::V6(net)) => (ip.to_bits(), net.to_bits(), 128),
        _ => return false,
    };
    bits <= width && (bits == 0 || (ip ^ net) >> (width - bits) == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices() {
        let list = [
            "corp.example",
            ".only.example",
            "10.0.0.0/8",
            "h.example:8443",
            "fd00::/8",
            "::5",
            "*.w.example",
        ];
        let proxies = Proxies {
            http: Some("http://p:1".into()),
            https: Some("http://p:2".into()),
            no_proxy: list.iter().map(|s| s.to_string()).collect(),
        };
        let choose = |url: &str| proxies.choose(&Url::parse(url).unwrap());
        assert_eq!(choose("http://x.example/"), Some("http://p:1"));
        assert_eq!(choose("https://x.example/"), Some("http://p:2"));
        for direct in [
            "https://corp.example/",
            "https://A.corp.example/",
            "https://a.only.example/",
            "http://10.9.8.7:5000/",
            "https://h.example:8443/",
            "https://[fd00::1]/",
            "https://[::5]/",
            "https://a.w.example/",
            "http://localhost:5000/",
            "http://127.0.0.1/",
        ] {
            assert_eq!(choose(direct), None, "{direct}");
        }
        for proxied in [
            "https://notcorp.example/",
            "https://only.example/",
            "http://11.0.0.1/",
            "https://h.example/",
        ] {
            assert!(choose(proxied).is_some(), "{proxied}");
        }
        let all = Proxies {
            no_proxy: vec!["*".into()],
            ..proxies.clone()
        };
        assert_eq!(all.choose(&Url::parse("https://x.example/").unwrap()), None);
    }
}
