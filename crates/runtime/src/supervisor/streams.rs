//! The container's standard streams, where the supervisor holds them: what the program prints goes to the log and to
//! whoever is attached, and what they type goes to the program.
//!
//! Nothing here waits for one descriptor: the supervisor's loop asks for [`Streams::interests`], and hands back those
//! that are ready. Who is attached and does not read holds the program up once a pipe's worth is under way, as a
//! terminal would; who is gone does not.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::NOW;
use crate::launch::{During, Result};
use crate::log::{Stream, Writer};

/// Bytes that are read at once.
const PIECE: usize = 16 << 10;

/// More than a pipe holds: who prints more after the program's end escaped it, and is not listened to.
const REST: usize = 4 << 20;

/// What a terminal takes for the end of what is typed.
const END_OF_TEXT: u8 = 4;

/// A descriptor that the loop is to watch, and what it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watched {
    /// The program prints here.
    Source(usize),
    /// The program reads here.
    Stdin,
    /// A client types here.
    Typed(u64),
    /// A client reads here.
    Sink(u64, usize),
}

/// Where the program prints.
struct Source {
    fd: OwnedFd,
    stream: Stream,
    /// More may come.
    open: bool,
}

/// Where a client reads.
struct Sink {
    fd: OwnedFd,
    /// What it did not take yet.
    pending: Vec<u8>,
}

/// A client that is attached, by the number of its connection.
struct Attached {
    client: u64,
    typed: Option<OwnedFd>,
    /// Standard output and error.
    sinks: [Option<Sink>; 2],
}

/// Where a client comes in: what it types, and where it reads output and error.
pub(super) struct Ends {
    pub(super) typed: Option<OwnedFd>,
    pub(super) out: OwnedFd,
    pub(super) err: OwnedFd,
}

impl Ends {
    pub(super) fn of([typed, out, err]: [OwnedFd; 3], takes_typed: bool) -> Ends {
        Ends {
            typed: takes_typed.then_some(typed),
            out,
            err,
        }
    }
}

/// The streams, over all starts of a container.
pub(super) struct Streams {
    /// The program's standard input is kept open for who attaches.
    interactive: bool,
    log: Option<Writer>,
    sources: Vec<Source>,
    /// The program's standard input, or its terminal.
    stdin: Option<OwnedFd>,
    terminal: bool,
    /// What was typed and not taken yet.
    typed: Vec<u8>,
    clients: Vec<Attached>,
}

impl Streams {
    pub(super) fn new(interactive: bool, log: Option<Writer>) -> Streams {
        Streams {
            interactive,
            log,
            sources: Vec::new(),
            stdin: None,
            terminal: false,
            typed: Vec::new(),
            clients: Vec::new(),
        }
    }

    /// The streams of a program that is about to be started and has no terminal: what it is to inherit.
    pub(super) fn pipes(&mut self, null: BorrowedFd<'_>) -> Result<[OwnedFd; 3]> {
        let doing = || "the pipes of the container's streams".to_owned();
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).during(doing);
        let (out, its_out) = pipe()?;
        let (err, its_err) = pipe()?;
        let (its_in, stdin) = match self.interactive {
            true => pipe().map(|(theirs, ours)| (theirs, Some(ours)))?,
            false => (null.try_clone_to_owned().during(doing)?, None),
        };
        for ours in [Some(&out), Some(&err), stdin.as_ref()].into_iter().flatten() {
            rustix::io::ioctl_fionbio(ours, true).during(doing)?;
        }
        let source = |fd, stream| Source {
            fd,
            stream,
            open: true,
        };
        self.sources = vec![source(out, Stream::Out), source(err, Stream::Err)];
        self.stdin = stdin;
        self.terminal = false;
        self.typed.clear();
        Ok([its_in, its_out, its_err])
    }

    /// The terminal of a program that was started with one.
    pub(super) fn take_terminal(&mut self, master: BorrowedFd<'_>) -> Result<()> {
        let doing = || "the container's terminal".to_owned();
        rustix::io::ioctl_fionbio(master, true).during(doing)?;
        self.sources = vec![Source {
            fd: master.try_clone_to_owned().during(doing)?,
            stream: Stream::Out,
            open: true,
        }];
        self.stdin = Some(master.try_clone_to_owned().during(doing)?);
        self.terminal = true;
        Ok(())
    }

    /// Attaches a client.
    pub(super) fn attach(&mut self, client: u64, ends: Ends) -> std::io::Result<()> {
        if self.of(client).is_some() {
            return Err(std::io::Error::other("this connection is attached already"));
        }
        for fd in [Some(&ends.out), Some(&ends.err), ends.typed.as_ref()]
            .into_iter()
            .flatten()
        {
            rustix::io::ioctl_fionbio(fd, true)?;
        }
        let sink = |fd| {
            Some(Sink {
                fd,
                pending: Vec::new(),
            })
        };
        self.clients.push(Attached {
            client,
            typed: ends.typed,
            sinks: [sink(ends.out), sink(ends.err)],
        });
        Ok(())
    }

    /// Lets a client go; what it typed stays typed.
    pub(super) fn leave(&mut self, client: u64) {
        self.clients.retain(|one| one.client != client);
    }

    /// What is to be watched, and for what.
    pub(super) fn interests(&self) -> Vec<(Watched, BorrowedFd<'_>, PollFlags)> {
        let mut all = Vec::new();
        for (index, source) in self.sources.iter().enumerate() {
            if source.open && self.all_taken(source.stream) {
                all.push((Watched::Source(index), source.fd.as_fd(), PollFlags::IN));
            }
        }
        if let Some(stdin) = self.stdin.as_ref().filter(|_| !self.typed.is_empty()) {
            all.push((Watched::Stdin, stdin.as_fd(), PollFlags::OUT));
        }
        for one in &self.clients {
            if let Some(typed) = one.typed.as_ref().filter(|_| self.typed.is_empty()) {
                all.push((Watched::Typed(one.client), typed.as_fd(), PollFlags::IN));
            }
            for (index, sink) in one.sinks.iter().enumerate() {
                let Some(sink) = sink else { continue };
                // Without anything to be written, only that its reader is gone is told.
                let flags = match sink.pending.is_empty() {
                    true => PollFlags::empty(),
                    false => PollFlags::OUT,
                };
                all.push((Watched::Sink(one.client, index), sink.fd.as_fd(), flags));
            }
        }
        all
    }

    /// Does what a descriptor is ready for.
    pub(super) fn serve(&mut self, watched: Watched) {
        match watched {
            Watched::Source(index) => drop(self.read(index)),
            Watched::Stdin => self.pass_typed(),
            Watched::Typed(client) => self.read_typed(client),
            Watched::Sink(client, index) => self.flush(client, index),
        }
    }

    /// After the program's end, and that of all who could print: the rest of what was printed. Who is attached finds it
    /// in his pipe, which is made as large as that takes: nobody waits for him to read it.
    pub(super) fn finish(&mut self) {
        for index in 0..self.sources.len() {
            let mut left = REST;
            while left > 0 && self.sources[index].open && self.has_more(index) {
                left = left.saturating_sub(self.read(index).max(1));
            }
        }
        for sink in self
            .clients
            .iter_mut()
            .flat_map(|one| one.sinks.iter_mut().flatten())
        {
            if !sink.pending.is_empty() {
                let holds = rustix::pipe::fcntl_getpipe_size(&sink.fd).unwrap_or(0);
                // Twice as much, since what is written in pieces leaves parts of pages empty.
                let _ = rustix::pipe::fcntl_setpipe_size(&sink.fd, 2 * (holds + sink.pending.len()));
                write(sink);
            }
        }
        self.sources.clear();
        self.stdin = None;
        self.typed.clear();
    }

    /// Lets go of everybody who is attached: the ends of their pipes tell them that there is no more.
    pub(super) fn leave_all(&mut self) {
        self.clients.clear();
    }

    /// Everybody who is attached has taken what the stream brought so far.
    fn all_taken(&self, stream: Stream) -> bool {
        let sinks = self
            .clients
            .iter()
            .filter_map(|one| one.sinks[index(stream)].as_ref());
        sinks.into_iter().all(|sink| sink.pending.is_empty())
    }

    fn has_more(&self, index: usize) -> bool {
        let mut fds = [PollFd::new(&self.sources[index].fd, PollFlags::IN)];
        rustix::event::poll(&mut fds, Some(&NOW)).is_ok_and(|_| fds[0].revents().contains(PollFlags::IN))
    }

    /// How many bytes there were.
    fn read(&mut self, index: usize) -> usize {
        let mut buffer = [0; PIECE];
        let source = &mut self.sources[index];
        let length = match rustix::io::read(&source.fd, &mut buffer) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::AGAIN) => return 0,
            // A terminal that nobody has open any more.
            Err(_) => 0,
        };
        if length == 0 {
            source.open = false;
            return 0;
        }
        let stream = source.stream;
        let bytes = &buffer[..length];
        if let Some(log) = &mut self.log {
            log.add(stream, bytes);
        }
        let mut gone = Vec::new();
        for one in &mut self.clients {
            let Some(sink) = &mut one.sinks[self::index(stream)] else {
                continue;
            };
            sink.pending.extend_from_slice(bytes);
            if !write(sink) {
                gone.push(one.client);
            }
        }
        for client in gone {
            self.leave(client);
        }
        length
    }

    fn flush(&mut self, client: u64, index: usize) {
        let sink = self.of(client).and_then(|one| one.sinks[index].as_mut());
        let stays = match sink {
            None => return,
            // Watched for nothing, and told all the same: its reader is gone.
            Some(sink) if sink.pending.is_empty() => false,
            Some(sink) => write(sink),
        };
        if !stays {
            self.leave(client);
        }
    }

    fn read_typed(&mut self, client: u64) {
        let mut buffer = [0; PIECE];
        let Some(one) = self.of(client) else { return };
        let Some(typed) = &one.typed else { return };
        match rustix::io::read(typed, &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(length) if length > 0 => {
                self.typed.extend_from_slice(&buffer[..length]);
                self.pass_typed();
            }
            _ => {
                let gone = one.sinks.iter().flatten().any(is_gone);
                one.typed = None;
                if gone {
                    self.leave(client);
                } else if self.terminal {
                    self.typed.push(END_OF_TEXT);
                    self.pass_typed();
                } else {
                    // The end of what the first one types is the end of the program's input.
                    self.stdin = None;
                }
            }
        }
    }

    fn pass_typed(&mut self) {
        let Some(stdin) = &self.stdin else {
            // A program that takes nothing: whoever types types into the void.
            self.typed.clear();
            return;
        };
        match rustix::io::write(stdin, &self.typed) {
            Ok(written) => drop(self.typed.drain(..written)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => {
                self.typed.clear();
                self.stdin = None;
            }
        }
    }

    fn of(&mut self, client: u64) -> Option<&mut Attached> {
        self.clients.iter_mut().find(|one| one.client == client)
    }
}

fn index(stream: Stream) -> usize {
    match stream {
        Stream::Out => 0,
        Stream::Err => 1,
    }
}

/// Writes what the sink takes now; false when its reader is gone.
fn write(sink: &mut Sink) -> bool {
    while !sink.pending.is_empty() {
        match rustix::io::write(&sink.fd, &sink.pending) {
            Ok(written) => drop(sink.pending.drain(..written)),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return true,
            Err(_) => return false,
        }
    }
    true
}

fn is_gone(sink: &Sink) -> bool {
    let mut fds = [PollFd::new(&sink.fd, PollFlags::empty())];
    rustix::event::poll(&mut fds, Some(&NOW)).is_ok_and(|_| fds[0].revents().contains(PollFlags::ERR))
}
