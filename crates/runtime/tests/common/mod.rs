//! A busybox root, a bundle made of it, and running it.
#![allow(dead_code, unreachable_pub)]

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use runtime::bundle::Bundle;
use runtime::control::Restart;
use runtime::state::Exit;
use runtime::{Helper, Running, StartError, StartRequest, Streams};
use serde_json::{Value, json};

const PROGRAMS: &str = "sh true false cat echo ls mount grep id env pwd ps sleep head tail stat readlink hostname kill \
    test [ wc tr cut sort ulimit dd mkdir rm ln touch umask sysctl ifconfig ping stty tty nc nproc sed awk seq \
    setsid mknod chmod chown chroot umount date find xargs printf mountpoint unshare nsenter hexdump du df";

/// The supervisor's program.
pub fn helper() -> Helper {
    Helper {
        program: env!("CARGO_BIN_EXE_runtime-supervisor").into(),
        args: vec!["supervisor".into()],
    }
}

/// Says clearly what is missing where the tests of this file cannot work.
pub fn need_root() {
    assert!(rustix::process::geteuid().is_root(), "these tests need root");
    assert!(
        Path::new("/bin/busybox").exists(),
        "these tests need Debian's busybox-static"
    );
}

/// A root file system of busybox and links to it.
pub fn busybox_root(root: &Path) {
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "home/user"] {
        mkdir(&root.join(dir));
    }
    copy("/bin/busybox", &root.join("bin/busybox"));
    for program in PROGRAMS.split_whitespace() {
        symlink("busybox", root.join("bin").join(program)).unwrap();
    }
    write(
        &root.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
    );
    write(&root.join("etc/group"), "root:x:0:\nuser:x:1000:\n");
}

pub fn mkdir(path: &Path) {
    std::fs::DirBuilder::new().recursive(true).create(path).unwrap();
}

pub fn write(path: &Path, text: &str) {
    std::io::Write::write_all(&mut File::create(path).unwrap(), text.as_bytes()).unwrap();
}

pub fn copy(from: &str, to: &Path) {
    let mut to_file = File::create(to).unwrap();
    std::io::copy(&mut File::open(from).unwrap(), &mut to_file).unwrap();
    let permissions = std::fs::metadata(from).unwrap().permissions();
    std::fs::set_permissions(to, permissions).unwrap();
}

/// Mounts as the peers have them.
pub fn default_mounts() -> Value {
    json!([
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
         "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm",
         "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
         "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs",
         "options": ["nosuid", "noexec", "nodev", "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
         "options": ["ro", "nosuid", "noexec", "nodev"]},
    ])
}

/// What a container gets where a test says nothing else.
pub fn default_spec() -> Value {
    let caps = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SYS_CHROOT"
    ]);
    json!({
        "ociVersion": "1.2.0",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": default_mounts(),
        "linux": {
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "uts"}, {"type": "ipc"}, {"type": "network"},
                {"type": "cgroup"},
            ],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/scsi", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}

/// A bundle in a directory of its own, with a busybox root in it.
pub struct Box {
    pub temp: tempfile::TempDir,
    pub bundle: Bundle,
    pub spec: Value,
    pub runtime: Option<PathBuf>,
}

/// What came of a container that was run to its end.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    pub exit: Exit,
}

impl Default for Box {
    fn default() -> Box {
        Box::new()
    }
}

impl Box {
    pub fn new() -> Box {
        need_root();
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let temp = tempfile::tempdir().unwrap();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("test-{}-{number}", std::process::id());
        let bundle = Bundle::create(temp.path(), &id).unwrap();
        busybox_root(&bundle.rootfs());
        Box {
            temp,
            bundle,
            spec: default_spec(),
            runtime: None,
        }
    }

    /// With a shell script as its program.
    pub fn script(text: &str) -> Box {
        let mut new = Box::new();
        new.spec["process"]["args"] = json!(["/bin/sh", "-c", text]);
        new
    }

    pub fn with(mut self, change: impl FnOnce(&mut Value)) -> Box {
        change(&mut self.spec);
        self
    }

    /// Path of something in the root file system, on the host.
    pub fn inside(&self, path: &str) -> PathBuf {
        self.bundle.rootfs().join(path.trim_start_matches('/'))
    }

    /// Writes `config.json`; whatever starts it here does so first.
    pub fn write_spec(&self) {
        let spec = serde_json::from_value(self.spec.clone()).unwrap();
        self.bundle.write_spec(&spec).unwrap();
    }

    /// The program that starts it and stays with it in the foreground, not yet started.
    pub fn foreground(&self) -> Command {
        self.write_spec();
        let mut command = Command::new(helper().program);
        command.arg("foreground").arg(self.bundle.path());
        command
    }

    /// Starts one that says that it is ready and then waits; gives what it prints after that.
    pub fn ready(&self) -> (Running, File) {
        let (stdout, out) = pipe();
        let running = self.start([&null(), &out, &null()]).unwrap();
        let mut stdout = File::from(stdout);
        let mut text = [0; 6];
        stdout.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"ready\n");
        (running, stdout)
    }

    pub fn start(&self, stdio: [&OwnedFd; 3]) -> Result<Running, StartError> {
        self.start_with(stdio, Vec::new())
    }

    pub fn start_with(
        &self,
        stdio: [&OwnedFd; 3],
        cleanup: Vec<std::ffi::OsString>,
    ) -> Result<Running, StartError> {
        self.write_spec();
        runtime::start(&StartRequest {
            keep: &[],
            helper: &helper(),
            bundle: self.bundle.path(),
            streams: Streams::Given(stdio.map(AsFd::as_fd)),
            restart: Restart::No,
            size: Some((24, 80)),
            runtime: self.runtime.as_deref(),
            cleanup,
            about: Default::default(),
            health: false,
            pidfile: None,
            attention: None,
        })
    }

    /// Starts it with its streams held by the supervisor.
    pub fn start_held(&self, streams: Streams<'_>, restart: Restart) -> Result<Running, StartError> {
        self.write_spec();
        runtime::start(&StartRequest {
            keep: &[],
            helper: &helper(),
            bundle: self.bundle.path(),
            streams,
            restart,
            size: Some((24, 80)),
            runtime: self.runtime.as_deref(),
            cleanup: Vec::new(),
            about: Default::default(),
            health: false,
            pidfile: None,
            attention: None,
        })
    }

    /// Starts it with nothing on its streams.
    pub fn start_quiet(&self) -> Result<Running, StartError> {
        let null = null();
        self.start([&null, &null, &null])
    }

    /// Runs it to its end.
    pub fn run(&self) -> Outcome {
        self.try_run()
            .unwrap_or_else(|error| panic!("not started: {error}"))
    }

    pub fn try_run(&self) -> Result<Outcome, StartError> {
        let (stdout, out) = pipe();
        let (stderr, err) = pipe();
        let started = self.start([&null(), &out, &err]);
        drop((out, err));
        let mut running = started?;
        let read = |fd: OwnedFd| {
            std::thread::spawn(move || {
                let mut text = String::new();
                File::from(fd).read_to_string(&mut text).unwrap();
                text
            })
        };
        let (stdout, stderr) = (read(stdout), read(stderr));
        let exit = running.wait().unwrap();
        running.finish().unwrap();
        Ok(Outcome {
            stdout: stdout.join().unwrap(),
            stderr: stderr.join().unwrap(),
            exit,
        })
    }

    /// Runs it and returns what it printed; it must end well.
    pub fn output(&self) -> String {
        let outcome = self.run();
        assert_eq!(outcome.exit.code, 0, "{outcome:?}");
        assert_eq!(outcome.stderr, "", "{outcome:?}");
        outcome.stdout
    }
}

/// Output of a shell script in a container with defaults.
pub fn sh(text: &str) -> String {
    Box::script(text).output()
}

/// A script that says that it is ready, answers SIGUSR1, and ends with 3 at SIGTERM.
pub const WAITING: &str =
    "trap 'echo term; exit 3' TERM; trap 'echo usr' USR1; echo ready; while :; do sleep 0.05; done";

/// What a bundle is started with where a test says nothing else: nothing on its streams.
pub fn order<'a>(bundle: &'a Path, helper: &'a Helper, null: &'a OwnedFd) -> StartRequest<'a> {
    StartRequest {
        keep: &[],
        helper,
        bundle,
        streams: Streams::Given([null.as_fd(); 3]),
        restart: Restart::No,
        size: None,
        runtime: None,
        cleanup: Vec::new(),
        about: Default::default(),
        health: false,
        pidfile: None,
        attention: None,
    }
}

/// Waits, and not for ever.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a process has not ended.
pub fn lives(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Sends a signal to a process of the host.
pub fn kill(pid: i32, signal: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub fn null() -> OwnedFd {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap()
        .into()
}

/// A pipe that no other test's container inherits: its reading end and its writing end.
pub fn pipe() -> (OwnedFd, OwnedFd) {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap()
}
