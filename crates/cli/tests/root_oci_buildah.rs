//! buildah with our program as its OCI runtime.

use std::os::unix::fs::symlink;
use std::process::Command;

use testkit::{Ended, Image};

/// buildah with a store of its own, and the runtime under the name that it calls it by.
struct Buildah {
    dir: tempfile::TempDir,
}

impl Buildah {
    fn end(&self, words: &[&str]) -> Ended {
        let output = Command::new("buildah")
            .arg("--root")
            .arg(self.dir.path().join("root"))
            .arg("--runroot")
            .arg(self.dir.path().join("run"))
            .arg("--storage-driver=vfs")
            .args(words)
            .output();
        output.expect("buildah runs: install the package buildah").into()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let ended = self.end(words);
        assert_eq!(ended.code, 0, "buildah {words:?}: {ended:#?}");
        ended.out
    }

    /// `RUN`, in a working container.
    fn run(&self, container: &str, script: &[&str]) -> Ended {
        let runtime = self.dir.path().join("strata-oci");
        let flags = [
            "run",
            "--isolation=oci",
            "--runtime",
            runtime.to_str().unwrap(),
            "--network=none",
            container,
        ];
        self.end(&[&flags[..], script].concat())
    }
}

#[test]
fn what_is_run_in_a_build() {
    let buildah = Buildah {
        dir: tempfile::tempdir().unwrap(),
    };
    symlink(
        env!("CARGO_BIN_EXE_strata"),
        buildah.dir.path().join("strata-oci"),
    )
    .unwrap();
    let archive = buildah.dir.path().join("image.tar");
    Image::busybox().write_docker_archive(&archive);
    let image = format!("docker-archive:{}", archive.display());
    // Limits that need no privilege to be set.
    let limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"];
    let container = buildah.ok(&[&["from", "--quiet"], &limits[..], &[&image]].concat());
    let container = container.trim();

    let ended = buildah.run(
        container,
        &["sh", "-c", "echo out; echo err >&2; echo made >/made; id -u"],
    );
    assert_eq!((ended.code, ended.out.as_str()), (0, "out\n0\n"), "{ended:#?}");
    assert_eq!(ended.err, "err\n");
    assert_eq!(buildah.run(container, &["cat", "/made"]).out, "made\n");
    let failed = buildah.run(container, &["sh", "-c", "exit 3"]);
    assert!(
        failed.code == 3 || failed.err.contains("exit status 3"),
        "{failed:#?}"
    );
    let missing = buildah.run(container, &["nosuch"]);
    assert_ne!(missing.code, 0);
    assert!(
        missing.err.contains("executable file not found in $PATH"),
        "{missing:#?}"
    );

    // It becomes a layer, and is there in a container made of that.
    buildah.ok(&["commit", "--quiet", container, "built"]);
    let again = buildah.ok(&[&["from", "--quiet"], &limits[..], &["built"]].concat());
    assert_eq!(buildah.run(again.trim(), &["cat", "/made"]).out, "made\n");
    buildah.ok(&["rm", "--all"]);
}
