//! The supervisor: one small process per container, whoever started it and however. It launches the container's
//! process, holds its descriptor and its terminal, answers at `control.sock`, records its end, and leaves.
//!
//! It has one thread and handles no signal: they are held back and read from a descriptor, in one loop with everything
//! else. It is in a session of its own, so that neither a terminal's keys nor its end reach it. It opens no database
//! and keeps nothing that is not in the bundle.
//!
//! [`main`] is the role; [`crate::start()`] is how one comes into it.

mod cgroups;
mod serve;

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Signal};
use sys::signal::{Set, SignalFd};

use crate::bundle::{self, Bundle};
use crate::cgroup::CgroupPaths;
use crate::control::{Concern, Connection, Reply, Request};
use crate::external::External;
use crate::launch::{During, FAILED, Fault, Launch, Order, Result, SpareNetwork, hooks};
use crate::state::{self, Exit, ProcessId, State, Status};
use cgroups::Cgroups;
use serve::{End, Running, Serving};

/// To ask without waiting.
const NOW: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 0,
};

/// What a start request asks for.
struct Wanted {
    stdio: [OwnedFd; 3],
    size: Option<(u16, u16)>,
    runtime: Option<PathBuf>,
    cleanup: Vec<OsString>,
}

/// A container whose program runs.
struct Started {
    running: Running,
    left: Left,
}

/// What is to be seen to at its end.
struct Left {
    bundle: Bundle,
    cgroups: Cgroups,
    external: Option<External>,
    /// Kept where it has hooks that are due later.
    spec: Option<Spec>,
}

/// The role of the supervisor. `args` are the arguments after those that select the role: the bundle's path.
/// Standard input is the connection to the one who asks ([`crate::control`]).
pub fn main(args: &[OsString]) -> ExitCode {
    let Some(path) = args.first() else {
        return ExitCode::from(FAILED);
    };
    match settle().and_then(|(owner, signals)| supervise(Path::new(path), owner, &signals)) {
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
    let spare = spare_network(&owner)?;
    let wanted = receive_order(&owner)?;
    let cleanup = wanted.cleanup.clone();
    let Started { running, left } = match start(path, wanted, spare, &owner, signals) {
        Ok(started) => started,
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
    let fds: Vec<_> = running.console.iter().map(AsFd::as_fd).collect();
    // One who is gone by now is noticed when the container ends.
    let _ = owner.send(&Reply::Started { pid: running.pid }, &fds);
    let mut serving = Serving::new(running, owner, signals)?;
    let end = serving.until_end()?;
    let told = conclude(left, serving, end);
    if !told {
        clean_up(&cleanup);
    }
    Ok(())
}

fn receive_order(owner: &Connection) -> Result<Wanted> {
    let doing = || "receiving the request to start".to_owned();
    let (request, fds) = owner
        .receive::<Request>()
        .during(doing)?
        .ok_or_else(|| Fault::new("nobody asks for anything"))?;
    let stdio = <[OwnedFd; 3]>::try_from(fds);
    match (request, stdio) {
        (
            Request::Start {
                size,
                runtime,
                cleanup,
            },
            Ok(stdio),
        ) => Ok(Wanted {
            stdio,
            size,
            runtime,
            cleanup,
        }),
        _ => {
            let message = "the first request must be to start, with three descriptors".to_owned();
            let _ = owner.send(
                &Reply::Error {
                    message: message.clone(),
                },
                &[],
            );
            Err(Fault::new(message))
        }
    }
}

/// What most containers will want, made while nothing is wanted yet: only where the order is not there already.
fn spare_network(owner: &Connection) -> Result<Option<SpareNetwork>> {
    let mut poll = [PollFd::new(owner, PollFlags::IN)];
    match rustix::event::poll(&mut poll, Some(&NOW)) {
        // Where it cannot be made it is missed only if it is asked for, and then the error is told.
        Ok(0) => SpareNetwork::make(),
        _ => Ok(None),
    }
}

fn start(
    path: &Path,
    wanted: Wanted,
    spare: Option<SpareNetwork>,
    owner: &Connection,
    signals: &SignalFd,
) -> Result<Started> {
    let bundle = Bundle::open(path).map_err(|error| Fault::new(error.to_string()))?;
    claim(&bundle)?;
    let spec = bundle.spec().map_err(|error| Fault::new(error.to_string()))?;
    let mut started = match wanted.runtime.clone() {
        None => launch(bundle, &spec, wanted, spare, owner, signals)?,
        Some(runtime) => drive(bundle, &spec, &runtime, wanted)?,
    };
    if let Some(hooks) = spec.hooks() {
        let (bundle, pid) = (&started.left.bundle, started.running.pid);
        let state = hooks::HookState::new(&spec, bundle.id(), bundle.path(), "running", Some(pid));
        // As with the peers, the container runs whatever these say.
        hooks::run_all(
            "poststart",
            hooks.poststart().as_deref().unwrap_or_default(),
            &state,
        );
        started.left.spec = Some(spec);
    }
    Ok(started)
}

/// Makes this the one supervisor of the bundle for as long as it lives, and clears away the last start's records.
fn claim(bundle: &Bundle) -> Result<()> {
    match rustix::fs::flock(bundle.dir(), FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            return Err(Fault::new(format!(
                "container {} is being run already",
                bundle.id()
            )));
        }
        other => other.during(|| format!("locking {}", bundle.path().display()))?,
    }
    // Its supervisor may have died and left it running.
    let status = state::read(bundle).map_err(|error| Fault::new(error.to_string()))?;
    if let Status::Running { pid, .. } = status {
        return Err(Fault::new(format!(
            "container {} is running already (process {pid})",
            bundle.id()
        )));
    }
    forget(bundle, &[bundle::EXIT, bundle::STATE, bundle::CONTROL]);
    Ok(())
}

/// Removes files of the bundle that say what is no longer so.
fn forget(bundle: &Bundle, names: &[&str]) {
    for name in names {
        // Gone is as good; one that stays is found by the next who reads it.
        let _ = bundle.dir().unlink(name);
    }
}

/// By our own launcher.
fn launch(
    bundle: Bundle,
    spec: &Spec,
    wanted: Wanted,
    spare: Option<SpareNetwork>,
    owner: &Connection,
    signals: &SignalFd,
) -> Result<Started> {
    let cgroups = Cgroups::create(spec, bundle.id())?;
    let join = |pid| cgroups.join(pid);
    let order = Order {
        spec,
        bundle: bundle.path(),
        id: bundle.id(),
        stdio: wanted.stdio,
        size: wanted.size,
        cgroup: cgroups.birth_place(),
        join: cgroups.must_be_joined().then_some(&join),
        cgroup_view: cgroups.view(),
        root_nodev: !cgroups.refuse_devices(),
    };
    let launched = Launch::fork(&order, spare).and_then(|launch| {
        // From here on the process exists: whoever comes after us must be able to find it.
        write_state(&bundle, launch.pid(), cgroups.paths())?;
        let listener = listen(&bundle)?;
        let watched = [signals.as_fd(), owner.as_fd()];
        let launched = launch.finish(&watched, || interrupted(signals, owner))?;
        Ok((launched, listener))
    });
    match launched {
        Ok((launched, listener)) => {
            drop(order);
            Ok(Started {
                running: Running {
                    pid: launched.child.pid,
                    pidfd: launched.child.pidfd,
                    console: launched.console,
                    listener,
                },
                left: Left {
                    bundle,
                    cgroups,
                    external: None,
                    spec: None,
                },
            })
        }
        Err(fault) => {
            forget(&bundle, &[bundle::CONTROL, bundle::STATE]);
            drop(order);
            cgroups.end();
            Err(fault)
        }
    }
}

/// By another OCI runtime.
fn drive(bundle: Bundle, spec: &Spec, runtime: &Path, wanted: Wanted) -> Result<Started> {
    let (external, container) = External::start(runtime, &bundle, spec, wanted.stdio, wanted.size)?;
    let listener = write_state(&bundle, container.pid, CgroupPaths::default()).and_then(|()| listen(&bundle));
    match listener {
        Ok(listener) => Ok(Started {
            running: Running {
                pid: container.pid,
                pidfd: container.pidfd,
                console: container.console,
                listener,
            },
            left: Left {
                bundle,
                cgroups: Cgroups::none(),
                external: Some(external),
                spec: None,
            },
        }),
        Err(fault) => {
            external.delete();
            forget(&bundle, &[bundle::CONTROL, bundle::STATE]);
            Err(fault)
        }
    }
}

fn listen(bundle: &Bundle) -> Result<OwnedFd> {
    sys::socket::listen(bundle.dir(), bundle::CONTROL)
        .during(|| format!("control socket of {}", bundle.path().display()))
}

fn write_state(bundle: &Bundle, pid: i32, cgroups: CgroupPaths) -> Result<()> {
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let [process, supervisor] =
        ProcessId::of_all([pid, own]).during(|| format!("looking at processes {pid} and {own}"))?;
    let state = State {
        version: bundle::VERSION,
        process,
        supervisor,
        created: state::now(),
        running: true,
        cgroups,
    };
    bundle
        .write_json(bundle::STATE, &state)
        .map_err(|error| Fault::new(error.to_string()))
}

/// Why a start should not be gone on with: a signal that asks to end, to this process or passed on by the one who
/// asked, or the end of that one.
fn interrupted(signals: &SignalFd, owner: &Connection) -> Option<Fault> {
    let ends = |signal: i32| {
        let ending = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::KILL];
        ending.iter().any(|one| one.as_raw() == signal)
    };
    let stopped =
        || Some(Fault::new("interrupted while the container was being started").about(Concern::Interrupted));
    while let Ok(Some(received)) = signals.read() {
        if ends(received.signal) {
            return stopped();
        }
    }
    let mut poll = [PollFd::new(owner, PollFlags::IN)];
    match rustix::event::poll(&mut poll, Some(&NOW)) {
        Ok(0) => return None,
        Ok(_) => {}
        Err(_) => return None,
    }
    match owner.receive::<Request>() {
        Ok(Some((Request::Kill { signal }, _))) if ends(signal) => stopped(),
        Ok(None) => Some(Fault::new("whoever asked for the container is gone")),
        // Nothing else can be done for it yet.
        _ => None,
    }
}

/// Records the end, tells it to those who wait, and takes away what the container leaves. Returns whether the one who
/// asked for the container was told.
fn conclude(left: Left, serving: Serving<'_>, end: End) -> bool {
    let bundle = &left.bundle;
    // What it left running must not outlive it: after its end is told, its mounts are taken off.
    let oom = left.cgroups.oom_killed();
    let mut warnings: Vec<String> = left.cgroups.kill().into_iter().collect();
    let mut exit = Exit {
        code: end.code,
        signal: end.signal,
        at: state::now(),
        oom,
        warnings: warnings.clone(),
    };
    let record = |exit: &Exit| bundle.write_json(bundle::EXIT, exit).is_ok();
    let recorded = record(&exit);
    let told = serving.tell(&exit);
    // Nobody can ask any more.
    let _ = bundle.dir().unlink(bundle::CONTROL);

    if let Some(external) = left.external {
        warnings.extend(external.delete());
    }
    warnings.extend(left.cgroups.end());
    if let Some((spec, hooks)) = left
        .spec
        .as_ref()
        .and_then(|spec| Some((spec, spec.hooks().as_ref()?)))
    {
        let state = hooks::HookState::new(spec, bundle.id(), bundle.path(), "stopped", None);
        warnings.extend(hooks::run_all(
            "poststop",
            hooks.poststop().as_deref().unwrap_or_default(),
            &state,
        ));
    }
    if recorded && warnings.len() > exit.warnings.len() {
        exit.warnings = warnings;
        record(&exit);
    }
    told
}

/// Becomes the command that removes the container, since nobody else is there to do it.
fn clean_up(command: &[OsString]) {
    let [program, args @ ..] = command else {
        return;
    };
    // Returns only when it failed, and then there is nobody to tell: the next one who lists containers finds it.
    let _ = Command::new(program).args(args).exec();
}
