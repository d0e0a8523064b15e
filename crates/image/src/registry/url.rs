//! Addresses, as far as a registry client needs them: which host, and where a `Location` leads.

use std::net::IpAddr;

/// Scheme, host and port, and what follows, of an `http` or `https` address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// TLS.
    pub(crate) https: bool,
    /// Host and, if written, port; lower case.
    pub(crate) authority: String,
    /// Path and query, from the first slash.
    pub(crate) path: String,
}

impl Url {
    /// Parses an absolute address. `None` for other schemes, for user names in it (credentials belong into a
    /// header that can be withheld) and for bytes that a request line may not have.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let https = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let rest = rest.split('#').next().unwrap_or(rest);
        if rest.bytes().any(|b| b <= b' ' || b >= 0x7f) {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if !is_authority(authority) {
            return None;
        }
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        };
        Some(Self {
            https,
            authority: authority.to_ascii_lowercase(),
            path,
        })
    }

    /// Where a `Location` leads that was answered to this address (RFC 3986, 5.2, without dot segments).
    pub(crate) fn join(&self, location: &str) -> Option<Self> {
        let scheme = if self.https { "https" } else { "http" };
        if location.contains("://") && !location.starts_with(['/', '?']) {
            return Self::parse(location);
        }
        if location.starts_with("//") {
            return Self::parse(&format!("{scheme}:{location}"));
        }
        let path = self.path.split('?').next().unwrap_or("/");
        let path = match location.as_bytes().first() {
            Some(b'/') => location.to_owned(),
            Some(b'?') => format!("{path}{location}"),
            _ => format!("{}/{location}", path.rsplit_once('/').map_or("", |(dir, _)| dir)),
        };
        Self::parse(&format!("{scheme}://{}{path}", self.authority))
    }

    /// The same scheme, host and port: credentials for one are meant for the other.
    pub(crate) fn same_origin(&self, other: &Self) -> bool {
        self.https == other.https && self.with_port() == other.with_port()
    }

    fn with_port(&self) -> (&str, u16) {
        let (host, port) = split_port(&self.authority);
        (host, port.unwrap_or(if self.https { 443 } else { 80 }))
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}://{}{}",
            if self.https { "https" } else { "http" },
            self.authority,
            self.path
        )
    }
}

/// A host name (underscores are not allowed in one, but buckets have them), or an address, with an optional port.
fn is_authority(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port),
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let in_brackets = text.starts_with('[');
    let fits = |b: u8| match in_brackets {
        true => b.is_ascii_hexdigit() || matches!(b, b':' | b'.'),
        false => b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'),
    };
    let port_fits = port.is_empty() || port.strip_prefix(':').is_some_and(|p| p.parse::<u16>().is_ok());
    !host.is_empty() && host.bytes().all(fits) && port_fits
}

/// Host (brackets kept) and port.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

/// Whether a host is this machine: `localhost`, 127/8, ::1.
pub(crate) fn is_loopback(authority: &str) -> bool {
    let host = split_port(authority)
        .0
        .trim_start_matches('[')
        .trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// A value as it is written in a query: everything but letters, digits and `-._~/:` as percent codes.
pub(crate) fn encode(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' | b'/' | b':' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_panics(base in "[a-z]{0,5}:?/{0,3}[ -~]{0,20}", location in any::<String>()) {
            if let Some(base) = Url::parse(&base) {
                prop_assert_eq!(Url::parse(&base.to_string()), Some(base.clone()));
                let _ = base.join(&location);
            }
        }
    }

    #[test]
    fn joins() {
        let base = Url::parse("https://a.example:5000/v2/x/blobs/y?z=1").unwrap();
        for (location, target) in [
            ("/p?q", "https://a.example:5000/p?q"),
            ("?q", "https://a.example:5000/v2/x/blobs/y?q"),
            ("z", "https://a.example:5000/v2/x/blobs/z"),
            ("//b.example/p", "https://b.example/p"),
            ("HTTP://B.example?q#f", "http://b.example/?q"),
            ("/p?u=http://c", "https://a.example:5000/p?u=http://c"),
            ("https://my_bucket.example/p", "https://my_bucket.example/p"),
            ("http://[::1]:80/", "http://[::1]:80/"),
        ] {
            assert_eq!(base.join(location).unwrap().to_string(), target, "{location}");
        }
        for bad in [
            "ftp://a/b",
            "https://user:pw@a/b",
            "https:///b",
            "https://a b/",
            "https://a/\r\nX: y",
        ] {
            assert_eq!(base.join(bad), None, "{bad}");
        }
    }

    #[test]
    fn origins() {
        let url = |s| Url::parse(s).unwrap();
        assert!(url("https://a/x").same_origin(&url("https://A:443/y")));
        assert!(!url("https://a/x").same_origin(&url("http://a/x")));
        assert!(!url("https://a/x").same_origin(&url("https://a:444/x")));
        assert!(!url("https://a/x").same_origin(&url("https://b.a/x")));
        for yes in [
            "localhost",
            "LOCALHOST:1",
            "127.0.0.1:5000",
            "127.9.9.9",
            "[::1]:80",
            "[::1]",
        ] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example", "128.0.0.1", "[::2]", "127.0.0.1.example"] {
            assert!(!is_loopback(no), "{no}");
        }
        assert_eq!(
            encode("repository:a/b:pull,push x"),
            "repository:a/b:pull%2Cpush%20x"
        );
    }
}
