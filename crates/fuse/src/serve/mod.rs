//! Workers that read requests and answer them.
//!
//! Each worker has its own descriptor of the connection, or its own ring, and its own buffers; it takes one request at a
//! time and answers it before it takes the next ([`worker`], [`ring`]). Where requests come through rings, one worker
//! still reads the device: what is forgotten is told there. They share the overlay, which is `Sync` and orders what
//! concerns the same names, the open [`handles`] and the [`backing`] files. Locks of this module are held for a moment
//! and never across a call of the overlay.
//!
//! Where calls take long, further threads read the device ([`long`]).
//!
//! Where somebody walks through directories, one more thread reads those that come next ([`ahead`]).
//!
//! A reply that the kernel no longer wants (its caller was killed meanwhile) is answered ENOENT; what it would have
//! handed out is taken back then.

mod ahead;
mod asker;
mod backing;
mod data;
mod dispatch;
mod handles;
mod listing;
mod long;
mod names;
mod ring;
mod worker;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use overlay::live::{FrontEnd, Overlay};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use crate::abi::InitFlags;
use crate::abi::reply::Timeouts;
use crate::session::{Session, SessionError, Wishes};
use ahead::Ahead;
use backing::Backings;
use handles::{Handles, Unopened};
use long::Helpers;
use ring::RingWorker;
use worker::Worker;

/// Name of the attribute by which the root tells who serves it; it is never listed.
pub const SERVER_ATTRIBUTE: &str = "security.strata.server";

/// The front end of an overlay that a [`Server`] serves, for its options.
pub fn front_end() -> Arc<dyn FrontEnd> {
    Arc::new(long::Caller)
}

/// How to serve.
#[derive(Debug, Clone)]
pub struct Config {
    /// How long the kernel may believe names and attributes. Nothing else changes the layers: a day is honest.
    pub timeout: Duration,
    /// Threads that read requests.
    pub workers: usize,
    /// Whether files of the writable layer may be passed through.
    pub passthrough: bool,
    /// Whether layers lie on a stacked file system.
    pub stacked: bool,
    /// Whether the kernel checks permissions.
    pub default_permissions: bool,
    /// Whether POSIX ACLs are left out.
    pub no_acl: bool,
    /// Whether extended attributes are left out: every call about them is answered EOPNOTSUPP.
    pub no_xattrs: bool,
    /// Value of [`SERVER_ATTRIBUTE`].
    pub identity: Vec<u8>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            timeout: Duration::from_secs(86_400),
            workers: std::thread::available_parallelism().map_or(2, |n| n.get().clamp(2, 8)),
            passthrough: true,
            stacked: false,
            default_permissions: true,
            no_acl: false,
            no_xattrs: false,
            identity: Vec::new(),
        }
    }
}

impl Config {
    /// What INIT is to agree on. `writable`: whether the overlay is.
    pub fn wishes(&self, writable: bool) -> Wishes {
        Wishes {
            passthrough: self.passthrough && writable,
            stacked: self.stacked,
            no_open: !writable,
            default_permissions: self.default_permissions,
            no_acl: self.no_acl,
            pairs: if self.workers > 1 { self.workers } else { 0 },
        }
    }
}

/// How serving ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The last user of the mount is gone, or the connection was aborted.
    Unmounted,
    /// The server was told to stop.
    Stopped,
}

/// How requests and answers travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Read from the device and written to it.
    Device,
    /// Through io_uring.
    IoUring,
}

/// What the workers share.
#[derive(Debug)]
struct Shared {
    overlay: Overlay,
    agreed: InitFlags,
    handles: Handles,
    unopened: Unopened,
    backings: Backings,
    ahead: Ahead,
    helpers: Helpers,
    /// For what is told to the kernel unasked.
    device: OwnedFd,
    timeouts: Timeouts,
    no_open: bool,
    no_acl: bool,
    no_xattrs: bool,
    identity: Vec<u8>,
    /// Whether workers stay awake for a while after an answer, one of them at a time.
    lingering: bool,
    /// Whether one does.
    awake: AtomicBool,
    /// Becomes readable when a worker has ended.
    ended: OwnedFd,
}

impl Shared {
    /// A worker ends: the connection has.
    fn end(&self) {
        self.ahead.end();
        let _ = rustix::io::write(&self.ended, &1u64.to_ne_bytes());
    }
}

/// A file system that is served.
#[derive(Debug)]
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<std::thread::JoinHandle<()>>,
    session: Session,
    transport: Transport,
}

impl Server {
    /// Starts the workers. They begin in the namespaces of the thread that calls this.
    pub fn start(mut session: Session, overlay: Overlay, config: &Config) -> Result<Server, SessionError> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let ended = eventfd(0, flags).map_err(|errno| SessionError::Greeting(errno.into()))?;
        let agreed = session.agreed();
        let no_open = !overlay.is_writable() && agreed.contains(InitFlags::NO_OPEN_SUPPORT);
        let rings = session.take_rings();
        let helped = rings.is_empty() && config.workers > 1;
        let device = session
            .device()
            .try_clone_to_owned()
            .map_err(SessionError::Device)?;
        let shared = Arc::new(Shared {
            overlay,
            agreed,
            handles: Handles::default(),
            unopened: Unopened::default(),
            backings: Backings::new(agreed.contains(InitFlags::PASSTHROUGH)),
            ahead: Ahead::default(),
            helpers: Helpers::new(helped.then_some(config.workers)),
            device,
            timeouts: Timeouts {
                entry: config.timeout,
                attr: config.timeout,
            },
            no_open,
            no_acl: config.no_acl,
            no_xattrs: config.no_xattrs,
            identity: config.identity.clone(),
            lingering: config.workers > 1,
            awake: AtomicBool::new(false),
            ended,
        });
        let mut server = Server {
            shared,
            threads: Vec::new(),
            session,
            transport: Transport::Device,
        };
        let (tell, registered) = std::sync::mpsc::channel();
        for seat in rings {
            let (worker, tell) = (RingWorker::new(seat, server.shared.clone()), tell.clone());
            server.spawn(move || worker.run(&tell))?;
        }
        drop(tell);
        let rings = server.threads.len();
        let mut readers = config.workers.max(1);
        if rings > 0 && registered.iter().take(rings).filter(|taken| *taken).count() == rings {
            server.transport = Transport::IoUring;
            readers = 1;
        }
        for number in 0..readers {
            let device = server.session.device();
            let device = match number {
                0 => device.try_clone_to_owned(),
                _ => sys::fuse::clone_device(device),
            };
            let mut worker = Worker::new(device.map_err(SessionError::Device)?, server.shared.clone());
            server.spawn(move || worker.run())?;
        }
        // With a single processor it would only take it from who walks.
        if config.workers > 1 && std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) {
            let shared = server.shared.clone();
            let reader = move || shared.ahead.run(&shared.overlay);
            server.spawn_as("read-ahead".to_owned(), reader)?;
        }
        Ok(server)
    }

    fn spawn(&mut self, run: impl FnOnce() + Send + 'static) -> Result<(), SessionError> {
        self.spawn_as(format!("fuse-{}", self.threads.len()), run)
    }

    fn spawn_as(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), SessionError> {
        let thread = std::thread::Builder::new().name(name).spawn(run);
        self.threads.push(thread.map_err(SessionError::Greeting)?);
        Ok(())
    }

    /// How requests travel.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// The session, to attach its mount.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Waits until the file system is no longer mounted, or `stop` becomes readable.
    pub fn wait(&self, stop: BorrowedFd<'_>) -> io::Result<End> {
        loop {
            let mut fds = [
                PollFd::new(&self.shared.ended, PollFlags::IN),
                PollFd::from_borrowed_fd(stop, PollFlags::IN),
            ];
            match poll(&mut fds, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let [ended, stop] = fds.map(|fd| !fd.revents().is_empty());
            if ended {
                return Ok(End::Unmounted);
            }
            if stop {
                return Ok(End::Stopped);
            }
        }
    }

    /// Waits at most `patience` for all workers to end, which they do once the file system is nowhere mounted or in
    /// use; whether they have.
    pub fn finish(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut fds = [PollFd::from_borrowed_fd(self.shared.ended.as_fd(), PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: patience.as_secs() as _,
            tv_nsec: patience.subsec_nanos() as _,
        };
        let _ = poll(&mut fds, Some(&timeout));
        while self.threads.iter().any(|thread| !thread.is_finished()) {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }
}
