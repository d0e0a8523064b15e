//! `create` and `start`: a container is made, waits, and goes on to its program.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::process::Pid;

use super::cgroup_mounts;
use super::container::{self, Container, Containers, Record, START, STARTING};
use super::process::{Process, Signals, Wish, streams};
use super::{OciError, Result, Status, failed, no_configuration};
use crate::bundle::{self, Bundle, BundleError};
use crate::cgroup::{CgroupPaths, Manager};
use crate::launch::{Agent, Cgroups, Fault, Launch, Launched, Order, Sync, Word, hooks};
use crate::spec::default_devices;
use crate::state::{self, ProcessId};

/// A container to be made.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Its id, not taken yet.
    pub id: &'a str,
    /// The directory of `config.json`.
    pub bundle: &'a Path,
    /// Its cgroup is to be a unit of systemd's.
    pub systemd_cgroup: bool,
    /// It is refused where no cgroup can be had, whether it asks for one or not.
    pub needs_cgroup: bool,
    /// Its root is not exchanged for the host's, which cannot be where that is an initramfs, but moved over it.
    pub no_pivot: bool,
    /// The rest.
    pub wish: Wish<'a>,
}

impl Containers {
    /// Makes a container, up to its program. The caller must have one thread only; its standard streams are the
    /// container's, where that has no terminal.
    ///
    /// # Errors
    /// [`OciError`]; nothing of the container is left then.
    pub fn create(&self, request: &CreateRequest<'_>) -> Result<Process> {
        let CreateRequest {
            id,
            bundle,
            systemd_cgroup,
            ..
        } = request;
        let manager = Some(&self.manager).filter(|_| *systemd_cgroup);
        // Another engine's: what else lies in it is that engine's own.
        let given = match Bundle::look(bundle) {
            Err(BundleError::Io { .. }) => return Err(no_configuration(bundle.join(bundle::CONFIG))),
            other => other?,
        };
        let config = given
            .read(bundle::CONFIG)?
            .ok_or_else(|| no_configuration(given.path().join(bundle::CONFIG)))?;
        let known = container::read(&given, &config)?;
        let mut spec = known.value;
        allow_default_devices(&mut spec);
        let terminal = spec.process().as_ref().and_then(|process| process.terminal());
        request.wish.check(terminal.unwrap_or(false))?;
        let (files, lock) = self.reserve(id)?;
        let made = files
            .write(bundle::CONFIG, &config, 0o600)
            .map_err(OciError::from)
            .and_then(|()| make(manager, &given, &files, &spec, request));
        drop(lock);
        if made.is_err() {
            // The first error is the one to tell; `delete --force` finds what stayed.
            let _ = files.remove();
        }
        // Where the same is asked again from a copy of the program, it is told then.
        if !matches!(made, Err(OciError::OnDisk(_))) {
            self.warnings
                .capabilities(known.capabilities, &spec, spec.process().as_ref());
        }
        made
    }
}

/// Whatever its rules refuse, a container has the devices that every container has: others write specs that leave them
/// out, since runc adds them.
fn allow_default_devices(spec: &mut Spec) {
    let linux = spec.linux_mut().as_mut();
    let rules = linux
        .and_then(|linux| linux.resources_mut().as_mut())
        .and_then(|resources| resources.devices_mut().as_mut());
    if let Some(rules) = rules {
        rules.extend(default_devices());
    }
}

fn make(
    manager: Option<&Manager>,
    given: &Bundle,
    files: &Bundle,
    spec: &Spec,
    request: &CreateRequest<'_>,
) -> Result<Process> {
    let wish = &request.wish;
    let listener = sys::socket::listen(files.dir(), START).map_err(failed("the start socket"))?;
    let stdio = streams()?;
    let signals = Signals::hold()?;
    let cgroups = Cgroups::create_for_engine(manager, spec, files.id())?;
    if request.needs_cgroup && cgroups.is_none() {
        return Err(OciError::Request(
            "no cgroup can be made here, and --rootless false does without none",
        ));
    }
    let changed = cgroup_mounts::laid_out(spec, &cgroups.paths());
    let spec = changed.as_ref().unwrap_or(spec);
    let launched = cgroups.doors().map_err(OciError::from).and_then(|doors| {
        let order = Order {
            spec,
            bundle: given.path(),
            id: files.id(),
            stdio,
            preserved: wish.preserved,
            new_keyring: !wish.keep_keyring,
            start: Some(listener.as_fd()),
            size: None,
            cgroup: cgroups.birth_place(),
            doors: &doors,
            cgroup_view: cgroups.view(),
            no_pivot: request.no_pivot,
            nodev: !cgroups.refuse_devices(),
        };
        let launch = Launch::fork(&order, None)?;
        cgroups.settle();
        write_record(given, files, launch.pid(), cgroups.paths())?;
        Ok(launch.finish(&[signals.as_fd()], || signals.interrupted())?)
    });
    let handed_over = launched.and_then(|Launched { child, console }| {
        let mut process = Process { child, console };
        match wish.hand_over(&mut process) {
            Ok(()) => Ok(process),
            Err(error) => {
                process.end();
                Err(error)
            }
        }
    });
    if handed_over.is_err() {
        cgroups.end();
    }
    handed_over
}

fn write_record(given: &Bundle, files: &Bundle, pid: i32, cgroups: CgroupPaths) -> Result<()> {
    let record = Record {
        version: bundle::VERSION,
        process: ProcessId::of(pid).map_err(failed(format!("looking at process {pid}")))?,
        bundle: given.path().to_path_buf(),
        created: state::now(),
        owner: rustix::process::getuid().as_raw(),
        cgroups,
    };
    Ok(files.write_json(bundle::STATE, &record)?)
}

impl Container {
    /// Lets the program of a created container begin, and waits until it runs.
    ///
    /// # Errors
    /// [`OciError`]. Where the program cannot be executed the container has stopped.
    pub fn start(&self) -> Result<()> {
        let refused = |status| OciError::State {
            verb: "start",
            id: self.id().to_owned(),
            status,
            wanted: "created",
        };
        match self.status()? {
            Status::Created => {}
            status => return Err(refused(status)),
        }
        let doing = || failed("reaching the container's process".to_owned());
        let dir = self.files.dir();
        // Of several who start it one comes by the name, and from then on it counts as started.
        match dir.rename_noreplace(START, dir, STARTING) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(refused(self.status()?));
            }
            other => other.map_err(doing())?,
        }
        let connected = sys::socket::connect(dir, STARTING, None);
        dir.unlink(STARTING).map_err(doing())?;
        let connection = match connected {
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                return Err(OciError::NotRunning);
            }
            other => other.map_err(doing())?,
        };
        let sync = Sync::over(connection);
        let mut executing = false;
        loop {
            match sync.hear().map_err(doing())? {
                Some(Word::Executing) => executing = true,
                Some(Word::Failed(fault)) => return Err(fault.into()),
                Some(Word::Listener(listener)) => {
                    if let Err(fault) = self.deliver(listener.as_fd()) {
                        // Nobody would ever answer what it asks.
                        let _ = self.kill(rustix::process::Signal::KILL.as_raw(), false);
                        return Err(fault.into());
                    }
                    sync.allow().map_err(doing())?;
                }
                Some(_) => {}
                None if executing => break,
                None => return Err(OciError::NotRunning),
            }
        }
        let pid = self.record.as_ref().map(|record| record.process.pid);
        let due = self
            .spec
            .hooks()
            .as_ref()
            .and_then(|hooks| hooks.poststart().as_deref());
        let state = self.hook_state("running", pid);
        match hooks::run("poststart", due.unwrap_or_default(), &state) {
            Ok(()) => Ok(()),
            Err(fault) => {
                // As runc has it: the container does not go on without them. It may have ended by itself, and what the hook said
                // is what is to be told.
                let _ = self.kill(rustix::process::Signal::KILL.as_raw(), false);
                Err(fault.into())
            }
        }
    }
}

impl Container {
    /// Gives the listener of the first process's filter to the agent.
    fn deliver(&self, listener: BorrowedFd<'_>) -> std::result::Result<(), Fault> {
        match Agent::of(&self.spec, &self.hook_state("created", Some(self.first())))? {
            Some(agent) => agent.send(self.first(), listener),
            None => Ok(()),
        }
    }
}

impl Process {
    /// Kills it and takes its end.
    pub(super) fn end(&mut self) {
        let kill = rustix::process::Signal::KILL.as_raw();
        let _ = sys::process::send_signal(self.child.pidfd.as_fd(), kill);
        if let Some(pid) = Pid::from_raw(self.child.pid) {
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
        }
    }
}
