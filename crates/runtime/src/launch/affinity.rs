//! `process.execCPUAffinity`: the processors that a process which comes in later runs on, until it is in the container's
//! cgroup and from then on.

use oci_spec::runtime::Process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::fault::{During, Fault, Result};

/// While this lives, the calling thread and what it forks run where `initial` says.
pub(super) struct Initial(Option<CpuSet>);

impl Initial {
    pub(super) fn of(process: &Process) -> Result<Initial> {
        let affinity = process.exec_cpu_affinity().as_ref();
        let Some(list) = affinity.and_then(|affinity| affinity.initial().as_deref()) else {
            return Ok(Initial(None));
        };
        let before = sched_getaffinity(None).during(|| "process.execCPUAffinity".into())?;
        run_on("initial", list)?;
        Ok(Initial(Some(before)))
    }
}

impl Drop for Initial {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // It fails only where none of these processors is there any more: then it stays where it is.
            let _ = sched_setaffinity(None, before);
        }
    }
}

/// Runs the calling process where `final` says. To be called in the container's cgroup.
pub(super) fn settle(process: &Process) -> Result<()> {
    let affinity = process.exec_cpu_affinity().as_ref();
    let list = affinity.and_then(|affinity| affinity.cpu_affinity_final().as_deref());
    list.map_or(Ok(()), |list| run_on("final", list))
}

fn run_on(which: &str, list: &str) -> Result<()> {
    let doing = || format!("process.execCPUAffinity.{which} {list:?}");
    let set = parse(list).ok_or_else(|| Fault::new(format!("{}: no list of processors: 0-2,7", doing())))?;
    sched_setaffinity(None, &set).during(doing)
}

/// Reads a list: `0-2,7`.
fn parse(list: &str) -> Option<CpuSet> {
    let mut set = CpuSet::new();
    for range in list.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if first > last || last >= CpuSet::MAX_CPU {
            return None;
        }
        (first..=last).for_each(|cpu| set.set(cpu));
    }
    Some(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let set = parse("0-2,7").unwrap();
        let on: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)).collect();
        assert_eq!(on, [0, 1, 2, 7]);
        for bad in ["", "2-1", "1,", "x", "99999999"] {
            assert!(parse(bad).is_none(), "{bad}");
        }
    }
}
