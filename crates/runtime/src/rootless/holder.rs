//! The process that keeps a user's namespaces: how it is made, and the role itself.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;
use sys::ids::Ids;
use sys::process::{CStrings, Child, Fork, namespaces as kind};
use sys::record_lock::{self, Kind, Owner};

use super::{HOLDER, Member, RootlessError, ids};
use crate::Helper;

/// What the holder says when it holds.
const READY: &[u8] = b"r";

/// Starts a holder, in new namespaces with these ids or in those of the calling process, and returns when it has its
/// lock.
pub(super) fn start(file: &File, helper: &Helper, ids: Option<&Ids>) -> Result<Member, RootlessError> {
    let failed = |error: rustix::io::Errno| RootlessError::Holder(error.into());
    let (go, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    let (heard, say) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)?;
    let request = Fork {
        namespaces: if ids.is_some() {
            kind::USER | kind::MOUNT
        } else {
            0
        },
        ..Fork::default()
    };
    let maker = rustix::process::getpid();
    let child = sys::process::fork(&request, || {
        let Err(_) = become_holder(file, &go, &say, helper, maker);
        1
    })
    .map_err(RootlessError::Refused)?;
    drop((go, say));
    let made = ids.map_or(Ok(()), |all| ids::give(all, child.pid));
    let made = made.map_err(RootlessError::from).and_then(|()| {
        rustix::io::write(&tell, READY).map_err(failed)?;
        let mut answer = [0; 1];
        match rustix::io::retry_on_intr(|| rustix::io::read(&heard, &mut answer)).map_err(failed)? {
            1 => Ok(()),
            _ => Err(RootlessError::Holder(io::Error::other(
                "its process ended at once",
            ))),
        }
    });
    match made {
        Ok(()) => Ok(Member {
            pid: child.pid,
            process: child.pidfd,
        }),
        Err(error) => {
            end(&child);
            Err(error)
        }
    }
}

fn end(child: &Child) {
    let _ = sys::process::send_signal(child.pidfd.as_fd(), Signal::KILL.as_raw());
    let id = rustix::process::WaitId::PidFd(child.pidfd.as_fd());
    let _ = rustix::process::waitid(id, rustix::process::WaitIdOptions::EXITED);
}

/// From a copy of a command to the role: executed anew, so that a list of processes shows what it is, and so that all of
/// it belongs to the namespace.
fn become_holder(
    file: &File,
    go: &OwnedFd,
    say: &OwnedFd,
    helper: &Helper,
    maker: rustix::process::Pid,
) -> io::Result<Infallible> {
    // Until it may go on it goes with its maker, who may be gone already.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(maker) {
        return Err(io::ErrorKind::BrokenPipe.into());
    }
    let mut word = [0; 1];
    rustix::io::retry_on_intr(|| rustix::io::read(go, &mut word))?;
    rustix::process::set_parent_process_death_signal(None)?;
    rustix::stdio::dup2_stdin(file)?;
    rustix::stdio::dup2_stdout(say)?;
    sys::fd::close_inherited()?;
    let program = helper.program.as_os_str().as_bytes();
    let words = [program]
        .into_iter()
        .chain(helper.args.iter().map(|word| word.as_bytes()));
    let args = CStrings::new(words)?;
    let none = CStrings::new(Vec::<Vec<u8>>::new())?;
    let path = std::ffi::CString::new(program)?;
    Err(sys::process::exec(&path, &args, &none))
}

/// The role: takes the lock, says so, and does nothing from then on. Standard input is the file, standard output whoever
/// waits.
pub fn hold() -> ExitCode {
    match settle() {
        Ok(()) => loop {
            rustix::event::pause();
        },
        Err(_) => ExitCode::FAILURE,
    }
}

fn settle() -> io::Result<()> {
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"strata-holder")?;
    rustix::process::chdir("/")?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty())?;
    rustix::stdio::dup2_stderr(&null)?;
    record_lock::set(rustix::stdio::stdin(), Owner::Process, Kind::Read, HOLDER, 1)?;
    rustix::io::write(rustix::stdio::stdout(), READY)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(())
}
