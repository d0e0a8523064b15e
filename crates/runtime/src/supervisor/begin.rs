//! From an order to a program that runs, the first time and again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Signal;
use sys::signal::SignalFd;

use super::NOW;
use super::serve::Running;
use super::streams::Streams;
use crate::bundle::{self, Bundle};
use crate::cgroup::CgroupPaths;
use crate::control::{Concern, Connection, Request};
use crate::devices::{Loaded, Rules};
use crate::external::External;
use crate::launch::{Cgroups, During, Fault, Launch, Order, Result, SpareNetwork, hooks};
use crate::spec::usual_devices;
use crate::state::{self, ProcessId, State, Status};

/// Starts the program of one bundle.
pub(super) struct Launcher {
    /// Locked for as long as this supervisor lives.
    pub(super) bundle: Bundle,
    pub(super) runtime: Option<PathBuf>,
    pub(super) size: Option<(u16, u16)>,
    /// The streams that are held here; with the one who serves them while the program runs.
    pub(super) streams: Option<Box<Streams>>,
    /// Where the number of its first process is written.
    pub(super) pidfile: Option<PathBuf>,
}

/// A container whose program runs.
pub(super) struct Started {
    pub(super) running: Running,
    pub(super) left: Left,
    /// Where others connect.
    pub(super) listener: OwnedFd,
}

/// A container whose program runs again, and is reached where it was.
pub(super) struct StartedAgain {
    pub(super) running: Running,
    pub(super) left: Left,
}

/// What is to be seen to at its end.
pub(super) struct Left {
    pub(super) cgroups: Cgroups,
    pub(super) external: Option<External>,
    /// Kept where it has hooks that are due later.
    pub(super) spec: Option<Spec>,
}

/// Who may ask for the end while the program is being started.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a> {
    pub(super) signals: &'a SignalFd,
    pub(super) owner: Option<&'a Connection>,
}

/// What most containers will want, made while nothing is wanted yet.
#[derive(Default)]
pub(super) struct Spare {
    network: Option<SpareNetwork>,
    devices: Option<Loaded>,
}

impl Spare {
    /// Makes what can be made until the order is there. What cannot be is missed only if it is asked for, and then the
    /// error is told.
    pub(super) fn make(owner: &Connection) -> Result<Spare> {
        let mut spare = Spare::default();
        let nothing_wanted = || {
            let mut poll = [PollFd::new(owner, PollFlags::IN)];
            rustix::event::poll(&mut poll, Some(&NOW)) == Ok(0)
        };
        if nothing_wanted() {
            spare.network = SpareNetwork::make()?;
        }
        if nothing_wanted() {
            let rules = Rules::new(&usual_devices()).ok();
            spare.devices = rules.and_then(|rules| Loaded::new(rules).ok());
        }
        Ok(spare)
    }
}

/// Makes this the one supervisor of the bundle for as long as it lives, and clears away the last start's records.
pub(super) fn claim(path: &Path) -> Result<Bundle> {
    let bundle = Bundle::open(path).map_err(|error| Fault::new(error.to_string()))?;
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
    let status = state::read(&bundle).map_err(|error| Fault::new(error.to_string()))?;
    if let Status::Running { pid, .. } | Status::Paused { pid, .. } = status {
        return Err(Fault::new(format!(
            "container {} is running already (process {pid})",
            bundle.id()
        )));
    }
    forget(&bundle, &[bundle::EXIT, bundle::STATE, bundle::CONTROL]);
    Ok(bundle)
}

/// Removes files of the bundle that say what is no longer so.
pub(super) fn forget(bundle: &Bundle, names: &[&str]) {
    for name in names {
        // Gone is as good; one that stays is found by the next who reads it.
        let _ = bundle.dir().unlink(name);
    }
}

impl Launcher {
    /// Starts it for the first time. `stdio` is what the program is given where its streams are not held here.
    pub(super) fn start(
        &mut self,
        stdio: Option<[OwnedFd; 3]>,
        spare: Spare,
        watched: Watched<'_>,
    ) -> Result<Started> {
        let mut listener = None;
        let pidfile = self.pidfile.clone();
        let again = self.begin(stdio, spare, watched, |bundle, pid, cgroups| {
            write_state(bundle, pid, cgroups, 0)?;
            write_pid(pidfile.as_deref(), pid)?;
            listener = Some(listen(bundle)?);
            Ok(())
        });
        match (again, listener) {
            (Ok(StartedAgain { running, left }), Some(listener)) => Ok(Started {
                running,
                left,
                listener,
            }),
            (Ok(_), None) => Err(Fault::new("the control socket is missing")),
            (Err(fault), _) => {
                forget(&self.bundle, &[bundle::CONTROL, bundle::STATE]);
                Err(fault)
            }
        }
    }

    /// Starts it for the `restarts`th time again.
    pub(super) fn start_again(&mut self, restarts: u32, watched: Watched<'_>) -> Result<StartedAgain> {
        let pidfile = self.pidfile.clone();
        self.begin(None, Spare::default(), watched, |bundle, pid, cgroups| {
            write_state(bundle, pid, cgroups, restarts)?;
            write_pid(pidfile.as_deref(), pid)?;
            // In this order: a container that has not ended runs, if its state says so.
            forget(bundle, &[bundle::EXIT]);
            Ok(())
        })
    }

    /// `write_down` is called when the process exists: whoever comes after us must be able to find it.
    fn begin(
        &mut self,
        stdio: Option<[OwnedFd; 3]>,
        spare: Spare,
        watched: Watched<'_>,
        write_down: impl FnOnce(&Bundle, i32, CgroupPaths) -> Result<()>,
    ) -> Result<StartedAgain> {
        let spec = self
            .bundle
            .spec()
            .map_err(|error| Fault::new(error.to_string()))?;
        let terminal = spec.process().as_ref().and_then(|process| process.terminal());
        let terminal = terminal.unwrap_or(false);
        let stdio = match (stdio, &mut self.streams) {
            (Some(stdio), _) => stdio,
            (None, Some(streams)) if !terminal => streams.pipes(null()?.as_fd())?,
            _ => [null()?, null()?, null()?],
        };
        let mut started = match self.runtime.clone() {
            None => self.launch(&spec, stdio, spare, watched, write_down)?,
            Some(runtime) => self.drive(&spec, &runtime, stdio, write_down)?,
        };
        if let (Some(streams), Some(console)) = (&mut self.streams, &started.running.console) {
            streams.take_terminal(console.as_fd())?;
        }
        if let Some(hooks) = spec.hooks() {
            let (bundle, pid) = (&self.bundle, started.running.pid);
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

    /// By our own launcher.
    fn launch(
        &self,
        spec: &Spec,
        stdio: [OwnedFd; 3],
        spare: Spare,
        watched: Watched<'_>,
        write_down: impl FnOnce(&Bundle, i32, CgroupPaths) -> Result<()>,
    ) -> Result<StartedAgain> {
        let bundle = &self.bundle;
        let cgroups = Cgroups::create(spec, bundle.id(), spare.devices.as_ref())?;
        let launched = cgroups.doors().and_then(|doors| {
            let order = Order {
                spec,
                bundle: bundle.path(),
                id: bundle.id(),
                stdio,
                preserved: &[],
                new_keyring: true,
                start: None,
                size: self.size,
                cgroup: cgroups.birth_place(),
                doors: &doors,
                cgroup_view: cgroups.view(),
                no_pivot: false,
                nodev: !cgroups.refuse_devices(),
            };
            let launch = Launch::fork(&order, spare.network)?;
            write_down(bundle, launch.pid(), cgroups.paths())?;
            let owner = watched.owner.map(AsFd::as_fd);
            let fds: Vec<_> = [Some(watched.signals.as_fd()), owner]
                .into_iter()
                .flatten()
                .collect();
            launch.finish(&fds, || interrupted(watched))
        });
        match launched {
            Ok(launched) => Ok(StartedAgain {
                running: Running::new(launched.child.pid, launched.child.pidfd, launched.console),
                left: Left {
                    cgroups,
                    external: None,
                    spec: None,
                },
            }),
            Err(fault) => {
                cgroups.end();
                Err(fault)
            }
        }
    }

    /// By another OCI runtime.
    fn drive(
        &self,
        spec: &Spec,
        runtime: &Path,
        stdio: [OwnedFd; 3],
        write_down: impl FnOnce(&Bundle, i32, CgroupPaths) -> Result<()>,
    ) -> Result<StartedAgain> {
        let (external, container) = External::start(runtime, &self.bundle, spec, stdio, self.size)?;
        match write_down(&self.bundle, container.pid, CgroupPaths::default()) {
            Ok(()) => Ok(StartedAgain {
                running: Running::new(container.pid, container.pidfd, container.console),
                left: Left {
                    cgroups: Cgroups::none(),
                    external: Some(external),
                    spec: None,
                },
            }),
            Err(fault) => {
                external.delete();
                Err(fault)
            }
        }
    }
}

fn null() -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    rustix::fs::openat(CWD, "/dev/null", flags, Mode::empty()).during(|| "/dev/null".into())
}

fn listen(bundle: &Bundle) -> Result<OwnedFd> {
    sys::socket::listen(bundle.dir(), bundle::CONTROL)
        .during(|| format!("control socket of {}", bundle.path().display()))
}

/// Writes the number of the container's first process where somebody asked for it.
fn write_pid(path: Option<&Path>, pid: i32) -> Result<()> {
    let written =
        path.map(|path| bundle::write_pid(path, pid).during(|| format!("--pidfile {}", path.display())));
    written.unwrap_or(Ok(()))
}

fn write_state(bundle: &Bundle, pid: i32, cgroups: CgroupPaths, restarts: u32) -> Result<()> {
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
        restarts,
    };
    bundle
        .write_json(bundle::STATE, &state)
        .map_err(|error| Fault::new(error.to_string()))
}

/// Why a start should not be gone on with: a signal that asks to end, to this process or passed on by the one who
/// asked, or the end of that one.
fn interrupted(watched: Watched<'_>) -> Option<Fault> {
    let ends = |signal: i32| {
        let ending = [Signal::TERM, Signal::INT, Signal::QUIT, Signal::HUP, Signal::KILL];
        ending.iter().any(|one| one.as_raw() == signal)
    };
    let stopped =
        || Some(Fault::new("interrupted while the container was being started").about(Concern::Interrupted));
    while let Ok(Some(received)) = watched.signals.read() {
        if ends(received.signal) {
            return stopped();
        }
    }
    let owner = watched.owner?;
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
