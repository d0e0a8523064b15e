//! Ranges of addresses: `10.62.0.0/24`, `fd00:1::/64`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use rustix::rand::{GetRandomFlags, getrandom};
use serde::{Deserialize, Serialize};

/// A range of addresses that share their first bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Subnet {
    address: IpAddr,
    prefix: u8,
}

/// What is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SubnetError(String);

/// Where ranges for networks come from that ask for none: 512 of 254 addresses. Neither docker's nor podman's.
const POOL: Ipv4Addr = Ipv4Addr::new(10, 62, 0, 0);
const POOL_SIZE: u32 = 512;
const POOL_PREFIX: u8 = 24;

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Subnet {
    /// The range of `prefix` first bits that holds `address`; `None` where an address has fewer bits.
    pub fn holding(address: IpAddr, prefix: u8) -> Option<Subnet> {
        let free = width(address).checked_sub(prefix)?;
        let cut = |bits: u128| {
            bits.checked_shr(free.into())
                .unwrap_or(0)
                .checked_shl(free.into())
                .unwrap_or(0)
        };
        let address = match address {
            // What is cut is no longer than what was there.
            IpAddr::V4(v4) => IpAddr::V4(Ipv4Addr::from_bits(cut(v4.to_bits().into()) as u32)),
            IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(cut(v6.to_bits()))),
        };
        Some(Subnet { address, prefix })
    }

    /// How many first bits its addresses share.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it is of IPv6.
    pub fn is_v6(self) -> bool {
        self.address.is_ipv6()
    }

    /// Whether the address lies in it.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Subnet::holding(address, self.prefix) == Some(self)
    }

    /// Whether an address lies in both.
    pub fn overlaps(self, other: Subnet) -> bool {
        let (wide, narrow) = if self.prefix <= other.prefix {
            (self, other)
        } else {
            (other, self)
        };
        wide.contains(narrow.address)
    }

    /// The first address that an interface can have: the gateway's, unless another is chosen.
    pub fn first(self) -> IpAddr {
        match self.address {
            IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() | 1)),
            IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() | 1)),
        }
    }

    /// The first and the last address.
    pub fn ends(self) -> (IpAddr, IpAddr) {
        let free = u32::from(width(self.address) - self.prefix);
        let mask = u128::MAX.checked_shr(128 - free).unwrap_or(0);
        let last = bits(self.address) | mask;
        let last = match self.address {
            // The mask covers no bit beyond the address's own.
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from_bits(last as u32)),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(last)),
        };
        (self.address, last)
    }

    /// Whether it has room for a gateway and a container.
    pub fn has_room(self) -> bool {
        width(self.address) - self.prefix >= 2
    }

    /// A range of the pool that overlaps none of `used`; `None` when all are used.
    pub fn free(used: &[Subnet]) -> Option<Subnet> {
        (0..POOL_SIZE)
            .filter_map(|n| {
                let address = Ipv4Addr::from_bits(POOL.to_bits() + (n << (32 - POOL_PREFIX)));
                Subnet::holding(address.into(), POOL_PREFIX)
            })
            .find(|subnet| !used.iter().any(|other| other.overlaps(*subnet)))
    }

    /// A range of unique local addresses, chosen at random as RFC 4193 has it.
    ///
    /// # Errors
    /// The kernel has no randomness.
    pub fn random_v6() -> std::io::Result<Subnet> {
        let mut bytes = [0; 16];
        getrandom(&mut bytes[1..8], GetRandomFlags::empty())?;
        bytes[0] = 0xfd;
        Ok(Subnet {
            address: IpAddr::V6(Ipv6Addr::from(bytes)),
            prefix: 64,
        })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Subnet, SubnetError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            let address: IpAddr = address.parse().ok()?;
            let prefix: u8 = prefix.parse().ok()?;
            Some((address, Subnet::holding(address, prefix)?))
        };
        match parse() {
            None => Err(SubnetError(format!("{text:?} is no range of addresses"))),
            Some((address, subnet)) if subnet.address != address => Err(SubnetError(format!(
                "{text:?} is an address in a range; the range is {subnet}"
            ))),
            Some((_, subnet)) => Ok(subnet),
        }
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> String {
        subnet.to_string()
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Subnet, SubnetError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn ranges_are_read_and_written() {
        for text in [
            "10.0.0.0/8",
            "10.1.2.0/24",
            "0.0.0.0/0",
            "fd00:1::/64",
            "::/0",
            "10.0.0.7/32",
        ] {
            assert_eq!(subnet(text).to_string(), text);
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0/8",
            "fd00::/129",
            "a/b",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
        let error = "10.1.2.3/16".parse::<Subnet>().unwrap_err().to_string();
        assert!(error.contains("the range is 10.1.0.0/16"), "{error}");
    }

    #[test]
    fn what_lies_in_a_range() {
        let net = subnet("10.1.0.0/16");
        assert!(net.contains("10.1.255.255".parse().unwrap()));
        assert!(!net.contains("10.2.0.0".parse().unwrap()) && !net.contains("::1".parse().unwrap()));
        assert!(net.overlaps(subnet("10.1.9.0/24")) && subnet("10.1.9.0/24").overlaps(net));
        assert!(subnet("0.0.0.0/0").overlaps(net) && !subnet("::/0").overlaps(net));
        assert!(!net.overlaps(subnet("10.2.0.0/16")));
        assert_eq!(net.first().to_string(), "10.1.0.1");
        let text = |(first, last): (IpAddr, IpAddr)| format!("{first} {last}");
        assert_eq!(text(net.ends()), "10.1.0.0 10.1.255.255");
        assert_eq!(text(subnet("10.0.0.7/32").ends()), "10.0.0.7 10.0.0.7");
        assert_eq!(text(subnet("fd00::/112").ends()), "fd00:: fd00::ffff");
        assert_eq!(
            text(subnet("::/0").ends()),
            ":: ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
        );
        assert!(subnet("10.0.0.0/30").has_room() && !subnet("10.0.0.0/31").has_room());
    }

    #[test]
    fn a_free_one_collides_with_nothing() {
        assert_eq!(Subnet::free(&[]), Some(subnet("10.62.0.0/24")));
        let used = [subnet("10.62.0.0/23"), subnet("10.62.3.128/25")];
        assert_eq!(Subnet::free(&used), Some(subnet("10.62.2.0/24")));
        assert_eq!(Subnet::free(&[subnet("10.0.0.0/8")]), None);
        let (one, other) = (Subnet::random_v6().unwrap(), Subnet::random_v6().unwrap());
        assert!(one != other && one.to_string().starts_with("fd") && one.prefix() == 64);
    }
}
