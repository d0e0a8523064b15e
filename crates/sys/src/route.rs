//! Network devices over rtnetlink (rtnetlink(7)): as much as is needed to move one into another network namespace.
//!
//! A socket belongs to the namespace that it was opened in, and speaks of that one wherever its owner goes.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

const HEADER: usize = 16;
/// `IFNAMSIZ` with the nought at the end.
const LONGEST_NAME: usize = 15;
const BUFFER: usize = 64 << 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_NEW: u16 = 0x600;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFF_UP: u32 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// What somebody chose of an address's flags: no detection of duplicates, no route of its own, a home address, managed
/// temporary ones.
const IFA_F_CHOSEN: u32 = 0x02 | 0x10 | 0x100 | 0x200;

/// The network devices of one namespace.
#[derive(Debug)]
pub struct Devices {
    socket: OwnedFd,
}

/// An address that a device keeps until somebody takes it away, and that others reach it by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    family: u8,
    prefix: u8,
    flags: u32,
    /// Attributes by their number.
    attributes: Vec<(u16, Vec<u8>)>,
}

/// Whether the kernel takes this as a device's name; `%d`, for a number that is free, is to be filled in before.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= LONGEST_NAME
        && !matches!(name, "." | "..")
        && !name
            .bytes()
            .any(|byte| matches!(byte, b'/' | b':' | b'%') || byte.is_ascii_whitespace() || byte == 0)
}

impl Devices {
    /// Those of the calling thread's namespace.
    pub fn here() -> io::Result<Devices> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // NETLINK_ROUTE.
            None,
        )?;
        Ok(Devices { socket })
    }

    /// The index of the device of this name; `None` where there is none.
    pub fn find(&self, name: &str) -> io::Result<Option<u32>> {
        let mut request = Request::new(RTM_GETLINK, NLM_F_REQUEST);
        request.link(0, 0, 0);
        request.text(IFLA_IFNAME, name);
        let mut found = None;
        let asked = self.ask(request, |kind, body| {
            if kind == RTM_NEWLINK {
                found = body.get(4..8).and_then(number);
            }
        });
        match asked {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NODEV) => Ok(None),
            other => other.map(|()| found),
        }
    }

    /// Moves a device into another namespace, where it gets this name.
    pub fn give(&self, index: u32, namespace: BorrowedFd<'_>, name: &str) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK);
        request.link(index, 0, 0);
        request.attribute(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
        request.text(IFLA_IFNAME, name);
        self.ask(request, |_, _| {})
    }

    /// Whether a device is up.
    pub fn is_up(&self, index: u32) -> io::Result<bool> {
        let mut request = Request::new(RTM_GETLINK, NLM_F_REQUEST);
        request.link(index, 0, 0);
        let mut flags = 0;
        self.ask(request, |kind, body| {
            if kind == RTM_NEWLINK {
                flags = body.get(8..12).and_then(number).unwrap_or(0);
            }
        })?;
        Ok(flags & IFF_UP == IFF_UP)
    }

    /// Brings a device up.
    pub fn up(&self, index: u32) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWLINK, NLM_F_REQUEST | NLM_F_ACK);
        request.link(index, IFF_UP, IFF_UP);
        self.ask(request, |_, _| {})
    }

    /// A device's addresses that stay and have global scope.
    pub fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let mut request = Request::new(RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP);
        request.address(0, 0, 0, 0);
        let mut all = Vec::new();
        self.ask(request, |kind, body| {
            if kind == RTM_NEWADDR && body.get(4..8).and_then(number) == Some(index) {
                all.extend(Address::read(body));
            }
        })?;
        Ok(all)
    }

    /// Gives a device an address.
    pub fn add(&self, index: u32, address: &Address) -> io::Result<()> {
        let mut request = Request::new(RTM_NEWADDR, NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE_NEW);
        request.address(address.family, address.prefix, 0, index);
        for (kind, value) in &address.attributes {
            request.attribute(*kind, value);
        }
        request.attribute(IFA_FLAGS, &address.flags.to_ne_bytes());
        self.ask(request, |_, _| {})
    }

    /// Sends a request and hears the answers to their end.
    fn ask(&self, request: Request, mut hear: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let bytes = request.finish();
        rustix::net::send(&self.socket, &bytes, SendFlags::empty())?;
        let many = u16::from_ne_bytes([bytes[6], bytes[7]]) & NLM_F_DUMP == NLM_F_DUMP;
        let acknowledged = u16::from_ne_bytes([bytes[6], bytes[7]]) & NLM_F_ACK != 0;
        let mut buffer = vec![0; BUFFER];
        loop {
            let (length, _) = rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            let mut rest = &buffer[..length];
            while let Some((kind, body, next)) = message(rest) {
                rest = next;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.get(..4).and_then(number).unwrap_or_default() as i32;
                        return match code {
                            0 => Ok(()),
                            code => Err(io::Error::from_raw_os_error(-code)),
                        };
                    }
                    other => hear(other, body),
                }
                if !many && !acknowledged {
                    return Ok(());
                }
            }
        }
    }
}

impl Address {
    /// From the body of an RTM_NEWADDR: family, prefix, flags, scope, index, attributes.
    fn read(body: &[u8]) -> Option<Address> {
        let [family, prefix, flags, scope] = *body.first_chunk()?;
        let mut flags = u32::from(flags);
        let mut attributes = Vec::new();
        let mut rest = body.get(8..)?;
        while let Some((kind, value, next)) = attribute(rest) {
            rest = next;
            match kind {
                IFA_FLAGS => flags = number(value)?,
                IFA_ADDRESS | IFA_LOCAL | IFA_BROADCAST => attributes.push((kind, value.to_vec())),
                _ => {}
            }
        }
        // RT_SCOPE_UNIVERSE is nought.
        (scope == 0 && flags & IFA_F_PERMANENT != 0).then_some(Address {
            family,
            prefix,
            flags: flags & IFA_F_CHOSEN,
            attributes,
        })
    }
}

fn number(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().copied().map(u32::from_ne_bytes)
}

/// Where what is this long ends with its padding.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

/// The first message: kind and body, and what comes after.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(number(bytes)?).ok()?;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// The first attribute: kind and value, and what comes after.
fn attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
    let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
    let value = bytes.get(4..length)?;
    Some((kind, value, bytes.get(aligned(length)..).unwrap_or_default()))
}

/// A message being written.
struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16) -> Request {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        Request(bytes)
    }

    /// `struct ifinfomsg`.
    fn link(&mut self, index: u32, flags: u32, change: u32) {
        self.0.extend([0; 4]);
        for value in [index, flags, change] {
            self.0.extend(value.to_ne_bytes());
        }
    }

    /// `struct ifaddrmsg`, of global scope.
    fn address(&mut self, family: u8, prefix: u8, flags: u8, index: u32) {
        self.0.extend([family, prefix, flags, 0]);
        self.0.extend(index.to_ne_bytes());
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(aligned(self.0.len()), 0);
    }

    /// With the nought at its end.
    fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_device_is_there() {
        let devices = Devices::here().unwrap();
        assert_eq!(devices.find("lo").unwrap(), Some(1));
        assert_eq!(devices.find("nosuchdevice").unwrap(), None);
        // Its addresses have the scope of the machine.
        assert_eq!(devices.addresses(1).unwrap(), []);
    }

    #[test]
    fn an_address_is_read() {
        let mut request = Request::new(RTM_NEWADDR, 0);
        request.address(2, 24, 0x80, 7);
        request.attribute(IFA_LOCAL, &[10, 0, 0, 1]);
        request.attribute(3, b"eth0\0");
        request.attribute(IFA_FLAGS, &0x280_u32.to_ne_bytes());
        let bytes = request.finish();
        let (kind, body, rest) = message(&bytes).unwrap();
        assert_eq!((kind, rest.len()), (RTM_NEWADDR, 0));
        let read = Address::read(body).unwrap();
        assert_eq!((read.family, read.prefix, read.flags), (2, 24, 0x200));
        assert_eq!(read.attributes, [(IFA_LOCAL, vec![10, 0, 0, 1])]);
        // One that is not of global scope, and one that ends by itself.
        let mut other = body.to_vec();
        other[3] = 253;
        assert_eq!(Address::read(&other), None);
        let mut request = Request::new(RTM_NEWADDR, 0);
        request.address(2, 24, 0, 7);
        assert_eq!(Address::read(&request.finish()[HEADER..]), None);
        assert!(message(&bytes[..10]).is_none() && attribute(&[9, 0, 1, 0]).is_none());
    }

    #[test]
    fn names() {
        for name in ["eth0", "a", "0123456789abcde"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", ".", "a/b", "a b", "a:b", "0123456789abcdef", "eth%d"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
