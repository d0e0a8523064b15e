//! `linux.netDevices` (OCI runtime spec 1.3, "Network Devices"): devices of the host's network that go into the
//! container's, with their lasting global addresses, and are brought up there.
//!
//! Of a start that fails they come back as they were. Nobody brings them back later: as the specification has it, what becomes of
//! a device hangs on the network namespace. When that
//! ends, the kernel puts hardware back into the machine's own and removes what is virtual; one that was joined keeps them.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxNetDevice, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use sys::process::namespaces as kind;
use sys::route::{self, Address, Devices};

use super::fault::{During, Fault, Result};
use super::namespaces::Namespaces;

/// Those that a spec names; none where it names none.
pub(super) fn wanted(spec: &Spec) -> Option<&HashMap<String, LinuxNetDevice>> {
    let devices = spec.linux().as_ref()?.net_devices().as_ref()?;
    Some(devices).filter(|devices| !devices.is_empty())
}

/// Refuses what cannot be, whatever devices there are.
pub(super) fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let Some(devices) = wanted(spec) else {
        return Ok(());
    };
    if !namespaces.has(kind::NETWORK) {
        return Err(Fault::new(
            "linux.netDevices is set, but the container shares the host's network namespace",
        ));
    }
    for (device, inside) in devices {
        let name = name_of(device, inside);
        // A number is filled in where it says so.
        if !route::is_name(device) || !route::is_name(&name.replacen("%d", "0", 1)) {
            return Err(Fault::new(format!(
                "linux.netDevices {device:?} to {name:?}: no name of a network device"
            )));
        }
    }
    Ok(())
}

fn name_of<'a>(device: &'a str, inside: &'a LinuxNetDevice) -> &'a str {
    let asked = inside.name().as_deref().filter(|name| !name.is_empty());
    asked.unwrap_or(device)
}

/// Devices that were given: dropped, they are taken back as far as they have come.
pub(super) struct Given<'a> {
    here: Devices,
    there: Devices,
    own: OwnedFd,
    moved: Vec<Move<'a>>,
}

impl Given<'_> {
    /// The container runs, and keeps them.
    pub(super) fn keep(mut self) {
        self.moved.clear();
    }
}

impl Drop for Given<'_> {
    fn drop(&mut self) {
        // Gone back or not, what made it necessary is the fault to tell.
        for one in &self.moved {
            let _ = one.undo(&self.here, &self.there, self.own.as_fd());
        }
    }
}

/// Moves all of them from the calling process's network into that of process `pid`, or into the one that it joins.
pub(super) fn give<'a>(spec: &'a Spec, namespaces: &Namespaces, pid: i32) -> Result<Option<Given<'a>>> {
    let Some(devices) = wanted(spec) else {
        return Ok(None);
    };
    let open = |path: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, path, flags, Mode::empty()).during(|| path.to_owned())
    };
    let own = open("/proc/self/ns/net")?;
    let target = match namespaces.network() {
        Some(known) => known
            .try_clone_to_owned()
            .during(|| "the container's network".into())?,
        None => open(&format!("/proc/{pid}/ns/net"))?,
    };
    let doing = || "asking for network devices".to_owned();
    let here = Devices::here().during(doing)?;
    sys::process::setns(target.as_fd(), kind::NETWORK).during(doing)?;
    let there = Devices::here();
    sys::process::setns(own.as_fd(), kind::NETWORK)
        .during(|| "going back to the network namespace".into())?;
    let mut given = Given {
        here,
        there: there.during(doing)?,
        own,
        moved: Vec::new(),
    };
    for (device, inside) in devices {
        let name = name_of(device, inside);
        let one = Move::prepare(&given.here, &given.there, device, name)
            .during(|| format!("linux.netDevices {device:?} to {name:?}"))?;
        let done = one
            .go(&given.here, &given.there, target.as_fd())
            .during(|| format!("linux.netDevices {device:?} to {:?}", one.name));
        given.moved.push(one);
        done?;
    }
    Ok(Some(given))
}

/// One device on its way.
struct Move<'a> {
    device: &'a str,
    index: u32,
    name: String,
    addresses: Vec<Address>,
    was_up: bool,
    /// The other namespace has one that is called as this one was.
    namesake: bool,
}

impl<'a> Move<'a> {
    fn prepare(here: &Devices, there: &Devices, device: &'a str, name: &str) -> io::Result<Move<'a>> {
        let index = here.find(device)?.ok_or(Errno::NODEV)?;
        let taken = |name: &str| there.find(name).map(|found| found.is_some());
        let name = match name.contains("%d") {
            false if taken(name)? => return Err(Errno::EXIST.into()),
            false => name.to_owned(),
            true => {
                let mut number = 0;
                loop {
                    let filled = name.replacen("%d", &number.to_string(), 1);
                    if !taken(&filled)? {
                        break filled;
                    }
                    number += 1;
                }
            }
        };
        Ok(Move {
            device,
            index,
            name,
            addresses: here.addresses(index)?,
            was_up: here.is_up(index)?,
            namesake: taken(device)?,
        })
    }

    fn go(&self, here: &Devices, there: &Devices, target: BorrowedFd<'_>) -> io::Result<()> {
        here.give(self.index, target, &self.name)?;
        let index = there.find(&self.name)?.ok_or(Errno::NODEV)?;
        // Taken down on its way, it has lost them.
        self.addresses
            .iter()
            .try_for_each(|address| there.add(index, address))?;
        there.up(index)
    }

    /// Takes it back, as far as it has come.
    fn undo(&self, here: &Devices, there: &Devices, own: BorrowedFd<'_>) -> io::Result<()> {
        if here.find(self.device)?.is_some() {
            return Ok(());
        }
        let index = match there.find(&self.name)? {
            // Moved, and not yet called so.
            None if !self.namesake => there.find(self.device)?,
            other => other,
        };
        let index = index.ok_or(Errno::NODEV)?;
        there.give(index, own, self.device)?;
        let index = here.find(self.device)?.ok_or(Errno::NODEV)?;
        for address in &self.addresses {
            here.add(index, address)?;
        }
        if self.was_up {
            here.up(index)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_refused() {
        let checked = |namespaces: &str, devices: &str| {
            let text = format!(
                r#"{{"ociVersion":"1.3.0","linux":{{"namespaces":[{{"type":"mount"}}{namespaces}],"netDevices":{devices}}}}}"#
            );
            let spec: Spec = serde_json::from_str(&text).unwrap();
            check(&spec, &Namespaces::of(&spec).unwrap())
        };
        let network = r#",{"type":"network"}"#;
        for devices in ["{}", r#"{"eth1":{}}"#, r#"{"eth1":{"name":"net%d"}}"#] {
            checked(network, devices).unwrap();
        }
        let shared = checked("", r#"{"eth1":{}}"#).unwrap_err();
        assert!(shared.text.contains("host's network"), "{shared}");
        for devices in [
            r#"{"a/b":{}}"#,
            r#"{"eth1":{"name":"a b"}}"#,
            r#"{"eth1":{"name":"%d%d"}}"#,
            r#"{"eth%d":{}}"#,
        ] {
            let fault = checked(network, devices).unwrap_err();
            assert!(fault.text.contains("no name"), "{devices}: {fault}");
        }
    }
}
