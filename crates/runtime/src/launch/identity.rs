//! Who the container's process is: user, groups, capabilities, and what it may never gain. The last steps before its
//! program, in an order that each step's own rights dictate.

use oci_spec::runtime::{Capability, LinuxCapabilities, PosixRlimitType as Kind, Process, Spec};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Rlimit, Uid};
use sys::caps::{Set, Sets};
use sys::process::namespaces as kind;
use sys::seccomp::{Flags, Program};

use crate::control::Concern;

use super::fault::{About, During, Fault, Result};
use super::listener::Courier;
use super::namespaces::Namespaces;

/// A seccomp filter and the flags to install it with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) program: Program,
    pub(super) flags: Flags,
}

/// The five sets of a spec.
fn sets_of(spec: &LinuxCapabilities) -> Sets {
    let set = |listed: &Option<std::collections::HashSet<Capability>>| {
        listed.iter().flatten().fold(Set::EMPTY, |all, capability| {
            // The spec's names are the kernel's; one that this program does not know cannot be given.
            all.union(Set::named(&capability.to_string()).unwrap_or(Set::EMPTY))
        })
    };
    Sets {
        bounding: set(spec.bounding()),
        effective: set(spec.effective()),
        inheritable: set(spec.inheritable()),
        permitted: set(spec.permitted()),
        ambient: set(spec.ambient()),
    }
}

/// Those capabilities that a process is to have, by a container's spec or beside it, and that the caller cannot give: not
/// this kernel's, or not its own. In a user namespace all are to be had that there are.
pub(crate) fn withheld(spec: &Spec, process: &Process) -> Vec<String> {
    let Some(sets) = process.capabilities() else {
        return Vec::new();
    };
    let asked = sets_of(sets);
    // Engines ask for ambient ones that are not inheritable, which the kernel never grants: with them the process still has
    // what it may.
    let wanted = Sets {
        permitted: asked.permitted.union(asked.ambient),
        ambient: Set::EMPTY,
        ..asked
    };
    let all = [wanted.bounding, wanted.permitted, wanted.inheritable];
    let all = all.into_iter().fold(wanted.effective, Set::union);
    let lost = match Namespaces::of(spec).is_ok_and(|namespaces| namespaces.has(kind::USER)) {
        true => all.without(sys::caps::of_kernel(all)),
        false => sys::caps::current_among(all).map_or(Set::EMPTY, |own| wanted.within(&own).1),
    };
    lost.names().collect()
}

/// Makes the calling process the one that the spec describes and installs the filter, whose listener, where it has one, the
/// courier gives away. What follows needs no right that the container does not have.
pub(super) fn assume(process: &Process, filter: Option<&Filter>, courier: Option<Courier>) -> Result<()> {
    let user = process.user();
    let no_new_privileges = process.no_new_privileges().unwrap_or(false);
    let own = sys::caps::current().during(|| "reading capabilities".into())?;
    // Without a word about capabilities there are none, as with the peers.
    let wanted = process
        .capabilities()
        .as_ref()
        .map(sets_of)
        .unwrap_or_default()
        .within(&own)
        .0;

    sys::caps::drop_bounding(wanted.bounding).during(|| "dropping capabilities".into())?;
    sys::caps::keep_through_setuid(true).during(|| "keeping capabilities".into())?;
    set_groups(
        user.additional_gids().as_deref().unwrap_or_default(),
        user.gid(),
        &own,
    )?;
    let (uid, gid) = (Uid::from_raw(user.uid()), Gid::from_raw(user.gid()));
    rustix::thread::set_thread_res_gid(gid, gid, gid).during(|| format!("becoming group {}", user.gid()))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).during(|| format!("becoming user {}", user.uid()))?;
    rustix::process::umask(Mode::from_raw_mode(user.umask().unwrap_or(0o022) & 0o777));

    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).during(|| "no-new-privileges".into())?;
        apply(&wanted)?;
        install(filter, courier)
    } else {
        // Without no-new-privileges the filter needs CAP_SYS_ADMIN, which goes only after it.
        if filter.is_some() {
            let until_then = Sets {
                effective: own.permitted,
                ..own
            };
            apply(&until_then)?;
        }
        install(filter, courier)?;
        apply(&wanted)
    }
}

/// Gives the process these groups beside its `first`.
fn set_groups(groups: &[u32], first: u32, own: &Sets) -> Result<()> {
    let ids: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    match rustix::thread::set_thread_groups(&ids) {
        // Whoever has the right and is refused is in the user namespace of one who had no privilege to give a second id
        // (user_namespaces(7), "/proc/pid/setgroups"). Nothing else is asked for there, and nothing can be taken.
        Err(Errno::PERM)
            if Set::named("SETGID").is_some_and(|right| own.effective.contains(right))
                && groups.iter().all(|group| *group == first) =>
        {
            Ok(())
        }
        other => other.during(|| "setting supplementary groups".into()),
    }
}

fn apply(sets: &Sets) -> Result<()> {
    sys::caps::set(sets).during(|| "setting capabilities".into())
}

fn install(filter: Option<&Filter>, courier: Option<Courier>) -> Result<()> {
    let Some(filter) = filter else { return Ok(()) };
    let listener = sys::seccomp::install(&filter.program, filter.flags)
        .during(|| "loading the seccomp filter".into())
        .about(Concern::Seccomp)?;
    match (listener, courier) {
        (Some(listener), Some(courier)) => courier.take(listener),
        _ => Ok(()),
    }
}

/// Sets those resource limits of the spec that are `due`.
pub(super) fn limit(process: &Process, due: impl Fn(Kind) -> bool) -> Result<()> {
    use rustix::process::Resource;
    let limits = process.rlimits().iter().flatten();
    for limit in limits.filter(|limit| due(limit.typ())) {
        let resource = match limit.typ() {
            Kind::RlimitCpu => Resource::Cpu,
            Kind::RlimitFsize => Resource::Fsize,
            Kind::RlimitData => Resource::Data,
            Kind::RlimitStack => Resource::Stack,
            Kind::RlimitCore => Resource::Core,
            Kind::RlimitRss => Resource::Rss,
            Kind::RlimitNproc => Resource::Nproc,
            Kind::RlimitNofile => Resource::Nofile,
            Kind::RlimitMemlock => Resource::Memlock,
            Kind::RlimitAs => Resource::As,
            Kind::RlimitLocks => Resource::Locks,
            Kind::RlimitSigpending => Resource::Sigpending,
            Kind::RlimitMsgqueue => Resource::Msgqueue,
            Kind::RlimitNice => Resource::Nice,
            Kind::RlimitRtprio => Resource::Rtprio,
            Kind::RlimitRttime => Resource::Rttime,
        };
        // The kernel's RLIM_INFINITY is the highest number.
        let value = |number: u64| (number != u64::MAX).then_some(number);
        let wanted = Rlimit {
            current: value(limit.soft()),
            maximum: value(limit.hard()),
        };
        if limit.soft() > limit.hard() {
            let text = format!(
                "{}: soft limit {} above hard limit {}",
                limit.typ(),
                limit.soft(),
                limit.hard()
            );
            return Err(Fault::new(text).about(Concern::Rlimit));
        }
        rustix::process::setrlimit(resource, wanted)
            .during(|| format!("{} {}:{}", limit.typ(), limit.soft(), limit.hard()))
            .about(Concern::Rlimit)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_of_the_spec_is_known() {
        let text = r#"{"bounding":["CAP_CHOWN","CAP_SYS_ADMIN"],"ambient":["CAP_CHECKPOINT_RESTORE","CAP_AUDIT_READ"]}"#;
        let sets = sets_of(&serde_json::from_str(text).unwrap());
        assert_eq!(sets.bounding, Set(1 | 1 << 21));
        assert_eq!(sets.ambient, Set(1 << 40 | 1 << 37));
        assert_eq!(sets.permitted, Set::EMPTY);
    }
}
