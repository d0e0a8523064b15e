//! What helps when something cannot be done with networks.

use std::io::ErrorKind;

use engine::errors::Fault;
use engine::network::{CatalogError, CniError, NetworkError, PastaError, SandboxError};

use super::Explain;

/// The packages of Debian that bring what networks need.
const PACKAGES: &str = "apt-get install containernetworking-plugins iptables; cni_plugin_dirs in the configuration says where else plug-ins lie; --network none and host need none";

/// The package of Debian that brings what an ordinary user's networks need.
const PASTA: &str = "apt-get install passt; --network none and host need nothing";

impl Explain for NetworkError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            NetworkError::Store(fault) => Some(fault),
            NetworkError::Row(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            NetworkError::Row(error) => return error.hint(),
            NetworkError::Sandbox(error) => return sandbox(error),
            NetworkError::NotInstalled { .. } => PACKAGES,
            NetworkError::Unprivileged(_) => {
                "--network pasta is for users; --network host uses the machine's, --network none has none"
            }
            NetworkError::Pasta(_) => PASTA,
            NetworkError::Catalog(CatalogError::NotFound(_)) => {
                "strata network ls lists those there are; strata network create makes one"
            }
            NetworkError::Catalog(CatalogError::Exists(_)) => "choose another name, or strata network rm it",
            NetworkError::Catalog(CatalogError::Ambiguous(_)) => "give more digits of the id",
            NetworkError::Catalog(CatalogError::Newer { .. }) => {
                "use the strata that wrote it, or a newer one"
            }
            NetworkError::Catalog(CatalogError::Io { source, .. })
                if source.kind() == ErrorKind::PermissionDenied =>
            {
                "it belongs to another user: name one of this user's (--root, --state), or be root"
            }
            NetworkError::Catalog(_) => "see what the file holds, or remove it",
            NetworkError::Port(error) if error.source.kind() == ErrorKind::AddrInUse => {
                "strata ps shows the ports of containers, ss -tulpn those of other programs; -p takes another, or none: -p 80"
            }
            NetworkError::Port(error) if error.source.kind() == ErrorKind::AddrNotAvailable => {
                "ip address lists those it has"
            }
            NetworkError::Port(error) if error.source.kind() == ErrorKind::PermissionDenied => {
                "an ordinary user listens from net.ipv4.ip_unprivileged_port_start on, usually 1024: -p 8080:80"
            }
            NetworkError::Port(_) => "each published port is an open file of strata's: ulimit -n limits them",
            NetworkError::Unfit { .. } => "strata network inspect shows what it has",
            NetworkError::Wrong { .. } => "strata network create --help lists the flags and what they take",
            NetworkError::NoRange(_) => "give one with --subnet",
            NetworkError::InUse { .. } => "remove them, or take them out: strata network disconnect",
            NetworkError::Default => "it is there for containers that ask for no other",
            NetworkError::Container { .. } => "strata inspect shows the networks of a container",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// What helps where a container could not be attached or detached.
pub(super) fn sandbox(error: &SandboxError) -> Option<String> {
    let hint = match error {
        SandboxError::Cni {
            source: CniError::Missing { .. },
            ..
        } => PACKAGES,
        SandboxError::Pasta(PastaError::Missing) => PASTA,
        SandboxError::Pasta(_) => {
            "pasta's own words stand above; it needs a way out of the machine: ip route"
        }
        SandboxError::Cni { .. } => "the plug-in's own words stand above",
        SandboxError::Namespace { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            "it belongs to another user: name one of this user's (--root, --state), or be root"
        }
        SandboxError::Locked(_) => "see which: ps -ef, and end it",
        _ => return None,
    };
    Some(hint.to_owned())
}
