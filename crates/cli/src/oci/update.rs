//! `update`.

use std::io::Read;

use runtime::oci::Container;
use serde_json::{Value, json};

use super::Outcome;
use super::args::UpdateArgs;

pub(super) fn update(container: &Container, args: &UpdateArgs) -> Outcome {
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
                "limit": args.memory,
                "reservation": args.memory_reservation,
                "swap": args.memory_swap,
            },
            "cpu": {
                "period": args.cpu_period,
                "quota": args.cpu_quota,
                "shares": args.cpu_share,
                "burst": args.cpu_burst,
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
