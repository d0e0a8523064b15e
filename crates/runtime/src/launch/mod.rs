//! The launcher: from an OCI spec to a process. Everything it does, it does because `config.json` says so.
//!
//! [`Launch::fork`] makes the process that becomes the container; [`Launch::finish`] sees it through to its program.
//! In between lies the moment at which its number is known and nothing of it has run: the supervisor writes it down.
//!
//! The steps of the child stand in `child.rs`, in their order; those of a process that joins a running container in
//! `exec.rs`; what both do in `steps.rs`. What is reached in the container's tree is reached by `root.rs`. Start reading
//! with the child.

mod affinity;
pub mod apparmor;
mod cgroups;
mod check;
mod child;
mod console;
mod copy_up;
mod dev;
pub(crate) mod exec;
mod fault;
pub(crate) mod hooks;
mod identity;
mod idmap;
mod listener;
mod memory_policy;
mod mounts;
mod namespaces;
mod net_devices;
mod options;
mod paths;
mod program;
mod root;
mod rootfs;
mod scheduling;
pub mod selinux;
mod sibling;
mod steps;
mod sync;
mod sysctl;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, Spec};
use rustix::event::{PollFd, PollFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions};
use sys::process::{Fork, namespaces as kind};

use crate::cgroup::Door;
use crate::control::Concern;
pub(crate) use cgroups::Cgroups;
use child::Prepared;
pub(crate) use fault::{About, CANNOT_RUN, During, FAILED, Fault, IntoText, NOT_FOUND, Result};
use hooks::HookState;
use identity::Filter;
pub(crate) use identity::withheld;
pub(crate) use listener::Agent;
pub(crate) use mounts::CgroupView;
pub(crate) use namespaces::SpareNetwork;
pub(crate) use namespaces::makes as makes_namespace;
use namespaces::{BirthPlace, Namespaces};
use net_devices::Given;
use program::Program;
pub use root::make_directory;
pub(crate) use sync::{Sync, Word};
use sysctl::Proc;

/// The annotation that asks for an init process before the container's program: `"true"`.
pub const INIT_ANNOTATION: &str = "strata.init";

/// What is to be launched, and with what.
pub(crate) struct Order<'a> {
    pub(crate) spec: &'a Spec,
    /// Absolute path of the bundle.
    pub(crate) bundle: &'a Path,
    pub(crate) id: &'a str,
    /// Standard streams, where the spec asks for no terminal.
    pub(crate) stdio: [OwnedFd; 3],
    /// Descriptors that the program is given besides, under the numbers that they have.
    pub(crate) preserved: &'a [OwnedFd],
    /// The program gets a session keyring of its own.
    pub(crate) new_keyring: bool,
    /// Where the process, once all is made, waits to be told to go on to its program; it goes on at once where there is
    /// none. A listening socket: the first who connects tells it so, and is told what comes of it.
    pub(crate) start: Option<BorrowedFd<'a>>,
    /// Rows and columns of the terminal's window.
    pub(crate) size: Option<(u16, u16)>,
    /// The cgroup2 directory that the process is born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Ways into cgroups that it cannot be born in.
    pub(crate) doors: &'a [Door],
    /// What a mount of type `cgroup` shows.
    pub(crate) cgroup_view: CgroupView,
    /// The root is moved over the host's and gone into: what it lies on is none that can be exchanged.
    pub(crate) no_pivot: bool,
    /// No device node opens anything but those that the spec lists: nobody else refuses them.
    pub(crate) nodev: bool,
}

impl Order<'_> {
    /// Whether the launch pauses between the mounts and the change of root.
    fn hooks_before_pivot(&self) -> bool {
        self.spec.hooks().as_ref().is_some_and(|hooks| {
            #[allow(deprecated)]
            let prestart = hooks.prestart();
            [prestart, hooks.create_runtime(), hooks.create_container()]
                .into_iter()
                .flatten()
                .any(|hooks| !hooks.is_empty())
        })
    }
}

/// A process on its way to become a container. Dropped before its end, it is killed.
pub(crate) struct Launch<'a> {
    order: &'a Order<'a>,
    child: Option<sys::process::Child>,
    sync: Sync,
    filter: Option<Filter>,
    /// Of the host's network, given to it.
    devices: Option<Given<'a>>,
}

/// A container's program was executed, or waits to be told to start.
pub(crate) struct Launched {
    pub(crate) child: sys::process::Child,
    /// The master of its terminal.
    pub(crate) console: Option<OwnedFd>,
}

impl<'a> Launch<'a> {
    /// Forks the process, into the network namespace `spare` where it is to have a new one. The caller must have one
    /// thread only, and hold all signals back.
    pub(crate) fn fork(order: &'a Order<'a>, spare: Option<SpareNetwork>) -> Result<Launch<'a>> {
        let mut namespaces = Namespaces::of(order.spec).about(Concern::Namespace)?;
        namespaces.take_ready(spare);
        check::check(order.spec, &namespaces)?;
        let linux = order.spec.linux().as_ref();
        let sysctls = linux.and_then(|linux| linux.sysctl().as_ref());
        if let Some(sysctls) = sysctls {
            sysctl::check(sysctls, &namespaces).about(Concern::Sysctl)?;
        }
        let process = order
            .spec
            .process()
            .as_ref()
            .ok_or_else(|| Fault::new("the configuration has no process"))?;
        let mut prepared = Prepared {
            is_shown: namespaces.makes(kind::USER) && !idmap::may_map()?,
            // Its sysctls may be those of devices that it is given.
            waits_for_parent: namespaces.makes(kind::USER) || net_devices::wanted(order.spec).is_some(),
            program: Program::of(process)?,
            ready: idmap::prepare(order.spec, order.bundle).about(Concern::Mount)?,
            namespaces,
        };
        let (sync, childs_end) = Sync::pair()?;
        let mut devices = None;
        if prepared.namespaces.borrow_a_network() {
            // What is set there next may be theirs.
            devices = net_devices::give(order.spec, &prepared.namespaces, 0)?;
        }
        let place = BirthPlace::prepare(&prepared.namespaces, order.spec)?;
        if let Some(sysctls) = sysctls.filter(|_| prepared.namespaces.borrow_a_network()) {
            // From where the child will be, and with the rights that it will not have there.
            sysctl::set(&Proc::open()?, sysctls, sysctl::is_of_network).about(Concern::Sysctl)?;
        }
        if prepared.namespaces.borrow_a_network() {
            mounts::make_sysfs(order.spec, &mut prepared.ready).about(Concern::Mount)?;
        }
        // In another mount namespace there is no copying this one's mounts.
        steps::leave_the_disk()?;
        let request = Fork {
            namespaces: prepared.namespaces.for_clone(),
            cgroup: order.cgroup,
            sibling: false,
        };
        let mut own_end = Some(sync);
        let run = || {
            // In the child, which would otherwise never hear that we are gone: it must not be its own listener.
            own_end.take();
            child::run(order, &prepared, childs_end)
        };
        // Among others it is born hidden.
        let among_others = !prepared.namespaces.makes(kind::PID) && !prepared.is_shown;
        let hidden = among_others.then(steps::Hidden::new).transpose()?;
        let child = match prepared.namespaces.joins(kind::USER) {
            Some(joined) => {
                sibling::fork(|| joined.enter(), None, &request, run).about(Concern::Namespace)?
            }
            None => sys::process::fork(&request, run)
                .during(|| "making the container's process and namespaces".into())
                .about(Concern::Namespace)?,
        };
        drop((place, hidden));
        let mut launch = Launch {
            order,
            child: Some(child),
            sync: own_end.ok_or_else(|| Fault::new("the child's memory is not its own"))?,
            filter: None,
            devices,
        };
        if launch.devices.is_none() {
            launch.devices = net_devices::give(order.spec, &prepared.namespaces, launch.pid())?;
        }
        if prepared.waits_for_parent {
            if prepared.namespaces.makes(kind::USER) {
                launch.map_ids()?;
            }
            launch.allow()?;
        }
        // The child has enough to do until it needs it.
        launch.filter = filter(order.spec)?;
        Ok(launch)
    }

    /// Number of the process in the caller's pid namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    fn allow(&self) -> Result<()> {
        self.sync
            .allow()
            .during(|| "telling the container's process".into())
    }

    fn allow_program(&self) -> Result<()> {
        self.sync
            .allow_program(self.filter.as_ref())
            .during(|| "telling the container's process".into())
    }

    fn map_ids(&self) -> Result<()> {
        let linux = self.order.spec.linux().as_ref();
        let users = linux.and_then(|linux| linux.uid_mappings().as_ref());
        let groups = linux.and_then(|linux| linux.gid_mappings().as_ref());
        idmap::write_maps(self.pid(), [users, groups])
    }

    /// Runs the hooks that are due, lets the process go on to its program, and waits until that runs, or until the process
    /// waits to be [told to start](Order::start). `interrupted` is
    /// asked when one of `watched` is readable or gone; what it returns ends the launch.
    pub(crate) fn finish(
        mut self,
        watched: &[BorrowedFd<'_>],
        mut interrupted: impl FnMut() -> Option<Fault>,
    ) -> Result<Launched> {
        let mut console = None;
        let mut executing = false;
        if !self.order.hooks_before_pivot() {
            self.allow_program()?;
        }
        loop {
            let mut polled = vec![PollFd::new(&self.sync, PollFlags::IN)];
            polled.extend(
                watched
                    .iter()
                    .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
            );
            rustix::event::poll(&mut polled, None).during(|| "waiting for the container's process".into())?;
            let spoke = !polled[0].revents().is_empty();
            let disturbed = polled[1..].iter().any(|fd| !fd.revents().is_empty());
            // What the process said comes first: a signal that came after its program began is the program's.
            if !spoke {
                if disturbed && let Some(fault) = interrupted() {
                    return Err(fault);
                }
                continue;
            }
            match self
                .sync
                .hear()
                .during(|| "listening to the container's process".into())?
            {
                Some(Word::Mounted) => {
                    self.run_runtime_hooks()?;
                    // They took their time: whoever asked may be gone.
                    if let Some(fault) = interrupted() {
                        return Err(fault);
                    }
                    // One for the hooks of the container, one for the program.
                    self.allow()?;
                    self.allow_program()?;
                }
                Some(Word::Console(master)) => console = Some(master),
                Some(Word::Executing) => executing = true,
                Some(Word::Listener(listener)) => {
                    let (id, bundle) = (self.order.id, self.order.bundle);
                    let state = HookState::new(self.order.spec, id, bundle, "creating", Some(self.pid()));
                    if let Some(agent) = Agent::of(self.order.spec, &state)? {
                        agent.send(self.pid(), listener.as_fd())?;
                    }
                    self.allow()?;
                }
                Some(Word::Waiting) => break,
                Some(Word::Failed(fault)) => return Err(fault),
                None if executing => break,
                None => return Err(self.died()),
            }
        }
        match self.child.take() {
            Some(child) => {
                self.devices.take().into_iter().for_each(Given::keep);
                Ok(Launched { child, console })
            }
            None => Err(Fault::new("the container's process is gone")),
        }
    }

    fn run_runtime_hooks(&self) -> Result<()> {
        let Some(hooks) = self.order.spec.hooks() else {
            return Ok(());
        };
        let (id, bundle) = (self.order.id, self.order.bundle);
        let state = HookState::new(self.order.spec, id, bundle, "creating", Some(self.pid()));
        #[allow(deprecated)]
        let prestart = hooks.prestart();
        for (kind, hooks) in [("prestart", prestart), ("createRuntime", hooks.create_runtime())] {
            hooks::run(kind, hooks.as_deref().unwrap_or_default(), &state).about(Concern::Hook)?;
        }
        Ok(())
    }

    /// The process ended without a word: something killed it.
    fn died(&mut self) -> Fault {
        let how = self.child.take().and_then(|child| end(&child));
        let text = match how {
            Some((_, Some(signal))) => format!("signal {signal}"),
            Some((code, None)) => format!("exit code {code}"),
            None => "cause unknown".into(),
        };
        Fault::new(format!(
            "the container's process ended while it was being set up ({text})"
        ))
    }
}

impl Drop for Launch<'_> {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            let _ = sys::process::send_signal(child.pidfd.as_fd(), Signal::KILL.as_raw());
            end(&child);
        }
    }
}

/// Waits for the end of a child and reaps it: exit code, and the signal that ended it if one did.
fn end(child: &sys::process::Child) -> Option<(i32, Option<i32>)> {
    let id = WaitId::PidFd(child.pidfd.as_fd());
    let status = rustix::process::waitid(id, WaitIdOptions::EXITED).ok()??;
    Some((status.exit_status().unwrap_or(0), status.terminating_signal()))
}

/// Whether an init process is to stand before the program.
fn wants_init(spec: &Spec) -> bool {
    let annotations = spec.annotations().as_ref();
    annotations
        .and_then(|all| all.get(INIT_ANNOTATION))
        .is_some_and(|value| value == "true")
}

fn filter(spec: &Spec) -> Result<Option<Filter>> {
    let Some(seccomp) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    if !lets_execute(seccomp) {
        let text =
            "linux.seccomp: execve is not among the calls that it allows, so that no program could be run";
        return Err(Fault::new(text).about(Concern::Seccomp));
    }
    let program = crate::seccomp::compile(seccomp)
        .map_err(|error| Fault::new(format!("linux.seccomp: {error}")).about(Concern::Seccomp))?;
    Ok(Some(Filter {
        program,
        flags: crate::seccomp::flags(seccomp),
    }))
}

/// Whether a filter lets the program begin at all. Behind one that allows nothing the process could not even say what went
/// wrong.
fn lets_execute(seccomp: &LinuxSeccomp) -> bool {
    let lets = |action| {
        matches!(
            action,
            LinuxSeccompAction::ScmpActAllow
                | LinuxSeccompAction::ScmpActLog
                | LinuxSeccompAction::ScmpActTrace
                | LinuxSeccompAction::ScmpActNotify
        )
    };
    let rules = seccomp.syscalls().iter().flatten();
    lets(seccomp.default_action())
        || rules
            .filter(|rule| lets(rule.action()))
            .any(|rule| rule.names().iter().any(|name| name == "execve"))
}

/// Those of these mount options of a bind mount that mean nothing to the launcher.
#[cfg(test)]
pub(crate) fn passes_on(names: &[&str]) -> Vec<String> {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let mut mount = oci_spec::runtime::Mount::default();
    mount.set_typ(Some("bind".to_owned())).set_options(Some(names));
    options::of(&mount).data.into_iter().map(str::to_owned).collect()
}
