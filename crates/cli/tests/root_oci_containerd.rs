//! containerd with our program as the runtime of its shim.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::containerd::{Containerd, Version};
use testkit::{Ended, Image};

/// A daemon with an image, and our program beside it.
struct Node {
    containerd: Containerd,
    program: String,
}

impl Node {
    fn start() -> Node {
        let (temp, target) = (std::env::temp_dir(), Path::new(env!("CARGO_TARGET_TMPDIR")));
        let containerd = Containerd::beneath(&temp, Version::Installed, target, &[]);
        let path = |name: &str| containerd.dir().join(name).display().to_string();
        let (program, archive) = (path("strata-oci"), path("image.tar"));
        symlink(env!("CARGO_BIN_EXE_strata"), &program).unwrap();
        Image::busybox().write_docker_archive(archive.as_ref());
        let import = [
            "image",
            "import",
            "--no-unpack",
            "--base-name",
            "busybox",
            &archive,
        ];
        containerd.ok(&import);
        Node { containerd, program }
    }

    fn image(&self) -> String {
        self.containerd.ok(&["image", "ls", "--quiet"]).trim().to_owned()
    }

    /// `ctr run` on our program.
    fn run(&self, flags: &[&str], id: &str, words: &[&str]) -> Ended {
        let image = self.image();
        let run = ["run", "--snapshotter=native", "--runc-binary", &self.program];
        self.containerd
            .end(&[&run[..], flags, &[&image, id], words].concat())
    }
}

#[test]
fn a_tasks_life() {
    let node = Node::start();
    let containerd = &node.containerd;
    let ended = node.run(&["--rm"], "one", &["sh", "-c", "echo hello; exit 7"]);
    assert_eq!((ended.code, ended.out.as_str()), (7, "hello\n"), "{ended:#?}");
    let ended = node.run(&["--rm"], "two", &["nosuch"]);
    assert!(
        ended.code != 0 && ended.err.contains("executable file not found in $PATH"),
        "{ended:#?}"
    );

    assert_eq!(node.run(&["--detach"], "three", &["sleep", "1000"]).code, 0);
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
    let node = Node::start();
    let image = node.image();
    let run = [
        "run",
        "--rm",
        "--tty",
        "--snapshotter=native",
        "--runc-binary",
        &node.program,
        &image,
        "one",
        "tty",
    ];
    let call = node.containerd.command(&run);
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
