//! `exec`: one more process in a container that runs, and the caller's own child.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities, Process as Wanted};
use rustix::event::{PollFd, PollFlags};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};

use super::container::Container;
use super::process::{Process, Signals, Wish, streams};
use super::{OciError, Result, Status, failed};
use crate::bundle::BundleError;
use crate::cgroup::Below;
use crate::launch::exec::{self, ExecOrder, Progress, Started};
use crate::launch::{Cgroups, FAILED};
use crate::names;

/// No file of a process is longer: the kernel takes arguments and environment of a few megabytes.
const MAX_PROCESS: u64 = 8 << 20;

/// A process to be made.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// What it is to be.
    pub process: &'a Wanted,
    /// Names of capabilities that were asked for and are none.
    pub unknown: Vec<String>,
    /// Where below the container's cgroup it is to be; nothing said, in that ([`places_below`]).
    pub below: &'a [Below],
    /// It is made in a container that is held still too, and begins when that goes on.
    pub wait_where_paused: bool,
    /// The rest.
    pub wish: Wish<'a>,
}

/// What the command line asks of a process, over what the container's first one has.
#[derive(Debug, Default)]
pub struct ExecFlags {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// `NAME=VALUE`, behind the container's.
    pub env: Vec<String>,
    /// A terminal.
    pub tty: bool,
    /// `UID[:GID]`.
    pub user: Option<String>,
    /// Groups besides.
    pub groups: Vec<u32>,
    /// Capabilities besides, as `CAP_CHOWN`.
    pub capabilities: Vec<String>,
    /// Nothing that is executed gives it more rights.
    pub no_new_privileges: bool,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux label.
    pub label: Option<String>,
}

/// Reads what `exec --cgroup` says: one path for all hierarchies, or some for those of the controllers before them.
///
/// # Errors
/// It is none of both.
pub fn places_below(words: &[String]) -> Result<Vec<Below>> {
    let mut places = Vec::new();
    for word in words {
        match *word.split(':').collect::<Vec<_>>() {
            [path] if words.len() == 1 => places.push(Below {
                controller: None,
                path: path.into(),
            }),
            [controllers, path] => places.extend(controllers.split(',').map(|controller| Below {
                controller: Some(controller.to_owned()),
                path: path.into(),
            })),
            _ => {
                return Err(OciError::Request(
                    "invalid --cgroup argument: PATH alone and once, or CONTROLLER,...:PATH each time",
                ));
            }
        }
    }
    Ok(places)
}

/// Reads a process from a file of JSON. What of its capabilities is none, a warning is to be given of.
///
/// # Errors
/// It cannot be read, or is not that.
pub fn read_process(path: &Path) -> Result<(Wanted, Vec<String>)> {
    let doing = || path.display().to_string();
    let mut text = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_PROCESS).read_to_end(&mut text))
        .map_err(failed(doing()))?;
    let known = names::parse(&text).map_err(|source| BundleError::Json {
        path: path.to_path_buf(),
        source,
    })?;
    Ok((known.value, known.capabilities))
}

impl Container {
    /// The process that `flags` ask for.
    ///
    /// # Errors
    /// A user that is no number.
    pub fn process_of(&self, flags: &ExecFlags) -> Result<(Wanted, Vec<String>)> {
        let mut unknown = Vec::new();
        let mut process = self.spec.process().clone().unwrap_or_default();
        process
            .set_args(Some(flags.args.clone()))
            .set_terminal(Some(flags.tty))
            .set_console_size(None);
        if let Some(cwd) = &flags.cwd {
            process.set_cwd(cwd.clone());
        }
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(flags.env.iter().cloned());
        process.set_env(Some(env));
        if let Some(text) = &flags.user {
            let (uid, gid) = text.split_once(':').unwrap_or((text, ""));
            let number = |text: &str| text.parse::<u32>().ok();
            let (Some(uid), Some(gid)) = (number(uid), number(if gid.is_empty() { "0" } else { gid })) else {
                return Err(OciError::Request("--user takes numbers: UID[:GID]"));
            };
            let mut user = process.user().clone();
            user.set_uid(uid).set_gid(gid);
            process.set_user(user);
        }
        if !flags.groups.is_empty() {
            let mut user = process.user().clone();
            let mut groups = user.additional_gids().clone().unwrap_or_default();
            groups.extend(&flags.groups);
            user.set_additional_gids(Some(groups));
            process.set_user(user);
        }
        if !flags.capabilities.is_empty() {
            let mut more = Vec::new();
            for name in &flags.capabilities {
                match serde_json::from_value::<Capability>(name.as_str().into()) {
                    Ok(capability) => more.push(capability),
                    Err(_) => unknown.push(name.clone()),
                }
            }
            let mut all = process.capabilities().clone().unwrap_or_default();
            let with = |set: &Option<std::collections::HashSet<Capability>>| {
                Some(set.iter().flatten().chain(&more).copied().collect())
            };
            let (bounding, effective) = (with(all.bounding()), with(all.effective()));
            let permitted = with(all.permitted());
            all.set_bounding(bounding)
                .set_effective(effective)
                .set_permitted(permitted);
            process.set_capabilities(Some(LinuxCapabilities::clone(&all)));
        }
        if flags.no_new_privileges {
            process.set_no_new_privileges(Some(true));
        }
        if let Some(profile) = &flags.apparmor {
            process.set_apparmor_profile(Some(profile.clone()));
        }
        if let Some(label) = &flags.label {
            process.set_selinux_label(Some(label.clone()));
        }
        Ok((process, unknown))
    }

    /// Makes the process and waits until its program runs. The caller must have one thread only; its standard streams
    /// are the process's, where that has no terminal.
    ///
    /// # Errors
    /// [`OciError`].
    pub fn exec(&self, request: &ExecRequest<'_>) -> Result<Process> {
        let made = self.make(request);
        if !matches!(made, Err(OciError::OnDisk(_))) {
            let unknown = request.unknown.clone();
            self.warnings
                .capabilities(unknown, &self.spec, Some(request.process));
        }
        made
    }

    fn make(&self, request: &ExecRequest<'_>) -> Result<Process> {
        let ExecRequest { process, wish, .. } = request;
        wish.check(process.terminal().unwrap_or(false))?;
        let status = self.status()?;
        let first = match (status, self.process()?) {
            (Status::Stopped, _) | (_, None) => return Err(OciError::NotRunning),
            (Status::Running | Status::Created, Some(first)) => first,
            (Status::Paused, Some(first)) if request.wait_where_paused => first,
            // It would stand still with the others, and whoever asked with it.
            (Status::Paused, _) => {
                return Err(OciError::Request(
                    "cannot exec in a paused container (use --ignore-paused to override)",
                ));
            }
            _ => {
                return Err(OciError::State {
                    verb: "exec in",
                    id: self.id().to_owned(),
                    status,
                    wanted: "running",
                });
            }
        };
        let own = self.cgroup()?;
        let cgroups = Cgroups::of(match request.below {
            [] => own,
            below => own.below(below)?,
        });
        let doors = cgroups.doors()?;
        let below = cgroups.place_below(first.as_fd());
        let signals = Signals::hold()?;
        let mut joining = exec::fork(&ExecOrder {
            spec: &self.spec,
            id: self.id(),
            bundle: self.bundle(),
            process,
            first: first.as_fd(),
            stdio: streams()?,
            preserved: wish.preserved,
            new_keyring: !wish.keep_keyring,
            size: None,
            cgroup: below.as_ref().map(AsFd::as_fd).or_else(|| cgroups.birth_place()),
            doors: &doors,
        })?;
        let made = loop {
            // Where the container stands still it takes as long as that.
            if request.wait_where_paused {
                let mut polled = [
                    PollFd::new(&joining, PollFlags::IN),
                    PollFd::new(&signals, PollFlags::IN),
                ];
                rustix::event::poll(&mut polled, None).map_err(failed("waiting for the process"))?;
                if let Some(fault) = signals.interrupted() {
                    break Err(fault.into());
                }
                if !polled[0].revents().intersects(PollFlags::IN | PollFlags::HUP) {
                    continue;
                }
            }
            match joining.advance() {
                Progress::Pending => {}
                Progress::Runs(started) => break Ok(started),
                Progress::Failed(fault) => break Err(fault.into()),
                Progress::Silent => {
                    break Err(OciError::Launch {
                        text: "the process ended while it was being set up".to_owned(),
                        code: FAILED,
                    });
                }
            }
        };
        let pid = Pid::from_raw(joining.pid());
        // It is killed where it does not run.
        drop(joining);
        let Started { child, console } = made.inspect_err(|_| {
            // Left to the container's first process it would keep the container's processes from coming to an end.
            let _ = pid.map(|pid| retry_on_intr(|| waitpid(Some(pid), WaitOptions::empty())));
        })?;
        drop(signals);
        let mut process = Process { child, console };
        match wish.hand_over(&mut process) {
            Ok(()) => Ok(process),
            Err(error) => {
                process.end();
                Err(error)
            }
        }
    }
}
