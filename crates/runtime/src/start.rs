//! Starting a container: [`start`] makes a supervisor, asks it to start, and returns when the program runs.
//!
//! The supervisor is executed from a copy of the helper program's mount that is detached and read-only: through
//! `/proc/<pid>/exe` of a process that is about to become a container's, nobody can write to the program on disk
//! (CVE-2019-5736), and nothing of it is copied.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mount::MountAttrFlags;
use sys::mount::SetAttr;

use crate::attach::Ends;
use crate::control::{About, Concern, Connection, Hold, Reply, Request, Restart};
use crate::launch::{CANNOT_RUN, FAILED, NOT_FOUND};
use crate::log::Limits;
use crate::state::Exit;
use crate::terminal::{Attended, Attention};

/// The program that supervisors are made of, and the arguments that bring it into that role: it is to call
/// [`crate::supervisor::main`] with the arguments that follow these.
#[derive(Debug, Clone)]
pub struct Helper {
    /// Path of the program. Not `/proc/self/exe`, which is somebody else's program when strata is a library in it.
    pub program: PathBuf,
    /// Arguments before the supervisor's own.
    pub args: Vec<OsString>,
}

/// What to start, and how.
#[derive(Debug)]
pub struct StartRequest<'a> {
    /// The supervisor.
    pub helper: &'a Helper,
    /// The bundle, its root file system mounted.
    pub bundle: &'a Path,
    /// Its standard streams.
    pub streams: Streams<'a>,
    /// What its supervisor keeps open for as long as it looks after it.
    pub keep: &'a [OwnedFd],
    /// Rows and columns of the terminal, where its spec asks for one.
    pub size: Option<(u16, u16)>,
    /// The OCI runtime to drive instead of the launcher.
    pub runtime: Option<&'a Path>,
    /// Whether the supervisor starts it again after its end.
    pub restart: Restart,
    /// Program and arguments that the supervisor runs at the end if the caller is gone by then: whoever promises to
    /// remove the container keeps the promise so. Empty for none.
    pub cleanup: Vec<OsString>,
    /// What goes with its events.
    pub about: About,
    /// The supervisor asks how it is: see [`crate::health::write`].
    pub health: bool,
    /// Where the number of its first process is written, at each start.
    pub pidfile: Option<&'a Path>,
    /// Signals that the caller holds back: one that comes before the program runs and asks to end ends the start.
    pub attention: Option<&'a Attention>,
}

/// Where a program's standard streams are.
#[derive(Debug, Clone, Copy)]
pub enum Streams<'a> {
    /// Input, output and error of the caller, where the spec asks for no terminal. They are inherited: nobody copies
    /// what goes through them. A terminal is the caller's to [relay](crate::terminal).
    Given([BorrowedFd<'a>; 3]),
    /// With the supervisor: for a log, and for who attaches.
    Held {
        /// Input is kept open for who attaches; otherwise it is empty.
        stdin: bool,
        /// The directory of the log, and how much of it is kept.
        log: Option<(BorrowedFd<'a>, Limits)>,
        /// The caller is attached from the first.
        attach: Option<&'a Ends>,
    },
}

/// Why a container was not started. Nothing of it runs then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The helper program could not be started.
    #[error("helper program {}: {source}", program.display())]
    Helper {
        /// The program.
        program: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The supervisor ended, or said what is not understood.
    #[error("the supervisor of {} did not answer: {source}", bundle.display())]
    Supervisor {
        /// The container's bundle.
        bundle: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The container could not be made as its configuration wants it.
    #[error("{message}")]
    Setup {
        /// What failed, in one line.
        message: String,
        /// What of the container it concerns.
        concern: Concern,
    },
    /// Its program is there and cannot be run.
    #[error("{0}")]
    CannotRun(String),
    /// Its program is not there.
    #[error("{0}")]
    NotFound(String),
}

impl StartError {
    /// The exit code that tells the cause, as the peers have it: 125, 126 or 127.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::CannotRun(_) => CANNOT_RUN,
            StartError::NotFound(_) => NOT_FOUND,
            _ => FAILED,
        }
    }
}

impl Streams<'_> {
    /// What is asked of the supervisor, and the descriptors beside it.
    fn order(&self) -> (Option<Hold>, Vec<BorrowedFd<'_>>) {
        match self {
            Streams::Given(stdio) => (None, stdio.to_vec()),
            Streams::Held { stdin, log, attach } => {
                let hold = Hold {
                    stdin: *stdin,
                    log: log.map(|(_, limits)| limits),
                    attach: attach.map(|ends| ends.typed()),
                };
                let fds = log.map(|(dir, _)| dir).into_iter();
                (
                    Some(hold),
                    fds.chain(attach.iter().flat_map(|ends| ends.fds())).collect(),
                )
            }
        }
    }
}

/// A container that runs, or one more program in it, as the one who started it has it. Dropping it leaves that running.
#[derive(Debug)]
pub struct Running {
    pid: i32,
    console: Option<OwnedFd>,
    connection: Connection,
    /// Of one that the caller started.
    supervisor: Option<Child>,
    exit: Option<Exit>,
}

/// Starts the container of a bundle; returns when its program was executed.
pub fn start(request: &StartRequest<'_>) -> Result<Running, StartError> {
    summon(request.helper, request.bundle)?.start(request)
}

/// A supervisor that waits to be told to start. Dropped before, it leaves.
#[derive(Debug)]
pub struct Summoned {
    /// Present until it is told.
    parts: Option<(Connection, Child)>,
    /// The copy of the helper's mount. To close it is to unmount it, which waits until all processors have noticed
    /// (`synchronize_rcu`): that is done when nobody waits for us.
    _program: OwnedFd,
}

/// Makes the supervisor of a bundle, which need not exist yet: what takes a program a while to begin with goes on
/// beside what the caller still has to prepare.
pub fn summon(helper: &Helper, bundle: &Path) -> Result<Summoned, StartError> {
    let helper_error = |source| StartError::Helper {
        program: helper.program.clone(),
        source,
    };
    let lost = |source| StartError::Supervisor {
        bundle: bundle.to_path_buf(),
        source,
    };
    let bundle = std::path::absolute(bundle).map_err(lost)?;
    let (ours, theirs) = sys::socket::pair().map_err(lost)?;
    let program = read_only_copy(&helper.program).map_err(helper_error)?;
    let supervisor = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
        .arg0(&helper.program)
        .args(&helper.args)
        .arg(&bundle)
        .env_clear()
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .map_err(helper_error)?;
    Ok(Summoned {
        parts: Some((Connection::from_socket(ours), supervisor)),
        _program: program,
    })
}

impl Drop for Summoned {
    fn drop(&mut self) {
        if let Some((connection, mut supervisor)) = self.parts.take() {
            drop(connection);
            let _ = supervisor.wait();
        }
    }
}

impl Summoned {
    /// Tells it to start the container; returns when the container's program was executed.
    pub fn start(mut self, request: &StartRequest<'_>) -> Result<Running, StartError> {
        match self.parts.take() {
            Some((connection, supervisor)) => tell(connection, supervisor, request),
            // They are taken here and when it is dropped, and both end it.
            None => Err(StartError::Supervisor {
                bundle: request.bundle.to_path_buf(),
                source: io::ErrorKind::BrokenPipe.into(),
            }),
        }
    }
}

fn tell(
    connection: Connection,
    supervisor: Child,
    request: &StartRequest<'_>,
) -> Result<Running, StartError> {
    let (hold, fds) = request.streams.order();
    let order = Request::Start {
        size: request.size,
        runtime: request.runtime.map(Path::to_path_buf),
        cleanup: request.cleanup.clone(),
        hold,
        restart: request.restart,
        about: request.about.clone(),
        health: request.health,
        pidfile: request.pidfile.map(Path::to_path_buf),
    };
    let mut running = Running::of(connection);
    running.supervisor = Some(supervisor);
    for fds in request.keep.chunks(sys::socket::MAX_FDS) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let kept = running.connection.send(&Request::Keep, &fds);
        kept.map_err(|source| StartError::Supervisor {
            bundle: request.bundle.to_path_buf(),
            source,
        })?;
    }
    match running.order(&order, &fds, request.attention, request.bundle) {
        Ok(()) => Ok(running),
        Err(failure) => {
            // It leaves by itself, and then nothing of the container is left.
            let _ = running.finish();
            Err(failure)
        }
    }
}

/// Makes sure that the calling program is executed from where nobody can write to it: where it is not, it goes on from such a
/// copy, or, where the kernel does not let it, [is executed again](execute_from_a_copy) from there with `words`, its own
/// arguments (the name first). To be called by a program that becomes a container's process without the help of a
/// supervisor: where it [can leave later](can_leave_later) by the launcher, when a process is made; else before anything
/// that would have to be undone.
///
/// # Errors
/// The copy cannot be made.
pub fn leave_the_disk(words: impl IntoIterator<Item = OsString>) -> io::Result<()> {
    match is_left()? || leave_now().is_ok() {
        true => Ok(()),
        false => Err(execute_from_a_copy(words)),
    }
}

/// Executes the calling program again from a copy that nobody can write to; what comes back is why that could not be. It is to
/// hold what it was started with: descriptors, and the signals that it listens to.
pub fn execute_from_a_copy(words: impl IntoIterator<Item = OsString>) -> io::Error {
    let own = Path::new("/proc/self/exe");
    let copy = match read_only_copy(own) {
        // Mounts are no business of an ordinary user's.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => sealed_copy(own),
        other => other,
    };
    let copy = match copy {
        Ok(copy) => copy,
        Err(error) => return error,
    };
    let mut words = words.into_iter();
    let mut command = Command::new(format!("/proc/self/fd/{}", copy.as_raw_fd()));
    command.arg0(words.next().unwrap_or_default()).args(words);
    command.exec()
}

/// Whether the kernel has the means to do the same later, when a process is made and with nothing executed again: what it
/// costs falls then on code that has little left to do. Whether it succeeds, only that tells
/// ([`crate::oci::OciError::OnDisk`]).
pub fn can_leave_later() -> bool {
    sys::exe::can_be_replaced()
}

/// [`leave_the_disk`] where [`can_leave_later`].
pub(crate) fn leave_now() -> io::Result<()> {
    if !is_left()? {
        go_on_from(&read_only_copy(Path::new("/proc/self/exe"))?)?;
    }
    match is_left()? {
        true => Ok(()),
        false => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Whether nobody can write to what the calling program is executed from.
fn is_left() -> io::Result<bool> {
    let own = "/proc/self/exe";
    let flags = rustix::fs::statvfs(own)?.f_flag;
    if flags.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Ok(true);
    }
    let file = rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // A file that can have no seals answers with an error.
    Ok(rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SEALS)))
}

/// What keeps a file in memory as it is.
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::SHRINK)
    .union(SealFlags::GROW)
    .union(SealFlags::SEAL);

/// A copy of `program` in memory that nobody can change.
fn sealed_copy(program: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut copy = File::from(rustix::fs::memfd_create("strata", flags)?);
    io::copy(&mut File::open(program)?, &mut copy)?;
    rustix::fs::fcntl_add_seals(&copy, SEALS)?;
    Ok(copy.into())
}

/// Goes on from `copy` without executing it.
fn go_on_from(copy: &OwnedFd) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    sys::exe::replace(file.as_fd())
}

/// A detached read-only copy of the mount that `program` lies on, rooted at it.
fn read_only_copy(program: &Path) -> io::Result<OwnedFd> {
    let copy = sys::mount::clone_tree_at(program, false)?;
    let change = SetAttr {
        set: MountAttrFlags::MOUNT_ATTR_RDONLY.bits().into(),
        ..SetAttr::default()
    };
    sys::mount::set_attr(copy.as_fd(), false, change)?;
    Ok(copy)
}

impl Running {
    /// One that the supervisor at the other end of `connection` looks after.
    pub(crate) fn of(connection: Connection) -> Running {
        Running {
            pid: 0,
            console: None,
            connection,
            supervisor: None,
            exit: None,
        }
    }

    /// Gives the supervisor of `bundle` an order to start something, and waits until that runs.
    pub(crate) fn order(
        &mut self,
        order: &Request,
        fds: &[BorrowedFd<'_>],
        attention: Option<&Attention>,
        bundle: &Path,
    ) -> Result<(), StartError> {
        let lost = |source| StartError::Supervisor {
            bundle: bundle.to_path_buf(),
            source,
        };
        self.connection.send(order, fds).map_err(lost)?;
        if let Some(attention) = attention {
            attention.pass_on_until_answered(self).map_err(lost)?;
        }
        let Some((reply, mut fds)) = self.connection.receive::<Reply>().map_err(lost)? else {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        };
        match reply {
            Reply::Started { pid } => {
                self.pid = pid;
                self.console = fds.pop();
                Ok(())
            }
            Reply::Failed { code, message, .. } if code == CANNOT_RUN => Err(StartError::CannotRun(message)),
            Reply::Failed { code, message, .. } if code == NOT_FOUND => Err(StartError::NotFound(message)),
            Reply::Failed { message, concern, .. } => Err(StartError::Setup { message, concern }),
            Reply::Error { message } => Err(lost(io::Error::other(message))),
            _ => Err(lost(io::ErrorKind::InvalidData.into())),
        }
    }

    /// Number of the process in the caller's pid namespace.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The master of its terminal, where its spec asked for one.
    pub fn console(&self) -> Option<BorrowedFd<'_>> {
        self.console.as_ref().map(AsFd::as_fd)
    }

    /// Sends a signal to the process.
    pub fn kill(&self, signal: i32) -> io::Result<()> {
        self.connection.send(&Request::Kill { signal }, &[])
    }

    /// Waits until the container has ended, and tells how. Its supervisor may still be taking away what it left: see
    /// [`Running::finish`].
    pub fn wait(&mut self) -> io::Result<Exit> {
        loop {
            if let Some(exit) = self.take()? {
                return Ok(exit);
            }
        }
    }

    /// Takes the next word from the supervisor, for which it waits where the descriptor ([`AsFd`]) is not readable:
    /// how the container ended, once it has.
    pub fn take(&mut self) -> io::Result<Option<Exit>> {
        if self.exit.is_none() {
            match self.connection.receive::<Reply>()? {
                Some((Reply::Exited(exit), _)) => self.exit = Some(exit),
                // A signal that came when the container had just ended is refused, and that is all right.
                Some(_) => {}
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the supervisor is gone",
                    ));
                }
            }
        }
        Ok(self.exit.clone())
    }

    /// Asks the supervisor for something whose answer nobody waits for.
    pub(crate) fn ask(&self, request: &Request) -> io::Result<()> {
        self.connection.send(request, &[])
    }

    /// Waits until the supervisor that the caller started has left: nothing of the container is left then but its
    /// bundle. False where it did not leave by itself: then [`crate::end`] does what it no longer could.
    pub fn finish(mut self) -> io::Result<bool> {
        match &mut self.supervisor {
            Some(supervisor) => Ok(supervisor.wait()?.success()),
            None => Ok(true),
        }
    }
}

impl Attended for Running {
    fn console(&self) -> Option<BorrowedFd<'_>> {
        self.console()
    }

    fn kill(&self, signal: i32) -> io::Result<()> {
        self.kill(signal)
    }

    fn take(&mut self) -> io::Result<Option<Exit>> {
        self.take()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // A program that lives long collects no dead supervisors, where they are dead by now.
        if let Some(supervisor) = &mut self.supervisor {
            let _ = supervisor.try_wait();
        }
    }
}

impl AsFd for Running {
    /// Readable when the supervisor has said something: see [`Running::take`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
