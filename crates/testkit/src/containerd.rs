//! A containerd with socket, root and state of its own, which knows a snapshotter of ours.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Ended;

/// Which containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// That of Debian 12, which is installed: 1.6.
    Installed,
    /// That of Debian 13, which `cargo xtask test` unpacks beside what is built: 1.7.
    Unpacked17,
    /// That of Debian sid, which `cargo xtask test` unpacks beside what is built: 2.x.
    Unpacked,
}

impl Version {
    /// Where it is unpacked, beneath what cargo calls the directory for tests' files.
    fn place(self) -> Option<&'static str> {
        match self {
            Version::Installed => None,
            Version::Unpacked17 => Some(UNPACKED_1_7),
            Version::Unpacked => Some(UNPACKED),
        }
    }
}

/// Where Debian 13's is unpacked, beneath what cargo calls the directory for tests' files.
pub const UNPACKED_1_7: &str = "containerd-trixie";

/// Where sid's is.
pub const UNPACKED: &str = "containerd-sid";

/// A daemon. When the value goes, so do its tasks, its mounts and its directory.
pub struct Containerd {
    dir: tempfile::TempDir,
    path: String,
    namespace: String,
    daemon: Child,
}

impl Containerd {
    /// Starts one whose snapshotter `strata` is at `snapshotter`. `target` is `CARGO_TARGET_TMPDIR` of a test.
    pub fn start(version: Version, target: &Path, snapshotter: &Path) -> Containerd {
        Containerd::beneath(&std::env::temp_dir(), version, target, &[("strata", snapshotter)])
    }

    /// As [`Containerd::start`], with its root in a directory of a chosen file system, and any snapshotters.
    pub fn beneath(
        place: &Path,
        version: Version,
        target: &Path,
        snapshotters: &[(&str, &Path)],
    ) -> Containerd {
        Containerd::configured(place, version, target, snapshotters, None)
    }

    /// As [`Containerd::start`], for kubelet's calls (`testkit::cri`): pods hold their namespaces by the image `pause`.
    pub fn for_kubelet(version: Version, target: &Path, snapshotter: &Path, pause: &str) -> Containerd {
        let snapshotters = [("strata", snapshotter)];
        Containerd::configured(&std::env::temp_dir(), version, target, &snapshotters, Some(pause))
    }

    fn configured(
        place: &Path,
        version: Version,
        target: &Path,
        snapshotters: &[(&str, &Path)],
        pause: Option<&str>,
    ) -> Containerd {
        let dir = tempfile::Builder::new()
            .prefix("containerd-")
            .tempdir_in(place)
            .unwrap();
        let own = std::env::var("PATH").unwrap();
        let path = match version.place() {
            None => own,
            Some(place) => {
                let bin = target.join(place).join("usr/bin");
                let there = bin.join("containerd").exists();
                assert!(
                    there,
                    "{} is missing: `cargo xtask test` unpacks it there",
                    bin.display()
                );
                format!("{}:{own}", bin.display())
            }
        };
        let at = |name: &str| dir.path().join(name).display().to_string();
        let (root, state, socket) = (at("root"), at("state"), at("socket"));
        let newer = match version {
            Version::Installed => "",
            Version::Unpacked17 | Version::Unpacked => {
                "[[plugins.\"io.containerd.transfer.v1.local\".unpack_config]]\n\
                 platform = \"linux/amd64\"\nsnapshotter = \"strata\"\n"
            }
        };
        let plugins: String = snapshotters
            .iter()
            .map(|(name, socket)| {
                let socket = socket.display().to_string();
                format!("[proxy_plugins.{name}]\ntype = \"snapshot\"\naddress = {socket:?}\n")
            })
            .collect();
        let (disabled, kubelet) = match pause {
            None => (
                "\"io.containerd.grpc.v1.cri\", \"io.containerd.cri.v1.images\", \
                 \"io.containerd.cri.v1.runtime\", ",
                String::new(),
            ),
            // As docs/containerd.md has it, in the format that both know; the newer takes the snapshotter over from it only where
            // runtimes are told. Scores of memory are left alone where nobody may lower them.
            Some(pause) => (
                "",
                format!(
                    "[plugins.\"io.containerd.nri.v1.nri\"]\ndisable = true\n\
                     [plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {pause:?}\nstats_collect_period = 1\nrestrict_oom_score_adj = true\n\
                     [plugins.\"io.containerd.grpc.v1.cri\".cni]\nconf_dir = {:?}\n\
                     [plugins.\"io.containerd.grpc.v1.cri\".containerd]\n\
                     snapshotter = \"strata\"\ndisable_snapshot_annotations = false\n\
                     [plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n\
                     runtime_type = \"io.containerd.runc.v2\"\n",
                    at("cni")
                ),
            ),
        };
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\n\
             disabled_plugins = [{disabled}\"io.containerd.internal.v1.tracing\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n\
             [plugins.\"io.containerd.gc.v1.scheduler\"]\nstartup_delay = \"10ms\"\n{newer}\
             {plugins}{kubelet}"
        );
        fs::write(at("config.toml"), config).unwrap();
        let daemon = launch(dir.path(), &path);
        // The shim keeps state by namespace, whichever daemon it is of; kubelet's has one name, and containers have others.
        let namespace = match pause {
            Some(_) => "k8s.io".to_owned(),
            None => {
                let own = dir.path().file_name().unwrap().to_string_lossy();
                own.trim_start_matches('.').to_lowercase()
            }
        };
        let mut containerd = Containerd {
            dir,
            path,
            namespace,
            daemon,
        };
        containerd.wait();
        containerd
    }

    fn wait(&mut self) {
        let end = Instant::now() + Duration::from_secs(60);
        while UnixStream::connect(self.socket()).is_err() || self.end(&["version"]).code != 0 {
            assert_eq!(self.daemon.try_wait().unwrap(), None, "{}", self.log());
            assert!(Instant::now() < end, "containerd does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("socket")
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Kills it, and starts it again.
    pub fn restart(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        self.daemon = launch(self.dir.path(), &self.path);
        self.wait();
    }

    /// Kills it, and starts it again without what its plug-in `name` keeps.
    pub fn lose(&mut self, name: &str) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
        fs::remove_dir_all(self.dir.path().join("root").join(name)).unwrap();
        self.daemon = launch(self.dir.path(), &self.path);
        self.wait();
    }

    /// The namespace that [`Containerd::command`] is for.
    pub fn namespace(&self) -> String {
        self.namespace.clone()
    }

    /// `ctr` with these words.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .env("PATH", &self.path)
            .arg("--address")
            .arg(self.socket());
        command.args(["--namespace", &self.namespace()]).args(words);
        command.stdin(Stdio::null());
        command
    }

    /// How `ctr` ends.
    pub fn end(&self, words: &[&str]) -> Ended {
        self.command(words).output().unwrap().into()
    }

    /// What `ctr` says; it must end well.
    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> String {
        let ended = self.end(words);
        assert_eq!(ended.code, 0, "ctr {words:?}: {ended:#?}\n{}", self.log());
        ended.out
    }

    /// Digests of the blobs that it has.
    pub fn blobs(&self) -> Vec<String> {
        let list = self.ok(&["content", "ls", "--quiet"]);
        list.lines().map(str::to_owned).collect()
    }
}

fn launch(dir: &Path, path: &str) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("log"))
        .unwrap();
    Command::new("containerd")
        .env("PATH", path)
        .arg("--config")
        .arg(dir.join("config.toml"))
        .args(["--log-level", "warn"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("containerd runs: install the package containerd")
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.end(&["task", "ls", "--quiet"]).out.lines() {
            self.end(&["task", "rm", "--force", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for target in crate::program::mounts_beneath(self.dir.path()).into_iter().rev() {
            let _ = sys::mount::detach_at(&target);
        }
    }
}
