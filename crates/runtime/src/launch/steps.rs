//! What every process of a container does with itself on the way to its program, the first one (`child.rs`) and those
//! that come later (`exec.rs`): what `process` in the specification says of a process itself.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::{Linux, PosixRlimitType as Kind, Process};
use rustix::fs::{FileType, Mode, Uid};
use rustix::io::{Errno, FdFlags};
use rustix::process::{DumpableBehavior, Gid};
use sys::pty::Pty;
use sys::seccomp::Flags;
use sys::signal::Set;

use super::fault::{About, During, Result};
use super::identity::{self, Filter};
use super::listener::Courier;
use super::program::Program;
use super::sync::{Sync, Word};
use super::sysctl::Proc;
use super::{apparmor, memory_policy, scheduling, selinux};
use crate::control::Concern;

/// What the steps need to know.
#[derive(Clone, Copy)]
pub(super) struct Steps<'a> {
    pub(super) process: &'a Process,
    pub(super) linux: Option<&'a Linux>,
    /// Standard streams, where the process has no terminal.
    pub(super) stdio: &'a [OwnedFd; 3],
    /// Descriptors that the program is given besides.
    pub(super) preserved: &'a [OwnedFd],
    /// A session keyring of its own.
    pub(super) new_keyring: bool,
    pub(super) program: &'a Program,
    pub(super) sync: &'a Sync,
}

/// Begins a session: signals of the terminal that strata was started at do not reach the process.
pub(super) fn begin() -> Result<()> {
    rustix::process::setsid().during(|| "making a session".into())?;
    rustix::process::umask(Mode::empty());
    Ok(())
}

/// Goes on from where nobody can write to the program on disk, if that is still to be done (CVE-2019-5736). To be called by
/// the one who makes the process, before it does.
pub(super) fn leave_the_disk() -> Result<()> {
    crate::start::leave_now()
        .during(|| "a read-only copy of this program".into())
        .about(Concern::OnDisk)
}

/// Lets nobody in the container look into the calling process while it still holds the host's files.
pub(super) fn hide() -> Result<()> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .during(|| "hiding from the container's processes".into())
}

/// While this lives the calling process is hidden as [`hide`] does it, and what it forks is so from its birth on.
pub(super) struct Hidden(DumpableBehavior);

impl Hidden {
    pub(super) fn new() -> Result<Hidden> {
        let before = rustix::process::dumpable_behavior().during(|| "looking at oneself".into())?;
        hide()?;
        Ok(Hidden(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // It fails for a value alone that cannot be set, and this one was.
        let _ = rustix::process::set_dumpable_behavior(self.0);
    }
}

/// Takes user and group 0 of the user namespace that the calling process has come into.
pub(super) fn become_root_of_namespace() -> Result<()> {
    let doing = || "becoming root of the user namespace".to_owned();
    match rustix::thread::set_thread_groups(&[]) {
        // The namespace is of one who had no privilege: nobody in it lays groups down (user_namespaces(7), "setgroups").
        Err(Errno::PERM) => {}
        other => other.during(doing)?,
    }
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).during(doing)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).during(doing)
}

impl Steps<'_> {
    /// Rows and columns of the terminal: what the one who asks sits at, or else what the spec says.
    pub(super) fn window(&self, asked: Option<(u16, u16)>) -> Option<(u16, u16)> {
        let side = |length| u16::try_from(length).unwrap_or(u16::MAX);
        let size = self.process.console_size();
        asked.or_else(|| size.map(|size| (side(size.height()), side(size.width()))))
    }

    /// What belongs to the process and needs the rights it still has.
    pub(super) fn adjust(&self, proc: &Proc) -> Result<()> {
        if let Some(score) = self.process.oom_score_adj() {
            proc.write("self/oom_score_adj", &score.to_string())
                .during(|| format!("process.oomScoreAdj {score}"))?;
        }
        identity::limit(self.process, |kind| kind != Kind::RlimitNofile)?;
        scheduling::apply(self.process, self.linux)?;
        memory_policy::apply(self.linux)?;
        if !self.new_keyring {
            return Ok(());
        }
        let label = selinux::wanted(self.process);
        if let Some(label) = label {
            selinux::of_keys(proc, label)?;
        }
        self.make_keyring()?;
        // Those that it makes later are its own program's.
        label.map_or(Ok(()), |_| selinux::of_keys(proc, ""))
    }

    fn make_keyring(&self) -> Result<()> {
        match sys::process::join_new_session_keyring() {
            // A kernel without keys has none to hide.
            Err(error) if Errno::from_io_error(&error) != Some(Errno::NOSYS) => {
                Err(error).during(|| "making a session keyring".into())
            }
            _ => Ok(()),
        }
    }

    /// What the security modules of the kernel are to confine the next exec to.
    pub(super) fn confine_program(&self, proc: &Proc) -> Result<()> {
        if let Some(profile) = apparmor::wanted(self.process) {
            apparmor::at_exec(proc, profile).about(Concern::Apparmor)?;
        }
        selinux::wanted(self.process).map_or(Ok(()), |label| selinux::at_exec(proc, label))
    }

    /// The same for the calling process, which executes nothing.
    pub(super) fn confine_this(&self, proc: &Proc) -> Result<()> {
        if let Some(profile) = apparmor::wanted(self.process) {
            apparmor::now(proc, profile).about(Concern::Apparmor)?;
        }
        selinux::wanted(self.process).map_or(Ok(()), |label| selinux::now(proc, label))
    }

    /// Gives the master to the supervisor and keeps the slave.
    pub(super) fn hand_over(&self, pty: Pty) -> Result<OwnedFd> {
        self.sync.say(&Word::Console(pty.master))?;
        Ok(pty.slave)
    }

    /// Makes the terminal, or the streams that the caller gave, the standard streams.
    pub(super) fn take_streams(&self, terminal: Option<OwnedFd>) -> Result<()> {
        let doing = || "the standard streams".to_owned();
        let owner = Uid::from_raw(self.process.user().uid());
        let [stdin, stdout, stderr] = match &terminal {
            Some(slave) => {
                sys::pty::take_control(slave).during(|| "taking control of the terminal".into())?;
                // Its group is the devpts' to set.
                rustix::fs::fchown(slave, Some(owner), None).during(|| "the owner of the terminal".into())?;
                [slave.as_fd(); 3]
            }
            None => {
                let streams = [0, 1, 2].map(|number| self.stdio[number].as_fd());
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

    /// The last steps: after them the process has no more rights than its program.
    pub(super) fn execute(&self, filter: Option<&Filter>) -> Result<Infallible> {
        sys::process::close_on_exec_from(3).during(|| "closing descriptors".into())?;
        for preserved in self.preserved {
            rustix::io::fcntl_setfd(preserved, FdFlags::empty())
                .during(|| "keeping descriptors open".into())?;
        }
        // Only now: until here descriptors were opened, and moved to their numbers.
        identity::limit(self.process, |kind| kind == Kind::RlimitNofile)?;
        let courier = match filter {
            Some(filter) if filter.flags.contains(Flags::NEW_LISTENER) => Some(Courier::ready(self.sync)?),
            _ => None,
        };
        sys::signal::reset_all();
        self.sync.say(&Word::Executing)?;
        // The filter may deny anything but exec from here on.
        identity::assume(self.process, filter, courier)?;
        sys::signal::set_mask(Set::empty()).during(|| "letting signals through".into())?;
        Err(self.program.execute())
    }
}
