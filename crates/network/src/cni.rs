//! Calling CNI plug-ins: programs that are told what to do by variables and a configuration on standard input, and that
//! answer with a result, or with an error, on standard output.

use std::io::{self, Read, Write};
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conflist::{CNI_VERSION, IPAM, PLUGINS};

/// Where plug-ins are looked for unless the configuration says otherwise: what an administrator brought goes before what
/// the distribution has (Debian's `/usr/lib/cni`, Fedora's `/usr/libexec/cni`).
pub const DIRECTORIES: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/// Where plug-ins look for the programs that they use. Not the caller's: at a container's end there is no caller.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What `portmap` and `firewall` use.
const IPTABLES: &str = "iptables";

/// What iptables says of a chain that is there already, by either of its ways into the kernel.
const TAKEN: [&str; 2] = ["CHAIN_USER_ADD failed (File exists)", "Chain already exists"];

/// A plug-in that takes longer has hung, and is killed.
const PATIENCE: Duration = Duration::from_secs(60);

/// No answer is longer.
const MAX_ANSWER: usize = 1 << 20;

/// Why a plug-in did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CniError {
    /// There is no such program.
    #[error("the program {program:?} is not in {}", list(directories))]
    Missing {
        /// Its name.
        program: String,
        /// Where it was looked for.
        directories: Vec<PathBuf>,
    },
    /// It could not be run.
    #[error("plug-in {}: {source}", program.display())]
    Run {
        /// The program.
        program: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// It refused, or ended in another way than by an answer.
    #[error("plug-in {plugin} ({command}): {message}")]
    Failed {
        /// Its name.
        plugin: String,
        /// What it was asked.
        command: &'static str,
        /// What it says.
        message: String,
    },
    /// It did not end.
    #[error("plug-in {plugin} ({command}) did not end within {} seconds and was killed", PATIENCE.as_secs())]
    Hung {
        /// Its name.
        plugin: String,
        /// What it was asked.
        command: &'static str,
    },
}

fn list(directories: &[PathBuf]) -> String {
    let names: Vec<String> = directories.iter().map(|dir| dir.display().to_string()).collect();
    names.join(", ")
}

/// The directories that hold plug-ins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plugins(pub Vec<PathBuf>);

impl Default for Plugins {
    fn default() -> Plugins {
        Plugins(DIRECTORIES.map(PathBuf::from).to_vec())
    }
}

impl Plugins {
    /// Whether all that a bridge needs is installed.
    ///
    /// # Errors
    /// [`CniError::Missing`] names the first that is not.
    pub fn complete(&self) -> Result<(), CniError> {
        for name in PLUGINS.into_iter().chain([IPAM]) {
            self.find(name)?;
        }
        let directories: Vec<PathBuf> = PATH.split(':').map(PathBuf::from).collect();
        look(IPTABLES, &directories).map(drop)
    }

    fn find(&self, name: &str) -> Result<PathBuf, CniError> {
        look(name, &self.0)
    }
}

fn look(name: &str, directories: &[PathBuf]) -> Result<PathBuf, CniError> {
    let places = directories.iter().map(|dir| dir.join(name));
    // A configuration's own name is no path: it is ours, or what the last start of a container recorded.
    let found = (!name.contains('/'))
        .then(|| places.into_iter().find(|path| path.is_file()))
        .flatten();
    found.ok_or_else(|| CniError::Missing {
        program: name.to_owned(),
        directories: directories.to_vec(),
    })
}

/// What a network's plug-ins made: the parts of a result that are asked for here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Made {
    /// Interfaces, on the machine and in the container.
    pub interfaces: Vec<Interface>,
    /// Addresses.
    pub ips: Vec<Address>,
}

/// An interface of a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: String,
    /// The namespace it is in; empty for the machine's own.
    pub sandbox: String,
}

/// An address of a result.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Address {
    /// With the prefix: `10.62.0.2/24`.
    pub address: String,
    /// The gateway.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

impl Address {
    /// The address alone, and how many of its first bits its network shares.
    pub fn parts(&self) -> Option<(IpAddr, u8)> {
        let (address, prefix) = self.address.split_once('/')?;
        Some((address.parse().ok()?, prefix.parse().ok()?))
    }
}

/// One container's attachment to one network, as plug-ins are told of it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Where plug-ins lie.
    pub plugins: &'a Plugins,
    /// The container's id.
    pub container: &'a str,
    /// The file of its network namespace; `None` where that is gone.
    pub namespace: Option<&'a Path>,
    /// The interface's name in it.
    pub interface: &'a str,
    /// The list, as [`crate::conflist`] makes it.
    pub list: &'a Value,
    /// What plug-ins that declare a capability are told of it.
    pub capabilities: &'a Value,
}

impl Call<'_> {
    /// Attaches: every plug-in in order, each told what those before it made, which `made` is told before the next is
    /// called. What was done before a failure is the caller's to undo, by [`Call::del`] with the last that it was told:
    /// `firewall` finds its rules by that alone.
    ///
    /// # Errors
    /// See [`CniError`]; and what `made` says.
    pub fn add<E: From<CniError>>(&self, mut made: impl FnMut(&Value) -> Result<(), E>) -> Result<(), E> {
        let mut result = None;
        for plugin in self.configured() {
            let answer = match self.run("ADD", plugin, result.as_ref()) {
                // Another container's looked for the chains of iptables that all share when this one did, and was the first to make
                // them: now they are there.
                Err(CniError::Failed { message, .. }) if is_taken(&message) => {
                    self.run("ADD", plugin, result.as_ref())?
                }
                other => other?,
            };
            let answer: Value = serde_json::from_slice(&answer).map_err(|error| CniError::Failed {
                plugin: name(plugin),
                command: "ADD",
                message: format!("its answer is not understood: {error}"),
            })?;
            made(&answer)?;
            result = Some(answer);
        }
        Ok(())
    }

    /// Detaches: every plug-in in reverse order, whatever the others say, with the result of the attachment where there
    /// was one. To detach what is not attached is no error.
    pub fn del(&self, result: Option<&Value>) -> Result<(), CniError> {
        let mut first = Ok(());
        for plugin in self.configured().rev() {
            let done = self.run("DEL", plugin, result).map(drop);
            first = first.and(done);
        }
        first
    }

    /// Whether everything is as it was made.
    ///
    /// # Errors
    /// [`CniError::Failed`] says what is not.
    pub fn check(&self, result: &Value) -> Result<(), CniError> {
        for plugin in self.configured() {
            // That of `portmap` looks for the rules of IPv4 among those of IPv6 (version 1.1), and so always complains.
            if name(plugin) != "portmap" {
                self.run("CHECK", plugin, Some(result))?;
            }
        }
        Ok(())
    }

    fn configured(&self) -> std::slice::Iter<'_, Value> {
        self.list["plugins"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default()
            .iter()
    }

    fn run(
        &self,
        command: &'static str,
        plugin: &Value,
        result: Option<&Value>,
    ) -> Result<Vec<u8>, CniError> {
        let name = name(plugin);
        let program = self.plugins.find(&name)?;
        let config = self.config(plugin, result);
        let run = |source| CniError::Run {
            program: program.clone(),
            source,
        };
        let directories: Vec<String> = self
            .plugins
            .0
            .iter()
            .map(|dir| dir.display().to_string())
            .collect();
        let mut child = Command::new(&program);
        child
            .env_clear()
            .env("PATH", PATH)
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", self.container)
            .env("CNI_NETNS", self.namespace.unwrap_or(Path::new("")))
            .env("CNI_IFNAME", self.interface)
            .env("CNI_PATH", directories.join(":"))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's keys are meant for the container.
            .process_group(0);
        let child = child.spawn().map_err(run)?;
        match communicate(child, config.to_string().as_bytes(), PATIENCE).map_err(run)? {
            None => Err(CniError::Hung {
                plugin: name,
                command,
            }),
            Some(ended) if ended.status.success() => Ok(ended.out),
            Some(ended) => Err(CniError::Failed {
                message: complaint(&ended),
                plugin: name,
                command,
            }),
        }
    }

    /// A plug-in's own configuration, completed as the specification says ("Deriving request configuration").
    fn config(&self, plugin: &Value, result: Option<&Value>) -> Value {
        let mut config = plugin.clone();
        config["cniVersion"] = self
            .list
            .get("cniVersion")
            .cloned()
            .unwrap_or_else(|| CNI_VERSION.into());
        config["name"] = self.list["name"].clone();
        let declared = |name: &str| plugin["capabilities"][name] == Value::Bool(true);
        let told: serde_json::Map<String, Value> = self
            .capabilities
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| declared(name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        if !told.is_empty() {
            config["runtimeConfig"] = told.into();
        }
        if let Some(result) = result {
            config["prevResult"] = result.clone();
        }
        config
    }
}

fn name(plugin: &Value) -> String {
    plugin["type"].as_str().unwrap_or_default().to_owned()
}

/// A program that has ended.
struct Ended {
    status: ExitStatus,
    out: Vec<u8>,
    err: Vec<u8>,
}

/// What a plug-in that failed says: its error as the specification has it, or else what it printed.
fn complaint(ended: &Ended) -> String {
    #[derive(Deserialize)]
    struct Complaint {
        msg: String,
        #[serde(default)]
        details: String,
    }
    let text = match serde_json::from_slice::<Complaint>(&ended.out) {
        Ok(Complaint { msg, details }) if details.is_empty() => msg,
        Ok(Complaint { msg, details }) => format!("{msg}; {details}"),
        Err(_) => {
            let said = [&ended.err, &ended.out]
                .into_iter()
                .find(|text| !text.trim_ascii().is_empty());
            said.map_or_else(
                || ended.status.to_string(),
                |text| String::from_utf8_lossy(text).into_owned(),
            )
        }
    };
    // One line, whatever programs it passes on the words of.
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Gives a program its input and takes what it says; `None` when it was killed because it does not end.
fn communicate(mut child: Child, input: &[u8], patience: Duration) -> io::Result<Option<Ended>> {
    let deadline = Instant::now() + patience;
    let finished =
        exchange(&mut child, input, deadline).and_then(|said| Ok((said, wait(&mut child, deadline)?)));
    match finished {
        Ok((Some((out, err)), Some(status))) => Ok(Some(Ended { status, out, err })),
        other => {
            // It leads a group of its own: what it started is not left either.
            if let Some(group) = i32::try_from(child.id())
                .ok()
                .and_then(rustix::process::Pid::from_raw)
            {
                let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
            }
            let _ = child.wait();
            other.map(|_| None)
        }
    }
}

/// Output and error; `None` when time is up.
fn exchange(child: &mut Child, input: &[u8], deadline: Instant) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    match stdin.write_all(input) {
        // It says why it does not read.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    drop(stdin);
    let (mut out, mut err) = (Some(Vec::new()), Some(Vec::new()));
    let mut said = (Vec::new(), Vec::new());
    while out.is_some() || err.is_some() {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut fds = Vec::new();
        if out.is_some() {
            fds.push(PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN));
        }
        if err.is_some() {
            fds.push(PollFd::from_borrowed_fd(stderr.as_fd(), PollFlags::IN));
        }
        match rustix::event::poll(&mut fds, Some(&left)) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let out_ready = out.is_some() && ready.next() == Some(true);
        let err_ready = err.is_some() && ready.next() == Some(true);
        drop(fds);
        if out_ready && take(&mut stdout, &mut out)? {
            said.0 = out.take().unwrap_or_default();
        }
        if err_ready && take(&mut stderr, &mut err)? {
            said.1 = err.take().unwrap_or_default();
        }
    }
    Ok(Some(said))
}

/// Takes what is there; true at the end.
fn take(from: &mut impl Read, to: &mut Option<Vec<u8>>) -> io::Result<bool> {
    let mut part = [0; 4096];
    let length = from.read(&mut part)?;
    if let Some(to) = to {
        to.extend(&part[..length]);
        if to.len() > MAX_ANSWER {
            return Err(io::Error::other("it says more than a mebibyte"));
        }
    }
    Ok(length == 0)
}

fn wait(child: &mut Child, deadline: Instant) -> io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        // It has closed its output, and so ends at once.
        if Instant::now() >= deadline {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_taken(message: &str) -> bool {
    TAKEN.iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests;
