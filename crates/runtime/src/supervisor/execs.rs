//! Programs that were asked for beside the container's first one ([`Request::Exec`]), each with the one who asked. They
//! are the supervisor's children, and go on when that one leaves.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Process;
use rustix::fs::FileType;

use super::begin::Left;
use super::events::{Named, Told};
use super::serve::End;
use crate::bundle::Bundle;
use crate::control::{Concern, Connection, Reply, Request};
use crate::launch::exec::{self, ExecOrder, Joining, Progress, Started};
use crate::launch::{During, Fault, Result};
use crate::state::{self, Exit};

/// The container that they are executed in.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) bundle: &'a Bundle,
    pub(super) left: &'a Left,
    pub(super) told: &'a Told,
}

/// No `process` is longer: the kernel takes arguments and environment of a few megabytes.
const MAX_PROCESS: u64 = 8 << 20;

/// One such program.
struct Exec {
    pid: i32,
    stage: Stage,
    /// What events say of it; none of a health check, which tells what came of it.
    named: Option<Named>,
    /// The one who asked, as long as it listens.
    client: Option<Connection>,
    /// Nobody had the terminal open when it was last looked at.
    hung_up: bool,
}

enum Stage {
    /// On its way to its program.
    Joins(Joining),
    Runs(Started),
    /// It ended on the way without a word. How, is told when it is reaped.
    Silent,
    /// It said that it failed, and was passed on.
    Failed,
}

/// Where something is to be heard: the place of a program, and from whom.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source(usize, From);

#[derive(Debug, Clone, Copy)]
enum From {
    Process,
    Client,
    Terminal,
}

/// All of them.
pub(super) struct Execs<'a> {
    all: Vec<Exec>,
    told: &'a Told,
    /// How many there have been.
    numbered: u64,
}

impl<'a> Execs<'a> {
    pub(super) fn new(told: &'a Told) -> Execs<'a> {
        Execs {
            all: Vec::new(),
            told,
            numbered: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Makes the process of a program for `client`, who brought the descriptors `fds`; `first` is the container's first
    /// process.
    pub(super) fn begin(
        &mut self,
        place: Place<'_>,
        first: BorrowedFd<'_>,
        client: Connection,
        size: Option<(u16, u16)>,
        fds: Vec<OwnedFd>,
        is_check: bool,
    ) {
        match make(place, first, size, fds) {
            Ok((joining, command)) => {
                self.numbered += 1;
                self.all.push(Exec {
                    pid: joining.pid(),
                    stage: Stage::Joins(joining),
                    named: (!is_check).then(|| Named::new(self.numbered, &command)),
                    client: Some(client),
                    hung_up: false,
                });
            }
            Err(fault) => drop(client.send(&failed(&fault), &[])),
        }
    }

    /// What is to be watched for them.
    pub(super) fn watched(&self) -> impl Iterator<Item = (Source, BorrowedFd<'_>)> {
        self.all.iter().enumerate().flat_map(|(place, exec)| {
            let process = match &exec.stage {
                Stage::Joins(joining) => Some(joining.as_fd()),
                _ => None,
            };
            let terminal = exec.console().filter(|_| exec.client.is_none() && !exec.hung_up);
            let client = exec.client.as_ref().map(AsFd::as_fd);
            [
                (From::Process, process),
                (From::Client, client),
                (From::Terminal, terminal),
            ]
            .into_iter()
            .filter_map(move |(from, fd)| Some((Source(place, from), fd?)))
        })
    }

    /// Does what is due where something is to be heard.
    pub(super) fn attend(&mut self, Source(place, from): Source) {
        let Some(exec) = self.all.get_mut(place) else {
            return;
        };
        match from {
            From::Process => exec.advance(self.told),
            From::Client => exec.serve(),
            From::Terminal => exec.drop_output(),
        }
    }

    /// The process of this number has ended; not one of these, perhaps.
    pub(super) fn ended(&mut self, pid: i32, end: End) {
        let Some(place) = self.all.iter().position(|exec| exec.pid == pid) else {
            return;
        };
        let mut exec = self.all.swap_remove(place);
        // What it said before comes first; there is no more than that, so this waits for nothing.
        while matches!(exec.stage, Stage::Joins(_)) {
            exec.advance(self.told);
        }
        match exec.stage {
            Stage::Runs(_) => {
                exec.tell(&exited(end));
                exec.note_end(self.told, end.code);
            }
            Stage::Silent => {
                let how = end.signal.map_or_else(
                    || format!("exit code {}", end.code),
                    |signal| format!("signal {signal}"),
                );
                let text = format!("the process ended while it was being set up ({how})");
                let fault = Fault::new(text);
                exec.tell(&failed(&fault));
                exec.note_end(self.told, fault.code);
            }
            Stage::Joins(_) | Stage::Failed => {}
        }
    }

    /// Everything in the container was killed, and with it those that still are here.
    pub(super) fn all_killed(&mut self) {
        let pids: Vec<i32> = self.all.iter().map(|exec| exec.pid).collect();
        for pid in pids {
            self.ended(pid, End::KILLED);
        }
    }
}

impl Exec {
    fn console(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Runs(started) => started.console.as_ref().map(AsFd::as_fd),
            _ => None,
        }
    }

    fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        match &self.stage {
            Stage::Joins(joining) => joining.pidfd(),
            Stage::Runs(started) => Some(started.child.pidfd.as_fd()),
            _ => None,
        }
    }

    fn tell(&mut self, reply: &Reply) {
        if let Some(client) = &self.client
            && client.send(reply, &[]).is_err()
        {
            self.client = None;
        }
    }

    fn note_end(&self, told: &Told, code: u8) {
        if let Some(named) = &self.named {
            told.exec_ended(named, code);
        }
    }

    /// Takes a word of the process.
    fn advance(&mut self, told: &Told) {
        let Stage::Joins(joining) = &mut self.stage else {
            return;
        };
        match joining.advance() {
            Progress::Pending => {}
            Progress::Runs(started) => {
                if let Some(client) = &self.client {
                    let fds: Vec<_> = started.console.iter().map(AsFd::as_fd).collect();
                    // One who is gone is noticed as such.
                    let _ = client.send(&Reply::Started { pid: self.pid }, &fds);
                }
                self.stage = Stage::Runs(started);
                if let Some(named) = &mut self.named {
                    told.exec_started(named);
                }
            }
            Progress::Failed(fault) => {
                self.tell(&failed(&fault));
                self.client = None;
                self.stage = Stage::Failed;
                self.note_end(told, fault.code);
            }
            Progress::Silent => self.stage = Stage::Silent,
        }
    }

    /// Answers the one who asked for it.
    fn serve(&mut self) {
        let Some(client) = &self.client else { return };
        let result = match client.receive::<Request>() {
            Ok(Some((Request::Kill { signal }, _))) => match self.pidfd() {
                Some(pidfd) => sys::process::send_signal(pidfd, signal),
                None => Err(std::io::Error::other("it has ended")),
            },
            Ok(Some((Request::Resize { rows, columns }, _))) => match self.console() {
                Some(console) => sys::pty::set_size(console, rows, columns),
                None => Err(std::io::Error::other("it has no terminal")),
            },
            // Its end is told in any case.
            Ok(Some((Request::Wait, _))) => return,
            Ok(Some(_)) => Err(std::io::Error::other("this connection is about one program")),
            Ok(None) => {
                self.client = None;
                return;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) => Err(error),
        };
        if matches!(self.stage, Stage::Joins(_)) {
            // The next word is the answer to the request to execute.
            return;
        }
        let reply = match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Error {
                message: error.to_string(),
            },
        };
        self.tell(&reply);
    }

    /// Reads what its terminal printed when nobody is left to read it: a program must not stand still for that.
    fn drop_output(&mut self) {
        let mut buffer = [0; 4096];
        if let Some(console) = self.console() {
            self.hung_up = !matches!(rustix::io::read(console, &mut buffer), Ok(length) if length > 0);
        }
    }
}

/// Makes the process; also what it is to execute.
fn make(
    place: Place<'_>,
    first: BorrowedFd<'_>,
    size: Option<(u16, u16)>,
    mut fds: Vec<OwnedFd>,
) -> Result<(Joining, Vec<String>)> {
    let Place { bundle, left, .. } = place;
    if left.external.is_some() {
        let text = "the container is another OCI runtime's: its own exec runs programs in it";
        return Err(Fault::new(text).about(Concern::RuntimeWords));
    }
    let file = fds.pop();
    let (Some(file), Ok(stdio)) = (file, <[OwnedFd; 3]>::try_from(fds)) else {
        return Err(Fault::new("a request to execute comes with four descriptors"));
    };
    let process = read_process(file)?;
    let spec = bundle.spec().map_err(|error| Fault::new(error.to_string()))?;
    let doors = left.cgroups.doors()?;
    let below = left.cgroups.place_below(first);
    let joining = exec::fork(&ExecOrder {
        spec: &spec,
        id: bundle.id(),
        bundle: bundle.path(),
        process: &process,
        first,
        stdio,
        preserved: &[],
        new_keyring: true,
        size,
        cgroup: below
            .as_ref()
            .map(AsFd::as_fd)
            .or_else(|| left.cgroups.birth_place()),
        doors: &doors,
    })?;
    Ok((joining, process.args().clone().unwrap_or_default()))
}

fn read_process(file: OwnedFd) -> Result<Process> {
    let doing = || "the process to execute".to_owned();
    let status = rustix::fs::fstat(&file).during(doing)?;
    // Anything else could keep whoever reads it waiting.
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
        return Err(Fault::new(format!("{}: not in a file", doing())));
    }
    let mut text = Vec::new();
    std::fs::File::from(file)
        .take(MAX_PROCESS)
        .read_to_end(&mut text)
        .during(doing)?;
    serde_json::from_slice(&text).map_err(|error| Fault::new(format!("{}: {error}", doing())))
}

fn failed(fault: &Fault) -> Reply {
    Reply::Failed {
        code: fault.code,
        message: fault.text.clone(),
        concern: fault.concern,
    }
}

fn exited(end: End) -> Reply {
    Reply::Exited(Exit {
        code: end.code,
        signal: end.signal,
        at: state::now(),
        oom: false,
        warnings: Vec::new(),
        again: None,
    })
}
