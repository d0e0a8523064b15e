//! The container's first process, from its birth to its program: one sequence, each step once, in the order that the
//! steps' own rights and the specification's life cycle dictate.

use std::cell::OnceCell;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Spec;
use sys::process::namespaces as kind;

use super::fault::{About, During, Fault, Result};
use super::hooks::{self, HookState};
use super::identity::{self, Filter};
use super::namespaces::Namespaces;
use super::program::{self, Program};
use super::rootfs::{self, Tree};
use super::steps::{self, Steps};
use super::sync::{Sync, Word};
use super::sysctl::{self, Proc};
use super::{Order, cgroups};
use crate::control::Concern;

/// What was prepared before the fork.
pub(super) struct Prepared {
    pub(super) namespaces: Namespaces,
    pub(super) program: Program,
    /// For each of the spec's mounts, what the child could not make itself: see [`super::idmap::prepare`] and
    /// [`super::mounts::make_sysfs`].
    pub(super) ready: Vec<Option<OwnedFd>>,
    /// An ordinary user gives ids to the namespace that is made, which is the user's to do of a process alone that can be seen.
    /// Nobody who is not the user comes at it: it lives in a user namespace of its own.
    pub(super) is_shown: bool,
    /// The launcher has something to do before the child may go on: id maps.
    pub(super) waits_for_parent: bool,
}

/// Runs in the child; the code is what it exits with when it did not come to execute its program.
pub(super) fn run(order: &Order<'_>, prepared: &Prepared, sync: Sync) -> u8 {
    let child = Child {
        order,
        prepared,
        sync: &sync,
        starter: OnceCell::new(),
        spec: order.spec,
    };
    match child.become_container() {
        Err(fault) => {
            let code = fault.code;
            // Where even this fails, the exit code remains.
            let _ = child.starter.get().unwrap_or(&sync).say(&Word::Failed(fault));
            code
        }
    }
}

struct Child<'a> {
    order: &'a Order<'a>,
    prepared: &'a Prepared,
    sync: &'a Sync,
    /// Whoever told it to start, where that is somebody else.
    starter: OnceCell<Sync>,
    spec: &'a Spec,
}

impl Child<'_> {
    fn become_container(&self) -> Result<Infallible> {
        let process = self
            .spec
            .process()
            .as_ref()
            .ok_or_else(|| Fault::new("the configuration has no process"))?;
        let steps = Steps {
            process,
            linux: self.spec.linux().as_ref(),
            stdio: &self.order.stdio,
            preserved: self.order.preserved,
            new_keyring: self.order.new_keyring,
            program: &self.prepared.program,
            sync: self.sync,
        };
        steps::begin()?;
        cgroups::enter(self.order.doors)?;
        self.enter_namespaces()?;
        let proc = Proc::open()?;
        let tree = Tree::open(self.spec, self.order, &self.prepared.ready).about(Concern::Mount)?;
        let own_users = self.prepared.namespaces.has(kind::USER);
        if own_users {
            steps::become_root_of_namespace()?;
        }
        self.furnish_namespaces(&proc)?;
        let (root, pty) = tree
            .build(own_users, steps.window(self.order.size))
            .about(Concern::Mount)?;
        steps.adjust(&proc)?;
        let pty = pty.map(|pty| steps.hand_over(pty)).transpose()?;
        if self.order.hooks_before_pivot() {
            self.sync.say(&Word::Mounted)?;
            self.sync.wait()?;
            self.run_hooks("createContainer", "created")?;
        }
        rootfs::change_root(self.spec, &root, self.order.no_pivot).about(Concern::Mount)?;
        drop(root);

        let filter = self.sync.wait_for_program()?;
        // Before it waits: whoever had it made may wait for the end of what it wrote to its own.
        steps.take_streams(pty)?;
        program::enter_directory(process.cwd().as_os_str())?;
        let steps = match self.order.start {
            Some(listener) => Steps {
                sync: self.wait_for_start(listener, &proc)?,
                ..steps
            },
            None => steps,
        };
        self.run_hooks("startContainer", "created")?;
        steps.confine_program(&proc)?;
        if super::wants_init(self.spec) {
            // The init process executes nothing, and is to be confined as what it stands before.
            stand_before(&steps, filter.as_ref(), || steps.confine_this(&proc))
        } else {
            drop(proc);
            steps.execute(filter.as_ref())
        }
    }

    /// Waits for the one who tells it to start. Until then it keeps nothing of the host's that it will not need: it may
    /// wait for long, and beside others.
    fn wait_for_start(&self, listener: BorrowedFd<'_>, proc: &Proc) -> Result<&Sync> {
        // As the peers do it: what is not there is told to the one who has it made.
        self.prepared.program.look()?;
        let mut kept = vec![proc.as_fd(), listener, self.sync.as_fd()];
        kept.extend(self.order.preserved.iter().map(AsFd::as_fd));
        sys::fd::keep_only(&kept).during(|| "closing descriptors".into())?;
        self.sync.say(&Word::Waiting)?;
        let starter = Sync::accept(listener)?;
        Ok(self.starter.get_or_init(|| starter))
    }

    fn enter_namespaces(&self) -> Result<()> {
        let namespaces = &self.prepared.namespaces;
        namespaces.enter_in_child().about(Concern::Namespace)?;
        // Others may be in a namespace that was joined.
        if !self.prepared.is_shown {
            steps::hide()?;
        }
        if self.prepared.waits_for_parent {
            self.sync.wait()?;
        }
        if self.prepared.is_shown {
            steps::hide()?;
        }
        if namespaces.makes(kind::CGROUP) {
            sys::process::unshare(kind::CGROUP).during(|| "making a cgroup namespace".into())?;
        }
        Ok(())
    }

    /// What belongs to the namespaces and not to the file system.
    fn furnish_namespaces(&self, proc: &Proc) -> Result<()> {
        let namespaces = &self.prepared.namespaces;
        if namespaces.makes(kind::NETWORK) {
            sys::net::loopback_up().during(|| "bringing the loopback interface up".into())?;
        }
        if let Some(name) = self.spec.hostname().as_deref().filter(|name| !name.is_empty()) {
            rustix::system::sethostname(name.as_bytes()).during(|| format!("hostname {name:?}"))?;
        }
        if let Some(name) = self.spec.domainname().as_deref().filter(|name| !name.is_empty()) {
            rustix::system::setdomainname(name.as_bytes()).during(|| format!("domainname {name:?}"))?;
        }
        let linux = self.spec.linux().as_ref();
        match linux.and_then(|linux| linux.sysctl().as_ref()) {
            Some(sysctls) => {
                let elsewhere = namespaces.borrow_a_network();
                let due = |name: &str| !(elsewhere && sysctl::is_of_network(name));
                sysctl::set(proc, sysctls, due).about(Concern::Sysctl)
            }
            None => Ok(()),
        }
    }

    fn run_hooks(&self, kind: &str, status: &str) -> Result<()> {
        let Some(hooks) = self.spec.hooks() else {
            return Ok(());
        };
        let hooks = match kind {
            "createContainer" => hooks.create_container(),
            _ => hooks.start_container(),
        };
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let state = HookState::new(self.spec, self.order.id, self.order.bundle, status, Some(pid));
        hooks::run(kind, hooks.as_deref().unwrap_or_default(), &state).about(Concern::Hook)
    }
}

/// Forks the program off and stays before it as the first process of the pid namespace, itself confined by `confine`.
fn stand_before(
    steps: &Steps<'_>,
    filter: Option<&Filter>,
    confine: impl FnOnce() -> Result<()>,
) -> Result<Infallible> {
    let terminal = steps.process.terminal().unwrap_or(false);
    let program = sys::process::fork(&sys::process::Fork::default(), || {
        let result = || -> Result<Infallible> {
            if terminal {
                // Keys of the terminal are the program's alone: what reached both would reach it twice.
                let own = rustix::process::getpid();
                rustix::process::setpgid(None, None)
                    .and_then(|()| rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own))
                    .during(|| "the terminal's foreground".into())?;
            }
            steps.execute(filter)
        };
        match result() {
            Err(fault) => {
                let code = fault.code;
                let _ = steps.sync.say(&Word::Failed(fault));
                code
            }
        }
    })
    .during(|| "forking the program".into())?;
    rustix::thread::set_name(c"init").during(|| "naming the init process".into())?;
    confine()?;
    identity::assume(steps.process, filter, None)?;
    sys::init::stand_in(program.pid)
}
