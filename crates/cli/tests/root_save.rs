//! `strata save`, read by others: skopeo, podman, umoci, and strata itself. Needs root.

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Compression, Image, Layer, Strata, empty, refused};
use serde_json::Value;

/// Images of layers in every compression, which share the first.
fn images() -> [Image; 2] {
    let base = || {
        Layer::new()
            .dir("d", 0o755)
            .file("d/base", 0o644, "base".repeat(1000))
    };
    [
        Image::new("docker.io/library/one:1").layer(base()),
        Image::new("quay.io/some/two:latest")
            .layer(base())
            .layer_as(
                Layer::new().file("plain", 0o600, "plain").whiteout("d/base"),
                Compression::None,
            )
            .layer_as(
                Layer::new().file("zstd", 0o644, "zstd").symlink("link", "zstd"),
                Compression::Zstd,
            ),
    ]
}

fn loaded() -> Strata {
    let strata = empty();
    for image in images() {
        strata.load(&image);
    }
    strata
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{program} cannot be run ({e}): install the package {program}"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn skopeo_digest(reference: &str) -> String {
    run(
        "skopeo",
        &[
            "--insecure-policy",
            "inspect",
            "--format",
            "{{.Digest}}",
            reference,
        ],
    )
    .trim()
    .to_owned()
}

/// Images in a store: their names with their ids.
fn listed(strata: &Strata) -> Vec<String> {
    let text = strata.ok([
        "images",
        "--no-trunc",
        "--format",
        "{{.Repository}}:{{.Tag}} {{.ID}}",
    ]);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn digests(strata: &Strata) -> Vec<String> {
    let text = strata.ok(["images", "--format", "{{.Repository}} {{.Digest}}"]);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

struct Files(PathBuf);

impl Files {
    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

#[test]
fn strata_reads_it_again_in_every_form() {
    let strata = loaded();
    let files = Files(strata.dir().to_owned());
    for (form, file) in [
        ("oci-archive", "o.tar"),
        ("docker-archive", "d.tar"),
        ("oci-dir", "dir"),
    ] {
        strata.ok([
            "save",
            "--format",
            form,
            "-o",
            &files.at(file),
            "one:1",
            "quay.io/some/two",
        ]);
        let other = empty();
        other.ok(["load", "-i", &files.at(file)]);
        assert_eq!(listed(&other), listed(&strata), "{form}");
        // Every blob is kept: manifests too are what they were.
        if form != "docker-archive" {
            assert_eq!(digests(&other), digests(&strata), "{form}");
        }
        assert_eq!(
            other.ok(["diff", "quay.io/some/two", "one:1"]).lines().count(),
            5,
            "{form}"
        );
    }
    // A stream, and the same bytes each time.
    let stream = strata
        .command(["save", "one:1", "quay.io/some/two"])
        .output()
        .unwrap();
    assert!(stream.status.success());
    assert!(stream.stdout == std::fs::read(files.at("o.tar")).unwrap());
    // By its id it has no name there.
    let id = strata.ok(["images", "-q", "one"]);
    strata.ok(["save", "-o", &files.at("id.tar"), id.trim()]);
    let other = empty();
    assert!(other.ok(["load", "-i", &files.at("id.tar")]).contains("sha256:"));

    refused(
        &strata.end(["save", "-o", &files.at("x.tar"), "nosuch"]),
        &["nosuch"],
    );
    refused(
        &strata.end(["save", "--format", "oci-dir", "-o", &files.at("dir"), "one:1"]),
        &["dir"],
    );
    refused(
        &strata.end(["save", "-o", "/nosuch/x.tar", "one:1"]),
        &["/nosuch"],
    );
    assert!(
        !Path::new(&files.at("x.tar")).exists(),
        "nothing is left of what failed"
    );
    // Unwritable in the middle.
    refused(
        &strata.end(["save", "-q", "-o", "/dev/full", "one:1"]),
        &["archive"],
    );
}

#[test]
fn a_layer_without_its_blob_is_written_from_its_directory() {
    let strata = empty();
    strata.load(&Image::busybox());
    strata.ok([
        "run",
        "--name",
        "cc",
        "busybox",
        "sh",
        "-c",
        "echo committed > /f",
    ]);
    let id = strata.ok(["commit", "cc", "made"]);
    strata.ok(["rm", "cc"]);
    let files = Files(strata.dir().to_owned());
    for (form, file) in [("oci-archive", "o.tar"), ("docker-archive", "d.tar")] {
        strata.ok(["save", "--format", form, "-o", &files.at(file), "made"]);
        let other = empty();
        other.ok(["load", "-i", &files.at(file)]);
        assert_eq!(other.ok(["images", "-q", "--no-trunc"]), id, "{form}");
        assert_eq!(other.ok(["run", "--rm", "made", "cat", "/f"]), "committed\n");
    }
}

#[test]
fn skopeo_and_umoci_read_it() {
    let strata = loaded();
    let files = Files(strata.dir().to_owned());
    let digest = |name: &str| -> String {
        let text = strata.ok(["images", "--digests", "--format", "{{.Digest}}", name]);
        text.trim().to_owned()
    };
    strata.ok(["save", "-o", &files.at("o.tar"), "quay.io/some/two"]);
    assert_eq!(
        skopeo_digest(&format!("oci-archive:{}:latest", files.at("o.tar"))),
        digest("quay.io/some/two")
    );
    // The archive of both is docker's too, its layers compressed.
    strata.ok(["save", "-o", &files.at("both.tar"), "one:1", "quay.io/some/two"]);
    strata.ok([
        "save",
        "--format",
        "docker-archive",
        "-o",
        &files.at("d.tar"),
        "one:1",
        "quay.io/some/two",
    ]);
    for archive in ["both.tar", "d.tar"] {
        for (at, name) in [
            ("one", "docker.io/library/one:1"),
            ("two", "quay.io/some/two:latest"),
        ] {
            let from = format!("docker-archive:{}:{name}", files.at(archive));
            let to = files.at(&format!("{archive}-{at}"));
            run(
                "skopeo",
                &[
                    "--insecure-policy",
                    "copy",
                    "--quiet",
                    &from,
                    &format!("oci:{to}:x"),
                ],
            );
            let other = empty();
            other.ok(["load", "-q", "-i", &to]);
            let id = strata.ok(["images", "-q", "--no-trunc", name]);
            // skopeo writes a configuration of its own; what is in the layers is the same.
            assert!(id.starts_with("sha256:"));
            let layers = |strata: &Strata, name: &str| -> Vec<Value> {
                let text = strata.ok(["layers", "--format", "json", name]);
                let stack: Value = serde_json::from_str(&text).unwrap();
                stack["Layers"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|l| l["DiffId"].clone())
                    .collect()
            };
            let copied = other.ok(["images", "-q", "--no-trunc"]);
            assert_eq!(
                layers(&other, copied.trim()),
                layers(&strata, name),
                "{archive} {name}"
            );
        }
    }
    strata.ok(["save", "--format", "oci-dir", "-o", &files.at("dir"), "one:1"]);
    let image = format!("{}:1", files.at("dir"));
    run("umoci", &["unpack", "--image", &image, &files.at("bundle")]);
    let text = std::fs::read_to_string(strata.dir().join("bundle/rootfs/d/base")).unwrap();
    assert_eq!(text, "base".repeat(1000));
    // And what umoci makes of it.
    std::fs::write(strata.dir().join("bundle/rootfs/added"), "by umoci").unwrap();
    run(
        "umoci",
        &[
            "repack",
            "--image",
            &format!("{}:repacked", files.at("dir")),
            &files.at("bundle"),
        ],
    );
    let other = empty();
    other.ok(["load", "-q", "-i", &files.at("dir")]);
    assert!(other.ok(["diff", "one:repacked"]).contains("A /added"));
}

#[test]
fn podman_reads_it() {
    let strata = loaded();
    let files = Files(strata.dir().to_owned());
    let storage = files.at("storage");
    let podman = |arguments: &[&str]| {
        let (root, runroot) = (format!("{storage}/root"), format!("{storage}/run"));
        let flags = ["--root", &root, "--runroot", &runroot, "--storage-driver=vfs"];
        run("podman", &[&flags, arguments].concat())
    };
    for form in ["oci-archive", "docker-archive"] {
        let file = files.at(form);
        strata.ok(["save", "--format", form, "-o", &file, "one:1", "quay.io/some/two"]);
        podman(&["load", "--quiet", "-i", &file]);
        let mut names: Vec<String> = podman(&["images", "--format", "{{.Repository}}:{{.Tag}}"])
            .lines()
            .map(str::to_owned)
            .collect();
        names.sort();
        assert_eq!(
            names,
            ["docker.io/library/one:1", "quay.io/some/two:latest"],
            "{form}"
        );
        // And back, both in one archive.
        let back = files.at(&format!("{form}-back"));
        podman(&["save", "--quiet", "-m", "-o", &back, &names[0], &names[1]]);
        let other = empty();
        other.ok(["load", "-q", "-i", &back]);
        for name in &names {
            let id = |strata: &Strata| strata.ok(["images", "-q", "--no-trunc", name]);
            assert_eq!(id(&other), id(&strata), "{form} {name}");
        }
        podman(&["rmi", "--all", "--force"]);
    }
    // One image alone, which podman takes for an OCI archive.
    strata.ok(["save", "-o", &files.at("single"), "one:1"]);
    podman(&["load", "--quiet", "-i", &files.at("single")]);
    let id = strata.ok(["images", "-q", "--no-trunc", "one:1"]);
    assert!(podman(&["images", "--no-trunc", "--format", "{{.ID}}"]).contains(id.trim()));
    // And back: what podman saves is the same image.
    let back = files.at("back.tar");
    podman(&[
        "save",
        "--quiet",
        "--format",
        "oci-archive",
        "-o",
        &back,
        id.trim().trim_start_matches("sha256:"),
    ]);
    let other = empty();
    other.ok(["load", "-q", "-i", &back]);
    assert_eq!(other.ok(["images", "-q", "--no-trunc"]), id);
    podman(&["rmi", "--all", "--force"]);
}
