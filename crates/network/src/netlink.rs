//! What the kernel is asked over rtnetlink: which addresses and routes the machine has, and to take an interface away.
//!
//! Messages are those of rtnetlink(7), composed and read as bytes: three kinds of request need no library.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::subnet::Subnet;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const RTN_UNICAST: u8 = 1;
/// `IFA_ADDRESS` and `RTA_DST` alike.
const ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Lengths of what stands before the attributes.
const HEADER: usize = 16;
const IFINFO: usize = 16;
const ROUTE: usize = 12;
const ADDR: usize = 8;

/// The ranges of addresses that the machine's interfaces and routes have, in every routing table; the default route
/// is none.
///
/// # Errors
/// The kernel does not tell.
pub fn in_use() -> io::Result<Vec<Subnet>> {
    let socket = open()?;
    let mut found = Vec::new();
    for (request, answer, head) in [
        (RTM_GETROUTE, RTM_NEWROUTE, ROUTE),
        (RTM_GETADDR, RTM_NEWADDR, ADDR),
    ] {
        send(&socket, request, NLM_F_DUMP, &vec![0; head])?;
        receive(&socket, |kind, body| {
            if kind == answer {
                found.extend(range(kind, head, body));
            }
        })?;
    }
    Ok(found)
}

/// Whether an interface has this name.
///
/// # Errors
/// The kernel does not tell.
pub fn link_exists(name: &str) -> io::Result<bool> {
    let socket = open()?;
    send(&socket, RTM_GETLINK, 0, &named(name))?;
    match receive(&socket, |_, _| {}) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Takes an interface away; one that is gone is no error.
///
/// # Errors
/// It is there and stays.
pub fn delete_link(name: &str) -> io::Result<()> {
    let socket = open()?;
    send(&socket, RTM_DELLINK, NLM_F_ACK, &named(name))?;
    match receive(&socket, |_, _| {}) {
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => Ok(()),
        other => other,
    }
}

fn open() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is 0.
        None,
    )?)
}

/// An `ifinfomsg` of nothing but a name.
fn named(name: &str) -> Vec<u8> {
    let mut body = vec![0; IFINFO];
    // The length counts the attribute's head and the NUL.
    let length = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
    body.extend(length.to_ne_bytes());
    body.extend(IFLA_IFNAME.to_ne_bytes());
    body.extend(name.as_bytes());
    body.push(0);
    body
}

fn send(socket: &OwnedFd, kind: u16, flags: u16, body: &[u8]) -> io::Result<()> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    // No request here is longer than a few dozen bytes.
    message.extend(
        u32::try_from(HEADER + body.len())
            .unwrap_or(u32::MAX)
            .to_ne_bytes(),
    );
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    rustix::net::send(socket, &message, SendFlags::empty())?;
    Ok(())
}

/// Hands each message of the answer to `take`, until the last.
fn receive(socket: &OwnedFd, mut take: impl FnMut(u16, &[u8])) -> io::Result<()> {
    // The kernel fills no datagram further than this (NLMSG_GOODSIZE is a page, or 32 KiB for who offers so much).
    let mut buffer = vec![0; 32 << 10];
    loop {
        let (length, _) = rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        let mut several = false;
        while let Some((kind, flags, body, after)) = split(rest) {
            several |= flags & 2 != 0;
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return match code {
                        0 => Ok(()),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                kind => take(kind, body),
            }
            rest = after;
        }
        if !several {
            return Ok(());
        }
    }
}

/// The first message of a datagram: its kind, its flags, what it holds, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let flags = u16::from_ne_bytes(*bytes.get(6..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    let after = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, flags, body, after))
}

/// The range of a route or an address.
fn range(kind: u16, head: usize, body: &[u8]) -> Option<Subnet> {
    let (family, prefix) = (*body.first()?, *body.get(1)?);
    // rtm_type is the eighth byte; routes of other types are to the machine's own addresses.
    if kind == RTM_NEWROUTE && (*body.get(7)? != RTN_UNICAST || prefix == 0) {
        return None;
    }
    let mut rest = body.get(head..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let attribute = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        if attribute == ADDRESS {
            let address = match family {
                AF_INET => IpAddr::from(*value.first_chunk::<4>()?),
                AF_INET6 => IpAddr::from(*value.first_chunk::<16>()?),
                _ => return None,
            };
            return Subnet::holding(address, prefix);
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_tells_what_it_has() {
        let loopback = "127.0.0.0/8".parse().unwrap();
        assert!(in_use().unwrap().contains(&loopback), "{:?}", in_use());
        assert!(link_exists("lo").unwrap());
        assert!(!link_exists("no-such-link").unwrap());
        delete_link("no-such-link").unwrap();
    }

    #[test]
    fn what_is_cut_short_is_nothing() {
        let mut route = vec![AF_INET, 24, 0, 0, 0, 0, 0, RTN_UNICAST, 0, 0, 0, 0];
        route.extend(8u16.to_ne_bytes());
        route.extend(ADDRESS.to_ne_bytes());
        route.extend([10, 1, 2, 0]);
        assert_eq!(range(RTM_NEWROUTE, ROUTE, &route), "10.1.2.0/24".parse().ok());
        for length in 0..route.len() {
            assert_eq!(range(RTM_NEWROUTE, ROUTE, &route[..length]), None);
        }
        assert!(split(&[9, 0]).is_none());
    }
}
