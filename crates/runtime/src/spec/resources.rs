//! Limits of the cgroup, and devices.

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, LinuxMemory, LinuxPids,
    LinuxResources,
};

use super::{Host, SpecError, defaults};
use crate::devices;
use crate::options::ContainerOptions;
use crate::options::limits::CPU_PERIOD;

/// The limits that are asked for, without devices: see [`super::limits`].
pub(super) fn limits(options: &ContainerOptions, host: &Host) -> Result<LinuxResources, SpecError> {
    let mut resources = resources(options, host, Vec::new())?;
    resources.set_devices(None);
    Ok(resources)
}

/// The limits, each only where it was asked for.
pub(super) fn resources(
    options: &ContainerOptions,
    host: &Host,
    rules: Vec<LinuxDeviceCgroup>,
) -> Result<LinuxResources, SpecError> {
    let asked = &options.resources;
    let wrong = |flag, problem: &str| SpecError::Limit {
        flag,
        problem: problem.to_owned(),
    };
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(rules));

    let limit = asked.memory.filter(|limit| *limit > 0);
    let swap = match (asked.memory_swap, limit) {
        (Some(swap), Some(limit)) if swap > 0 && swap < limit => {
            return Err(wrong(
                "--memory-swap",
                "it counts memory and swap together, so it is at least --memory",
            ));
        }
        (Some(swap), None) if swap > 0 => {
            return Err(wrong("--memory-swap", "it needs --memory besides"));
        }
        (Some(swap), _) => Some(swap).filter(|swap| *swap != 0),
        (None, Some(limit)) if host.counts_swap() => Some(limit.saturating_mul(2)),
        (None, _) => None,
    };
    let reservation = asked.memory_reservation.filter(|reservation| *reservation > 0);
    if let (Some(reservation), Some(limit)) = (reservation, limit)
        && reservation > limit
    {
        return Err(wrong("--memory-reservation", "it is below --memory"));
    }
    if limit.is_some() || swap.is_some() || reservation.is_some() {
        let mut memory = LinuxMemory::default();
        memory
            .set_limit(limit)
            .set_swap(swap)
            .set_reservation(reservation);
        resources.set_memory(Some(memory));
    }

    let quota = asked.cpu_quota.filter(|quota| *quota > 0);
    let period = asked.cpu_period.or(quota.map(|_| CPU_PERIOD));
    if let (Some(quota), Some(period)) = (quota, period) {
        let cpus = host.cpus();
        if u64::try_from(quota).unwrap_or(0) > u64::from(cpus).saturating_mul(period) {
            let flag = match period {
                CPU_PERIOD => "--cpus",
                _ => "--cpu-quota",
            };
            let problem = format!("this machine has {cpus} CPUs: the range is from 0.01 to {cpus}");
            return Err(SpecError::Limit { flag, problem });
        }
    }
    let shares = asked.cpu_shares.filter(|shares| *shares > 0);
    let sets = (&asked.cpuset_cpus, &asked.cpuset_mems);
    if period.is_some() || shares.is_some() || sets != (&None, &None) {
        let mut cpu = LinuxCpu::default();
        cpu.set_quota(quota)
            .set_period(period)
            .set_shares(shares)
            .set_cpus(sets.0.clone())
            .set_mems(sets.1.clone());
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = process_limit(options, host) {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    if let Some(weight) = asked.blkio_weight.filter(|weight| *weight > 0) {
        let mut io = LinuxBlockIo::default();
        io.set_weight(Some(weight));
        resources.set_block_io(Some(io));
    }
    Ok(resources)
}

pub(super) fn process_limit(options: &ContainerOptions, host: &Host) -> Option<i64> {
    let usual = || {
        let counted = host.counts_processes(options.cgroup_parent.as_deref());
        counted.then_some(defaults::PROCESSES)
    };
    let limit = options.resources.pids_limit.or_else(usual);
    limit.filter(|limit| *limit > 0)
}

/// Nodes to make beside the default ones, and the rules for all.
pub(super) fn devices(
    options: &ContainerOptions,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>), SpecError> {
    let mut found = Vec::new();
    if options.privileged {
        found.extend(devices::all().map_err(SpecError::Devices)?);
    }
    for option in &options.devices {
        found.extend(devices::from_option(option)?);
    }
    let mut nodes: Vec<LinuxDevice> = Vec::new();
    for device in &found {
        // The last one at a place is the one that was asked for.
        nodes.retain(|node| node.path() != device.node.path());
        nodes.push(device.node.clone());
    }
    if options.privileged {
        return Ok((nodes, vec![rule(true, None, None, None, "rwm")]));
    }
    let mut rules = usual_devices();
    rules.extend(found.into_iter().map(|device| device.rule));
    Ok((nodes, rules))
}

/// The rules of a container that asks for no device.
pub(crate) fn usual_devices() -> Vec<LinuxDeviceCgroup> {
    let mut rules = vec![rule(false, None, None, None, "rwm")];
    rules.extend(default_devices());
    rules
}

/// Rules that allow what every container has (OCI runtime spec, "Default Devices").
pub(crate) fn default_devices() -> impl Iterator<Item = LinuxDeviceCgroup> {
    defaults::DEVICES.into_iter().map(|(typ, major, minor, access)| {
        let typ = match typ {
            'b' => LinuxDeviceType::B,
            _ => LinuxDeviceType::C,
        };
        rule(true, Some(typ), major, minor, access)
    })
}

fn rule(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(typ)
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}
