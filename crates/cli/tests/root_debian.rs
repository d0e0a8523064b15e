//! Real images: Debian as mmdebstrap makes it, and one of many layers with whiteouts as buildah makes it. One test, since
//! the first takes half a minute to make. Needs root, and Debian's archive or a mirror of it.

mod common;

use std::path::Path;
use std::process::Command;

use common::{Strata, empty};

#[test]
fn debian_and_its_children() {
    let strata = empty();
    let tar = strata.dir().join("debian.tar");
    must(
        Command::new("mmdebstrap")
            .args(["--quiet", "--variant=minbase", "bookworm"])
            .arg(&tar),
    );
    debian_runs(&strata, &tar);
    many_layers_run(&strata, &tar);
}

fn must(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn debian_runs(strata: &Strata, tar: &Path) {
    strata.ok(["import", tar.to_str().unwrap(), "debian:12"]);
    assert_eq!(
        strata
            .ok(["run", "--rm", "debian:12", "cat", "/etc/debian_version"])
            .get(..3),
        Some("12.")
    );
    // A dynamic linker, a package manager with locks and renames, users made and used: all on the overlay.
    let script = "set -e
        dpkg --verify
        useradd --create-home someone
        su someone -c 'id -un'
        apt-mark showmanual >/dev/null
        mv /usr/share/doc /usr/share/documents && ls -d /usr/share/documents
        rm -r /usr/share/documents && mkdir /usr/share/documents && ls -A /usr/share/documents | wc -l";
    let ended = strata.end(["run", "--name", "works", "debian:12", "sh", "-c", script]);
    assert_eq!(
        (ended.code, ended.out.as_str()),
        (0, "someone\n/usr/share/documents\n0\n"),
        "{ended:?}"
    );
    let changes = strata.ok(["diff", "works"]);
    for change in [
        "A /home/someone",
        "C /etc/passwd",
        "D /usr/share/doc",
        "A /usr/share/documents",
    ] {
        assert!(
            changes.lines().any(|line| line == change),
            "{change} is not in {changes}"
        );
    }
    strata.ok(["rm", "works"]);

    // Exactly as tar unpacks it: every name, mode, owner, size, link and time.
    let unpacked = strata.dir().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    must(
        Command::new("tar")
            .arg("--numeric-owner")
            .arg("-xpf")
            .arg(tar)
            .arg("-C")
            .arg(&unpacked),
    );
    let seen = layer_dir(strata, "debian:12");
    assert_eq!(listing(&seen), listing(&unpacked));
    std::fs::remove_dir_all(unpacked).unwrap();
}

/// Where the one layer of an image lies.
fn layer_dir(strata: &Strata, image: &str) -> std::path::PathBuf {
    let stack: serde_json::Value =
        serde_json::from_str(&strata.ok(["layers", "--format", "json", image])).unwrap();
    stack["Layers"][0]["Path"].as_str().unwrap().into()
}

/// Every file beneath a directory, with all that a tar says of it.
fn listing(root: &Path) -> Vec<String> {
    let format = "%P %y %m %U %G %n %T@ %l %s\n";
    let text = must(
        Command::new("find")
            .arg(root)
            .args(["-mindepth", "1", "(", "-type", "d", "-printf"])
            .args([
                // A directory's size and links are the file system's own affair.
                "%P %y %m %U %G %T@\n",
                ")",
                "-o",
                "-printf",
                format,
            ]),
    );
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn many_layers_run(strata: &Strata, tar: &Path) {
    let buildah = |args: &[&str]| {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(strata.dir().join("buildah"))
            .arg("--runroot")
            .arg(strata.dir().join("buildah-run"));
        must(command.args(["--storage-driver", "overlay"]).args(args))
    };
    let build = strata.dir().join("build");
    std::fs::create_dir(&build).unwrap();
    let base = build.join("debian.tar");
    std::fs::rename(tar, &base).unwrap();
    let mut steps = String::from("FROM scratch\nADD debian.tar /\n");
    for step in 0..12 {
        steps += &format!(
            "RUN echo {step} >/step-{step} && mkdir -p /data/{step} && echo {step} >/data/{step}/file\n"
        );
    }
    steps += "RUN rm /step-3 && rm -r /data/5 && mkdir /data/5 && echo again >/data/5/other\n\
        RUN rm -r /usr/share/doc && mv /data/7 /data/seven && ln /step-1 /step-one && chmod 600 /step-2\n\
        USER nobody\nENV STEPS=12\nCMD [\"cat\", \"/step-11\"]\n";
    std::fs::write(build.join("Containerfile"), steps).unwrap();
    buildah(&[
        "build",
        "--layers",
        "--isolation",
        "chroot",
        "--ulimit",
        "nofile=1024:1024",
        "--ulimit",
        "nproc=1000:1000",
        "--tag",
        "many:1",
        build.to_str().unwrap(),
    ]);
    let archive = strata.dir().join("many.tar");
    buildah(&[
        "push",
        "--quiet",
        "many:1",
        &format!("oci-archive:{}:many:1", archive.display()),
    ]);
    strata.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
    assert_eq!(strata.ok(["run", "--rm", "many:1"]), "11\n");
    let script = "ls /step-3 /data/5/file /usr/share/doc /data/7 2>/dev/null
        ls / | grep -c '^step-'; cat /data/5/other /data/seven/file /step-one; ls /data | wc -l
        stat -c '%h %a' /step-1; stat -c %a /step-2; id -un; echo $STEPS";
    let seen = strata.ok(["run", "--rm", "many:1", "sh", "-c", script]);
    assert_eq!(seen, "12\nagain\n7\n1\n12\n2 644\n600\nnobody\n12\n");
    let layers: serde_json::Value =
        serde_json::from_str(&strata.ok(["layers", "--format", "json", "many:1"])).unwrap();
    assert!(layers["Layers"].as_array().unwrap().len() >= 15, "{layers:#}");
    buildah(&["rmi", "--all", "--force"]);
}
