//! containerd with our program as the runtime of its shim.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use testkit::{Ended, Image};

/// A daemon with socket, root and state of its own.
struct Containerd {
    dir: tempfile::TempDir,
    daemon: Child,
}

impl Containerd {
    fn start() -> Containerd {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().to_owned();
        let path = |name: &str| place.join(name).display().to_string();
        let (root, state, socket) = (path("root"), path("state"), path("socket"));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {socket:?}\n[ttrpc]\naddress = \"{socket}.ttrpc\"\n"
        );
        fs::write(path("config.toml"), config).unwrap();
        symlink(env!("CARGO_BIN_EXE_strata"), path("strata-oci")).unwrap();
        let daemon = Command::new("containerd")
            .args(["--config", &path("config.toml"), "--log-level", "error"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(path("log")).unwrap())
            .spawn()
            .expect("containerd runs: install the package containerd");
        let containerd = Containerd { dir, daemon };
        let deadline = Instant::now() + Duration::from_secs(20);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "containerd does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        let archive = path("image.tar");
        Image::busybox().write_docker_archive(archive.as_ref());
        containerd.ok(&[
            "image",
            "import",
            "--no-unpack",
            "--base-name",
            "busybox",
            &archive,
        ]);
        containerd
    }

    /// The shim keeps its runtime's state by namespace, whichever daemon it is of.
    fn namespace(&self) -> String {
        let own = self.dir.path().file_name().unwrap().to_string_lossy();
        format!("strata-{}", own.trim_start_matches('.').to_lowercase())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ctr");
        command
            .arg("--address")
            .arg(self.dir.path().join("socket"))
            .arg("--namespace")
            .arg(self.namespace())
            .args(words)
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    fn end(&self, words: &[&str]) -> Ended {
        self.command(words).output().unwrap().into()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let ended = self.end(words);
        assert_eq!(ended.code, 0, "ctr {words:?}: {ended:#?}");
        ended.out
    }

    fn image(&self) -> String {
        self.ok(&["image", "ls", "--quiet"]).trim().to_owned()
    }

    /// `ctr run` on our program.
    fn run(&self, flags: &[&str], id: &str, words: &[&str]) -> Ended {
        let program = self.dir.path().join("strata-oci").display().to_string();
        let image = self.image();
        let run = ["run", "--snapshotter=native", "--runc-binary", &program];
        self.end(&[&run[..], flags, &[&image, id], words].concat())
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        for id in self.end(&["task", "ls", "--quiet"]).out.lines() {
            self.end(&["task", "rm", "--force", id]);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        for entry in mount::table::read().unwrap().into_iter().rev() {
            if entry.target.starts_with(self.dir.path()) {
                let _ = sys::mount::detach_at(&entry.target);
            }
        }
    }
}

#[test]
fn a_tasks_life() {
    let containerd = Containerd::start();
    let ended = containerd.run(&["--rm"], "one", &["sh", "-c", "echo hello; exit 7"]);
    assert_eq!((ended.code, ended.out.as_str()), (7, "hello\n"), "{ended:#?}");
    let ended = containerd.run(&["--rm"], "two", &["nosuch"]);
    assert!(
        ended.code != 0 && ended.err.contains("executable file not found in $PATH"),
        "{ended:#?}"
    );

    assert_eq!(containerd.run(&["--detach"], "three", &["sleep", "1000"]).code, 0);
    let ended = containerd.end(&[
        "task",
        "exec",
        "--exec-id=a",
        "three",
        "sh",
        "-c",
        "echo inside; exit 3",
    ]);
    assert_eq!((ended.code, ended.out.as_str()), (3, "inside\n"), "{ended:#?}");
    containerd.ok(&["task", "pause", "three"]);
    assert!(containerd.ok(&["task", "ls"]).contains("PAUSED"));
    containerd.ok(&["task", "resume", "three"]);
    assert!(containerd.ok(&["task", "ls"]).contains("RUNNING"));
    assert!(containerd.ok(&["task", "ps", "three"]).lines().count() == 2);
    containerd.ok(&["task", "kill", "--signal=KILL", "three"]);
    let deadline = Instant::now() + Duration::from_secs(20);
    while !containerd.ok(&["task", "ls"]).contains("STOPPED") {
        assert!(Instant::now() < deadline, "not in time");
    }
    containerd.end(&["task", "rm", "three"]);
    containerd.ok(&["container", "rm", "three"]);
    assert_eq!(containerd.ok(&["container", "ls", "--quiet"]), "");
}

#[test]
fn a_terminal() {
    let containerd = Containerd::start();
    let program = containerd.dir.path().join("strata-oci").display().to_string();
    let image = containerd.image();
    let run = [
        "run",
        "--rm",
        "--tty",
        "--snapshotter=native",
        "--runc-binary",
        &program,
        &image,
        "one",
        "tty",
    ];
    let call = containerd.command(&run);
    let words: Vec<_> = std::iter::once(call.get_program())
        .chain(call.get_args())
        .map(|word| format!("'{}'", word.display()))
        .collect();
    let output = Command::new("script")
        .args(["-qec", &words.join(" "), "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .expect("script runs: install the package bsdutils");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("/dev/pts/0"), "{said}");
}
