//! [`Server`]: takes connections, and what a [`Service`] is told.

mod connection;
mod line;
mod pool;
mod sender;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::status::{Code, Status};
use line::{Line, Watch, Watcher};
use pool::Pool;
use sender::Sender;

/// What is served: it answers calls, each on a thread that may block.
pub trait Service: Send + Sync + 'static {
    /// Which threads a call is for, by its path (`/package.Service/Method`).
    fn lane(&self, path: &str) -> Lane;

    /// Answers a call: its messages go to `reply`, one after the other. May take as long as it takes: who called is
    /// answered when the time is over, and what is done here goes on.
    ///
    /// # Errors
    /// How it ended, where not well.
    fn call(&self, call: &Call, reply: &mut Reply<'_>) -> Result<(), Status>;

    /// What a call may take, by its path; `usual` is [`Limits::time`].
    fn time(&self, _path: &str, usual: Duration) -> Duration {
        usual
    }

    /// A call was answered.
    fn ended(&self, _ended: &Ended<'_>) {}
}

/// Threads that calls are answered on. What only reads never waits for those that write, nor either for what walks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// For calls that are answered in a moment, as a rule, with one small message: whoever reads them does so, which spares
    /// waking somebody else. Where one takes longer nothing waits for it.
    Look,
    /// For calls that read.
    Read,
    /// For calls that write.
    Write,
    /// For calls that take as long as somebody else's data is large, and that nobody needs soon.
    Walk,
}

/// A call.
#[derive(Debug)]
pub struct Call {
    /// `/package.Service/Method`.
    pub path: String,
    /// What was sent along, names in lower case.
    pub metadata: Vec<(String, String)>,
    /// The message.
    pub message: Vec<u8>,
    /// When its time is over.
    pub deadline: Instant,
}

impl Call {
    /// What was sent along by this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.metadata.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_str())
    }
}

/// How a call was answered.
#[derive(Debug)]
pub struct Ended<'a> {
    /// Its path.
    pub path: &'a str,
    /// What was answered.
    pub code: Code,
    /// How long that took, from the call's headers.
    pub took: Duration,
}

/// Whoever called is not there any more, or was told that the time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// Where the messages of an answer go.
pub struct Reply<'a> {
    sender: &'a Sender,
    stream: u32,
    deadline: Instant,
    /// The last is held until the next or the end, which then goes out with it.
    held: Option<Vec<u8>>,
}

impl Reply<'_> {
    /// Sends a message.
    ///
    /// # Errors
    /// Nobody is there to take it: the call may be given up.
    pub fn send(&mut self, message: Vec<u8>) -> Result<(), Gone> {
        match self.held.replace(message) {
            Some(before) => self.sender.message(self.stream, &before, self.deadline),
            None => Ok(()),
        }
    }
}

/// What is bounded.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Threads for calls that read; and calls that may be answered at once by whoever read them.
    pub readers: usize,
    /// Threads for calls that write.
    pub writers: usize,
    /// Threads for calls that walk.
    pub walkers: usize,
    /// Calls of each lane that wait for a thread; a further one is refused.
    pub queue: usize,
    /// Connections; for a further one that is closed on which there was no call for the longest, or, where there are
    /// calls on all, the further one.
    pub connections: usize,
    /// Calls at once on one connection; a client waits by itself before it makes more.
    pub streams: usize,
    /// Bytes of a message that is received.
    pub message: usize,
    /// What a call may take from its headers on, waiting for a thread included, where the client grants no less.
    pub time: Duration,
    /// How long a client may grant no room at all to an answer: the thread that waits for it is one of few.
    pub room: Duration,
    /// What calls under way may still take once the server is told to stop: no longer than their own time lets them, and
    /// those that walk no longer than `time`.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            readers: 4,
            writers: 12,
            walkers: 3,
            queue: 256,
            connections: 32,
            streams: 64,
            message: 1 << 20,
            time: Duration::from_secs(30),
            room: Duration::from_secs(2),
            drain: Duration::from_secs(20),
        }
    }
}

/// How often whoever started a server is told that it still waits.
const BEAT: Duration = Duration::from_secs(1);

/// How long clients that were answered have to leave.
const PARTING: Duration = Duration::from_secs(1);

/// Serves one service to any number of clients.
pub struct Server {
    shared: Arc<Shared>,
}

/// What connections and threads share.
struct Shared {
    service: Arc<dyn Service>,
    limits: Limits,
    pool: Pool,
    watch: Watch,
}

impl Shared {
    /// Ends a call, once: what comes later finds it ended.
    fn end(
        &self,
        sender: &Sender,
        stream: u32,
        path: &str,
        began: Instant,
        message: Option<&[u8]>,
        status: &Status,
    ) {
        if let Some(code) = sender.finish(stream, message, status, began + self.limits.time) {
            self.service.ended(&Ended {
                path,
                code,
                took: began.elapsed(),
            });
        }
    }
}

/// A connection that is served.
struct Served {
    line: Arc<Line>,
    /// What the [`Watcher`] saw there last.
    seen: u64,
}

impl Server {
    /// A server of `service`. Its threads are there from now on.
    ///
    /// # Errors
    /// A thread cannot be made.
    pub fn new(service: Arc<dyn Service>, limits: Limits) -> io::Result<Server> {
        let shared = Arc::new(Shared {
            pool: Pool::new(limits.queue),
            watch: Watch::new()?,
            service,
            limits,
        });
        pool::start(&shared)?;
        Ok(Server { shared })
    }

    /// Takes connections until `stop` can be read. Then no further call is taken, those under way are finished as far
    /// as [`Limits::drain`] lets them, and the connections closed. `ends` is called when that begins, and each second that it
    /// takes.
    ///
    /// # Errors
    /// The listener fails.
    pub fn serve(&self, listener: &UnixListener, stop: impl AsFd, ends: impl FnMut()) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let mut served: Vec<Served> = Vec::new();
        let mut watcher = Watcher::new(&self.shared);
        let result = loop {
            let woken = wait(listener, &stop, &self.shared.watch, watcher.left());
            watcher.look(served.iter_mut().map(|served| (&served.line, &mut served.seen)));
            match woken {
                Ok(Woken::Client) => {}
                Ok(Woken::Watch) => continue,
                Ok(Woken::Stop) => break Ok(()),
                Err(error) => break Err(error),
            }
            served.retain(|served| !served.line.sender.is_unheard());
            match listener.accept() {
                // One too many is told so by the end of its connection: it has not asked anything yet.
                Ok(_) if served.len() >= self.shared.limits.connections && !make_room(&mut served) => {}
                Ok((socket, _)) => served.extend(self.connection(socket)),
                Err(error) if is_passing(&error) => {}
                Err(error) => break Err(error),
            }
        };
        self.drain(&served, ends);
        result
    }

    /// `None` where the machine has no room for another.
    fn connection(&self, socket: UnixStream) -> Option<Served> {
        let sender = Arc::new(Sender::new(socket.try_clone().ok()?, self.shared.limits.room));
        let line = Arc::new(Line::new(&self.shared, sender, socket));
        let read = line.clone();
        thread("connection", move || read.read()).ok()?;
        Some(Served { line, seen: 0 })
    }

    /// Each connection has a thread of its own: one client that takes nothing keeps no other waiting.
    fn drain(&self, served: &[Served], mut ends: impl FnMut()) {
        let until = Instant::now() + self.shared.limits.drain;
        let (parts, parted) = channel::<()>();
        std::thread::scope(|scope| {
            for Served { line, .. } in served {
                let (sender, part) = (&line.sender, parts.clone());
                let leave = move || {
                    sender.go_away();
                    sender.wait_idle(until);
                    sender.wait_left(Instant::now() + PARTING);
                };
                let own = std::thread::Builder::new().stack_size(STACK);
                let left = own.spawn_scoped(scope, move || {
                    leave();
                    drop(part);
                });
                if left.is_err() {
                    leave();
                }
            }
            drop(parts);
            ends();
            while parted.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                ends();
            }
        });
        self.shared.pool.stop();
    }
}

/// Ends the connection that had no call for the longest; whether there was one.
fn make_room(served: &mut Vec<Served>) -> bool {
    let idle = (0..served.len()).filter_map(|at| Some((served[at].line.sender.idle_since()?, at)));
    match idle.min() {
        Some((_, at)) if served[at].line.sender.give_way() => {
            served.swap_remove(at);
            true
        }
        _ => false,
    }
}

/// Waits until something can be read from `fd`, or written to it.
///
/// # Errors
/// `TimedOut`, whatever there is, once it is `until`.
fn ready(fd: &impl AsFd, what: PollFlags, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(fd, what)], Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Why the thread that takes connections was woken.
enum Woken {
    Client,
    Watch,
    Stop,
}

/// Waits for a connection, for the end, or until it is time to look after calls.
fn wait(
    listener: &UnixListener,
    stop: &impl AsFd,
    watch: &Watch,
    left: Option<Duration>,
) -> io::Result<Woken> {
    // The bell rings once for all the time in which it is looked after calls.
    let bell = match left {
        None => PollFlags::IN,
        Some(_) => PollFlags::empty(),
    };
    let left = left.and_then(|left| Timespec::try_from(left).ok());
    let mut fds = [
        PollFd::new(listener, PollFlags::IN),
        PollFd::new(stop, PollFlags::IN),
        PollFd::new(watch, bell),
    ];
    loop {
        match poll(&mut fds, left.as_ref()) {
            Ok(_) if !fds[1].revents().is_empty() => return Ok(Woken::Stop),
            Ok(_) if !fds[0].revents().is_empty() => return Ok(Woken::Client),
            Ok(_) => return Ok(Woken::Watch),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a failed accept says nothing about the next: the client has left, or the machine is short of something.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let short = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
    match Errno::from_io_error(error) {
        Some(errno) if short.contains(&errno) => {
            // The connection waits meanwhile, and with it the listener stays readable.
            std::thread::sleep(Duration::from_millis(50));
            true
        }
        Some(errno) => [Errno::AGAIN, Errno::CONNABORTED, Errno::INTR].contains(&errno),
        None => false,
    }
}

/// Bytes of a thread's stack: nothing here is deep, and what is not touched takes no memory.
const STACK: usize = 512 * 1024;

/// Starts a thread.
fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .stack_size(STACK)
        .spawn(body)
}

#[cfg(test)]
mod tests;
