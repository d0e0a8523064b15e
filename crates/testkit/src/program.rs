//! The program, started on a store and a state directory of its own.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

use crate::Image;

/// `strata` with a store of its own. When the value goes, so does everything; what a test left behind (a mount, a
/// process) fails it.
pub struct Strata {
    program: PathBuf,
    dir: Option<TempDir>,
}

/// How a command ended, and what it said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Exit code; 128 and the number of the signal that killed it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Strata {
    /// Takes the path of the program, which a test of its package has as `env!("CARGO_BIN_EXE_strata")`.
    pub fn new(program: impl Into<PathBuf>) -> Strata {
        Strata::beneath(&std::env::temp_dir(), program)
    }

    /// With the store in a directory of a chosen file system.
    pub fn beneath(place: &Path, program: impl Into<PathBuf>) -> Strata {
        assert!(
            rustix::process::geteuid().is_root(),
            "containers are started here: run the tests as root"
        );
        let dir = tempfile::Builder::new()
            .prefix("strata-")
            .tempdir_in(place)
            .expect("a temporary directory");
        // The machine's own network is none of a test's, whatever is installed there: those that are about networks have one
        // of their own.
        fs::write(dir.path().join("config.toml"), "default_network = \"none\"\n")
            .expect("a temporary directory takes a file");
        Strata {
            program: program.into(),
            dir: Some(dir),
        }
    }

    /// With the busybox image loaded, as `busybox`.
    pub fn with_busybox(program: impl Into<PathBuf>) -> Strata {
        let strata = Strata::new(program);
        strata.load(&Image::busybox());
        strata
    }

    /// The directory that holds the store (`root`), the state (`state`) and whatever else a test puts there.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("taken only when dropped").path()
    }

    /// `--root`.
    pub fn root(&self) -> PathBuf {
        self.dir().join("root")
    }

    /// `--state`.
    pub fn state(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// A command with its store chosen, not yet started. Standard input is empty.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("STRATA_ROOT", self.root())
            .env("STRATA_STATE", self.state())
            .env("STRATA_CONFIG", self.dir().join("config.toml"))
            .env_remove("STRATA_NAMESPACE")
            .args(args)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn end<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ended {
        self.command(args).output().expect("the program starts").into()
    }

    /// Runs a command that must succeed, and returns its standard output.
    #[track_caller]
    pub fn ok<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> String {
        let args: Vec<S> = args.into_iter().collect();
        let ended = self.end(&args);
        let shown: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        assert!(
            ended.code == 0,
            "strata {} ended with {ended:#?}",
            shown.join(" ")
        );
        ended.out
    }

    /// Loads an image from an OCI archive.
    #[track_caller]
    pub fn load(&self, image: &Image) {
        let archive = self.dir().join("load.tar");
        image.write_oci_archive(&archive);
        self.ok(["load", "--quiet", "-i"]
            .map(OsStr::new)
            .into_iter()
            .chain([archive.as_os_str()]));
        fs::remove_file(archive).expect("written above");
    }

    /// What is in use beneath the store and the state: targets of mounts, and processes by number and command line.
    pub fn in_use(&self) -> (Vec<PathBuf>, Vec<(i32, String)>) {
        (mounts_beneath(self.dir()), processes_naming(self.dir()))
    }
}

impl Drop for Strata {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A test that failed left its containers, which the program knows best how to end.
            let _ = self
                .command(["rm", "-f", "-a"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
        let (mounts, processes) = self.in_use();
        for (pid, _) in &processes {
            if let Some(pid) = rustix::process::Pid::from_raw(*pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        for target in mounts.iter().rev() {
            let _ = sys::mount::detach_at(target);
        }
        let dir = self.dir.take().expect("dropped once");
        if std::thread::panicking() {
            return;
        }
        assert!(
            mounts.is_empty() && processes.is_empty(),
            "left behind: {mounts:?} {processes:?}"
        );
        dir.close().expect("the store can be removed");
    }
}

impl From<Output> for Ended {
    fn from(output: Output) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        let status = output.status;
        Ended {
            code: status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Mount points beneath a directory, in the order in which they were mounted.
pub fn mounts_beneath(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    // Names that tests choose have no character that the table escapes.
    let targets = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from);
    targets.filter(|target| target.starts_with(dir)).collect()
}

/// Processes, other than the caller, that have to do with a directory: their command line or environment names it,
/// or it is what their root is made of, as that of a container is whose layers lie there. That it is mounted where they
/// live too says nothing: so it is wherever mounts propagate to.
pub fn processes_naming(dir: &Path) -> Vec<(i32, String)> {
    let name = dir.to_str().expect("temporary directories have plain names");
    let own = std::process::id().cast_signed();
    let own_mounts = fs::read_link("/proc/self/ns/mnt").ok();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        // A process that ends while it is looked at has nothing to say.
        let read = |file: &str| fs::read(entry.path().join(file)).unwrap_or_default();
        let names = |file: &str| String::from_utf8_lossy(&read(file)).contains(name);
        let apart = || fs::read_link(entry.path().join("ns/mnt")).ok() != own_mounts;
        let rooted = || {
            let mounts = read("mountinfo");
            let mounts = String::from_utf8_lossy(&mounts);
            mounts
                .lines()
                .any(|line| line.split(' ').nth(4) == Some("/") && line.contains(name))
        };
        if pid != own && (names("cmdline") || names("environ") || (apart() && rooted())) {
            found.push((pid, String::from_utf8_lossy(&read("cmdline")).replace('\0', " ")));
        }
    }
    found
}
