//! Limits on v2 (Documentation/admin-guide/cgroup-v2.rst).

use oci_spec::runtime::LinuxResources;

use super::{Result, Settings, Unsupported, cpu_weight, huge_pages, in_both, io_weight, positive};

/// What a controller is told; the spec's own words for it (`unified`) come last and so win.
pub(super) fn settings(controller: &str, resources: &LinuxResources) -> Result {
    let mut settings = Settings::default();
    match controller {
        "memory" => memory(resources, &mut settings)?,
        "cpu" => cpu(resources, &mut settings)?,
        "io" => io(resources, &mut settings)?,
        "hugetlb" => huge_pages(resources, "max", &mut settings),
        "net_cls"
            if resources
                .network()
                .as_ref()
                .is_some_and(|network| network.class_id().is_some()) =>
        {
            return Err(unsupported(
                "the network class",
                "cgroup v2 has no such controller",
            ));
        }
        "net_prio"
            if resources
                .network()
                .as_ref()
                .is_some_and(|network| network.priorities().is_some()) =>
        {
            return Err(unsupported(
                "the network priority",
                "cgroup v2 has no such controller",
            ));
        }
        other => in_both(other, resources, &mut settings),
    }
    let mut words: Vec<(&String, &String)> = resources.unified().iter().flatten().collect();
    words.sort();
    for (file, value) in words {
        if file.split('.').next() == Some(controller) {
            if file.contains('/') || !file.contains('.') {
                return Err(unsupported(
                    "a value of \"unified\"",
                    "its key is no file of a cgroup",
                ));
            }
            settings.add("a value of \"unified\"", file, value);
        }
    }
    Ok(settings.0)
}

fn unsupported(limit: &'static str, because: &'static str) -> Unsupported {
    Unsupported { limit, because }
}

fn memory(resources: &LinuxResources, settings: &mut Settings) -> std::result::Result<(), Unsupported> {
    let Some(memory) = resources.memory() else {
        return Ok(());
    };
    let limit = positive(memory.limit());
    if let Some(limit) = limit {
        settings.add("the memory limit", "memory.max", limit);
    }
    if let Some(reservation) = positive(memory.reservation()) {
        settings.add("the memory reservation", "memory.low", reservation);
    }
    if let Some(both) = positive(memory.swap()) {
        // The spec counts both together, the kernel swap alone.
        let because = "it counts memory and swap together and needs a memory limit not above it";
        let swap = limit
            .and_then(|limit| both.checked_sub(limit))
            .filter(|swap| *swap >= 0);
        let swap = swap.ok_or_else(|| unsupported("the memory and swap limit", because))?;
        settings.add("the memory and swap limit", "memory.swap.max", swap);
    }
    if memory.swappiness().is_some() {
        return Err(unsupported("the swappiness", "cgroup v2 has none per cgroup"));
    }
    if positive(memory.kernel_tcp()).is_some() {
        return Err(unsupported(
            "the TCP memory limit",
            "cgroup v2 counts it as memory",
        ));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(unsupported("disabling the OOM killer", "cgroup v2 cannot"));
    }
    Ok(())
}

fn cpu(resources: &LinuxResources, settings: &mut Settings) -> std::result::Result<(), Unsupported> {
    let Some(cpu) = resources.cpu() else { return Ok(()) };
    if let Some(shares) = positive(cpu.shares()) {
        settings.add("the CPU shares", "cpu.weight", cpu_weight(shares));
    }
    let (quota, period) = (positive(cpu.quota()), positive(cpu.period()));
    if quota.is_some() || period.is_some() {
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        settings.add(
            "the CPU quota",
            "cpu.max",
            format!("{quota} {}", period.unwrap_or(100_000)),
        );
    }
    if let Some(burst) = positive(cpu.burst()) {
        settings.add("the CPU burst", "cpu.max.burst", burst);
    }
    if let Some(idle) = cpu.idle().filter(|idle| *idle != 0) {
        settings.add("CPU idle", "cpu.idle", idle);
    }
    if positive(cpu.realtime_period()).is_some() || cpu.realtime_runtime().is_some_and(|runtime| runtime > 0)
    {
        return Err(unsupported("the real-time share", "cgroup v2 has none"));
    }
    Ok(())
}

fn io(resources: &LinuxResources, settings: &mut Settings) -> std::result::Result<(), Unsupported> {
    let Some(io) = resources.block_io() else {
        return Ok(());
    };
    // BFQ has v1's range; the controller's own weight is another.
    let own = |value: String| Some(("io.weight".to_owned(), value));
    if let Some(weight) = positive(io.weight()) {
        let setting = settings.add("the block I/O weight", "io.bfq.weight", weight);
        setting.instead = own(format!("default {}", io_weight(weight)));
    }
    for device in io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight() {
            let value = format!("{number} {weight}");
            let setting = settings.add("the block I/O weight of a device", "io.bfq.weight", value);
            setting.instead = own(format!("{number} {}", io_weight(weight)));
        }
    }
    if io.leaf_weight().is_some() {
        return Err(unsupported("the block I/O leaf weight", "cgroup v2 has none"));
    }
    for (key, devices) in [
        ("rbps", io.throttle_read_bps_device()),
        ("wbps", io.throttle_write_bps_device()),
        ("riops", io.throttle_read_iops_device()),
        ("wiops", io.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            settings.add("the block I/O rate", "io.max", value);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(controller: &str, json: &str) -> Vec<String> {
        let settings = settings(controller, &serde_json::from_str(json).unwrap()).unwrap();
        settings
            .into_iter()
            .map(|setting| format!("{} {}", setting.file, setting.value))
            .collect()
    }

    #[test]
    fn files_and_values() {
        for (controller, json, expected) in [
            (
                "memory",
                r#"{"memory": {"limit": 100, "swap": 300, "reservation": 50}}"#,
                vec!["memory.max 100", "memory.low 50", "memory.swap.max 200"],
            ),
            (
                "memory",
                r#"{"memory": {"limit": 100, "swap": 100}}"#,
                vec!["memory.max 100", "memory.swap.max 0"],
            ),
            (
                "memory",
                r#"{"memory": {"limit": 100, "swap": -1}}"#,
                vec!["memory.max 100"],
            ),
            (
                "memory",
                r#"{"memory": {"limit": 100}, "unified": {"memory.high": "90", "pids.max": "5"}}"#,
                vec!["memory.max 100", "memory.high 90"],
            ),
            (
                "cpu",
                r#"{"cpu": {"shares": 1024, "quota": 150000, "period": 100000}}"#,
                vec!["cpu.weight 100", "cpu.max 150000 100000"],
            ),
            ("cpu", r#"{"cpu": {"quota": 5000}}"#, vec!["cpu.max 5000 100000"]),
            (
                "cpu",
                r#"{"cpu": {"quota": -1, "period": 50000}}"#,
                vec!["cpu.max max 50000"],
            ),
            ("cpu", r#"{"cpu": {"quota": -1}}"#, vec![]),
            (
                "cpuset",
                r#"{"cpu": {"cpus": "0-1", "mems": "0"}}"#,
                vec!["cpuset.cpus 0-1", "cpuset.mems 0"],
            ),
            ("pids", r#"{"pids": {"limit": 7}}"#, vec!["pids.max 7"]),
            (
                "io",
                r#"{"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}], "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 9}]}}"#,
                vec!["io.max 8:0 rbps=1000", "io.max 8:16 wiops=9"],
            ),
            (
                "hugetlb",
                r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
                vec!["hugetlb.2MB.max 4194304", "hugetlb.2MB.rsvd.max 4194304"],
            ),
            (
                "rdma",
                r#"{"rdma": {"mlx5_1": {"hcaHandles": 3}}}"#,
                vec!["rdma.max mlx5_1 hca_handle=3 hca_object=max"],
            ),
            (
                "cgroup",
                r#"{"unified": {"cgroup.max.depth": "2"}}"#,
                vec!["cgroup.max.depth 2"],
            ),
        ] {
            assert_eq!(lines(controller, json), expected, "{controller} {json}");
        }
        let weight = settings(
            "io",
            &serde_json::from_str(r#"{"blockIO": {"weight": 1000}}"#).unwrap(),
        )
        .unwrap();
        assert_eq!(
            (weight[0].file.as_str(), weight[0].value.as_str()),
            ("io.bfq.weight", "1000")
        );
        assert_eq!(
            weight[0].instead,
            Some(("io.weight".to_owned(), "default 10000".to_owned()))
        );
    }

    #[test]
    fn what_it_cannot_hold_is_told() {
        for (controller, json, limit) in [
            ("memory", r#"{"memory": {"swappiness": 5}}"#, "the swappiness"),
            (
                "memory",
                r#"{"memory": {"disableOOMKiller": true}}"#,
                "disabling the OOM killer",
            ),
            (
                "memory",
                r#"{"memory": {"swap": 5}}"#,
                "the memory and swap limit",
            ),
            (
                "memory",
                r#"{"memory": {"limit": 6, "swap": 5}}"#,
                "the memory and swap limit",
            ),
            ("cpu", r#"{"cpu": {"realtimeRuntime": 5}}"#, "the real-time share"),
            (
                "io",
                r#"{"blockIO": {"leafWeight": 5}}"#,
                "the block I/O leaf weight",
            ),
            ("net_cls", r#"{"network": {"classID": 5}}"#, "the network class"),
            (
                "memory",
                r#"{"unified": {"memory.x/../../y": "1"}}"#,
                "a value of \"unified\"",
            ),
        ] {
            let refused = settings(controller, &serde_json::from_str(json).unwrap()).unwrap_err();
            assert_eq!(refused.limit, limit, "{json}");
        }
    }
}
