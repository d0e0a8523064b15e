//! The supervisor: one small process per container, whoever started it and however. It launches the container's
//! process, holds its descriptor and its terminal, or all its streams and their log, answers at `control.sock`, records
//! its end, starts it again where that is wanted, and leaves.
//!
//! It has one thread and handles no signal: they are held back and read from a descriptor, in one loop with everything
//! else. It is in a session of its own, so that neither a terminal's keys nor its end reach it. It opens no database
//! and keeps nothing that is not in the bundle.
//!
//! [`main`] is the role; [`crate::start()`] is how one comes into it. `begin` starts the program, `serve` is the loop until
//! its end, `streams` what goes in and out, `execs` the programs that come later, `conclude` the end.

mod begin;
mod conclude;
mod events;
mod execs;
mod health;
mod restart;
mod serve;
mod stop;
mod streams;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::DumpableBehavior;
use sys::Dir;
use sys::signal::{Set, SignalFd};

use crate::control::{About, Concern, Connection, Hold, Reply, Request, Restart};
use crate::launch::{During, FAILED, Fault, Result};
use crate::log::Writer;
use conclude::{clean_up, conclude, not_again, record_failure};
use events::Told;
use execs::Place;
use health::Watch;
use restart::Restarts;
use serve::Serving;
use streams::{Ends, Streams};

/// To ask without waiting.
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// What a start request asks for.
struct Wanted {
    stdio: Stdio,
    size: Option<(u16, u16)>,
    runtime: Option<PathBuf>,
    cleanup: Vec<OsString>,
    restart: Restart,
    about: About,
    health: bool,
    pidfile: Option<PathBuf>,
    /// Held for as long as this process looks after the container; nobody reads or writes them.
    kept: Vec<OwnedFd>,
}

/// Where the program's streams are.
enum Stdio {
    /// With the one who asked, for one start.
    Given([OwnedFd; 3]),
    /// Here.
    Held(Box<Streams>),
}

/// The role of the supervisor. `args` are the arguments after those that select the role: the bundle's path.
/// Standard input is the connection to the one who asks ([`crate::control`]).
pub fn main(args: &[OsString]) -> ExitCode {
    let Some(path) = args.first() else {
        return ExitCode::from(FAILED);
    };
    let path = Path::new(path);
    crate::rootless::stay(path);
    match settle().and_then(|(owner, signals)| supervise(path, owner, &signals)) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever could be told has been told.
        Err(_) => ExitCode::from(FAILED),
    }
}

/// Makes this process independent of the one that started it. Returns the connection to it, and the signals.
fn settle() -> Result<(Connection, SignalFd)> {
    let doing = || "becoming a supervisor".to_owned();
    // What the one who started us had open, locks and pipes among it, is not ours to keep.
    sys::fd::close_inherited().during(doing)?;
    sys::signal::hear_of_children();
    let signals = Set::full();
    sys::signal::set_mask(signals).during(doing)?;
    let signals = SignalFd::new(signals).during(doing)?;
    // Already the case where the one who started us made a session for us.
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"strata-super").during(doing)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).during(doing)?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).during(doing)?;
    rustix::process::umask(Mode::from_raw_mode(0o077));
    rustix::process::chdir("/").during(doing)?;

    let connection = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).during(doing)?;
    rustix::io::ioctl_fionbio(&connection, false).during(doing)?;
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let null = rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()).during(doing)?;
    rustix::stdio::dup2_stdin(&null).during(doing)?;
    rustix::stdio::dup2_stdout(&null).during(doing)?;
    rustix::stdio::dup2_stderr(&null).during(doing)?;
    Ok((Connection::from_socket(connection), signals))
}

fn supervise(path: &Path, owner: Connection, signals: &SignalFd) -> Result<()> {
    let spare = begin::Spare::make(&owner)?;
    let wanted = receive_order(&owner)?;
    let Wanted {
        stdio,
        size,
        runtime,
        cleanup,
        restart,
        about,
        health,
        pidfile,
        kept: _kept,
    } = wanted;
    let told_of = Told::new(path, about);
    let begun = begin::claim(path).and_then(|bundle| {
        let (stdio, streams) = match stdio {
            Stdio::Given(stdio) => (Some(stdio), None),
            Stdio::Held(streams) => (None, Some(streams)),
        };
        let mut launcher = begin::Launcher {
            bundle,
            runtime,
            size,
            streams,
            pidfile,
        };
        let watched = begin::Watched {
            signals,
            owner: Some(&owner),
        };
        let started = launcher.start(stdio, spare, watched)?;
        Ok((launcher, started))
    });
    let (mut launcher, started) = match begun {
        Ok(begun) => begun,
        Err(fault) => {
            let reply = Reply::Failed {
                code: fault.code,
                message: fault.text.clone(),
                concern: fault.concern,
            };
            if owner.send(&reply, &[]).is_err() {
                clean_up(&cleanup);
            }
            return Err(fault);
        }
    };
    // A terminal whose streams are held stays here.
    let console = started
        .running
        .console
        .iter()
        .filter(|_| launcher.streams.is_none());
    let fds: Vec<_> = console.map(AsFd::as_fd).collect();
    // One who is gone by now is noticed when the container ends.
    let reply = Reply::Started {
        pid: started.running.pid,
    };
    let _ = owner.send(&reply, &fds);
    told_of.started(true);
    let mut serving = Serving::new(
        started.listener,
        launcher.streams.take(),
        owner,
        signals,
        &told_of,
    )?;
    let mut restarts = Restarts::new(restart);
    let mut started: Result<_> = Ok((started.running, started.left));
    let told = loop {
        let begun = Instant::now();
        let (told, again) = match started {
            Ok((running, left)) => {
                let place = Place {
                    bundle: &launcher.bundle,
                    left: &left,
                    told: &told_of,
                };
                serving.watch = health.then(|| Watch::load(place.bundle)).flatten();
                let end = serving.until_end(running, place)?;
                let again = pause(&mut serving, &mut restarts, end.code, begun);
                let told = conclude(&launcher.bundle, left, &mut serving, end, again, &told_of);
                (told, again)
            }
            // The machine goes down, or somebody wants it to.
            Err(fault) if fault.concern == Concern::Interrupted => {
                (record_failure(&launcher.bundle, &mut serving, &fault, None), None)
            }
            Err(fault) => {
                let again = pause(&mut serving, &mut restarts, FAILED, begun);
                let told = record_failure(&launcher.bundle, &mut serving, &fault, again);
                (told, again)
            }
        };
        let Some(pause) = again else { break told };
        if !serving.rest(pause)? {
            break not_again(&launcher.bundle, &mut serving);
        }
        launcher.streams = serving.take_streams();
        let watched = begin::Watched { signals, owner: None };
        started = launcher
            .start_again(restarts.count, watched)
            .map(|started| (started.running, started.left));
        if started.is_ok() {
            told_of.started(false);
        }
        serving.give_streams(launcher.streams.take());
    };
    if !told {
        clean_up(&cleanup);
    }
    Ok(())
}

/// How long to wait before the next start of a container that ended with `code`, by the policy that holds by now; `None`
/// where it is not started again.
fn pause(serving: &mut Serving<'_>, restarts: &mut Restarts, code: u8, begun: Instant) -> Option<Duration> {
    if let Some(policy) = serving.take_policy() {
        restarts.set_policy(policy);
    }
    if serving.is_stopped() {
        return None;
    }
    restarts.after(code, begun.elapsed())
}

fn receive_order(owner: &Connection) -> Result<Wanted> {
    let doing = || "receiving the request to start".to_owned();
    let mut kept = Vec::new();
    let (request, fds) = loop {
        let received = owner.receive::<Request>().during(doing)?;
        match received.ok_or_else(|| Fault::new("nobody asks for anything"))? {
            (Request::Keep, fds) => kept.extend(fds),
            other => break other,
        }
    };
    let refuse = |message: &str| {
        let message = message.to_owned();
        let _ = owner.send(
            &Reply::Error {
                message: message.clone(),
            },
            &[],
        );
        Fault::new(message)
    };
    let Request::Start {
        size,
        runtime,
        cleanup,
        hold,
        restart,
        about,
        health,
        pidfile,
    } = request
    else {
        return Err(refuse("the first request must be to start"));
    };
    let stdio = match hold {
        None => <[OwnedFd; 3]>::try_from(fds).ok().map(Stdio::Given),
        Some(hold) => held(&hold, fds)?.map(|streams| Stdio::Held(Box::new(streams))),
    };
    Ok(Wanted {
        stdio: stdio.ok_or_else(|| refuse("a start brings the descriptors of its streams"))?,
        size,
        runtime,
        cleanup,
        restart,
        about,
        health,
        pidfile,
        kept,
    })
}

/// The streams that are to be held here; `None` where the descriptors are not those that belong to such a request.
fn held(hold: &Hold, fds: Vec<OwnedFd>) -> Result<Option<Streams>> {
    let mut fds = fds.into_iter();
    let mut log = None;
    if let Some(limits) = hold.log {
        let Some(dir) = fds.next() else { return Ok(None) };
        let open = Dir::from_fd(dir).and_then(|dir| Writer::open(dir, limits));
        log = Some(open.during(|| "the container's log".into())?);
    }
    let mut streams = Streams::new(hold.stdin, log);
    let rest: Vec<OwnedFd> = fds.collect();
    match (hold.attach, <[OwnedFd; 3]>::try_from(rest)) {
        (None, Err(rest)) if rest.is_empty() => Ok(Some(streams)),
        (Some(typed), Ok(fds)) => {
            let attached = streams.attach(serve::OWNER, Ends::of(fds, typed));
            attached.during(|| "the pipes of the one who asked".into())?;
            Ok(Some(streams))
        }
        _ => Ok(None),
    }
}
