//! An OCI runtime with a state directory of its own, and a bundle of busybox.

#![allow(dead_code, unreachable_pub)] // each test program uses some of it

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::{Ended, Layer};

/// A runtime, and where it works.
pub struct Runtime {
    program: PathBuf,
    temp: tempfile::TempDir,
}

/// Tries what is expected of an OCI runtime on the reference first, then on ours.
pub fn each(expect: impl Fn(&Runtime)) {
    for runtime in [Runtime::new("runc".into()), Runtime::ours()] {
        println!("{}", runtime.program.display());
        expect(&runtime);
    }
}

impl Runtime {
    /// The program under the name that others call it by.
    pub fn ours() -> Runtime {
        let mut runtime = Runtime::new(PathBuf::new());
        runtime.program = runtime.dir().join("strata-oci");
        symlink(env!("CARGO_BIN_EXE_strata"), &runtime.program).unwrap();
        runtime
    }

    fn new(program: PathBuf) -> Runtime {
        assert!(
            rustix::process::geteuid().is_root(),
            "containers are started here: run the tests as root"
        );
        let temp = tempfile::Builder::new().prefix("strata-oci-").tempdir().unwrap();
        let runtime = Runtime { program, temp };
        let rootfs = runtime.dir().join("rootfs");
        fs::create_dir(&rootfs).unwrap();
        let mut tar = Command::new("tar")
            .args(["-x", "-C"])
            .arg(&rootfs)
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        tar.stdin
            .take()
            .unwrap()
            .write_all(&Layer::busybox().finish())
            .unwrap();
        assert!(tar.wait().unwrap().success());
        fs::write(runtime.dir().join("config.json"), spec().to_string()).unwrap();
        // Containers of several tests have the same id at the same time.
        let cgroup = format!("/{}", runtime.unique("test"));
        runtime.configure(|spec| spec["linux"]["cgroupsPath"] = json!(cgroup));
        runtime
    }

    /// Whether it is not the reference.
    pub fn is_ours(&self) -> bool {
        self.program.starts_with(self.dir())
    }

    /// The bundle.
    pub fn dir(&self) -> &Path {
        self.temp.path()
    }

    /// A name that nobody else has.
    pub fn unique(&self, name: &str) -> String {
        let own = self.dir().file_name().unwrap().to_string_lossy();
        format!("{own}-{name}")
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> String {
        self.dir().join(name).to_str().unwrap().to_owned()
    }

    /// Changes the configuration.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        let path = self.dir().join("config.json");
        let mut spec = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut spec);
        fs::write(&path, spec.to_string()).unwrap();
    }

    /// Says what the container is to run.
    pub fn args(&self, args: &[&str]) {
        self.configure(|spec| spec["process"]["args"] = json!(args));
    }

    /// A call in the bundle, with nothing on its standard input.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("--root")
            .arg(self.dir().join("state"))
            .args(words)
            .current_dir(self.dir())
            .stdin(Stdio::null());
        command
    }

    /// Runs a call to its end. Its output goes to files: what a container holds open keeps nobody waiting.
    pub fn end(&self, words: &[&str]) -> Ended {
        let [out, err] = [(); 2].map(|()| tempfile::tempfile().unwrap());
        let status = self
            .command(words)
            .stdout(out.try_clone().unwrap())
            .stderr(err.try_clone().unwrap())
            .status()
            .unwrap_or_else(|error| panic!("{} starts: {error}", self.program.display()));
        let text = |mut file: File| {
            let mut text = String::new();
            std::io::Seek::rewind(&mut file).unwrap();
            file.read_to_string(&mut text).unwrap();
            text
        };
        Ended {
            code: status.code().unwrap_or(-1),
            out: text(out),
            err: text(err),
        }
    }

    /// A call that must succeed: what it printed.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let ended = self.end(words);
        assert!(
            ended.code == 0,
            "{} {words:?}: {ended:#?}",
            self.program.display()
        );
        ended.out
    }

    /// A call that must fail, and say so with these words.
    #[track_caller]
    pub fn refused(&self, words: &[&str], says: &str) {
        let ended = self.end(words);
        let said = ended.code != 0 && ended.err.contains(says);
        assert!(
            said,
            "{} {words:?} says {says:?}: {ended:#?}",
            self.program.display()
        );
    }

    /// Makes a container and starts it, with nothing of the test's in its hands.
    #[track_caller]
    pub fn start_in_the_background(&self, id: &str) {
        self.ok(&["run", "--detach", id]);
    }

    /// What `state` tells.
    #[track_caller]
    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).unwrap()
    }

    /// What it does.
    #[track_caller]
    pub fn status(&self, id: &str) -> String {
        self.state(id)["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        let left = self.end(&["list", "-q"]).out;
        for id in left.lines() {
            self.end(&["delete", "--force", id]);
        }
        if !std::thread::panicking() {
            assert_eq!(left, "", "containers are left");
        }
    }
}

/// The configuration that tests begin with: runc's own, as far as it goes.
fn spec() -> Value {
    let caps = json!([
        "CAP_AUDIT_WRITE",
        "CAP_KILL",
        "CAP_NET_BIND_SERVICE",
        "CAP_SETUID",
        "CAP_SETGID"
    ]);
    json!({
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "hostname": "box",
        "annotations": {"org.example.key": "value"},
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {"bounding": caps, "effective": caps, "permitted": caps},
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
        ],
        "linux": {
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "namespaces": [{"type": "pid"}, {"type": "network"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}],
        },
    })
}

/// Waits for what other processes are about to do.
#[track_caller]
pub fn wait_until(mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "not in time");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there and has not ended.
pub fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
}

/// The limit of memory that a process is under, in bytes.
pub fn memory_limit(pid: &str) -> u64 {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let group = |controller: &str| {
        groups
            .lines()
            .find_map(|line| line.split_once(controller)?.1.strip_prefix('/'))
    };
    let legacy = Path::new("/sys/fs/cgroup/memory");
    let file = match group(":memory:") {
        Some(group) if legacy.is_dir() => legacy.join(group).join("memory.limit_in_bytes"),
        _ => Path::new("/sys/fs/cgroup")
            .join(group("0::").unwrap())
            .join("memory.max"),
    };
    fs::read_to_string(file).unwrap().trim().parse().unwrap()
}

/// The master of a terminal, and what was printed on it so far.
pub struct Console {
    master: File,
    printed: Cell<String>,
}

impl Console {
    /// Takes it from the next who connects.
    pub fn receive(listener: &UnixListener) -> Console {
        let (connection, _) = listener.accept().unwrap();
        let message = sys::socket::receive(connection.as_fd(), 4096).unwrap().unwrap();
        assert!(!message.bytes.is_empty(), "the terminal's name comes with it");
        let [master] = <[_; 1]>::try_from(message.fds).unwrap();
        Console {
            master: master.into(),
            printed: Cell::default(),
        }
    }

    pub fn write(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    /// Reads until the text was printed.
    #[track_caller]
    pub fn wait_for(&self, text: &str) {
        let mut printed = self.printed.take();
        while !printed.contains(text) {
            let mut buffer = [0; 1024];
            let length = (&self.master).read(&mut buffer).unwrap_or(0);
            assert!(length > 0, "{text:?} is not in {printed:?}");
            printed.push_str(&String::from_utf8_lossy(&buffer[..length]));
        }
        self.printed.set(printed);
    }
}
