//! One more process in a container that runs (`exec`): it joins what the first one made, and confines itself as that
//! one did.
//!
//! It enters a place where others are already, who may wait for it: it holds no descriptor of the supervisor's that it
//! does not need from before it goes in, cannot be looked into, is born into the container's cgroup, and its working
//! directory is checked to be inside (CVE-2024-21626). The program on disk is out of reach (CVE-2019-5736): a supervisor runs
//! from a read-only copy, and where another engine's command makes the process, that leaves the disk before it goes in.
//!
//! The supervisor never waits for it: what lies in the container may hang, a working directory on a file system that a
//! process of the container serves above all. [`Joining::advance`] takes one word at a time.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{Process, Spec};
use rustix::fs::{CWD, Mode, OFlags};
use sys::process::{Child, Fork, namespaces as kind};
use sys::seccomp::Flags;
use sys::within::Place;

use super::affinity::{self, Initial};
use super::fault::{About, During, Fault, Result};
use super::hooks::HookState;
use super::identity::Filter;
use super::listener::Agent;
use super::program::{self, Program};
use super::root::Root;
use super::steps::{self, Steps};
use super::sync::{Sync, Word};
use super::sysctl::Proc;
use super::{cgroups, check, console, namespaces, sibling};
use crate::cgroup::Door;
use crate::control::Concern;

/// What is to be executed, and in which container.
pub(crate) struct ExecOrder<'a> {
    /// The container's.
    pub(crate) spec: &'a Spec,
    /// The container's id and the absolute path of its bundle.
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) process: &'a Process,
    /// The container's first process.
    pub(crate) first: BorrowedFd<'a>,
    /// Standard streams, where `process` asks for no terminal.
    pub(crate) stdio: [OwnedFd; 3],
    /// Descriptors that the program is given besides, under the numbers that they have.
    pub(crate) preserved: &'a [OwnedFd],
    /// The program gets a session keyring of its own.
    pub(crate) new_keyring: bool,
    /// Rows and columns of the terminal's window.
    pub(crate) size: Option<(u16, u16)>,
    /// The cgroup2 directory that the process is born in.
    pub(crate) cgroup: Option<BorrowedFd<'a>>,
    /// Ways into cgroups that it cannot be born in.
    pub(crate) doors: &'a [Door],
}

/// A process on its way to its program. Dropped before that, it is killed; whoever dropped it reaps it.
pub(crate) struct Joining {
    child: Option<Child>,
    sync: Sync,
    console: Option<OwnedFd>,
    executing: bool,
    /// Who answers calls that its filter asks about.
    agent: Option<Agent>,
}

/// What a word of the process means.
pub(crate) enum Progress {
    /// There will be more.
    Pending,
    /// Its program runs.
    Runs(Started),
    /// It failed, and ends.
    Failed(Fault),
    /// It ended without a word: something killed it. How, who reaps it knows.
    Silent,
}

/// A process whose program was executed.
pub(crate) struct Started {
    pub(crate) child: Child,
    /// The master of its terminal.
    pub(crate) console: Option<OwnedFd>,
}

/// Makes the process. The caller must have one thread only, and hold all signals back.
pub(crate) fn fork(order: &ExecOrder<'_>) -> Result<Joining> {
    check::check_process(order.process)?;
    let filter = super::filter(order.spec)?;
    let program = Program::of(order.process)?;
    let agent = agent(order, filter.as_ref())?;
    let proc = Proc::open()?;
    let (sync, childs_end) = Sync::pair()?;
    let kinds = namespaces::listed(order.spec);
    let newcomer = Newcomer {
        order,
        kinds,
        proc: &proc,
        steps: Steps {
            process: order.process,
            linux: order.spec.linux().as_ref(),
            stdio: &order.stdio,
            preserved: order.preserved,
            new_keyring: order.new_keyring,
            program: &program,
            sync: &childs_end,
        },
    };
    let request = Fork {
        cgroup: order.cgroup,
        ..Fork::default()
    };
    let mut kept = vec![proc.as_fd(), childs_end.as_fd(), order.first];
    kept.extend(order.stdio.iter().map(AsFd::as_fd));
    kept.extend(order.preserved.iter().map(AsFd::as_fd));
    kept.extend(order.cgroup);
    kept.extend(order.doors.iter().map(AsFd::as_fd));
    // The cgroup namespace comes last: a cgroup is not born into from a namespace in which it cannot be seen.
    let joined = kinds & !kind::CGROUP;
    let go = || sys::process::join_namespaces(order.first, joined).during(|| sibling::JOINING.into());
    let run = || newcomer.run();
    steps::leave_the_disk()?;
    let initial = Initial::of(order.process)?;
    let child = match sibling::can_lend(joined) {
        true => {
            let place = Place {
                first: order.first,
                kinds: joined,
                kept: &kept,
            };
            sibling::fork_lending(&place, &request, run)
        }
        false => sibling::fork(go, Some(&kept), &request, run),
    };
    drop(initial);
    let child = child.about(Concern::Namespace)?;
    let joining = Joining {
        child: Some(child),
        sync,
        console: None,
        executing: false,
        agent,
    };
    joining
        .sync
        .allow_program(filter.as_ref())
        .during(|| "telling the process".into())?;
    Ok(joining)
}

impl Joining {
    /// Its number in the caller's pid namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.child.as_ref().map_or(0, |child| child.pid)
    }

    /// The process itself.
    pub(crate) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// Takes the next word, for which it waits where the descriptor ([`AsFd`]) is not readable. After anything but
    /// [`Progress::Pending`] there is none.
    pub(crate) fn advance(&mut self) -> Progress {
        match self.sync.hear() {
            Ok(Some(Word::Console(master))) => self.console = Some(master),
            Ok(Some(Word::Executing)) => self.executing = true,
            Ok(Some(Word::Listener(listener))) => {
                if let Err(fault) = self.deliver(listener.as_fd()) {
                    return Progress::Failed(fault);
                }
            }
            Ok(Some(Word::Failed(fault))) => return Progress::Failed(fault),
            // It has nothing of the kind to say.
            Ok(Some(Word::Mounted | Word::Waiting)) => {}
            Ok(None) if self.executing => {
                return match self.child.take() {
                    Some(child) => Progress::Runs(Started {
                        child,
                        console: self.console.take(),
                    }),
                    None => Progress::Silent,
                };
            }
            Ok(None) => return Progress::Silent,
            Err(error) => {
                return Progress::Failed(Fault::new(format!("listening to the process: {error}")));
            }
        }
        Progress::Pending
    }

    fn deliver(&self, listener: BorrowedFd<'_>) -> Result<()> {
        if let Some(agent) = &self.agent {
            agent.send(self.pid(), listener)?;
        }
        self.sync.allow().during(|| "telling the process".into())
    }
}

/// Who is to be told of the process's filter, where that notifies.
fn agent(order: &ExecOrder<'_>, filter: Option<&Filter>) -> Result<Option<Agent>> {
    if !filter.is_some_and(|filter| filter.flags.contains(Flags::NEW_LISTENER)) {
        return Ok(None);
    }
    let first = sibling::number(order.first)?;
    let state = HookState::new(order.spec, order.id, order.bundle, "running", Some(first));
    Agent::of(order.spec, &state)
}

impl AsFd for Joining {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.sync.as_fd()
    }
}

impl Drop for Joining {
    fn drop(&mut self) {
        if let Some(child) = &self.child {
            let _ = sys::process::send_signal(child.pidfd.as_fd(), rustix::process::Signal::KILL.as_raw());
        }
    }
}

/// The process itself.
struct Newcomer<'a> {
    order: &'a ExecOrder<'a>,
    /// Namespaces that the container has of its own.
    kinds: u64,
    proc: &'a Proc,
    steps: Steps<'a>,
}

impl Newcomer<'_> {
    /// The code is what it exits with when it did not come to execute its program.
    fn run(&self) -> u8 {
        match self.become_one_of_the_containers() {
            Err(fault) => {
                let code = fault.code;
                // Where even this fails, the exit code remains.
                let _ = self.steps.sync.say(&Word::Failed(fault));
                code
            }
        }
    }

    fn become_one_of_the_containers(&self) -> Result<Infallible> {
        let (order, steps, sync) = (self.order, &self.steps, self.steps.sync);
        steps::begin()?;
        cgroups::enter(order.doors)?;
        affinity::settle(order.process)?;
        if self.kinds & kind::CGROUP != 0 {
            sys::process::join_namespaces(order.first, kind::CGROUP)
                .during(|| "joining the container's cgroup namespace".into())
                .about(Concern::Namespace)?;
        }
        if self.kinds & kind::USER != 0 {
            steps::become_root_of_namespace()?;
            steps::hide()?;
        }
        steps.adjust(self.proc)?;
        let terminal = order.process.terminal().unwrap_or(false);
        let pty = terminal.then(|| self.make_terminal()).transpose()?;
        let filter: Option<Filter> = sync.wait_for_program()?;
        steps.take_streams(pty)?;
        program::enter_directory(order.process.cwd().as_os_str())?;
        steps.confine_program(self.proc)?;
        steps.execute(filter.as_ref())
    }

    /// A terminal in the container's own devpts; its other end goes to the supervisor.
    fn make_terminal(&self) -> Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::openat(CWD, Path::new("/"), flags, Mode::empty())
            .during(|| "the container's root".into())?;
        let pty = console::make(&Root::new(root), self.steps.window(self.order.size))?;
        self.steps.hand_over(pty)
    }
}
