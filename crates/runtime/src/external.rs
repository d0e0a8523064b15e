//! `--runtime PATH`: the same bundle, run by another OCI runtime (runc, crun, youki) that the supervisor drives by
//! `create`, `start` and `delete`. The process that it leaves becomes the supervisor's child, as one of our own would
//! be, since the supervisor adopts orphans.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use oci_spec::runtime::Spec;
use rustix::fs::Mode;
use rustix::process::{Pid, PidfdFlags};
use serde::Deserialize;

use crate::bundle::Bundle;
use crate::control::Concern;
use crate::launch::{CANNOT_RUN, During, FAILED, Fault, INIT_ANNOTATION, IntoText, NOT_FOUND, Result};

/// The runtime's own state, its log, the number of the process it made, and where it sends the terminal: in the
/// bundle.
const ROOT: &str = "runtime";
const LOG: &str = "runtime.log";
const PID: &str = "runtime.pid";
const CONSOLE: &str = "console.sock";

/// What runtimes look for their helpers in.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A container that another runtime made.
pub(crate) struct External {
    program: PathBuf,
    bundle: PathBuf,
    id: String,
}

/// Its process.
pub(crate) struct Container {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
    pub(crate) console: Option<OwnedFd>,
}

/// One line of a runtime's log (`--log-format json`).
#[derive(Deserialize)]
struct Logged {
    level: String,
    msg: String,
}

impl External {
    /// Creates and starts the container of `bundle`.
    pub(crate) fn start(
        program: &Path,
        bundle: &Bundle,
        spec: &Spec,
        stdio: [OwnedFd; 3],
        size: Option<(u16, u16)>,
    ) -> Result<(External, Container)> {
        if spec
            .annotations()
            .as_ref()
            .is_some_and(|all| all.contains_key(INIT_ANNOTATION))
        {
            let text = format!(
                "an init process (--init) is strata's own: {} does not have it",
                program.display()
            );
            return Err(Fault::new(text));
        }
        let external = External {
            program: program.to_path_buf(),
            bundle: bundle.path().to_path_buf(),
            id: bundle.id().to_owned(),
        };
        let process = spec.process().as_ref();
        let terminal = process.and_then(|process| process.terminal()).unwrap_or(false);
        let console = terminal
            .then(|| sys::socket::listen_stream(bundle.dir(), CONSOLE))
            .transpose();
        let console = console.during(|| "the console socket".into())?;
        external.create(bundle, console.is_some(), stdio)?;
        match external.adopt(bundle, console, size) {
            Ok(container) => Ok((external, container)),
            Err(fault) => {
                external.delete();
                Err(fault)
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .env("PATH", PATH)
            .arg("--root")
            .arg(self.bundle.join(ROOT))
            .arg("--log")
            .arg(self.bundle.join(LOG))
            .args(["--log-format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    fn create(&self, bundle: &Bundle, console: bool, stdio: [OwnedFd; 3]) -> Result<()> {
        let [stdin, stdout, stderr] = stdio;
        // What it is started with is what the container gets, unless that has a terminal.
        let stderr = if console { Stdio::null() } else { stderr.into() };
        let mut command = self.command();
        command.arg("create").arg("--bundle").arg(&self.bundle);
        command.arg("--pid-file").arg(self.bundle.join(PID));
        if console {
            // Reached through our own descriptor: a socket's path may not be long, a bundle's may.
            let own = rustix::process::getpid().as_raw_nonzero();
            let dir = bundle.dir().as_fd().as_raw_fd();
            command
                .arg("--console-socket")
                .arg(format!("/proc/{own}/fd/{dir}/{CONSOLE}"));
        }
        command.stdin(stdin).stdout(stdout).stderr(stderr).arg(&self.id);
        self.run("create", command).map_err(|fault| match console {
            true => fault.in_full(),
            // It has said so on the container's standard error, which is its own until then.
            false => fault.in_short(),
        })
    }

    fn adopt(
        &self,
        bundle: &Bundle,
        console: Option<OwnedFd>,
        size: Option<(u16, u16)>,
    ) -> Result<Container> {
        let doing = || format!("{}: {PID}", self.program.display());
        let text = bundle
            .read(PID)
            .map_err(|error| Fault::new(error.to_string()))?
            .unwrap_or_default();
        let number = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.trim().parse().ok());
        let pid = number
            .and_then(Pid::from_raw)
            .ok_or_else(|| Fault::new(format!("{} is no number", doing())))?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).during(doing)?;
        let console = console
            .map(|listener| self.take_console(bundle, &listener))
            .transpose()?;
        if let (Some(console), Some((rows, columns))) = (&console, size) {
            sys::pty::set_size(console.as_fd(), rows, columns).during(|| "the terminal's size".into())?;
        }
        let mut start = self.command();
        start.arg("start").arg(&self.id);
        self.run("start", start).map_err(Failed::in_full)?;
        Ok(Container {
            pid: pid.as_raw_nonzero().get(),
            pidfd,
            console,
        })
    }

    /// The runtime has sent it before `create` ended.
    fn take_console(&self, bundle: &Bundle, listener: &OwnedFd) -> Result<OwnedFd> {
        let doing = || format!("{}: receiving the terminal", self.program.display());
        let none = || Fault::new(format!("{}: none was sent", doing()));
        let connection = sys::socket::accept(listener.as_fd())
            .during(doing)?
            .ok_or_else(none)?;
        let message = sys::socket::receive(connection.as_fd(), 4096).during(doing)?;
        let _ = bundle.dir().unlink(CONSOLE);
        message.and_then(|mut message| message.fds.pop()).ok_or_else(none)
    }

    fn run(&self, verb: &str, mut command: Command) -> std::result::Result<(), Failed> {
        let what = format!("{} {verb}", self.program.display());
        let failed = |error: std::io::Error| Failed {
            what: what.clone(),
            started: false,
            said: None,
            otherwise: error.into_text(),
        };
        // What it makes outside the bundle, such as the cgroup above the container's, is for everybody to look into.
        let own = rustix::process::umask(Mode::from_raw_mode(0o022));
        let child = command.spawn();
        rustix::process::umask(own);
        let mut child = child.map_err(failed)?;
        // The copies of the standard streams that the command holds would keep pipes open.
        drop(command);
        let status = child.wait().map_err(failed)?;
        match status.success() {
            true => Ok(()),
            false => Err(Failed {
                what,
                started: true,
                said: self.logged_error(),
                otherwise: status.to_string(),
            }),
        }
    }

    /// The last error in the runtime's log.
    fn logged_error(&self) -> Option<String> {
        let log = File::open(self.bundle.join(LOG)).ok()?;
        let lines = serde_json::Deserializer::from_reader(std::io::BufReader::new(log)).into_iter::<Logged>();
        lines
            .map_while(std::result::Result::ok)
            .filter(|line| line.level == "error")
            .last()
            .map(|line| line.msg)
    }

    /// Removes the container; what went wrong, if something did.
    pub(crate) fn delete(&self) -> Option<String> {
        let mut command = self.command();
        command.args(["delete", "--force"]).arg(&self.id);
        self.run("delete", command)
            .err()
            .map(|failed| failed.in_full().text)
    }
}

/// A call of the runtime that failed.
struct Failed {
    /// The program, and what was asked of it.
    what: String,
    /// The program could be started.
    started: bool,
    /// The error in its log.
    said: Option<String>,
    /// How it ended, or why it could not be started.
    otherwise: String,
}

impl Failed {
    /// With the reason.
    fn in_full(self) -> Fault {
        let concern = match self.started {
            true => Concern::RuntimeWords,
            false => Concern::RuntimeProgram,
        };
        let reason = self.said.unwrap_or(self.otherwise);
        Fault {
            code: code_of(&reason),
            concern,
            text: format!("{}: {reason}", self.what),
        }
    }

    /// Where the runtime has shown the reason that it logged.
    fn in_short(self) -> Fault {
        match &self.said {
            Some(said) => Fault {
                code: code_of(said),
                concern: Concern::RuntimeWords,
                text: format!("{} failed, as it says itself above", self.what),
            },
            None => self.in_full(),
        }
    }
}

/// Other runtimes tell in words alone what our launcher tells by a code.
fn code_of(message: &str) -> u8 {
    let message = message.to_ascii_lowercase();
    if !message.contains("exec") {
        FAILED
    } else if message.contains("not found") || message.contains("no such file") {
        NOT_FOUND
    } else if message.contains("permission denied") || message.contains("is a directory") {
        CANNOT_RUN
    } else {
        FAILED
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_runc_and_crun() {
        for (code, message) in [
            (127, r#"exec: "nothing": executable file not found in $PATH"#),
            (
                127,
                "executable file `nothing` not found in $PATH: No such file or directory",
            ),
            (126, r#"exec: "/etc/passwd": permission denied"#),
            (126, "open executable: Permission denied"),
            (125, "cgroup: permission denied"),
        ] {
            assert_eq!(code_of(message), code, "{message}");
        }
    }
}
