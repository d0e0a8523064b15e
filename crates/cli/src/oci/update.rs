//! `update`.

use std::io::Read;

use runtime::oci::Container;
use runtime::options::limits;
use serde_json::{Value, json};

use super::Outcome;
use super::args::UpdateArgs;
use super::log::Log;

pub(super) fn update(container: &Container, args: &UpdateArgs, log: &Log) -> Outcome {
    for (flag, asked) in [
        ("--l3-cache-schema", &args.l3_cache_schema),
        ("--mem-bw-schema", &args.mem_bw_schema),
    ] {
        if asked.is_some() {
            return Err(format!("{flag}: Intel RDT (linux.intelRdt) is not supported").into());
        }
    }
    if args.kernel_memory.is_some() || args.kernel_memory_tcp.is_some() {
        log.warning("limits of the kernel's memory are passed over: the kernel has none any more");
    }
    let size = |flag: &'static str, asked: &Option<String>| {
        asked
            .as_deref()
            .map(|asked| limits::size(flag, asked))
            .transpose()
    };
    let changes: Value = match args.resources.as_deref() {
        Some("-") => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text)?;
            serde_json::from_str(&text)?
        }
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
            serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?
        }
        None => json!({
            "memory": {
                "limit": size("--memory", &args.memory)?,
                "reservation": size("--memory-reservation", &args.memory_reservation)?,
                "swap": size("--memory-swap", &args.memory_swap)?,
            },
            "cpu": {
                "period": args.cpu_period,
                "quota": args.cpu_quota,
                "shares": args.cpu_share,
                "burst": args.cpu_burst,
                "realtimePeriod": args.cpu_rt_period,
                "realtimeRuntime": args.cpu_rt_runtime,
                "cpus": args.cpuset_cpus,
                "mems": args.cpuset_mems,
            },
            "blockIO": {"weight": args.blkio_weight},
            "pids": args.pids_limit.map(|limit| json!({"limit": limit})),
        }),
    };
    container.update(&changes)?;
    Ok(0)
}
