//! `--hostname`, `--add-host`, `--dns`: what the container believes about names.

use std::net::IpAddr;

use super::{Flag, Result};

/// Parses `--hostname`: labels of letters, digits and `-`, joined by dots, 64 bytes at most (the kernel's limit).
///
/// # Errors
/// Anything else.
pub fn hostname(value: &str) -> Result<String> {
    let flag = Flag::new(
        "--hostname",
        value,
        "use letters, digits, - and dots, 64 characters at most",
    );
    let label = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if value.len() > 64 {
        return Err(flag.wrong(format!("{} characters", value.len())));
    }
    match value.split('.').find(|part| !label(part)) {
        Some(part) => Err(flag.wrong(format!("{part:?} is no part of a host name"))),
        None => Ok(value.to_owned()),
    }
}

/// Parses `--add-host NAME:ADDRESS` (or `NAME=ADDRESS`); an IPv6 address may stand in brackets. `None` for
/// `host-gateway`: the address by which the container reaches the machine, whatever that will be.
///
/// # Errors
/// No name, no address.
pub fn add_host(value: &str) -> Result<(String, Option<IpAddr>)> {
    let flag = Flag::new("--add-host", value, "write NAME:ADDRESS, as db:10.0.0.5");
    let (name, address) = match (value.find('='), value.find(':')) {
        (Some(at), Some(colon)) if at < colon => (&value[..at], &value[at + 1..]),
        (_, Some(at)) | (Some(at), None) => (&value[..at], &value[at + 1..]),
        (None, None) => return Err(flag.wrong("there is no address")),
    };
    if name.contains(';') {
        return Err(flag.instead(
            format!("{name:?} are several names"),
            "give --add-host once for each name",
        ));
    }
    if name.is_empty() || name.contains(char::is_whitespace) || name.contains('#') {
        return Err(flag.wrong(format!("{name:?} is no name")));
    }
    if address == "host-gateway" {
        return Ok((name.to_owned(), None));
    }
    let bare = address
        .strip_prefix('[')
        .and_then(|a| a.strip_suffix(']'))
        .unwrap_or(address);
    let ip = bare
        .parse()
        .map_err(|_| flag.wrong(format!("{address:?} is no IP address")))?;
    Ok((name.to_owned(), Some(ip)))
}

/// Parses `--dns`: the address of a name server.
///
/// # Errors
/// Not an IP address.
pub fn dns(value: &str) -> Result<IpAddr> {
    let flag = Flag::new("--dns", value, "write the address of a name server, as 9.9.9.9");
    if value == "none" {
        let hint = "bind a file of your own over it: -v ./resolv.conf:/etc/resolv.conf:ro";
        return Err(flag.instead("a container always has an /etc/resolv.conf", hint));
    }
    value
        .trim()
        .parse()
        .map_err(|_| flag.wrong(format!("{value:?} is no IP address")))
}

/// Parses `--dns-search` and `--dns-option` (give the flag's name): one word of the file's line.
///
/// # Errors
/// Not one word.
pub fn resolver(name: &'static str, value: &str) -> Result<String> {
    let flag = Flag::new(name, value, "give the flag once for each word");
    match value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '#') {
        true => Err(flag.wrong(format!("{value:?} is not one word"))),
        false => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames() {
        for good in ["a", "web-1.example.org", "X_1"] {
            assert_eq!(hostname(good).unwrap(), good);
        }
        for bad in ["", "a b", "-a", "a-", "a..b", "ü", &"x".repeat(65)] {
            assert!(hostname(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts() {
        for (value, name, ip) in [
            ("db:10.0.0.5", "db", "10.0.0.5"),
            ("db=10.0.0.5", "db", "10.0.0.5"),
            ("six:::1", "six", "::1"),
            ("six:[::1]", "six", "::1"),
            ("six=fe80::1", "six", "fe80::1"),
        ] {
            assert_eq!(
                add_host(value).unwrap(),
                (name.to_owned(), Some(ip.parse().unwrap())),
                "{value}"
            );
        }
        assert_eq!(add_host("x:host-gateway").unwrap(), ("x".to_owned(), None));
        for bad in ["db", "db:", ":1.2.3.4", "db:300.1.1.1", "a b:1.2.3.4"] {
            assert!(add_host(bad).is_err(), "{bad}");
        }
        assert_eq!(dns("::1").unwrap().to_string(), "::1");
        assert!(dns("one.one").is_err());
        assert_eq!(resolver("--dns-search", "a.b").unwrap(), "a.b");
        assert!(resolver("--dns-option", "ndots:1 rotate").is_err());
    }
}
