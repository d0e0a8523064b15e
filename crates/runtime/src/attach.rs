//! Being attached to a container whose streams its supervisor holds: keys and input go there, what is printed comes
//! here, signals are passed on, until the container ends or the user leaves.
//!
//! Between client and supervisor are three pipes of the client's. Their ends tell that the other side is gone, and
//! nobody's descriptors are made non-blocking that others share.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::pipe::PipeFlags;

use crate::bundle::Bundle;
use crate::control::{ANSWER, Connection, Reply, Request};
use crate::start::Running;
use crate::state::Exit;
use crate::terminal::{Attention, Buffer, Keys, Raw, retry, size_of};

pub use crate::terminal::Left;

/// The supervisor's ends of the pipes.
#[derive(Debug)]
pub struct Ends {
    fds: [OwnedFd; 3],
    typed: bool,
}

impl Ends {
    /// Whether what is typed is to be passed on.
    pub(crate) fn typed(&self) -> bool {
        self.typed
    }

    /// What is typed, and where output and error go.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 3] {
        self.fds.each_ref().map(AsFd::as_fd)
    }
}

/// The client's ends of the pipes.
#[derive(Debug)]
pub struct Pipes {
    typed: Option<OwnedFd>,
    out: OwnedFd,
    err: OwnedFd,
}

/// Makes the pipes; what is typed is passed on if `typed` says so.
pub fn pipes(typed: bool) -> io::Result<(Pipes, Ends)> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC);
    let (its_typed, ours) = pipe()?;
    let (out, its_out) = pipe()?;
    let (err, its_err) = pipe()?;
    let pipes = Pipes {
        typed: typed.then_some(ours),
        out,
        err,
    };
    let ends = Ends {
        fds: [its_typed, its_out, its_err],
        typed,
    };
    Ok((pipes, ends))
}

/// Attaches to a container that runs. `NotFound` or `ConnectionRefused` where no supervisor is there, `TimedOut` where it
/// does not answer.
pub fn attach(bundle: &Bundle, typed: bool) -> io::Result<(Running, Pipes)> {
    let connection = Connection::open(bundle)?;
    let (pipes, ends) = pipes(typed)?;
    connection.send(&Request::Attach { stdin: typed }, &ends.fds())?;
    match connection.answer(ANSWER)? {
        Some(Reply::Done) => {}
        Some(Reply::Error { message }) => return Err(io::Error::other(message)),
        _ => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    connection.send(&Request::Wait, &[])?;
    Ok((Running::of(connection), pipes))
}

/// The user's side.
#[derive(Debug, Clone, Copy)]
pub struct Local<'a> {
    /// What is typed.
    pub input: Option<BorrowedFd<'a>>,
    /// Where the program's output goes, or its terminal's.
    pub output: BorrowedFd<'a>,
    /// Where its errors go.
    pub error: BorrowedFd<'a>,
    /// The container has a terminal: keys reach it as they are, and its window has the size of the user's.
    pub terminal: bool,
    /// Keys, typed one after the other at a terminal, that leave the container to itself.
    pub detach_keys: &'a [u8],
}

/// `ctrl-p` and `ctrl-q`, as docker and podman have it.
pub const DETACH_KEYS: &[u8] = &[16, 17];

/// Stays until the container has ended and all that it printed is here, or the user leaves it.
pub fn stay(
    running: &mut Running,
    pipes: Pipes,
    attention: Option<&Attention>,
    local: Local<'_>,
) -> io::Result<Left> {
    let raw = match local.input {
        Some(input) if local.terminal => Raw::begin(input)?,
        _ => None,
    };
    let at_terminal = raw.is_some();
    if local.terminal {
        resize(running, &local);
    }
    let mut typed = Typed {
        channel: Channel::new(local.input.filter(|_| pipes.typed.is_some()), pipes.typed),
        keys: Keys::new(if at_terminal { local.detach_keys } else { &[] }),
    };
    let mut printed = [
        Channel::new(Some(pipes.out.as_fd()), Some(local.output)),
        Channel::new(Some(pipes.err.as_fd()), Some(local.error)),
    ];
    let mut exit: Option<Exit> = None;
    loop {
        if let Some(exit) = &exit
            && printed.iter().all(Channel::is_over)
        {
            return Ok(Left::Ended(exit.clone()));
        }
        let ready = {
            let entries = [
                attention.map(|attention| (attention.as_fd(), PollFlags::IN)),
                exit.is_none().then_some((running.as_fd(), PollFlags::IN)),
                typed.channel.interest().filter(|_| exit.is_none()),
                printed[0].interest(),
                printed[1].interest(),
            ];
            let mut fds: Vec<_> = entries
                .iter()
                .flatten()
                .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
                .collect();
            retry(|| rustix::event::poll(&mut fds, None))?;
            let mut raised = fds.iter().map(|fd| !fd.revents().is_empty());
            entries.map(|entry| entry.is_some() && raised.next().unwrap_or(false))
        };
        if ready[1] && exit.is_none() {
            exit = running.take()?;
        }
        if ready[0]
            && let Some(attention) = attention
        {
            attention.pass_on(running, || {
                if local.terminal {
                    resize(running, &local);
                }
            })?;
        }
        if ready[2] && typed.go_on()? {
            running.ask(&Request::Detach)?;
            return Ok(Left::Detached);
        }
        for (channel, ready) in printed.iter_mut().zip(&ready[3..]) {
            if *ready {
                channel.go_on()?;
            }
        }
    }
}

/// Gives the container's terminal the size of the user's.
fn resize(running: &Running, local: &Local<'_>) {
    let sources = [Some(local.output), local.input];
    if let Some((rows, columns)) = size_of(sources.into_iter().flatten()) {
        let _ = running.ask(&Request::Resize { rows, columns });
    }
}

/// Bytes from one descriptor to another.
struct Channel<'a, To> {
    from: Option<BorrowedFd<'a>>,
    to: Option<To>,
    buffer: Buffer,
}

impl<'a, To: AsFd> Channel<'a, To> {
    fn new(from: Option<BorrowedFd<'a>>, to: Option<To>) -> Self {
        Channel {
            from,
            to,
            buffer: Buffer::default(),
        }
    }

    /// Nothing more will come, and all that came has gone on.
    fn is_over(&self) -> bool {
        self.from.is_none() && self.buffer.is_empty()
    }

    fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        match self.buffer.is_empty() {
            true => self.from.map(|from| (from, PollFlags::IN)),
            false => self.to.as_ref().map(|to| (to.as_fd(), PollFlags::OUT)),
        }
    }

    /// Does what [`Channel::interest`] waited for.
    fn go_on(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            if let Some(to) = &self.to {
                self.buffer.drain(to.as_fd())?;
            }
        } else if let Some(from) = self.from {
            self.buffer.fill(from)?;
            if self.buffer.ended {
                self.from = None;
            }
        }
        Ok(())
    }
}

/// What is typed, up to the keys that leave.
struct Typed<'a> {
    channel: Channel<'a, OwnedFd>,
    keys: Keys<'a>,
}

impl Typed<'_> {
    /// Does what was waited for; true when the user leaves.
    fn go_on(&mut self) -> io::Result<bool> {
        let reads = self.channel.buffer.is_empty();
        if self.channel.go_on().is_err() {
            // A program that takes nothing more.
            self.channel.from = None;
            self.channel.to = None;
            self.channel.buffer = Buffer::default();
            return Ok(false);
        }
        if reads && self.keys.sift(&mut self.channel.buffer.bytes) {
            return Ok(true);
        }
        if self.channel.is_over() {
            // The end of what is typed is the end of the pipe.
            self.channel.to = None;
        }
        Ok(false)
    }
}
