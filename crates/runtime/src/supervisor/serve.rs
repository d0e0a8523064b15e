//! The supervisor's loop, from the start of a container's program to its end.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, Signal, WaitOptions};
use sys::signal::SignalFd;

use crate::control::{Connection, Reply, Request};
use crate::launch::{During, Result};
use crate::state::Exit;

/// More connections at once are closed as they come.
const MAX_CLIENTS: usize = 64;

/// A container's process, and what is needed to look after it.
pub(super) struct Running {
    pub(super) pid: i32,
    pub(super) pidfd: OwnedFd,
    /// The master of its terminal.
    pub(super) console: Option<OwnedFd>,
    /// Where others connect.
    pub(super) listener: OwnedFd,
}

/// How the container's first process ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pub(super) code: u8,
    pub(super) signal: Option<i32>,
}

struct Client {
    connection: Connection,
    /// Wants to be told of the end.
    waits: bool,
    /// The one who asked for the container.
    owner: bool,
}

pub(super) struct Serving<'a> {
    running: Running,
    signals: &'a SignalFd,
    clients: Vec<Client>,
    /// Nobody had the terminal open when it was last looked at.
    hung_up: bool,
}

impl<'a> Serving<'a> {
    pub(super) fn new(running: Running, owner: Connection, signals: &'a SignalFd) -> Result<Serving<'a>> {
        // A client that does not read must not hold everybody up.
        rustix::io::ioctl_fionbio(&owner, true).during(|| "the start connection".into())?;
        Ok(Serving {
            running,
            signals,
            clients: vec![Client {
                connection: owner,
                waits: true,
                owner: true,
            }],
            hung_up: false,
        })
    }

    /// Serves until the container's first process has ended and is reaped.
    pub(super) fn until_end(&mut self) -> Result<End> {
        // What was signalled during the launch has been read already.
        if let Some(end) = self.reap()? {
            return Ok(end);
        }
        loop {
            if let Some(end) = self.take_signals()? {
                return Ok(end);
            }
            let (accept, print, ready) = self.wait()?;
            if print {
                self.drop_output();
            }
            // From the last, so that removing one moves none that is still to be looked at.
            for index in ready.into_iter().rev() {
                if !self.serve(index) {
                    self.clients.swap_remove(index);
                }
            }
            if accept
                && let Ok(Some(socket)) = sys::socket::accept(self.running.listener.as_fd())
                && self.clients.len() < MAX_CLIENTS
            {
                self.clients.push(Client {
                    connection: Connection::from_socket(socket),
                    waits: false,
                    owner: false,
                });
            }
        }
    }

    /// Waits for something to do: whether somebody connects, whether the terminal printed what nobody reads, and which
    /// clients have something to say.
    fn wait(&self) -> Result<(bool, bool, Vec<usize>)> {
        let watched = self
            .running
            .console
            .as_ref()
            .filter(|_| !self.has_owner() && !self.hung_up);
        let mut fds = vec![
            PollFd::new(self.signals, PollFlags::IN),
            PollFd::new(&self.running.listener, PollFlags::IN),
        ];
        let first = fds.len();
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(&client.connection, PollFlags::IN)),
        );
        fds.extend(watched.map(|console| PollFd::new(console, PollFlags::IN)));
        rustix::event::poll(&mut fds, None).during(|| "waiting".into())?;
        let raised: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        let last = first + self.clients.len();
        let ready = (first..last)
            .filter(|index| raised[*index])
            .map(|index| index - first)
            .collect();
        Ok((raised[1], raised.get(last).copied().unwrap_or(false), ready))
    }

    fn has_owner(&self) -> bool {
        self.clients.iter().any(|client| client.owner)
    }

    /// Reads what the terminal printed when nobody is left to read it: a program must not stand still for that.
    fn drop_output(&mut self) {
        let mut buffer = [0; 4096];
        if let Some(console) = &self.running.console {
            self.hung_up = !matches!(rustix::io::read(console, &mut buffer), Ok(length) if length > 0);
        }
    }

    fn take_signals(&self) -> Result<Option<End>> {
        let mut end = None;
        while let Some(received) = self.signals.read().during(|| "reading signals".into())? {
            if received.signal == Signal::CHILD.as_raw() {
                end = end.or(self.reap()?);
            } else if received.signal != Signal::PIPE.as_raw() {
                let _ = sys::process::send_signal(self.running.pidfd.as_fd(), received.signal);
            }
        }
        Ok(end)
    }

    /// Reaps whatever has ended; how the container's process did, if it is among them.
    fn reap(&self) -> Result<Option<End>> {
        let mut end = None;
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if Some(pid) == Pid::from_raw(self.running.pid) => {
                    let signal = status.terminating_signal();
                    let code = status
                        .exit_status()
                        .or(signal.map(|signal| 128 + signal))
                        .unwrap_or(255);
                    end = Some(End {
                        code: u8::try_from(code).unwrap_or(255),
                        signal,
                    });
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(rustix::io::Errno::CHILD) => return Ok(end),
                Err(error) => return Err(error).during(|| "reaping".into()),
            }
        }
    }

    /// Answers one request; false when the client is to be let go.
    fn serve(&mut self, index: usize) -> bool {
        let reply = match self.clients[index].connection.receive::<Request>() {
            Ok(Some((request, _))) => self.answer(index, request),
            Ok(None) => return false,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return true,
            Err(error) => Some(Reply::Error {
                message: format!("not understood: {error}"),
            }),
        };
        reply.is_none_or(|reply| self.clients[index].connection.send(&reply, &[]).is_ok())
    }

    fn answer(&mut self, index: usize, request: Request) -> Option<Reply> {
        let result = match request {
            Request::Wait => {
                self.clients[index].waits = true;
                return None;
            }
            Request::Kill { signal } => sys::process::send_signal(self.running.pidfd.as_fd(), signal),
            Request::Resize { rows, columns } => match &self.running.console {
                Some(console) => sys::pty::set_size(console.as_fd(), rows, columns),
                None => Err(std::io::Error::other("the container has no terminal")),
            },
            Request::Start { .. } => Err(std::io::Error::other("the container is started already")),
        };
        Some(match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Error {
                message: error.to_string(),
            },
        })
    }

    /// Tells the end to everybody who waits; whether the one who asked for the container was among them.
    pub(super) fn tell(self, exit: &Exit) -> bool {
        let mut told = false;
        for client in self.clients.into_iter().filter(|client| client.waits) {
            let arrived = client.connection.send(&Reply::Exited(exit.clone()), &[]).is_ok();
            told |= client.owner && arrived;
        }
        told
    }
}
