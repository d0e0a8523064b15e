//! `pause`, `resume` and `update`.

use std::io;

use oci_spec::runtime::{LinuxHugepageLimit, LinuxResources};
use serde_json::Value;

use super::container::Container;
use super::{OciError, Result, Status, failed};
use crate::bundle;
use crate::cgroup::CgroupError;

impl Container {
    /// Holds all processes of a container still.
    ///
    /// # Errors
    /// It does not run; freezing needs a cgroup2.
    pub fn pause(&self) -> Result<()> {
        match self.status()? {
            Status::Running | Status::Created => Ok(self.cgroup()?.freeze()?),
            status => Err(self.not("pause", status, "running or created")),
        }
    }

    /// Lets them go on.
    ///
    /// # Errors
    /// It is not paused.
    pub fn resume(&self) -> Result<()> {
        match self.status()? {
            Status::Paused => Ok(self.cgroup()?.thaw()?),
            status => Err(self.not("resume", status, "paused")),
        }
    }

    /// Gives a container other limits of memory, processors, block devices, processes, huge pages and RDMA. What `changes`, JSON as
    /// `linux.resources` has it, do not name stays.
    ///
    /// # Errors
    /// It has stopped; a limit is none of those; or the kernel refuses one.
    pub fn update(&self, changes: &Value) -> Result<()> {
        let changes: LinuxResources = serde_json::from_value(changes.clone())
            .map_err(|error| failed("the limits")(io::Error::from(error)))?;
        let changes = &changes;
        let status = self.status()?;
        if status == Status::Stopped {
            return Err(self.not("update", status, "running or created"));
        }
        if let Some(limit) = fixed(changes) {
            return Err(CgroupError::Unsupported {
                limit,
                because: "a container that runs keeps the one that it has",
            }
            .into());
        }
        let mut linux = self.spec.linux().clone().unwrap_or_default();
        let before = linux.resources().clone().unwrap_or_default();
        let after =
            merge(&before, changes).ok_or(OciError::Request("resources that cannot be written down"))?;
        self.cgroup()?.update(&after)?;
        linux.set_resources(Some(after));
        let mut spec = self.spec.clone();
        spec.set_linux(Some(linux));
        Ok(self.files.write_json(bundle::CONFIG, &spec)?)
    }

    fn not(&self, verb: &'static str, status: Status, wanted: &'static str) -> OciError {
        OciError::State {
            verb,
            id: self.id().to_owned(),
            status,
            wanted,
        }
    }
}

/// The controllers whose limits can be.
const CHANGEABLE: [&str; 7] = ["cpu", "cpuset", "hugetlb", "io", "memory", "pids", "rdma"];

/// A limit that is asked for and cannot be changed.
fn fixed(changes: &LinuxResources) -> Option<&'static str> {
    let controller = |file: &String| file.split('.').next().unwrap_or_default().to_owned();
    let mut values = changes.unified().iter().flat_map(|map| map.keys());
    values
        .any(|file| !CHANGEABLE.contains(&controller(file).as_str()))
        .then_some("a value of linux.resources.unified")
}

/// What a writer spells out to say nothing: null, nought, an empty list.
fn without_nothing(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| (key, without_nothing(value)))
            .filter(|(_, value)| match value {
                Value::Null => false,
                Value::Number(number) => number.as_f64() != Some(0.0),
                Value::Array(list) => !list.is_empty(),
                Value::Object(map) => !map.is_empty(),
                _ => true,
            })
            .collect(),
        other => other,
    }
}

/// `before` with every number of `changes` in place of its own. A nought, which many write for "nothing", changes nothing;
/// but of huge pages and RDMA it is a limit.
fn merge(before: &LinuxResources, changes: &LinuxResources) -> Option<LinuxResources> {
    fn over(before: &mut Value, changes: Value) {
        match (before, changes) {
            (Value::Object(before), Value::Object(changes)) => {
                for (key, value) in changes {
                    over(before.entry(key).or_insert(Value::Null), value);
                }
            }
            (before, changes) => *before = changes,
        }
    }
    let pages = changes.hugepage_limits().as_ref().filter(|list| !list.is_empty());
    let mut all = serde_json::to_value(before).ok()?;
    let told = serde_json::to_value(changes).ok()?;
    let rdma = told.get("rdma").filter(|rdma| !rdma.is_null()).cloned();
    let mut changes = without_nothing(told);
    if let Some(rdma) = rdma {
        changes.as_object_mut()?.insert("rdma".to_owned(), rdma);
    }
    // The devices are no limits, and stay what they were created with.
    changes.as_object_mut()?.remove("devices");
    changes.as_object_mut()?.remove("hugepageLimits");
    over(&mut all, changes);
    let mut all: LinuxResources = serde_json::from_value(all).ok()?;
    if let Some(huge) = pages {
        let same = |one: &LinuxHugepageLimit| huge.iter().any(|new| new.page_size() == one.page_size());
        let kept = before.hugepage_limits().iter().flatten().filter(|one| !same(one));
        all.set_hugepage_limits(Some(kept.chain(huge).cloned().collect()));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resources(text: &str) -> LinuxResources {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_not_named_stays() {
        let before = resources(r#"{"memory":{"limit":100,"swap":200},"pids":{"limit":7}}"#);
        let changes = resources(
            r#"{"memory":{"limit":150,"reservation":0},"cpu":{"quota":5000,"cpus":""},"blockIO":{"weight":0},"devices":[]}"#,
        );
        assert_eq!(fixed(&changes), None);
        let after = merge(&before, &changes).unwrap();
        let memory = after.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(150), Some(200)));
        assert_eq!(after.pids().unwrap().limit(), 7);
        assert_eq!(after.cpu().as_ref().unwrap().quota(), Some(5000));
    }

    #[test]
    fn huge_pages_are_limited_by_their_size() {
        let pages = |text: &str| resources(&format!(r#"{{"hugepageLimits":[{text}]}}"#));
        let before = pages(r#"{"pageSize":"2MB","limit":100},{"pageSize":"1GB","limit":7}"#);
        let after = merge(&before, &pages(r#"{"pageSize":"2MB","limit":0}"#)).unwrap();
        let after: Vec<_> = after.hugepage_limits().iter().flatten().collect();
        let after: Vec<_> = after
            .iter()
            .map(|one| (one.page_size().as_str(), one.limit()))
            .collect();
        assert_eq!(after, [("1GB", 7), ("2MB", 0)]);
        let untouched = merge(&before, &resources("{}")).unwrap();
        assert_eq!(untouched.hugepage_limits(), before.hugepage_limits());
    }

    #[test]
    fn rdma_is_limited_by_its_device() {
        let before = resources(r#"{"rdma":{"a":{"hcaHandles":3,"hcaObjects":4},"b":{"hcaHandles":5}}}"#);
        let after = merge(&before, &resources(r#"{"rdma":{"a":{"hcaHandles":0}}}"#)).unwrap();
        let after = after.rdma().as_ref().unwrap();
        assert_eq!(
            (after["a"].hca_handles(), after["a"].hca_objects()),
            (Some(0), Some(4))
        );
        assert_eq!(after["b"].hca_handles(), Some(5));
    }

    #[test]
    fn what_cannot_be_changed_is_refused() {
        for text in [
            r#"{"cpu":{"cpus":"0"}}"#,
            r#"{"blockIO":{"weight":10}}"#,
            r#"{"unified":{"memory.high":"1"}}"#,
            r#"{"rdma":{"mlx5_1":{"hcaHandles":3}}}"#,
            r#"{"hugepageLimits":[{"pageSize":"2MB","limit":1}]}"#,
        ] {
            assert_eq!(fixed(&resources(text)), None, "{text}");
        }
        for (text, says) in [
            (r#"{"unified":{"misc.max":"1"}}"#, "unified"),
            (r#"{"unified":{"cgroup.freeze":"1"}}"#, "unified"),
        ] {
            assert!(fixed(&resources(text)).unwrap().contains(says), "{text}");
        }
    }
}
