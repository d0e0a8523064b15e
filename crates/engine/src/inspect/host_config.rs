//! A container's `HostConfig`: what was asked of its start, in docker's words. What docker says of what nobody asked for
//! is said too: programs read it.

use std::collections::BTreeMap;

use oci_spec::runtime::Spec;
use runtime::control::Restart;
use runtime::options::container::SeccompChoice;
use runtime::options::limits::CPU_PERIOD;
use runtime::options::mounts::MountKind;
use runtime::options::namespaces::NamespaceOption;
use runtime::options::security::CapabilityOption;
use runtime::spec::{Host, process_limit};
use serde_json::{Value, json};
use store::{Container, Quota};

use crate::run::Plan;

/// `running` is what it runs with, where it does.
pub(super) fn told(plan: &Plan, row: &Container, quota: Option<&Quota>, running: Option<&Spec>) -> Value {
    let options = &plan.container;
    let resources = &options.resources;
    let binds: Vec<String> = binds(plan).collect();
    let devices = options.devices.iter().map(|device| {
        json!({
            "PathOnHost": device.host,
            "PathInContainer": device.container,
            "CgroupPermissions": device.access,
        })
    });
    let ulimits = options.ulimits.iter().map(|limit| {
        json!({
            "Name": limit.typ().to_string().trim_start_matches("RLIMIT_").to_ascii_lowercase(),
            "Soft": limit.soft(),
            "Hard": limit.hard(),
        })
    });
    let tmpfs = options
        .mounts
        .iter()
        .filter(|mount| mount.kind == MountKind::Tmpfs);
    let tmpfs: BTreeMap<String, String> = tmpfs
        .map(|mount| (mount.destination.display().to_string(), mount.options.join(",")))
        .collect();
    let hosts = plan
        .hosts
        .iter()
        .map(|(name, address)| format!("{name}:{address}"));
    let gateways = plan
        .gateway_names
        .iter()
        .map(|name| format!("{name}:host-gateway"));
    let log = plan.log.as_ref().map_or_else(
        || json!({ "Type": "none", "Config": {} }),
        |limits| {
            json!({
                "Type": "k8s-file",
                "Config": { "max-size": limits.size.to_string(), "max-file": limits.files.to_string() },
            })
        },
    );
    let time = resources.cpu_quota.unwrap_or_default();
    let period = resources.cpu_period.unwrap_or(CPU_PERIOD);
    let billionths = i128::from(time) * 1_000_000_000 / i128::from(period.max(1));
    let mut told = json!({
        "AutoRemove": row.ephemeral,
        "Binds": (!binds.is_empty()).then_some(binds),
        "LogConfig": log,
        "NetworkMode": network_mode(plan),
        "PortBindings": bindings(plan),
        "PublishAllPorts": plan.publish_all,
        "RestartPolicy": restart(plan.restart),
        "Dns": plan.dns,
        "DnsSearch": plan.dns_search,
        "DnsOptions": plan.dns_options,
        "ExtraHosts": hosts.chain(gateways).collect::<Vec<_>>(),
        "CapAdd": capabilities(&options.cap_add),
        "CapDrop": capabilities(&options.cap_drop),
        "Privileged": options.privileged,
        "ReadonlyRootfs": options.read_only,
        "SecurityOpt": security(plan),
        "GroupAdd": options.group_add,
        "IpcMode": namespace(&options.ipc, "private"),
        "PidMode": namespace(&options.pid, ""),
        "UTSMode": namespace(&options.uts, ""),
        "CgroupnsMode": "private",
        "CgroupParent": options.cgroup_parent.as_deref().unwrap_or_default(),
        "Init": options.init,
        "Runtime": plan.runtime,
        "ShmSize": options.shm_size.unwrap_or(64 << 20),
        "StorageOpt": quota.map(|quota| json!({ "size": quota.limit.to_string() })),
        "Sysctls": options.sysctls.iter().cloned().collect::<BTreeMap<String, String>>(),
        "Tmpfs": tmpfs,
        "Devices": devices.collect::<Vec<_>>(),
        "Ulimits": ulimits.collect::<Vec<_>>(),
        "Memory": resources.memory.unwrap_or_default(),
        "MemorySwap": resources.memory_swap.unwrap_or_default(),
        "MemoryReservation": resources.memory_reservation.unwrap_or_default(),
        // Billionths of a processor.
        "NanoCpus": i64::try_from(billionths).unwrap_or(i64::MAX),
        "CpuPeriod": if time == 0 { resources.cpu_period.unwrap_or_default() } else { period },
        "CpuQuota": time,
        "CpuShares": resources.cpu_shares.unwrap_or_default(),
        "CpusetCpus": resources.cpuset_cpus.as_deref().unwrap_or_default(),
        "CpusetMems": resources.cpuset_mems.as_deref().unwrap_or_default(),
        "PidsLimit": processes(plan, running),
        "BlkioWeight": resources.blkio_weight.unwrap_or_default(),
    });
    // More than the macro takes.
    told["UsernsMode"] = json!(users_mode(plan));
    told["OomScoreAdj"] = json!(options.oom_score_adj.unwrap_or_default());
    told
}

/// What is in force; of one that does not run, what the next start has: where nobody asked, it hangs on the machine.
fn processes(plan: &Plan, running: Option<&Spec>) -> Option<i64> {
    let Some(running) = running else {
        return process_limit(&plan.container, &Host::probe().ok()?);
    };
    let resources = running.linux().as_ref()?.resources().as_ref()?;
    resources
        .pids()
        .map(|pids| pids.limit())
        .filter(|limit| *limit > 0)
}

/// `SOURCE:PLACE:OPTIONS` of each directory of the machine and each volume.
fn binds(plan: &Plan) -> impl Iterator<Item = String> {
    let written = |source: String, place: &std::path::Path, options: &[String]| {
        format!("{source}:{}:{}", place.display(), options.join(","))
    };
    let volumes = plan.container.volumes.iter().filter(|volume| !volume.anonymous);
    let volumes = volumes.map(move |volume| {
        let name = volume.name.clone().unwrap_or_default();
        written(name, &volume.destination, &volume.options)
    });
    let mounts = plan.container.mounts.iter();
    volumes.chain(mounts.filter_map(move |mount| match &mount.kind {
        MountKind::Bind { source } => Some(written(
            source.display().to_string(),
            &mount.destination,
            &mount.options,
        )),
        MountKind::Tmpfs => None,
    }))
}

fn restart(policy: Restart) -> Value {
    let (name, most) = match policy {
        Restart::No => ("no", None),
        Restart::Always => ("always", None),
        Restart::UnlessStopped => ("unless-stopped", None),
        Restart::OnFailure { most } => ("on-failure", most),
    };
    json!({ "Name": name, "MaximumRetryCount": most.unwrap_or_default() })
}

fn capabilities(asked: &[CapabilityOption]) -> Option<Vec<Value>> {
    let names = asked.iter().map(|one| match one {
        CapabilityOption::All => json!("ALL"),
        CapabilityOption::One(capability) => json!(capability),
    });
    (!asked.is_empty()).then(|| names.collect())
}

fn security(plan: &Plan) -> Option<Vec<String>> {
    let options = &plan.container;
    let seccomp = match &options.seccomp {
        SeccompChoice::Default => None,
        SeccompChoice::Always => Some("seccomp=builtin".to_owned()),
        SeccompChoice::Unconfined => Some("seccomp=unconfined".to_owned()),
        SeccompChoice::Profile { path, .. } => Some(format!("seccomp={}", path.display())),
    };
    let all = [
        options.no_new_privileges.then(|| "no-new-privileges".to_owned()),
        seccomp,
        options
            .apparmor
            .as_ref()
            .map(|profile| format!("apparmor={profile}")),
    ];
    let all: Vec<String> = all.into_iter().flatten().chain(options.label.words()).collect();
    (!all.is_empty()).then_some(all)
}

fn namespace(asked: &NamespaceOption, own: &str) -> String {
    match asked {
        NamespaceOption::Private => own.to_owned(),
        NamespaceOption::Host => "host".to_owned(),
        NamespaceOption::Container(name) => format!("container:{name}"),
        NamespaceOption::Joined(joined) => format!("ns:{}", joined.path.display()),
    }
}

/// The ids of a container that has some of its own, as `--uidmap` and `--gidmap` take them, users and groups; empty for
/// the machine's.
fn users_mode(plan: &Plan) -> String {
    let ids = plan.container.users.ids();
    ids.map(|ids| ids.to_string()).unwrap_or_default()
}

/// `--network` in docker's words.
fn network_mode(plan: &Plan) -> String {
    let own = plan.networks.first().map_or("none", |first| &first.network);
    namespace(&plan.container.network, own)
}

/// What was asked to be published, by the container's port; an empty port of the host is any.
fn bindings(plan: &Plan) -> BTreeMap<String, Vec<Value>> {
    let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for asked in &plan.publish {
        for (offset, port) in (asked.container.0..=asked.container.1).enumerate() {
            let host = match asked.host {
                None => String::new(),
                Some((first, last)) if asked.container.0 == asked.container.1 && first != last => {
                    format!("{first}-{last}")
                }
                Some((first, _)) => (usize::from(first) + offset).to_string(),
            };
            let place = json!({
                "HostIp": asked.host_ip.map(|address| address.to_string()).unwrap_or_default(),
                "HostPort": host,
            });
            bindings
                .entry(format!("{port}/{}", asked.protocol))
                .or_default()
                .push(place);
        }
    }
    bindings
}
