//! Limits on v1 (Documentation/admin-guide/cgroup-v1).

use oci_spec::runtime::LinuxResources;

use super::{Result, Settings, huge_pages, in_both, positive};

/// What a controller is told, in the order in which the kernel takes it.
pub(super) fn settings(controller: &str, resources: &LinuxResources) -> Result {
    let mut settings = Settings::default();
    match controller {
        "memory" => memory(resources, &mut settings),
        "cpu" => cpu(resources, &mut settings),
        "blkio" => block_io(resources, &mut settings),
        "hugetlb" => huge_pages(resources, "limit_in_bytes", &mut settings),
        "net_cls" => {
            if let Some(class) = resources
                .network()
                .as_ref()
                .and_then(|network| network.class_id())
            {
                settings.add("the network class", "net_cls.classid", class);
            }
        }
        "net_prio" => {
            let priorities = resources
                .network()
                .as_ref()
                .and_then(|network| network.priorities().as_ref());
            for one in priorities.into_iter().flatten() {
                let value = format!("{} {}", one.name(), one.priority());
                settings.add("the network priority", "net_prio.ifpriomap", value);
            }
        }
        other => in_both(other, resources, &mut settings),
    }
    Ok(settings.0)
}

fn memory(resources: &LinuxResources, settings: &mut Settings) {
    let Some(memory) = resources.memory() else { return };
    // Memory alone may not exceed both together, so it comes first while the other is still without limit.
    if let Some(limit) = positive(memory.limit()) {
        settings.add("the memory limit", "memory.limit_in_bytes", limit);
    }
    if let Some(swap) = positive(memory.swap()) {
        settings.add("the memory and swap limit", "memory.memsw.limit_in_bytes", swap);
    }
    if let Some(reservation) = positive(memory.reservation()) {
        settings.add(
            "the memory reservation",
            "memory.soft_limit_in_bytes",
            reservation,
        );
    }
    if let Some(tcp) = positive(memory.kernel_tcp()) {
        settings.add("the TCP memory limit", "memory.kmem.tcp.limit_in_bytes", tcp);
    }
    if let Some(swappiness) = memory.swappiness() {
        settings.add("the swappiness", "memory.swappiness", swappiness);
    }
    if memory.disable_oom_killer() == Some(true) {
        settings.add("disabling the OOM killer", "memory.oom_control", 1);
    }
}

fn cpu(resources: &LinuxResources, settings: &mut Settings) {
    let Some(cpu) = resources.cpu() else { return };
    if let Some(shares) = positive(cpu.shares()) {
        settings.add("the CPU shares", "cpu.shares", shares);
    }
    if let Some(period) = positive(cpu.period()) {
        settings.add("the CPU period", "cpu.cfs_period_us", period);
    }
    if let Some(quota) = positive(cpu.quota()) {
        settings.add("the CPU quota", "cpu.cfs_quota_us", quota);
    }
    if let Some(burst) = positive(cpu.burst()) {
        settings.add("the CPU burst", "cpu.cfs_burst_us", burst);
    }
    if let Some(idle) = cpu.idle().filter(|idle| *idle != 0) {
        settings.add("CPU idle", "cpu.idle", idle);
    }
    if let Some(period) = positive(cpu.realtime_period()) {
        settings.add("the real-time period", "cpu.rt_period_us", period);
    }
    if let Some(runtime) = positive(cpu.realtime_runtime()) {
        settings.add("the real-time share", "cpu.rt_runtime_us", runtime);
    }
}

fn block_io(resources: &LinuxResources, settings: &mut Settings) {
    let Some(io) = resources.block_io() else { return };
    let bfq = |value: String| Some(("blkio.bfq.weight".to_owned(), value));
    if let Some(weight) = positive(io.weight()) {
        settings
            .add("the block I/O weight", "blkio.weight", weight)
            .instead = bfq(weight.to_string());
    }
    if let Some(weight) = positive(io.leaf_weight()) {
        settings.add("the block I/O leaf weight", "blkio.leaf_weight", weight);
    }
    for device in io.weight_device().iter().flatten() {
        let number = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight() {
            let value = format!("{number} {weight}");
            let setting = settings.add("the block I/O weight of a device", "blkio.weight_device", &value);
            setting.instead = Some(("blkio.bfq.weight_device".to_owned(), value));
        }
        if let Some(weight) = device.leaf_weight() {
            let value = format!("{number} {weight}");
            settings.add(
                "the block I/O leaf weight of a device",
                "blkio.leaf_weight_device",
                value,
            );
        }
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", io.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", io.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", io.throttle_read_iops_device()),
        (
            "blkio.throttle.write_iops_device",
            io.throttle_write_iops_device(),
        ),
    ] {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            settings.add("the block I/O rate", file, value);
        }
    }
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
                r#"{"memory": {"limit": 100, "swap": 200, "reservation": 50, "swappiness": 0, "disableOOMKiller": true}}"#,
                vec![
                    "memory.limit_in_bytes 100",
                    "memory.memsw.limit_in_bytes 200",
                    "memory.soft_limit_in_bytes 50",
                    "memory.swappiness 0",
                    "memory.oom_control 1",
                ],
            ),
            (
                "memory",
                r#"{"memory": {"limit": -1, "swap": -1, "disableOOMKiller": false}}"#,
                vec![],
            ),
            (
                "cpu",
                r#"{"cpu": {"shares": 512, "quota": 150000, "period": 100000}}"#,
                vec![
                    "cpu.shares 512",
                    "cpu.cfs_period_us 100000",
                    "cpu.cfs_quota_us 150000",
                ],
            ),
            (
                "cpu",
                r#"{"cpu": {"quota": -1, "realtimeRuntime": 5, "realtimePeriod": 10, "burst": 7, "idle": 1}}"#,
                vec![
                    "cpu.cfs_burst_us 7",
                    "cpu.idle 1",
                    "cpu.rt_period_us 10",
                    "cpu.rt_runtime_us 5",
                ],
            ),
            (
                "cpuset",
                r#"{"cpu": {"cpus": "0-1", "mems": ""}}"#,
                vec!["cpuset.cpus 0-1"],
            ),
            ("pids", r#"{"pids": {"limit": 7}}"#, vec!["pids.max 7"]),
            ("pids", r#"{"pids": {"limit": -1}}"#, vec![]),
            (
                "blkio",
                r#"{"blockIO": {"weight": 300, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}], "throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 9}]}}"#,
                vec![
                    "blkio.weight 300",
                    "blkio.throttle.read_bps_device 8:0 1000",
                    "blkio.throttle.write_iops_device 8:16 9",
                ],
            ),
            (
                "hugetlb",
                r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#,
                vec![
                    "hugetlb.2MB.limit_in_bytes 4194304",
                    "hugetlb.2MB.rsvd.limit_in_bytes 4194304",
                ],
            ),
            (
                "net_cls",
                r#"{"network": {"classID": 1048577}}"#,
                vec!["net_cls.classid 1048577"],
            ),
            (
                "net_prio",
                r#"{"network": {"priorities": [{"name": "eth0", "priority": 5}]}}"#,
                vec!["net_prio.ifpriomap eth0 5"],
            ),
        ] {
            assert_eq!(lines(controller, json), expected, "{controller} {json}");
        }
        let weight = settings(
            "blkio",
            &serde_json::from_str(r#"{"blockIO": {"weight": 300}}"#).unwrap(),
        )
        .unwrap();
        assert_eq!(
            weight[0].instead,
            Some(("blkio.bfq.weight".to_owned(), "300".to_owned()))
        );
    }
}
