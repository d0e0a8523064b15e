//! The supervisor's loop, from the start of a container's program to its end.

use std::os::fd::{AsFd, OwnedFd};

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, Signal, WaitOptions};
use sys::signal::SignalFd;

use super::events::Told;
use super::execs::{Execs, Place, Source};
use super::health::Watch;
use super::stop::Stop;
use super::streams::{Ends, Streams, Watched};
use crate::control::{Connection, Reply, Request, Restart};
use crate::launch::{During, Fault, Result};
use crate::state::Exit;

/// More connections at once are turned away as they come.
const MAX_CLIENTS: usize = 256;

/// When to try again where no connection can be accepted for want of descriptors.
const LATER: Duration = Duration::from_millis(100);

/// A container's process, and what is needed to look after it.
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// The master of its terminal.
    pub(super) console: Option<OwnedFd>,
    /// Its other end, so that a program may close the terminal and open it again: without anybody who has it open, the
    /// master says that it is over.
    _terminal: Option<OwnedFd>,
}

impl Running {
    pub(super) fn new(pid: i32, pidfd: OwnedFd, console: Option<OwnedFd>) -> Running {
        Running {
            pid,
            pidfd,
            _terminal: console
                .as_ref()
                .and_then(|console| sys::pty::peer(console.as_fd()).ok()),
            console,
        }
    }
}

/// The number of the connection of the one who asked for the container.
pub(super) const OWNER: u64 = 0;

/// How the container's first process ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) code: u8,
    pub(super) signal: Option<i32>,
}

impl End {
    /// By SIGKILL.
    pub(super) const KILLED: End = End {
        code: 137,
        signal: Some(9),
    };
}

struct Client {
    /// No two connections have the same.
    number: u64,
    connection: Connection,
    /// Wants to be told of the end.
    waits: bool,
    /// Wants the processes to stand still.
    pauses: bool,
}

pub(super) struct Serving<'a> {
    /// Where others connect.
    listener: OwnedFd,
    running: Option<Running>,
    /// Those that are held here.
    streams: Option<Box<Streams>>,
    /// Programs that came later.
    execs: Execs<'a>,
    /// How the container is, where somebody wants to know.
    pub(super) watch: Option<Watch>,
    signals: &'a SignalFd,
    told: &'a Told,
    clients: Vec<Client>,
    /// How many clients there have been.
    numbered: u64,
    /// Somebody waits to be accepted, for want of descriptors.
    full: bool,
    /// Nobody had the terminal open when it was last looked at.
    hung_up: bool,
    /// Somebody wants it to end, and not to be started again.
    stopped: bool,
    /// When it is ended, if it does not heed the signal that asked it to.
    ends: Option<Instant>,
    /// Somebody wants it to be started again by this.
    policy: Option<Restart>,
}

/// What a wait found.
#[derive(Default)]
struct Ready {
    /// Somebody connects.
    accept: bool,
    /// The terminal printed what nobody reads.
    printed: bool,
    /// Clients that have something to say, by their place.
    clients: Vec<usize>,
    streams: Vec<Watched>,
    execs: Vec<Source>,
}

/// What becomes of a client after what it said.
enum Next {
    Stays,
    Leaves,
    /// It is that of one more program from now on: the size of its window, and what came with the request.
    Executes(Option<(u16, u16)>, Vec<OwnedFd>),
}

impl<'a> Serving<'a> {
    pub(super) fn new(
        listener: OwnedFd,
        streams: Option<Box<Streams>>,
        owner: Connection,
        signals: &'a SignalFd,
        told: &'a Told,
    ) -> Result<Serving<'a>> {
        // A client that does not read must not hold everybody up.
        rustix::io::ioctl_fionbio(&owner, true).during(|| "the start connection".into())?;
        Ok(Serving {
            listener,
            running: None,
            streams,
            execs: Execs::new(told),
            told,
            watch: None,
            signals,
            clients: vec![Client {
                number: OWNER,
                connection: owner,
                waits: true,
                pauses: false,
            }],
            numbered: OWNER,
            full: false,
            hung_up: false,
            stopped: false,
            ends: None,
            policy: None,
        })
    }

    /// Somebody wants it to end, and not to be started again.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// The policy of new starts, where somebody has set another one since this was asked last.
    pub(super) fn take_policy(&mut self) -> Option<Restart> {
        self.policy.take()
    }

    /// For a new start.
    pub(super) fn take_streams(&mut self) -> Option<Box<Streams>> {
        self.streams.take()
    }

    /// After it.
    pub(super) fn give_streams(&mut self, streams: Option<Box<Streams>>) {
        self.streams = streams;
    }

    /// Passes on what was printed last.
    pub(super) fn finish_streams(&mut self) {
        if let Some(streams) = &mut self.streams {
            streams.finish();
        }
    }

    /// Serves until the container's first process has ended and is reaped.
    pub(super) fn until_end(&mut self, running: Running, place: Place<'_>) -> Result<End> {
        self.running = Some(running);
        // What was signalled during the launch has been read already.
        let mut end = self.reap()?;
        while end.is_none() {
            end = self.take_signals(Some(place))?;
            if end.is_none() {
                let time = self.watch.as_ref().and_then(Watch::time);
                let left = self
                    .ends
                    .map(|ends| ends.saturating_duration_since(Instant::now()));
                if left.is_some_and(|left| left.is_zero()) {
                    self.ends = None;
                    let _ = self.signal(Signal::KILL.as_raw());
                }
                let ready = self.wait(time.into_iter().chain(left).min())?;
                self.serve_all(ready, Some(place));
                if let (Some(watch), Some(running)) = (&mut self.watch, &self.running) {
                    watch.act(place, &mut self.execs, running.pidfd.as_fd());
                }
            }
        }
        self.running = None;
        self.watch = None;
        self.ends = None;
        end.ok_or_else(|| Fault::new("the container's process has no end"))
    }

    /// Serves for as long as the pause lasts before the next start; false where somebody wants none.
    pub(super) fn rest(&mut self, pause: Duration) -> Result<bool> {
        let until = Instant::now() + pause;
        loop {
            self.take_signals(None)?;
            if self.stopped {
                return Ok(false);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            let ready = self.wait(Some(left))?;
            self.serve_all(ready, None);
        }
    }

    /// Waits for something to do, or for the time to pass.
    fn wait(&self, time: Option<Duration>) -> Result<Ready> {
        let console = self.running.as_ref().and_then(|running| running.console.as_ref());
        // One that is held is among the streams.
        let console = console.filter(|_| self.streams.is_none() && !self.has_owner() && !self.hung_up);
        let streams = self
            .streams
            .as_ref()
            .map(|streams| streams.interests())
            .unwrap_or_default();
        let mut fds = vec![
            PollFd::new(self.signals, PollFlags::IN),
            // One who cannot be accepted now would be told of without end.
            PollFd::new(
                &self.listener,
                match self.full {
                    true => PollFlags::empty(),
                    false => PollFlags::IN,
                },
            ),
        ];
        let time = match self.full {
            true => Some(time.map_or(LATER, |time| time.min(LATER))),
            false => time,
        };
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(&client.connection, PollFlags::IN)),
        );
        fds.extend(
            streams
                .iter()
                .map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)),
        );
        let execs: Vec<_> = self.execs.watched().collect();
        fds.extend(
            execs
                .iter()
                .map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)),
        );
        fds.extend(console.map(|console| PollFd::new(console, PollFlags::IN)));
        // What is heard of a check is looked at in any case.
        let checks = self.watch.iter().flat_map(Watch::watched);
        fds.extend(checks.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        let time = time.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        rustix::event::poll(&mut fds, time.as_ref()).during(|| "waiting".into())?;
        let mut raised = fds.iter().map(|fd| !fd.revents().is_empty()).skip(1);
        let mut next = || raised.next().unwrap_or(false);
        Ok(Ready {
            accept: next(),
            clients: (0..self.clients.len()).filter(|_| next()).collect(),
            streams: streams
                .iter()
                .map(|(watched, ..)| *watched)
                .filter(|_| next())
                .collect(),
            execs: execs
                .iter()
                .map(|(source, _)| *source)
                .filter(|_| next())
                .collect(),
            printed: console.is_some() && next(),
        })
    }

    /// Does what there is to do. Programs can be executed in the container at this `place`; none where it does not run.
    fn serve_all(&mut self, ready: Ready, place: Option<Place<'_>>) {
        if ready.printed {
            self.drop_output();
        }
        if let Some(streams) = &mut self.streams {
            for watched in ready.streams {
                streams.serve(watched);
            }
        }
        for source in ready.execs {
            self.execs.attend(source);
        }
        // From the last, so that removing one moves none that is still to be looked at.
        for index in ready.clients.into_iter().rev() {
            let next = self.serve(index, place);
            if matches!(next, Next::Stays) {
                continue;
            }
            let gone = self.clients.swap_remove(index);
            if gone.pauses {
                // What ended meanwhile has nothing to let go on.
                let _ = self.hold_still(place);
            }
            if let Some(streams) = &mut self.streams {
                streams.leave(gone.number);
            }
            if let Next::Executes(size, fds) = next {
                self.execute(place, gone.connection, size, fds);
            }
        }
        if ready.accept || self.full {
            self.accept();
        }
    }

    fn execute(
        &mut self,
        place: Option<Place<'_>>,
        client: Connection,
        size: Option<(u16, u16)>,
        fds: Vec<OwnedFd>,
    ) {
        if let (Some(place), Some(running)) = (place, &self.running) {
            self.execs
                .begin(place, running.pidfd.as_fd(), client, size, fds, false);
        } else {
            let message = "the container does not run".to_owned();
            // Who does not listen is told no more.
            let _ = client.send(&Reply::Error { message }, &[]);
        }
    }

    fn accept(&mut self) {
        let accepted = sys::socket::accept(self.listener.as_fd());
        self.full = accepted.is_err();
        let Ok(Some(socket)) = accepted else { return };
        let connection = Connection::from_socket(socket);
        if self.clients.len() + self.execs.len() < MAX_CLIENTS {
            self.numbered += 1;
            self.clients.push(Client {
                number: self.numbered,
                connection,
                waits: false,
                pauses: false,
            });
        } else {
            let message = format!("{MAX_CLIENTS} others are connected already");
            // One that has not said anything yet hears this as the answer.
            let _ = connection.send(&Reply::Error { message }, &[]);
        }
    }

    fn has_owner(&self) -> bool {
        self.clients.iter().any(|client| client.number == OWNER)
    }

    /// Reads what the terminal printed when nobody is left to read it: a program must not stand still for that.
    fn drop_output(&mut self) {
        let mut buffer = [0; 4096];
        if let Some(console) = self.running.as_ref().and_then(|running| running.console.as_ref()) {
            self.hung_up = !matches!(rustix::io::read(console, &mut buffer), Ok(length) if length > 0);
        }
    }

    /// `place` is where the container runs, if it does.
    fn take_signals(&mut self, place: Option<Place<'_>>) -> Result<Option<End>> {
        let mut end = None;
        while let Some(received) = self.signals.read().during(|| "reading signals".into())? {
            if received.signal == Signal::CHILD.as_raw() {
                end = end.or(self.reap()?);
            } else if received.signal == Signal::TERM.as_raw() {
                // The machine goes down, or somebody wants it to: then nothing is started again.
                self.stopped = true;
                if let Some(place) = place {
                    let stop = Stop::of(place.bundle);
                    self.ends = self.ends.or(stop.until());
                    let _ = self.signal(stop.signal);
                }
            } else if received.signal != Signal::PIPE.as_raw() {
                let _ = self.signal(received.signal);
            }
        }
        Ok(end)
    }

    fn signal(&self, signal: i32) -> std::io::Result<()> {
        match &self.running {
            Some(running) => sys::process::send_signal(running.pidfd.as_fd(), signal),
            None => Err(std::io::Error::other("the container does not run")),
        }
    }

    /// Reaps whatever has ended; how the container's process did, if it is among them.
    fn reap(&mut self) -> Result<Option<End>> {
        let mut end = None;
        let own = self
            .running
            .as_ref()
            .and_then(|running| Pid::from_raw(running.pid));
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let signal = status.terminating_signal();
                    let code = status
                        .exit_status()
                        .or(signal.map(|signal| 128 + signal))
                        .unwrap_or(255);
                    let how = End {
                        code: u8::try_from(code).unwrap_or(255),
                        signal,
                    };
                    if Some(pid) == own {
                        end = Some(how);
                    } else {
                        self.execs.ended(pid.as_raw_nonzero().get(), how);
                    }
                }
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(end),
                Err(error) => return Err(error).during(|| "reaping".into()),
            }
        }
    }

    /// Answers one request, but for one to execute something.
    fn serve(&mut self, index: usize, place: Option<Place<'_>>) -> Next {
        let client = &self.clients[index];
        let about_container = client.waits || client.number == OWNER;
        let reply = match client.connection.receive::<Request>() {
            Ok(Some((Request::Exec { size }, fds))) if !about_container => return Next::Executes(size, fds),
            Ok(Some((request, fds))) => self.answer(index, request, fds, place),
            Ok(None) => return Next::Leaves,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Next::Stays,
            Err(error) => Some(Reply::Error {
                message: format!("not understood: {error}"),
            }),
        };
        match reply.is_none_or(|reply| self.clients[index].connection.send(&reply, &[]).is_ok()) {
            true => Next::Stays,
            false => Next::Leaves,
        }
    }

    fn answer(
        &mut self,
        index: usize,
        request: Request,
        fds: Vec<OwnedFd>,
        place: Option<Place<'_>>,
    ) -> Option<Reply> {
        let number = self.clients[index].number;
        let result = match request {
            Request::Wait => {
                self.clients[index].waits = true;
                return None;
            }
            Request::Kill { signal } => self.signal(signal),
            Request::Stop { signal } => {
                self.stopped = true;
                // One that rests before its next start has nothing to be told.
                match self.running {
                    Some(_) => self.signal(signal),
                    None => Ok(()),
                }
            }
            Request::Pause | Request::Unpause => {
                self.clients[index].pauses = matches!(request, Request::Pause);
                self.hold_still(place)
            }
            Request::Policy { restart } => {
                self.policy = Some(restart);
                Ok(())
            }
            Request::Attach { stdin } => self.attach(number, stdin, fds),
            Request::Detach => {
                if let Some(streams) = &mut self.streams {
                    streams.leave(number);
                    self.told.detached();
                }
                Ok(())
            }
            Request::Resize { rows, columns } => {
                match self.running.as_ref().and_then(|running| running.console.as_ref()) {
                    Some(console) => sys::pty::set_size(console.as_fd(), rows, columns),
                    None => Err(std::io::Error::other("the container has no terminal")),
                }
            }
            // What is kept is kept from the start.
            Request::Keep | Request::Start { .. } => {
                Err(std::io::Error::other("the container is started already"))
            }
            Request::Exec { .. } => Err(std::io::Error::other(
                "this connection is about the container itself",
            )),
        };
        Some(match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Error {
                message: error.to_string(),
            },
        })
    }

    /// Has the processes stand still, or go on, as those who are connected want it.
    fn hold_still(&self, place: Option<Place<'_>>) -> std::io::Result<()> {
        let still = self.clients.iter().any(|client| client.pauses);
        match place {
            Some(place) => place.left.cgroups.hold_still(still),
            None => Err(std::io::Error::other("the container does not run")),
        }
    }

    fn attach(&mut self, number: u64, typed: bool, fds: Vec<OwnedFd>) -> std::io::Result<()> {
        let Some(streams) = &mut self.streams else {
            return Err(std::io::Error::other(
                "its streams are those of the command that runs it",
            ));
        };
        match <[OwnedFd; 3]>::try_from(fds) {
            Ok(fds) => {
                streams.attach(number, Ends::of(fds, typed))?;
                self.told.attached();
                Ok(())
            }
            Err(_) => Err(std::io::Error::other("to attach takes three descriptors")),
        }
    }

    /// Tells those who asked for more programs that these have ended: what was left of the container was killed.
    pub(super) fn end_execs(&mut self) {
        // One that ended by itself just now has its own code.
        let _ = self.reap();
        self.execs.all_killed();
    }

    /// Tells the end to everybody who waits, and lets go of them and of all who are attached; whether the one who asked
    /// for the container was among them.
    pub(super) fn tell(&mut self, exit: &Exit) -> bool {
        if let Some(streams) = &mut self.streams {
            streams.leave_all();
        }
        let mut told = false;
        for client in self.clients.extract_if(.., |client| client.waits) {
            let arrived = client.connection.send(&Reply::Exited(exit.clone()), &[]).is_ok();
            told |= client.number == OWNER && arrived;
        }
        told
    }
}
