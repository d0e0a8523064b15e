//! `process.scheduler`, `process.ioPriority` and `linux.personality`.

use oci_spec::runtime::{
    IOPriorityClass, Linux, LinuxPersonalityDomain, LinuxSchedulerFlag, LinuxSchedulerPolicy, Process,
    Scheduler,
};
use sys::process::Scheduling;

use super::fault::{During, Fault, Result};

/// Applies all three, where given, to the calling process.
pub(super) fn apply(process: &Process, linux: Option<&Linux>) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        let wanted = scheduling(scheduler)?;
        sys::process::set_scheduling(&wanted)
            .during(|| format!("process.scheduler {:?}", scheduler.policy()))?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level = u16::try_from(priority.priority())
            .ok()
            .filter(|level| *level <= 7)
            .ok_or_else(|| {
                Fault::new(format!(
                    "process.ioPriority: no level {}, 0 to 7",
                    priority.priority()
                ))
            })?;
        sys::process::set_io_priority(class, level).during(|| "process.ioPriority".into())?;
    }
    if let Some(personality) = linux.and_then(|linux| linux.personality().as_ref()) {
        if personality
            .flags()
            .as_ref()
            .is_some_and(|flags| !flags.is_empty())
        {
            return Err(Fault::new(
                "linux.personality.flags: the specification defines none",
            ));
        }
        // PER_LINUX and PER_LINUX32 of sys/personality.h.
        let domain = match personality.domain() {
            LinuxPersonalityDomain::PerLinux => 0,
            LinuxPersonalityDomain::PerLinux32 => 8,
        };
        sys::process::set_personality(domain).during(|| "linux.personality".into())?;
    }
    Ok(())
}

/// The numbers of linux/sched.h.
fn scheduling(scheduler: &Scheduler) -> Result<Scheduling> {
    let policy = match scheduler.policy() {
        LinuxSchedulerPolicy::SchedOther => 0,
        LinuxSchedulerPolicy::SchedFifo => 1,
        LinuxSchedulerPolicy::SchedRr => 2,
        LinuxSchedulerPolicy::SchedBatch => 3,
        LinuxSchedulerPolicy::SchedIso => 4,
        LinuxSchedulerPolicy::SchedIdle => 5,
        LinuxSchedulerPolicy::SchedDeadline => 6,
    };
    let flags = scheduler.flags().iter().flatten().fold(0, |all, flag| {
        all | match flag {
            LinuxSchedulerFlag::SchedResetOnFork => 0x01,
            LinuxSchedulerFlag::SchedFlagReclaim => 0x02,
            LinuxSchedulerFlag::SchedFlagDLOverrun => 0x04,
            LinuxSchedulerFlag::SchedFlagKeepPolicy => 0x08,
            LinuxSchedulerFlag::SchedFlagKeepParams => 0x10,
            LinuxSchedulerFlag::SchedFlagUtilClampMin => 0x20,
            LinuxSchedulerFlag::SchedFlagUtilClampMax => 0x40,
        }
    });
    let priority = scheduler.priority().unwrap_or(0);
    Ok(Scheduling {
        policy,
        flags,
        nice: scheduler.nice().unwrap_or(0),
        priority: u32::try_from(priority)
            .map_err(|_| Fault::new(format!("process.scheduler: no priority {priority}")))?,
        runtime: scheduler.runtime().unwrap_or(0),
        deadline: scheduler.deadline().unwrap_or(0),
        period: scheduler.period().unwrap_or(0),
    })
}
