//! A process that serves one file system, from its options to its end.
//!
//! It is independent of the one that started it: a session of its own, no inherited descriptor, no working directory.
//! Signals are held back and read from a descriptor; SIGTERM, SIGINT and SIGHUP unmount and end it.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay::live::{OpenError, Overlay};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags};
use rustix::process::{Resource, Rlimit, Signal};
use sys::caps;
use sys::signal::{Set, SignalFd};

use crate::layers::{self, LayerError, Opened, Paths};
use crate::namespace;
use crate::options::Options;
use crate::serve::{self, Config, End, Server, Transport};
use crate::session::{MountOptions, Session, SessionError};

/// What to serve, and where.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The directories.
    pub paths: Paths,
    /// The options.
    pub options: Options,
    /// Where it is mounted; an absolute path.
    pub target: PathBuf,
    /// Whether this process is somebody's command in the foreground, and stays in its mount namespace.
    pub foreground: bool,
    /// What the mount table names as its source.
    pub source: OsString,
    /// Type behind `fuse.` in the mount table.
    pub subtype: String,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A directory cannot be opened.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// The directories make no overlay.
    #[error("{}: {source}", path.display())]
    Overlay {
        /// The upper directory, or the topmost lower one.
        path: PathBuf,
        /// Why.
        source: OpenError,
    },
    /// The mount.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The process could not be made what it must be.
    #[error("becoming a file system's server: {0}")]
    Settle(#[source] io::Error),
}

/// How long users of other mount namespaces, and files still open, keep a server that is told to stop.
const PATIENCE: Duration = Duration::from_secs(2);

/// Serves until the file system is unmounted or a signal asks for the end. `ready` is called once it is
/// mounted.
///
/// Call it while the process has one thread: the signals it holds back are those of the threads made from here on.
pub fn serve(setup: &Setup, ready: impl FnOnce(Transport)) -> Result<(), ServeError> {
    sys::memory::one_heap();
    let signals = hold_signals().map_err(ServeError::Settle)?;
    raise_limits();
    keep_to_quotas().map_err(ServeError::Settle)?;
    let Opened {
        layers,
        stacked,
        mounts,
    } = layers::open(&setup.paths)?;
    let mut rules = setup.options.rules.clone();
    rules.front_end = Some(serve::front_end());
    let overlay = Overlay::new(layers, rules).map_err(|source| {
        let upper = setup.paths.writable.as_ref().map(|(upper, _)| upper);
        let path = upper.or(setup.paths.lower.first()).cloned().unwrap_or_default();
        ServeError::Overlay { path, source }
    })?;
    let mut config = Config {
        timeout: setup.options.timeout,
        stacked,
        default_permissions: setup.options.default_permissions,
        no_acl: setup.options.no_acl,
        no_xattrs: setup.options.no_xattrs,
        identity: identity(overlay.is_writable()),
        ..Config::default()
    };
    if let Some(workers) = setup.options.workers {
        config.workers = workers;
    }
    let mount_options = MountOptions {
        source: setup.source.clone(),
        subtype: setup.subtype.clone(),
        attributes: setup.options.attributes,
        read_only: setup.options.read_only() || !overlay.is_writable(),
        allow_other: setup.options.allow_other,
        default_permissions: setup.options.default_permissions,
        labels: setup.options.labels.clone(),
    };
    let wishes = config.wishes(overlay.is_writable());
    let session = Session::mount(&mount_options, wishes, &setup.target)?;
    let leave = || {
        if setup.foreground {
            None
        } else {
            namespace::leave()
        }
    };
    // The workers begin where their maker is, which is not where this thread has yet to attach the mount.
    let start = || {
        leave();
        Server::start(session, overlay, &config)
    };
    let started = std::thread::scope(|scope| scope.spawn(start).join());
    let mut server = started.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    let device = server.session().attach(&setup.target)?;
    let home = leave();
    // Before the answer: whoever heard it may look at what this process takes.
    sys::memory::release_program();
    ready(server.transport());
    let end = until_end(&server, &signals).map_err(ServeError::Settle)?;
    if end == End::Stopped {
        if let Some(home) = home {
            namespace::return_to(&home);
        }
        unmount(&setup.target, device);
    }
    // Others may see the mount in namespaces of their own. They lose it with this process; a caller that waits for an
    // answer gets it first.
    server.finish(PATIENCE);
    drop(mounts);
    Ok(())
}

fn hold_signals() -> io::Result<SignalFd> {
    sys::signal::set_mask(Set::full())?;
    SignalFd::new(Set::full())
}

fn until_end(server: &Server, signals: &SignalFd) -> io::Result<End> {
    loop {
        if server.wait(signals.as_fd())? == End::Unmounted {
            return Ok(End::Unmounted);
        }
        while let Some(received) = signals.read()? {
            let ends = [Signal::TERM, Signal::INT, Signal::HUP].map(Signal::as_raw);
            if ends.contains(&received.signal) {
                return Ok(End::Stopped);
            }
        }
    }
}

/// Unmounts the file system where it was mounted.
fn unmount(target: &Path, device: u64) {
    while device_at(target) == Some(device) {
        if sys::mount::detach_at(target).is_err() {
            break;
        }
    }
}

/// Device of the file system at `path`, without asking that file system: its server may be this one.
fn device_at(path: &Path) -> Option<u64> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let status = rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE).ok()?;
    Some(rustix::fs::makedev(status.stx_dev_major, status.stx_dev_minor))
}

/// Every directory and file in use takes a descriptor; writes are limited for the caller, not for the server.
fn raise_limits() {
    let files = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: files.maximum,
        maximum: files.maximum,
    };
    // What is not permitted stays as it is.
    let _ = rustix::process::setrlimit(Resource::Nofile, raised);
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let _ = rustix::process::setrlimit(Resource::Fsize, unlimited);
    if let Ok(score) = rustix::fs::open(
        "/proc/self/oom_score_adj",
        OFlags::WRONLY | OFlags::CLOEXEC,
        Mode::empty(),
    ) {
        // Everything that runs on the file system dies with its server.
        let _ = rustix::io::write(&score, b"-900");
    }
}

/// As the kernel's overlay, what is written here passes no quota, and takes nothing of what a file system keeps for root.
fn keep_to_quotas() -> io::Result<()> {
    let mut sets = caps::current()?;
    let beyond = caps::Set::named("SYS_RESOURCE").unwrap_or(caps::Set::EMPTY);
    for set in [
        &mut sets.effective,
        &mut sets.permitted,
        &mut sets.inheritable,
        &mut sets.ambient,
    ] {
        *set = set.without(beyond);
    }
    caps::set(&sets)
}

/// Process id and start time, which tell this process from any other that ever has its number; and whether what it serves
/// can never be written.
fn identity(writable: bool) -> Vec<u8> {
    let pid = rustix::process::getpid().as_raw_nonzero();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let kind = if writable { "" } else { " read-only" };
    match start_time(&stat) {
        Some(start) => format!("{pid} {start}{kind}").into_bytes(),
        None => Vec::new(),
    }
}

/// Field 22 of `/proc/PID/stat`. The second, the command's name, may hold anything; a parenthesis ends it.
fn start_time(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// Makes this process independent of the one that started it.
pub fn settle() -> io::Result<()> {
    sys::fd::close_inherited()?;
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"strata-fuse")?;
    rustix::process::umask(Mode::empty());
    rustix::process::chdir("/")?;
    Ok(())
}

/// Lets go of the standard streams, for whoever waits for their end.
pub fn leave_streams() -> io::Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 0";
        assert_eq!(start_time(stat), Some(4242));
        assert!(identity(true).starts_with(std::process::id().to_string().as_bytes()));
    }
}
