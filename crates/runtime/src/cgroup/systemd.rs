//! cgroups that systemd makes (`--systemd-cgroup`): a transient scope for each container, in the slice that is asked for.
//!
//! systemd makes a scope of processes that exist. So a process that does nothing is the first in it; the container's own is
//! then born there as it is born anywhere, and the first one ends. The scope is delegated: its files are written as those of
//! any other cgroup, and what systemd has words for it is told as well, or it would write over them some day.
//!
//! The scope ends with its last process. Whoever removes the cgroup has it stopped, and waits for that.

mod bus;
mod wire;

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxResources, Spec};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use serde::{Deserialize, Serialize};

use super::{Cgroup, CgroupError, CgroupPaths, DeviceControl, Hierarchies};
use bus::{Bus, BusError};
use wire::{Value, Writer};

const MANAGER: [&str; 2] = ["/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A systemd: the machine's, or a user's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manager {
    socket: PathBuf,
    /// Where a unit lies when nothing else is asked.
    slice: String,
}

impl Manager {
    /// The machine's.
    pub fn machine() -> Manager {
        Manager {
            socket: "/run/systemd/private".into(),
            slice: "system.slice".into(),
        }
    }

    /// That of the user whose runtime directory (`$XDG_RUNTIME_DIR`) is `runtime_dir`.
    pub fn user(runtime_dir: &Path) -> Manager {
        Manager {
            socket: runtime_dir.join("systemd/private"),
            slice: "user.slice".into(),
        }
    }

    fn connect(&self) -> Result<Bus, CgroupError> {
        Bus::connect(&self.socket).map_err(self.failed("reach systemd"))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(BusError) -> CgroupError {
        move |problem| CgroupError::Systemd {
            what,
            socket: self.socket.clone(),
            problem: problem.to_string(),
        }
    }

    /// Makes a scope that has one process, and waits until it is there.
    fn start(&self, unit: &Unit, slice: &str, id: &str, pid: i32) -> Result<(), CgroupError> {
        let mut bus = self.connect()?;
        let slice = if slice.is_empty() { &self.slice } else { slice };
        let yes = |name| (name, Value::Bool(true));
        let text = |name, text: &str| (name, Value::Text(text.to_owned()));
        let mut body = Writer::default();
        body.text(&unit.name);
        body.text("fail");
        body.properties(&[
            text("Description", &format!("container {id}")),
            text("Slice", slice),
            // One that failed, its processes killed for want of memory, would stay.
            text("CollectMode", "inactive-or-failed"),
            yes("Delegate"),
            ("DefaultDependencies", Value::Bool(false)),
            yes("CPUAccounting"),
            yes("IOAccounting"),
            yes("MemoryAccounting"),
            yes("TasksAccounting"),
            ("PIDs", Value::Numbers(vec![pid.cast_unsigned()])),
        ]);
        // No auxiliary units: a(sa(sv)).
        body.array(8, |_| ());
        let [path, interface] = MANAGER;
        let started = bus
            .call([path, interface, "StartTransientUnit"], "ssa(sv)a(sa(sv))", &body)
            .and_then(|answer| answer.first().map_or(Ok(()), |job| bus.wait_for(job)));
        started.map_err(self.failed("make a scope by systemd"))
    }

    /// Where a unit's cgroup is, beneath the root of the hierarchies; `None` where there is no such unit.
    fn place(&self, unit: &Unit) -> Result<Option<PathBuf>, CgroupError> {
        let mut bus = self.connect()?;
        let [path, interface] = MANAGER;
        let mut body = Writer::default();
        body.text(&unit.name);
        let found = bus
            .call([path, interface, "GetUnit"], "s", &body)
            .and_then(|answer| {
                let mut body = Writer::default();
                body.text("org.freedesktop.systemd1.Scope");
                body.text("ControlGroup");
                let object = answer.first().map(String::as_str).unwrap_or_default();
                bus.call([object, "org.freedesktop.DBus.Properties", "Get"], "ss", &body)
            });
        match found {
            Ok(answer) => {
                let place = answer.into_iter().next().unwrap_or_default();
                let place = place.trim_start_matches('/');
                Ok((!place.is_empty()).then(|| place.into()))
            }
            Err(BusError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(None),
            Err(error) => Err(self.failed("ask systemd for the cgroup")(error)),
        }
    }
}

/// A scope of systemd's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    manager: Manager,
    name: String,
}

impl Unit {
    /// Tells systemd what was written to files of the unit's cgroup, as far as it has words for it.
    pub(super) fn told<'a>(
        &self,
        written: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), CgroupError> {
        let properties: Vec<_> = written
            .into_iter()
            .flat_map(|(file, value)| properties(file, value))
            .collect();
        if properties.is_empty() {
            return Ok(());
        }
        let mut bus = self.manager.connect()?;
        let mut body = Writer::default();
        body.text(&self.name);
        // Until the machine ends, as the unit itself.
        body.u32(1);
        body.properties(&properties);
        let [path, interface] = MANAGER;
        bus.call([path, interface, "SetUnitProperties"], "sba(sv)", &body)
            .map(drop)
            .map_err(self.manager.failed("tell systemd the limits"))
    }

    /// Has it stopped, and waits until it is. One that is gone is as good.
    pub(super) fn stop(&self) -> Result<(), CgroupError> {
        let mut bus = self.manager.connect()?;
        let mut body = Writer::default();
        body.text(&self.name);
        body.text("replace");
        let [path, interface] = MANAGER;
        let stopped = bus
            .call([path, interface, "StopUnit"], "ss", &body)
            .and_then(|answer| answer.first().map_or(Ok(()), |job| bus.wait_for(job)));
        match stopped {
            Err(BusError::Refused { name, .. }) if name == NO_SUCH_UNIT => Ok(()),
            other => other.map_err(self.manager.failed("stop the scope")),
        }
    }
}

/// A process that does nothing, so that a scope can be made.
#[derive(Debug)]
pub(super) struct Placeholder(sys::process::Child);

impl Placeholder {
    fn new() -> std::io::Result<Placeholder> {
        sys::process::idle(0).map(Placeholder)
    }
}

impl Drop for Placeholder {
    fn drop(&mut self) {
        let _ = sys::process::send_signal(self.0.pidfd.as_fd(), Signal::KILL.as_raw());
        let _ = rustix::process::waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

impl Cgroup {
    /// Makes the cgroup that `spec` asks for as a scope of `manager`'s, in which a process waits until
    /// [`Cgroup::settle`] is called.
    ///
    /// # Errors
    /// See [`CgroupError`]. Whatever was made until then is removed again.
    pub fn create_as_unit(
        manager: &Manager,
        hierarchies: &Hierarchies,
        spec: &Spec,
        id: &str,
    ) -> Result<Cgroup, CgroupError> {
        let (slice, unit) = asked(manager, spec, id)?;
        let io = |source| super::failed("make a process for", Path::new(&unit.name), source);
        let placeholder = Placeholder::new().map_err(io)?;
        manager.start(&unit, &slice, id, placeholder.0.pid)?;
        let mut cgroup = Cgroup {
            unified: None,
            v1: Vec::new(),
            devices: DeviceControl::Missing,
            unit: Some(unit.clone()),
            placeholder: Some(placeholder).into(),
        };
        let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
        let none = LinuxResources::default();
        let filled = match manager.place(&unit) {
            Ok(Some(place)) => cgroup.fill(hierarchies, &place, resources.unwrap_or(&none), None),
            Ok(None) => Err(CgroupError::Systemd {
                what: "make a scope by systemd",
                socket: manager.socket.clone(),
                problem: format!("{} is gone again", unit.name),
            }),
            Err(error) => Err(error),
        };
        match filled {
            Ok(()) => Ok(cgroup),
            Err(error) => {
                // The first error is the one to tell.
                let _ = cgroup.remove();
                Err(error)
            }
        }
    }

    /// The container's own process is there: the one that only held the place ends.
    pub fn settle(&self) {
        drop(self.placeholder.take());
    }

    /// Whether `spec` asks for a unit of systemd's.
    pub fn is_units(spec: &Spec) -> bool {
        let linux = spec.linux().as_ref();
        linux
            .and_then(|linux| linux.cgroups_path().as_deref())
            .is_some_and(is_form)
    }

    /// As [`Cgroup::find`], where the cgroup is a unit of `manager`'s.
    ///
    /// # Errors
    /// systemd does not answer; or as [`Cgroup::open`].
    pub fn find_unit(manager: &Manager, spec: &Spec, id: &str) -> Result<Cgroup, CgroupError> {
        let (_, unit) = asked(manager, spec, id)?;
        let Some(place) = manager.place(&unit)? else {
            return Cgroup::open(&CgroupPaths::default());
        };
        let mut found = Cgroup::find_at(&place)?;
        found.unit = Some(unit);
        Ok(found)
    }
}

/// Whether a path is the words of systemd, `SLICE:PREFIX:NAME`.
pub(super) fn is_form(path: &Path) -> bool {
    path.is_relative() && path.to_string_lossy().split(':').count() == 3
}

/// The slice and the unit that `spec` asks for; of one that says nothing the unit is named after its id.
fn asked(manager: &Manager, spec: &Spec, id: &str) -> Result<(String, Unit), CgroupError> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let (slice, name) = match path.filter(|path| !path.as_os_str().is_empty()) {
        None => (String::new(), format!("strata-{id}.scope")),
        Some(path) => scope(path)?,
    };
    let unit = Unit {
        manager: manager.clone(),
        name,
    };
    Ok((slice, unit))
}

/// Slice and name of `SLICE:PREFIX:NAME`. Whether they are names at all systemd says.
fn scope(path: &Path) -> Result<(String, String), CgroupError> {
    let wrong = |problem| CgroupError::Path {
        path: path.to_owned(),
        problem,
    };
    let text = path.to_str().filter(|_| is_form(path));
    let Some([slice, prefix, name]) = text.and_then(|text| {
        let parts: Vec<&str> = text.split(':').collect();
        <[&str; 3]>::try_from(parts).ok()
    }) else {
        return Err(wrong("with --systemd-cgroup it has the form SLICE:PREFIX:NAME"));
    };
    if name.is_empty() {
        return Err(wrong("it names no unit"));
    }
    if name.ends_with(".slice") {
        return Err(wrong("a container is a scope, and not a slice"));
    }
    Ok((slice.to_owned(), format!("{prefix}-{name}.scope")))
}

/// What a file of a cgroup holds, in systemd's words (systemd.resource-control(5)); nothing where it has none.
fn properties(file: &str, value: &str) -> Vec<(&'static str, Value)> {
    // "max" is infinity, the highest number.
    let number = |value: &str| match value {
        "max" => Some(u64::MAX),
        value => value.parse().ok(),
    };
    let simple = |name| number(value).map(|number| (name, Value::Number(number)));
    let set = |name| bits(value).map(|bits| (name, Value::Bytes(bits)));
    let one = match file {
        "memory.max" => simple("MemoryMax"),
        "memory.high" => simple("MemoryHigh"),
        "memory.low" => simple("MemoryLow"),
        "memory.min" => simple("MemoryMin"),
        "memory.swap.max" => simple("MemorySwapMax"),
        "pids.max" => simple("TasksMax"),
        "cpu.weight" => simple("CPUWeight"),
        "cpuset.cpus" => set("AllowedCPUs"),
        "cpuset.mems" => set("AllowedMemoryNodes"),
        "io.weight" => value
            .strip_prefix("default ")
            .and_then(number)
            .map(|weight| ("IOWeight", Value::Number(weight))),
        "cpu.max" => return quota(value, number).unwrap_or_default(),
        _ => None,
    };
    one.into_iter().collect()
}

/// systemd has the time in each second.
fn quota(value: &str, number: impl Fn(&str) -> Option<u64>) -> Option<Vec<(&'static str, Value)>> {
    let (quota, period) = value.split_once(' ').unwrap_or((value, "100000"));
    let (quota, period) = (number(quota)?, number(period).filter(|period| *period > 0)?);
    let in_a_second = match quota {
        u64::MAX => u64::MAX,
        quota => quota.saturating_mul(1_000_000) / period,
    };
    Some(vec![
        ("CPUQuotaPerSecUSec", Value::Number(in_a_second)),
        ("CPUQuotaPeriodUSec", Value::Number(period)),
    ])
}

/// A list as `0-2,7`, a bit for each number.
fn bits(list: &str) -> Option<Vec<u8>> {
    /// No machine has so many processors.
    const MOST: usize = 1 << 16;
    let mut bits = Vec::new();
    for range in list.trim().split(',').filter(|range| !range.is_empty()) {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            return None;
        }
        for number in first..=last {
            if bits.len() <= number / 8 {
                bits.resize(number / 8 + 1, 0);
            }
            bits[number / 8] |= 1 << (number % 8);
        }
    }
    Some(bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let (slice, name) = scope(Path::new("machine.slice:libpod:0123")).unwrap();
        assert_eq!(
            (slice.as_str(), name.as_str()),
            ("machine.slice", "libpod-0123.scope")
        );
        assert_eq!(
            scope(Path::new("::x")).unwrap(),
            (String::new(), "-x.scope".into())
        );
        for (path, says) in [
            ("/a/b", "SLICE:PREFIX:NAME"),
            ("a:b", "SLICE:PREFIX:NAME"),
            ("a.slice:b:", "names no unit"),
            ("a.slice:b:c.slice", "not a slice"),
        ] {
            let error = scope(Path::new(path)).unwrap_err().to_string();
            assert!(error.contains(says), "{path}: {error}");
        }
    }

    #[test]
    fn what_systemd_has_words_for() {
        let number = |name, number| vec![(name, Value::Number(number))];
        assert_eq!(properties("memory.max", "4096"), number("MemoryMax", 4096));
        assert_eq!(properties("pids.max", "max"), number("TasksMax", u64::MAX));
        assert_eq!(properties("io.weight", "default 50"), number("IOWeight", 50));
        assert_eq!(properties("io.weight", "8:0 50"), []);
        assert_eq!(properties("hugetlb.2MB.max", "4096"), []);
        let quota = |second, period| {
            vec![
                ("CPUQuotaPerSecUSec", Value::Number(second)),
                ("CPUQuotaPeriodUSec", Value::Number(period)),
            ]
        };
        assert_eq!(properties("cpu.max", "25000 50000"), quota(500_000, 50_000));
        assert_eq!(properties("cpu.max", "max 100000"), quota(u64::MAX, 100_000));
        let set = |bits: &[u8]| vec![("AllowedCPUs", Value::Bytes(bits.to_vec()))];
        assert_eq!(properties("cpuset.cpus", "0-2,9\n"), set(&[0b111, 0b10]));
        assert_eq!(properties("cpuset.cpus", "x"), []);
    }
}
