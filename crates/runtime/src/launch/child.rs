//! The container's first process, from its birth to its program: one sequence, each step once, in the order that the
//! steps' own rights and the specification's life cycle dictate.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{PosixRlimitType as Kind, Process, Spec};
use rustix::fs::{FileType, Mode, Uid};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid};
use sys::process::namespaces as kind;
use sys::pty::Pty;
use sys::signal::Set;

use super::fault::{About, During, Fault, Result};
use super::hooks::{self, HookState};
use super::identity::{self, Filter};
use super::namespaces::Namespaces;
use super::program::{self, Program};
use super::rootfs::{self, Tree};
use super::sync::{Sync, Word};
use super::sysctl::{self, Proc};
use super::{INIT_ANNOTATION, Order, apparmor, scheduling};
use crate::control::Concern;

/// What was prepared before the fork.
pub(super) struct Prepared {
    pub(super) namespaces: Namespaces,
    pub(super) program: Program,
    /// What [`super::idmap::prepare`] made for the spec's mounts.
    pub(super) id_mapped: Vec<Option<OwnedFd>>,
    /// The launcher has something to do before the child may go on: id maps, cgroups that are joined by number.
    pub(super) waits_for_parent: bool,
}

/// Runs in the child; the code is what it exits with when it did not come to execute its program.
pub(super) fn run(order: &Order<'_>, prepared: &Prepared, sync: Sync) -> u8 {
    let child = Child {
        order,
        prepared,
        sync: &sync,
        spec: order.spec,
    };
    match child.become_container() {
        Err(fault) => {
            let code = fault.code;
            // Where even this fails, the exit code remains.
            let _ = sync.say(&Word::Failed(fault));
            code
        }
    }
}

struct Child<'a> {
    order: &'a Order<'a>,
    prepared: &'a Prepared,
    sync: &'a Sync,
    spec: &'a Spec,
}

impl Child<'_> {
    fn become_container(&self) -> Result<Infallible> {
        let process = self
            .spec
            .process()
            .as_ref()
            .ok_or_else(|| Fault::new("the configuration has no process"))?;
        // A session of its own: signals of the terminal that strata was started at do not reach it.
        rustix::process::setsid().during(|| "making a session".into())?;
        rustix::process::umask(Mode::empty());
        self.enter_namespaces()?;
        let proc = Proc::open()?;
        let tree = Tree::open(self.spec, self.order, &self.prepared.id_mapped).about(Concern::Mount)?;
        let own_users = self.prepared.namespaces.has(kind::USER);
        if own_users {
            become_root_of_namespace()?;
        }
        self.furnish_namespaces(&proc)?;
        let (root, pty) = tree
            .build(own_users, self.window(process))
            .about(Concern::Mount)?;
        self.adjust(process, &proc)?;
        let pty = pty.map(|pty| self.hand_over(pty)).transpose()?;
        if self.order.hooks_before_pivot() {
            self.sync.say(&Word::Mounted)?;
            self.sync.wait()?;
            self.run_hooks("createContainer", "created")?;
        }
        rootfs::change_root(self.spec, &root).about(Concern::Mount)?;
        drop(root);

        let filter = self.sync.wait_for_program()?;
        self.run_hooks("startContainer", "created")?;
        self.take_streams(process, pty)?;
        program::enter_directory(process.cwd().as_os_str())?;
        let profile = apparmor::wanted(process);
        if let Some(profile) = profile {
            apparmor::at_exec(&proc, profile).about(Concern::Apparmor)?;
        }
        if self.wants_init() {
            // The init process executes nothing, and is to be confined as what it stands before.
            self.stand_before(process, filter.as_ref(), || {
                profile.map_or(Ok(()), |name| apparmor::now(&proc, name).about(Concern::Apparmor))
            })
        } else {
            drop(proc);
            self.execute(process, filter.as_ref())
        }
    }

    /// Rows and columns of the terminal: what the one who asks sits at, or else what the spec says.
    fn window(&self, process: &Process) -> Option<(u16, u16)> {
        let side = |length| u16::try_from(length).unwrap_or(u16::MAX);
        let size = process.console_size();
        self.order
            .size
            .or_else(|| size.map(|size| (side(size.height()), side(size.width()))))
    }

    fn enter_namespaces(&self) -> Result<()> {
        let namespaces = &self.prepared.namespaces;
        namespaces.enter_in_child().about(Concern::Namespace)?;
        // Nobody in a namespace that was joined may look into this process while it still holds the host's files.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .during(|| "hiding from the container's processes".into())?;
        if self.prepared.waits_for_parent {
            self.sync.wait()?;
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
            Some(sysctls) => sysctl::set(proc, sysctls).about(Concern::Sysctl),
            None => Ok(()),
        }
    }

    /// What belongs to the process and needs the rights it still has.
    fn adjust(&self, process: &Process, proc: &Proc) -> Result<()> {
        if let Some(score) = process.oom_score_adj() {
            proc.write("self/oom_score_adj", &score.to_string())
                .during(|| format!("process.oomScoreAdj {score}"))?;
        }
        identity::limit(process, |kind| kind != Kind::RlimitNofile)?;
        scheduling::apply(self.spec)?;
        match sys::process::join_new_session_keyring() {
            // A kernel without keys has none to hide.
            Err(error) if Errno::from_io_error(&error) != Some(Errno::NOSYS) => {
                Err(error).during(|| "making a session keyring".into())
            }
            _ => Ok(()),
        }
    }

    /// Gives the master to the supervisor and keeps the slave.
    fn hand_over(&self, pty: Pty) -> Result<OwnedFd> {
        self.sync.say(&Word::Console(pty.master))?;
        Ok(pty.slave)
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

    /// Makes the terminal, or the streams that the caller gave, the standard streams.
    fn take_streams(&self, process: &Process, terminal: Option<OwnedFd>) -> Result<()> {
        let doing = || "the standard streams".to_owned();
        let owner = Uid::from_raw(process.user().uid());
        let [stdin, stdout, stderr] = match &terminal {
            Some(slave) => {
                sys::pty::take_control(slave).during(|| "taking control of the terminal".into())?;
                // Its group is the devpts' to set.
                rustix::fs::fchown(slave, Some(owner), None).during(|| "the owner of the terminal".into())?;
                [slave.as_fd(); 3]
            }
            None => {
                let streams = [0, 1, 2].map(|number| self.order.stdio[number].as_fd());
                for stream in streams {
                    // /dev/stdout of a pipe opens for its owner alone. What has a name on the host, and the null
                    // device, keep theirs; so does a pipe that is not ours to give.
                    let status = rustix::fs::fstat(stream).during(doing)?;
                    if FileType::from_raw_mode(status.st_mode) == FileType::Fifo
                        && status.st_uid != owner.as_raw()
                    {
                        let _ = rustix::fs::fchown(stream, Some(owner), None);
                    }
                }
                streams
            }
        };
        rustix::stdio::dup2_stdin(stdin).during(doing)?;
        rustix::stdio::dup2_stdout(stdout).during(doing)?;
        rustix::stdio::dup2_stderr(stderr).during(doing)
    }

    fn wants_init(&self) -> bool {
        let annotations = self.spec.annotations().as_ref();
        annotations
            .and_then(|all| all.get(INIT_ANNOTATION))
            .is_some_and(|value| value == "true")
    }

    /// The last steps: after them the process has no more rights than its program.
    fn execute(&self, process: &Process, filter: Option<&Filter>) -> Result<Infallible> {
        sys::process::close_on_exec_from(3).during(|| "closing descriptors".into())?;
        // Only now: until here descriptors were opened, and moved to their numbers.
        identity::limit(process, |kind| kind == Kind::RlimitNofile)?;
        sys::signal::reset_all();
        self.sync.say(&Word::Executing)?;
        // The filter may deny anything but exec from here on.
        identity::assume(process, filter)?;
        sys::signal::set_mask(Set::empty()).during(|| "letting signals through".into())?;
        Err(self.prepared.program.execute())
    }

    /// Forks the program off and stays before it as the first process of the pid namespace, itself confined by `confine`.
    fn stand_before(
        &self,
        process: &Process,
        filter: Option<&Filter>,
        confine: impl FnOnce() -> Result<()>,
    ) -> Result<Infallible> {
        let terminal = process.terminal().unwrap_or(false);
        let program = sys::process::fork(&sys::process::Fork::default(), || {
            let result = || -> Result<Infallible> {
                if terminal {
                    // Keys of the terminal are the program's alone: what reached both would reach it twice.
                    let own = rustix::process::getpid();
                    rustix::process::setpgid(None, None)
                        .and_then(|()| rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own))
                        .during(|| "the terminal's foreground".into())?;
                }
                self.execute(process, filter)
            };
            match result() {
                Err(fault) => {
                    let code = fault.code;
                    let _ = self.sync.say(&Word::Failed(fault));
                    code
                }
            }
        })
        .during(|| "forking the program".into())?;
        rustix::thread::set_name(c"init").during(|| "naming the init process".into())?;
        confine()?;
        identity::assume(process, filter)?;
        sys::init::stand_in(program.pid)
    }
}

fn become_root_of_namespace() -> Result<()> {
    let doing = || "becoming root of the user namespace".to_owned();
    rustix::thread::set_thread_groups(&[]).during(doing)?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).during(doing)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).during(doing)
}
