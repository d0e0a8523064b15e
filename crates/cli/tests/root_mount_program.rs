//! podman and buildah with our program in the place of fuse-overlayfs (`mount_program`).

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use common::ordinary::{Given, Ordinary};
use common::userns::Reachable;
use testkit::Ended;

mod common;

/// A storage directory of an engine's own, and the program that mounts for it.
struct Engine {
    name: &'static str,
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Engine {
    fn new(name: &'static str) -> Engine {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("fuse-overlayfs");
        symlink(env!("CARGO_BIN_EXE_strata"), &program).unwrap();
        Engine { name, dir, program }
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let output = Command::new(self.name)
            .arg("--root")
            .arg(self.dir.path().join("root"))
            .arg("--runroot")
            .arg(self.dir.path().join("run"))
            .args(["--storage-driver=overlay", "--storage-opt"])
            .arg(format!("overlay.mount_program={}", self.program.display()))
            .args(words)
            .output()
            .unwrap_or_else(|error| panic!("{0} runs: install the package {0}: {error}", self.name));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} {words:?}: {said}", self.name);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Its archive of one image, in its directory.
    fn archive(&self) -> String {
        let archive = self.dir.path().join("image.tar");
        testkit::Image::busybox().write_docker_archive(&archive);
        archive.to_str().unwrap().to_owned()
    }

    /// Nothing of ours is mounted any more. The storage directory is a mount point as long as it exists.
    #[track_caller]
    fn left_nothing(self) {
        let left: Vec<_> = mount::table::read()
            .unwrap()
            .into_iter()
            .filter(|entry| entry.target.starts_with(self.dir.path()))
            .collect();
        assert!(
            left.iter().all(|entry| !entry.kind.starts_with("fuse")),
            "{left:?}"
        );
        for entry in left.iter().rev() {
            sys::mount::detach_at(&entry.target).unwrap();
        }
    }
}

#[test]
fn podman_runs_on_it() {
    let podman = Engine::new("podman");
    let run = |words: &[&str]| {
        // Limits that need no privilege to be set.
        let run = [
            "--cgroup-manager=cgroupfs",
            "run",
            "--network=none",
            "--runtime=runc",
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
        ];
        podman.ok(&[&run[..], words].concat())
    };
    podman.ok(&["load", "--quiet", "-i", &podman.archive()]);
    let image = podman.ok(&["images", "--quiet"]);
    let image = image.trim();
    let script = "echo here > /new; rm /bin/ls; mkdir /d; mv /d /e; grep ' / ' /proc/mounts";
    let said = run(&["--name", "one", image, "sh", "-c", script]);
    assert!(said.contains("fuse.fuse-overlayfs"), "{said}");
    let changes = podman.ok(&["diff", "one"]);
    let changes: Vec<_> = changes.lines().collect();
    for change in ["A /new", "D /bin/ls", "A /e"] {
        assert!(changes.contains(&change), "{changes:?}");
    }
    podman.ok(&["commit", "--quiet", "one", "localhost/two"]);
    assert_eq!(
        run(&["--rm", "localhost/two", "sh", "-c", "cat /new; test ! -e /bin/ls"]),
        "here\n"
    );
    podman.ok(&["--cgroup-manager=cgroupfs", "rm", "one"]);
    podman.ok(&["rmi", "--all", "--force"]);
    podman.left_nothing();
}

/// Without privilege, in the user's namespaces. The program is a file of that name here, not a link to one of another.
#[test]
fn podman_of_an_ordinary_user_runs_on_it() {
    let user = Ordinary::new(Given::Range);
    let reachable = Reachable::new();
    let program = reachable.copy(env!("CARGO_BIN_EXE_strata"));
    let renamed = program.with_file_name("fuse-overlayfs");
    fs::rename(program, &renamed).unwrap();
    let program = format!("overlay.mount_program={}", renamed.display());
    let podman = |words: &[&str]| {
        let first = [
            // The runtime lies where an ordinary user does not look.
            "env",
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "podman",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            "--runtime=runc",
            "--storage-driver=overlay",
            "--storage-opt",
            &program,
        ];
        let ended: Ended = user
            .program(None, first.iter().chain(words))
            .output()
            .unwrap()
            .into();
        assert_eq!(ended.code, 0, "podman {words:?}: {ended:?}");
        ended.out
    };
    let archive = user.dir().join("image.tar");
    testkit::Image::busybox().write_docker_archive(&archive);
    podman(&["load", "--quiet", "-i", archive.to_str().unwrap()]);
    let image = podman(&["images", "--quiet"]);
    let script = "echo here > /new; chown 5:6 /new; stat -c %u:%g /new; rm /bin/ls; mkdir /d; mv /d /e; \
        rm -r /etc; mkdir /etc; grep ' / ' /proc/mounts";
    let run = [
        "run",
        "--network=none",
        "--name=one",
        image.trim(),
        "sh",
        "-c",
        script,
    ];
    let said = podman(&run);
    assert!(
        said.starts_with("5:6\n") && said.contains("fuse.fuse-overlayfs"),
        "{said}"
    );
    let changes = podman(&["diff", "one"]);
    for change in ["A /new", "D /bin/ls", "A /e"] {
        assert!(changes.lines().any(|line| line == change), "{changes}");
    }
    podman(&["commit", "--quiet", "one", "localhost/two"]);
    let look = "cat /new; test ! -e /bin/ls";
    let again = ["run", "--rm", "--network=none", "localhost/two", "sh", "-c", look];
    assert_eq!(podman(&again), "here\n");
    podman(&["rm", "one"]);
    podman(&["rmi", "--all", "--force"]);
    // Ends the process that keeps the user's namespaces.
    podman(&["system", "migrate"]);
}

/// Each step is a layer above the ones before.
const RECIPE: &str = "\
FROM localhost/base
RUN grep -q ' / fuse.fuse-overlayfs ' /proc/mounts && echo here > /new && rm /bin/ls && mkdir /d && mv /d /e
RUN cat /new && test ! -e /bin/ls && ln /new /linked && rmdir /e && mkdir /e && touch /e/again
RUN echo more >> /new && rm -r /e && chmod 4700 /linked
RUN test ! -e /e && cat /new
";

#[test]
fn buildah_builds_on_it() {
    let buildah = Engine::new("buildah");
    let recipe = buildah.dir.path().join("Containerfile");
    fs::write(&recipe, RECIPE).unwrap();
    let image = buildah.ok(&[
        "pull",
        "--quiet",
        &format!("docker-archive:{}", buildah.archive()),
    ]);
    buildah.ok(&["tag", image.trim(), "localhost/base"]);
    let build = [
        "bud",
        "--isolation=chroot",
        "--layers",
        "--tag=localhost/built",
        "-f",
        recipe.to_str().unwrap(),
    ];
    let said = buildah.ok(&build);
    assert!(said.contains("\nhere\nmore\n"), "{said}");
    let container = buildah.ok(&["from", "localhost/built"]);
    let script = "cat /new /linked; stat -c %a /linked; test ! -e /bin/ls && test ! -e /e";
    let run = [
        "run",
        "--isolation=chroot",
        container.trim(),
        "--",
        "sh",
        "-c",
        script,
    ];
    assert_eq!(buildah.ok(&run), "here\nmore\nhere\n4700\n");
    buildah.ok(&["rm", "--all"]);
    buildah.ok(&["rmi", "--all", "--force"]);
    buildah.left_nothing();
}
