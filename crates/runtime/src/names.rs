//! The specification's names, where the library that reads it knows others.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Flags of `process.scheduler`: the specification's name, and the library's.
const SCHEDULER_FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// Reads a configuration, or a process alone, by the specification's names.
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<T> {
    let error = match serde_json::from_slice(text) {
        Err(error) if error.is_data() => error,
        other => return other,
    };
    let mut value: Value = serde_json::from_slice(text)?;
    let alone = value.pointer("/scheduler/flags").is_some();
    let flags = match alone {
        true => "/scheduler/flags",
        false => "/process/scheduler/flags",
    };
    let mut changed = false;
    let flags = value.pointer_mut(flags).and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if let Some((_, known)) = SCHEDULER_FLAGS.iter().find(|(name, _)| flag == name) {
            *flag = Value::from(*known);
            changed = true;
        }
    }
    // The first error tells line and column.
    if changed {
        serde_json::from_value(value)
    } else {
        Err(error)
    }
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::{LinuxSchedulerFlag as Flag, Process, Spec};
    use serde_json::json;

    use super::*;

    #[test]
    fn flags_of_the_scheduler() {
        let names = [
            "SCHED_FLAG_RESET_ON_FORK",
            "SCHED_FLAG_RECLAIM",
            "SCHED_FLAG_DL_OVERRUN",
            "SCHED_FLAG_KEEP_POLICY",
            "SCHED_FLAG_KEEP_PARAMS",
            "SCHED_FLAG_UTIL_CLAMP_MIN",
            "SCHED_FLAG_UTIL_CLAMP_MAX",
        ];
        let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0},
            "scheduler": {"policy": "SCHED_OTHER", "flags": names}});
        let alone: Process = parse(process.to_string().as_bytes()).unwrap();
        let config = json!({"ociVersion": "1.2.0", "process": process});
        let whole: Spec = parse(config.to_string().as_bytes()).unwrap();
        assert_eq!(whole.process().as_ref(), Some(&alone));
        let flags = alone.scheduler().as_ref().unwrap().flags().clone().unwrap();
        assert_eq!(
            (flags[0], flags[2]),
            (Flag::SchedResetOnFork, Flag::SchedFlagDLOverrun)
        );
        assert_eq!(flags.len(), names.len());
        let wrong = config.to_string().replace("DL_OVERRUN", "NOSUCH");
        let error = parse::<Spec>(wrong.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("SCHED_FLAG_NOSUCH"), "{error}");
    }
}
