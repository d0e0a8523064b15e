//! The FUSE driver: an overlay that a process of our own serves.
//!
//! The server is a program given by path, started in a role by the arguments that come with it. It reads a
//! [`Request`] from its standard input, mounts, answers on its standard output, and then is nobody's child: it ends when
//! the last user of the mount is gone, or when it is told to.
//!
//! A mount tells who serves it by an attribute of its root, so that no socket, file or registry has to be where both
//! sides find it. A server that hangs does not tell: whoever must not hang with it keeps the answer to [`Served::name`].

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

use crate::overlay::{self, Overlay};
use crate::{Mount, MountError, table};

/// Type of such a mount in the mount table.
pub const KIND: &str = "fuse.strata";

/// The attribute of a root that tells who serves it: process id and start time, and [`NEVER_WRITTEN`] where there is no
/// upper directory.
const SERVER_ATTRIBUTE: &str = "security.strata.server";

/// What a server says behind them of a mount without an upper directory.
const NEVER_WRITTEN: &str = "read-only";

/// The name that a server is called by.
const SERVER_NAME: &str = "strata";

/// What the server answers when the mount is there; anything else says why it is not.
pub const READY: &str = "ready";
/// The same, where requests travel through io_uring.
pub const READY_IO_URING: &str = "ready, over io_uring";

/// A server that was started.
#[derive(Debug)]
pub struct Served {
    /// Its process, which is a child of this one: it lives as long as the mount, and its parent reaps it or ends.
    pub process: Child,
    /// Whether the kernel's requests travel through io_uring.
    pub over_io_uring: bool,
}

impl Served {
    /// What [`Server::named`] knows its process by.
    pub fn name(&self) -> Option<String> {
        let pid = self.process.id();
        Some(format!("{pid} {}", start_time(pid).ok()??))
    }
}

/// The program that serves, and the arguments that bring it into that role.
#[derive(Debug, Clone)]
pub struct Helper {
    /// Path of the program.
    pub program: PathBuf,
    /// Arguments that select the role.
    pub args: Vec<OsString>,
}

/// Who makes an overlay real.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Driver {
    /// The kernel's overlay, and a server of ours where the kernel refuses.
    #[default]
    Auto,
    /// The kernel's overlay.
    Kernel,
    /// A server of ours.
    Fuse,
}

/// Makes `mount` real at `target` as [`crate::attach`] does, with the driver that is asked for if it is an overlay.
pub fn attach_with(driver: Driver, helper: &Helper, mount: &Mount, target: &Path) -> Result<(), MountError> {
    let refused = match (driver, mount.kind.as_str()) {
        (Driver::Fuse, "overlay") => None,
        (Driver::Auto, "overlay") => match crate::attach(mount, target) {
            Err(error @ MountError::Refused { .. }) => Some(error),
            other => return other,
        },
        _ => return crate::attach(mount, target),
    };
    refuse_in_use(mount)?;
    let mut request = Request::new(mount, target);
    if !sys::ids::Ids::own().is_ok_and(|ids| ids.are_the_machines()) {
        // SELinux lets nobody say a label of FUSE in a user namespace; all has the one that FUSE has there.
        request.mount.options.retain(|option| !overlay::is_label(option));
    }
    match (attach(helper, &request), refused) {
        (Ok(_), _) => Ok(()),
        // What the kernel has to say is the first thing to be heard.
        (Err(_), Some(refused)) => Err(refused),
        (Err(error), None) => Err(error),
    }
}

/// Refuses an overlay whose upper or work directory the mount table shows in use by the kernel's. That takes no lock, so a
/// server cannot know by itself.
pub fn refuse_in_use(mount: &Mount) -> Result<(), MountError> {
    let overlay = Overlay::parse(&mount.options);
    let writable = overlay
        .writable
        .into_iter()
        .flat_map(|(upper, work)| [upper, work]);
    for path in writable {
        if crate::kernel::upper_in_use(&path).unwrap_or(false) {
            return Err(MountError::InUse(path));
        }
    }
    Ok(())
}

/// Takes away every mount at `target`, whoever serves it. Answers whether there was one, as [`crate::detach`] does.
pub fn detach(target: &Path) -> Result<bool, MountError> {
    let mut found = false;
    while is_served(target) && matches!(table::at(target), Ok(Some(entry)) if entry.kind == KIND) {
        stop(target, Unmount::Detach)?;
        found = true;
    }
    Ok(crate::kernel::detach(target)? || found)
}

/// The same, of a topmost mount of which it is known who serves it: that one is not asked, and may hang.
pub fn detach_from(server: Server, target: &Path) -> Result<bool, MountError> {
    stop_server(target, Unmount::Detach, |_| Some(server))?;
    detach(target)?;
    Ok(true)
}

/// Whether `target` shows a FUSE file system, be its server alive or not.
fn is_served(target: &Path) -> bool {
    const FUSE: u64 = 0x6573_5546;
    match rustix::fs::statfs(target) {
        Ok(status) => status.f_type as u64 == FUSE,
        Err(errno) => matches!(errno, Errno::NOTCONN | Errno::CONNABORTED),
    }
}

/// What a server is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Request {
    /// The overlay. Its paths are absolute.
    pub mount: Mount,
    /// Where it is to be mounted: an absolute path.
    pub target: PathBuf,
    /// Type behind `fuse.` in the mount table.
    pub subtype: String,
}

impl Request {
    /// `mount` at `target`, as [`KIND`].
    pub fn new(mount: &Mount, target: &Path) -> Request {
        Request {
            mount: mount.clone(),
            target: target.to_path_buf(),
            subtype: KIND.trim_start_matches("fuse.").to_owned(),
        }
    }

    /// Reads the request that this process was started with.
    pub fn receive(from: &mut impl Read) -> io::Result<Request> {
        Ok(serde_json::from_reader(from)?)
    }
}

/// How long a server may take from its start until it serves, before it counts as one that hangs.
const ANSWER: Duration = Duration::from_secs(20);

/// Starts a server and returns when its file system is mounted.
pub fn attach(helper: &Helper, request: &Request) -> Result<Served, MountError> {
    attach_within(ANSWER, helper, request)
}

fn attach_within(time: Duration, helper: &Helper, request: &Request) -> Result<Served, MountError> {
    let failed = |reason: String| MountError::Served {
        target: request.target.clone(),
        reason,
    };
    let started = |error: io::Error| failed(format!("{}: {error}", helper.program.display()));
    let until = Instant::now() + time;
    let mut child = Command::new(&helper.program)
        // The program may lie there under a name by which it is something else.
        .arg0(SERVER_NAME)
        .args(&helper.args)
        // For whoever reads a list of processes.
        .arg(&request.target)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(started)?;
    let asked = child.stdin.take().map_or(Ok(()), |to| ask(&to, request, until));
    // A server that ended before it read says why in its answer.
    let mut answer = Vec::new();
    let heard = child
        .stdout
        .take()
        .map_or(Ok(()), |from| hear(from, &mut answer, until));
    let answer = String::from_utf8_lossy(&answer);
    match (answer.trim(), asked.and(heard)) {
        (ready @ (READY | READY_IO_URING), _) => Ok(Served {
            process: child,
            over_io_uring: ready == READY_IO_URING,
        }),
        (_, Err(error)) if error.kind() == io::ErrorKind::TimedOut => {
            end_child(&mut child);
            Err(failed(format!(
                "its server did not answer within {} s",
                time.as_secs_f32()
            )))
        }
        ("", Err(error)) => {
            let _ = child.wait();
            Err(started(error))
        }
        ("", Ok(_)) => {
            let status = child.wait().map_err(started)?;
            Err(failed(format!("its server ended without a word ({status})")))
        }
        (reason, _) => {
            let reason = reason.to_owned();
            let _ = child.wait();
            Err(failed(reason))
        }
    }
}

/// Writes the request. More than a pipe holds waits for its reader.
fn ask(to: &ChildStdin, request: &Request, until: Instant) -> io::Result<()> {
    rustix::io::ioctl_fionbio(to, true)?;
    let text = serde_json::to_vec(request)?;
    let mut rest = &text[..];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(to.as_fd(), PollFlags::OUT, until)?,
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Reads an answer to its end.
fn hear(from: ChildStdout, answer: &mut Vec<u8>, until: Instant) -> io::Result<()> {
    let mut from = from.take(4096);
    loop {
        wait(from.get_ref().as_fd(), PollFlags::IN, until)?;
        let mut some = [0; 512];
        match from.read(&mut some) {
            Ok(0) => return Ok(()),
            Ok(count) => answer.extend_from_slice(&some[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Waits until a descriptor is ready.
fn wait(fd: BorrowedFd<'_>, flags: PollFlags, until: Instant) -> io::Result<()> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as _,
            tv_nsec: left.subsec_nanos() as _,
        };
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(fd, flags)], Some(&left)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Kills a server that nobody uses yet. What waits for a disk dies only when that answers: it is not waited for then.
fn end_child(child: &mut Child) {
    let _ = child.kill();
    let until = Instant::now() + Duration::from_secs(1);
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// How [`stop`] unmounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// As umount(8): a mount that is in use stays.
    IfUnused,
    /// Out of the tree at once, whoever uses it.
    Detach,
}

/// How long a server may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Unmounts the topmost FUSE mount at `target` and ends its server; returns when it has ended. Whatever other
/// namespace still shows the mount shows a dead one from then on.
///
/// # Errors
/// `EBUSY` for a mount in use, with [`Unmount::IfUnused`]; `EINVAL` for what is no mount of ours.
pub fn stop(target: &Path, how: Unmount) -> Result<(), MountError> {
    stop_server(target, how, Server::of)
}

fn stop_server(
    target: &Path,
    how: Unmount,
    server: impl FnOnce(&Path) -> Option<Server>,
) -> Result<(), MountError> {
    let failed = |what, error: Errno| MountError::Io {
        what,
        path: target.to_path_buf(),
        error: error.into(),
    };
    let entry = table::at(target).map_err(|error| MountError::Io {
        what: "reading the mount table for",
        path: target.to_path_buf(),
        error,
    })?;
    let Some(entry) = entry.filter(|entry| is_ours(&entry.kind)) else {
        return Err(failed("unmounting", Errno::INVAL));
    };
    let connection = connection(target);
    let server = server(target);
    let flags = match how {
        Unmount::IfUnused => UnmountFlags::NOFOLLOW,
        Unmount::Detach => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    rustix::mount::unmount(target, flags).map_err(|errno| failed("unmounting", errno))?;
    // The same file system may be mounted elsewhere, such as by a bind: that mount is not ours to end.
    let elsewhere = table::read()
        .unwrap_or_default()
        .iter()
        .any(|other| other.device == entry.device);
    if elsewhere {
        return Ok(());
    }
    if server.is_some_and(|server| server.end(PATIENCE)) {
        return Ok(());
    }
    // No server that can be told: its connection is ended for it, where it is still there.
    if let Some(connection) = connection.filter(|_| entry.kind == KIND) {
        abort(connection);
    }
    Ok(())
}

/// Whether a type in the mount table is one of this driver's.
pub fn is_ours(kind: &str) -> bool {
    kind == KIND || kind == "fuse.fuse-overlayfs"
}

/// Whether `target` is served by one who has no upper directory.
pub(crate) fn never_written(target: &Path) -> bool {
    who_serves(target).is_some_and(|said| said.split(' ').nth(2) == Some(NEVER_WRITTEN))
}

/// What the root at `target` says of its server.
fn who_serves(target: &Path) -> Option<String> {
    let mut buffer = [0u8; 64];
    let length = rustix::fs::getxattr(target, SERVER_ATTRIBUTE, &mut buffer).ok()?;
    Some(std::str::from_utf8(buffer.get(..length)?).ok()?.to_owned())
}

/// Number of the connection behind the file system at `path`: the minor number of its device. Its server is not asked.
fn connection(path: &Path) -> Option<u32> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let status = rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE).ok()?;
    (status.stx_dev_major == 0).then_some(status.stx_dev_minor)
}

/// Ends a connection through the kernel's control file system, where that is mounted.
fn abort(connection: u32) {
    let path = format!("/sys/fs/fuse/connections/{connection}/abort");
    if let Ok(mut file) = std::fs::OpenOptions::new().write(true).open(path) {
        let _ = file.write_all(b"1");
    }
}

/// Field 22 of `/proc/PID/stat`; `None` where there is no such process. The second, the command's name, may hold anything; a
/// parenthesis ends it.
fn start_time(pid: u32) -> io::Result<Option<String>> {
    let Some(stat) = unless_gone(std::fs::read_to_string(format!("/proc/{pid}/stat")))? else {
        return Ok(None);
    };
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
    let field = rest.and_then(|rest| rest.split_ascii_whitespace().nth(19));
    Ok(field.map(str::to_owned))
}

/// Tells a process that is not there from one of which the kernel tells nothing, for want of descriptors or memory.
fn unless_gone<T>(asked: io::Result<T>) -> io::Result<Option<T>> {
    match asked {
        Ok(told) => Ok(Some(told)),
        // The last is a number that a thread has now.
        Err(error)
            if [Errno::SRCH, Errno::NOENT, Errno::INVAL]
                .iter()
                .any(|gone| error.raw_os_error() == Some(gone.raw_os_error())) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The process behind a mount.
#[derive(Debug)]
pub struct Server(OwnedFd);

impl Server {
    /// Asks the root at `target` who serves it.
    fn of(target: &Path) -> Option<Server> {
        Server::named(&who_serves(target)?).ok().flatten()
    }

    /// The one of this name (`PID START`), where it is still there.
    ///
    /// # Errors
    /// Whether it is there cannot be told, for want of descriptors or memory.
    pub fn named(name: &str) -> io::Result<Option<Server>> {
        let mut words = name.split(' ');
        let pid: Option<i32> = words.next().and_then(|word| word.parse().ok());
        let (Some(process), Some(start)) = (pid.and_then(Pid::from_raw), words.next()) else {
            return Ok(None);
        };
        let pid = process.as_raw_nonzero().get();
        // The descriptor first: what it refers to cannot become another process.
        let opened = rustix::process::pidfd_open(process, PidfdFlags::empty());
        let Some(opened) = unless_gone(opened.map_err(io::Error::from))? else {
            return Ok(None);
        };
        let server = Server(opened);
        let is_it = start_time(pid.cast_unsigned())?.as_deref() == Some(start);
        // One that is about to end lets go of its memory before its descriptors, which the mount hangs on.
        let ends = std::fs::read_link(format!("/proc/{pid}/exe"))
            .is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        Ok((is_it && !ends && !server.has_ended(Duration::ZERO)).then_some(server))
    }

    /// Asks it to end, and kills it where it does not within `patience`; whether it has ended.
    fn end(&self, patience: Duration) -> bool {
        // One that somebody stopped goes on, to end.
        for signal in [Signal::TERM, Signal::CONT] {
            match rustix::process::pidfd_send_signal(&self.0, signal) {
                Ok(()) => {}
                Err(errno) => return errno == Errno::SRCH,
            }
        }
        if self.has_ended(patience) {
            return true;
        }
        let _ = rustix::process::pidfd_send_signal(&self.0, Signal::KILL);
        self.has_ended(Duration::from_secs(1))
    }

    fn has_ended(&self, within: Duration) -> bool {
        wait(self.0.as_fd(), PollFlags::IN, Instant::now() + within).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_gone_and_of_whom_nothing_is_told() {
        let told = |errno: Errno| unless_gone::<()>(Err(errno.into()));
        for gone in [Errno::SRCH, Errno::NOENT, Errno::INVAL] {
            assert_eq!(told(gone).unwrap(), None);
        }
        for untold in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
            assert!(told(untold).is_err());
        }
        let own = std::process::id();
        let start = start_time(own).unwrap().unwrap();
        assert!(Server::named(&format!("{own} {start}")).unwrap().is_some());
        for none in [
            format!("{own} {start}0"),
            "4194304 1".to_owned(),
            String::new(),
            "x y".to_owned(),
        ] {
            assert!(Server::named(&none).unwrap().is_none(), "{none}");
        }
    }

    fn request() -> Request {
        let lower = "x".repeat(200_000);
        let mount = Mount {
            kind: "overlay".to_owned(),
            source: "overlay".to_owned(),
            options: vec![format!("lowerdir={lower}")],
        };
        Request::new(&mount, Path::new("/nonexistent"))
    }

    fn shell(script: &str) -> Helper {
        Helper {
            program: "/bin/sh".into(),
            args: ["-c", script].map(OsString::from).to_vec(),
        }
    }

    #[test]
    fn a_server_that_does_not_answer_is_not_waited_for() {
        // One reads nothing, and one says nothing.
        for script in ["exec sleep 1000", "cat >/dev/null; exec sleep 1000"] {
            let begun = Instant::now();
            let refused = attach_within(Duration::from_millis(100), &shell(script), &request()).unwrap_err();
            assert!(
                refused.to_string().contains("did not answer within 0.1 s"),
                "{refused}"
            );
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        let mut said = attach(&shell("cat >/dev/null; echo ready"), &request()).unwrap();
        assert!(!said.over_io_uring);
        said.process.wait().unwrap();
        let why = attach(&shell("echo why not"), &request()).unwrap_err();
        assert!(why.to_string().ends_with("why not"), "{why}");
        let why = attach(&shell("exit 3"), &request()).unwrap_err();
        assert!(
            why.to_string().contains("without a word") || why.to_string().contains("pipe"),
            "{why}"
        );
    }

    #[test]
    fn a_process_is_known_by_its_name_as_long_as_it_lives_and_ends_when_it_is_stopped() {
        let mut process = Command::new("sleep").arg("1000").spawn().unwrap();
        let start = start_time(process.id()).unwrap().unwrap();
        let name = format!("{} {start}", process.id());
        assert!(Server::named(&format!("{name}1")).unwrap().is_none());
        let server = Server::named(&name).unwrap().unwrap();
        rustix::process::pidfd_send_signal(&server.0, Signal::STOP).unwrap();
        assert!(server.end(PATIENCE));
        // It has ended, though nobody has taken its end yet.
        assert!(Server::named(&name).unwrap().is_none());
        process.wait().unwrap();

        let mut process = Command::new("sh")
            .args(["-c", "trap '' TERM; echo; exec sleep 1000"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        process.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let start = start_time(process.id()).unwrap().unwrap();
        let server = Server::named(&format!("{} {start}", process.id()))
            .unwrap()
            .unwrap();
        assert!(server.end(Duration::from_millis(50)), "it is killed");
        process.wait().unwrap();
    }
}
