//! podman with our program as its OCI runtime.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use testkit::Ended;

/// podman with a store of its own, and the runtime under the name that it calls it by.
struct Podman {
    dir: tempfile::TempDir,
    runtime: PathBuf,
}

/// Limits that need no privilege to be set.
const RUN: [&str; 4] = [
    "run",
    "--network=none",
    "--ulimit=nofile=1024:1024",
    "--ulimit=nproc=1024:1024",
];

impl Podman {
    fn new() -> Podman {
        let dir = tempfile::tempdir().unwrap();
        let runtime = dir.path().join("strata-oci");
        symlink(env!("CARGO_BIN_EXE_strata"), &runtime).unwrap();
        let podman = Podman { dir, runtime };
        let archive = podman.dir.path().join("image.tar");
        testkit::Image::busybox().write_docker_archive(&archive);
        podman.ok(&["load", "--quiet", "-i", archive.to_str().unwrap()]);
        podman
    }

    fn words(&self, words: &[&str]) -> Vec<String> {
        let own = [
            "--root".to_owned(),
            self.dir.path().join("root").display().to_string(),
            "--runroot".to_owned(),
            self.dir.path().join("run").display().to_string(),
            "--storage-driver=vfs".to_owned(),
            "--cgroup-manager=cgroupfs".to_owned(),
            "--runtime".to_owned(),
            self.runtime.display().to_string(),
        ];
        own.into_iter()
            .chain(words.iter().map(ToString::to_string))
            .collect()
    }

    fn end(&self, words: &[&str]) -> Ended {
        let mut command = Command::new("podman");
        let output = command.args(self.words(words)).output();
        output.expect("podman runs: install the package podman").into()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let ended = self.end(words);
        assert_eq!(ended.code, 0, "podman {words:?}: {ended:#?}");
        ended.out
    }

    /// On a terminal of script(1)'s.
    #[track_caller]
    fn on_a_terminal(&self, words: &[&str]) -> String {
        let quoted: Vec<String> = self.words(words).iter().map(|word| format!("'{word}'")).collect();
        let output = Command::new("script")
            .args(["-qec", &format!("podman {}", quoted.join(" ")), "/dev/null"])
            .stdin(std::process::Stdio::null())
            .output()
            .expect("script runs: install the package bsdutils");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "podman {words:?}: {said}");
        said
    }

    fn image(&self) -> String {
        self.ok(&["images", "--quiet"]).trim().to_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.end(&["rm", "--all", "--force", "--time=0"]);
        self.end(&["rmi", "--all", "--force"]);
        // Its storage directory is a mount point as long as it exists.
        for entry in mount::table::read().unwrap().into_iter().rev() {
            if entry.target.starts_with(self.dir.path()) {
                let _ = sys::mount::detach_at(&entry.target);
            }
        }
    }
}

#[test]
fn a_containers_life() {
    let podman = Podman::new();
    let image = podman.image();
    let run = |flags: &[&str], words: &[&str]| podman.end(&[&RUN[..], flags, &[&image], words].concat());

    let ended = run(&["--rm"], &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (7, "out\n", "err\n")
    );
    let ended = run(&["--rm"], &["nosuch"]);
    assert!(
        ended.code == 127 && ended.err.contains("executable file not found in $PATH"),
        "{ended:#?}"
    );
    let ended = run(&["--rm"], &["/etc"]);
    assert!(
        ended.code == 126 || ended.err.contains("permission denied"),
        "{ended:#?}"
    );

    let script = "trap 'exit 5' TERM; echo started; while :; do sleep 0.05; done";
    assert_eq!(run(&["--detach", "--name=one"], &["sh", "-c", script]).code, 0);
    let ended = podman.end(&["exec", "one", "sh", "-c", "echo inside; exit 3"]);
    assert_eq!((ended.code, ended.out.as_str()), (3, "inside\n"), "{ended:#?}");
    assert_eq!(
        podman.ok(&[
            "exec",
            "--user=7:8",
            "--workdir=/tmp",
            "one",
            "sh",
            "-c",
            "id -u; id -g; pwd"
        ]),
        "7\n8\n/tmp\n"
    );
    assert_eq!(podman.end(&["exec", "one", "nosuch"]).code, 127);
    assert!(
        podman
            .on_a_terminal(&["exec", "-t", "one", "tty"])
            .contains("/dev/pts/0")
    );
    podman.ok(&[
        "exec",
        "--detach",
        "one",
        "sh",
        "-c",
        "echo by another > /made; exec sleep 1000",
    ]);
    assert!(
        podman.ok(&[
            "exec",
            "one",
            "sh",
            "-c",
            "while [ ! -s /made ]; do sleep 0.02; done; cat /made"
        ]) == "by another\n"
    );

    podman.ok(&["pause", "one"]);
    assert_eq!(
        podman.ok(&["inspect", "--format={{.State.Status}}", "one"]),
        "paused\n"
    );
    podman.ok(&["unpause", "one"]);
    assert!(podman.ok(&["top", "one", "args"]).contains("trap"));
    podman.ok(&["stop", "one"]);
    assert_eq!(
        podman.ok(&["inspect", "--format={{.State.Status}} {{.State.ExitCode}}", "one"]),
        "exited 5\n"
    );
    podman.ok(&["start", "one"]);
    podman.ok(&["kill", "one"]);
    assert_eq!(podman.ok(&["wait", "one"]), "137\n");
    assert!(podman.ok(&["logs", "one"]).contains("started"));
    podman.ok(&["rm", "one"]);
}

#[test]
fn terminals_limits_and_shared_namespaces() {
    let podman = Podman::new();
    let image = podman.image();
    let run = |flags: &[&str], words: &[&str]| podman.ok(&[&RUN[..], flags, &[&image], words].concat());
    let said = podman.on_a_terminal(&[&RUN[..], &["--rm", "-t", &image, "sh", "-c", "tty; exit 0"]].concat());
    assert!(said.contains("/dev/pts/0"), "{said}");

    let limits = ["--rm", "--memory=64m", "--pids-limit=50"];
    let groups = run(&limits, &["cat", "/proc/self/cgroup"]);
    assert!(groups.contains("libpod"), "{groups}");
    let hooks = podman.dir.path().join("volume");
    fs::create_dir(&hooks).unwrap();
    fs::write(hooks.join("file"), "of the host").unwrap();
    let volume = format!("--volume={}:/volume:ro", hooks.display());
    assert_eq!(
        run(
            &["--rm", &volume],
            &[
                "sh",
                "-c",
                "cat /volume/file; touch /volume/x || echo -n ' read-only'"
            ]
        ),
        "of the host read-only"
    );
    assert!(
        run(
            &[
                "--rm",
                "--read-only",
                "--cap-drop=all",
                "--security-opt=no-new-privileges"
            ],
            &["sh", "-c", "grep CapEff /proc/self/status; ! touch /x"]
        )
        .contains("0000000000000000")
    );

    run(&["--detach", "--name=one"], &["sleep", "1000"]);
    let joined = run(
        &["--rm", "--pid=container:one", "--ipc=container:one"],
        &["ps", "-o", "args"],
    );
    assert!(joined.contains("sleep 1000"), "{joined}");
    // One that has no pid namespace of its own ends with all of its processes.
    run(
        &["--detach", "--name=two", "--pid=container:one"],
        &["sh", "-c", "sleep 2000 & exec sleep 3000"],
    );
    let top = || podman.ok(&["exec", "one", "ps", "-o", "args"]);
    while !top().contains("sleep 2000") {}
    podman.ok(&["rm", "--force", "--time=0", "two"]);
    assert!(
        !top().contains("000 &") && !top().contains("sleep 2000") && !top().contains("sleep 3000"),
        "{}",
        top()
    );
    podman.ok(&["rm", "--force", "--time=0", "one"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}
