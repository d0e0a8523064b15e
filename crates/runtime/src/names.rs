//! The specification's names, where the library that reads it knows others or fewer.

use oci_spec::runtime::Capability;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Flags of `process.scheduler`: the specification's name, and the library's.
const SCHEDULER_FLAGS: [(&str, &str); 2] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
];

/// What was read, and what of it means nothing here.
#[derive(Debug)]
pub(crate) struct Known<T> {
    pub(crate) value: T,
    /// Names of capabilities that are newer than this program, or none; `value` is without them.
    pub(crate) capabilities: Vec<String>,
}

/// Reads a configuration, or a process alone, by the specification's names. A capability that has no meaning here is left
/// out, and to be warned of (OCI runtime spec, "Linux Process").
pub(crate) fn parse<T: DeserializeOwned>(text: &[u8]) -> serde_json::Result<Known<T>> {
    let nothing_new = |value| Known {
        value,
        capabilities: Vec::new(),
    };
    let error = match serde_json::from_slice(text) {
        Err(error) if error.is_data() => error,
        other => return other.map(nothing_new),
    };
    let mut value: Value = serde_json::from_slice(text)?;
    let process = match value.get("process") {
        Some(_) => "/process",
        None => "",
    };
    let sets = value.pointer_mut(&format!("{process}/capabilities"));
    let capabilities = take_unknown(sets.and_then(Value::as_object_mut));
    let mut changed = !capabilities.is_empty();
    let flags = value.pointer_mut(&format!("{process}/scheduler/flags"));
    for flag in flags.and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some((_, known)) = SCHEDULER_FLAGS.iter().find(|(name, _)| flag == name) {
            *flag = Value::from(*known);
            changed = true;
        }
    }
    // The first error tells line and column.
    if changed {
        let value = serde_json::from_value(value)?;
        Ok(Known { value, capabilities })
    } else {
        Err(error)
    }
}

/// Takes the names that are no capability's out of all sets, and gives each once.
fn take_unknown(sets: Option<&mut Map<String, Value>>) -> Vec<String> {
    let mut unknown = std::collections::BTreeSet::new();
    for set in sets.into_iter().flat_map(Map::values_mut) {
        let Some(names) = set.as_array_mut() else { continue };
        names.retain(|name| match name {
            Value::String(text) if Capability::deserialize(name).is_err() => {
                unknown.insert(text.clone());
                false
            }
            _ => true,
        });
    }
    unknown.into_iter().collect()
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
        let alone: Process = parse(process.to_string().as_bytes()).unwrap().value;
        let config = json!({"ociVersion": "1.2.0", "process": process});
        let whole: Spec = parse(config.to_string().as_bytes()).unwrap().value;
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

    #[test]
    fn capabilities_that_are_none() {
        let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}, "capabilities":
            {"bounding": ["CAP_KILL", "CAP_TOMORROW"], "permitted": ["CAP_TOMORROW", "KILL_OFF"], "effective": null}});
        let alone: Known<Process> = parse(process.to_string().as_bytes()).unwrap();
        assert_eq!(alone.capabilities, ["CAP_TOMORROW", "KILL_OFF"]);
        let sets = alone.value.capabilities().clone().unwrap();
        assert_eq!(sets.bounding(), &Some([Capability::Kill].into()));
        assert_eq!(sets.permitted(), &Some([].into()));
        let config = json!({"ociVersion": "1.2.0", "process": process});
        let whole: Known<Spec> = parse(config.to_string().as_bytes()).unwrap();
        assert_eq!(whole.value.process().as_ref(), Some(&alone.value));
        assert_eq!(whole.capabilities, alone.capabilities);
        let wrong = config.to_string().replace("\"KILL_OFF\"", "7");
        assert!(parse::<Spec>(wrong.as_bytes()).is_err());
    }
}
