//! Images for several platforms, kept whole: pulled, saved and pushed with their index. Needs root.

mod common;

use std::fs;
use std::process::Command;

use common::{Image, Layer, Strata, empty, refused};
use serde_json::{Value, json};
use testkit::image::{blob_name, descriptor, layout, write_files};
use testkit::registry::Registry;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry with an image for this machine and for another, as `many:1`; and the bytes of the index.
fn registry(strata: &Strata) -> (Registry, Vec<u8>) {
    let own = Image::busybox()
        .layer(Layer::new().file("arch", 0o644, "own"))
        .build();
    let other = Image::new("x")
        .architecture("s390x")
        .layer(Layer::new().file("arch", 0o644, "other"))
        .build();
    let entry = |built: &testkit::Built, architecture: &str| -> Value {
        let mut entry = built.descriptor.clone();
        entry["platform"] = json!({ "os": "linux", "architecture": architecture });
        entry
    };
    let machine = if cfg!(target_arch = "x86_64") {
        "amd64"
    } else {
        "arm64"
    };
    let index = json!({
        "schemaVersion": 2, "mediaType": INDEX,
        "manifests": [entry(&other, "s390x"), entry(&own, machine)],
    })
    .to_string()
    .into_bytes();
    let mut target = descriptor(INDEX, &index);
    target["annotations"]["org.opencontainers.image.ref.name"] = json!("1");
    let mut files = layout(&[&own, &other], &[target]);
    files.push((blob_name(&index), index.clone()));
    let dir = strata.dir().join("layout");
    write_files(&dir, files);
    let registry = Registry::start();
    registry.fill(&format!("oci:{}:1", dir.display()), "many:1", &["--all"]);
    (registry, index)
}

fn raw(reference: &str) -> Vec<u8> {
    let output = Command::new("skopeo")
        .args([
            "--insecure-policy",
            "inspect",
            "--raw",
            "--tls-verify=false",
            reference,
        ])
        .output()
        .expect("skopeo cannot be run: install the package skopeo");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn an_index_kept_whole() {
    let strata = empty();
    let (registry, index) = registry(&strata);
    let name = registry.name("many:1");
    // As ever: the build for this machine, whose index cannot be passed on.
    strata.ok(["pull", "-q", &name]);
    assert_eq!(strata.ok(["run", "--rm", &name, "cat", "/arch"]), "own");
    let archive = strata.dir().join("many.tar");
    let archive = archive.to_str().unwrap();
    refused(
        &strata.end(["save", "--all-platforms", "-o", archive, &name]),
        &["all its platforms"],
    );
    refused(
        &strata.end(["push", "-q", "--all-platforms", &name, &registry.name("x")]),
        &["all its platforms"],
    );

    strata.ok(["pull", "-q", "--all-platforms", &name]);
    assert_eq!(strata.ok(["manifest", "inspect", &name]).into_bytes(), index);
    // What the name keeps is no waste.
    strata.ok(["image", "prune", "--force"]);
    strata.ok(["fsck"]);
    strata.ok(["save", "--all-platforms", "-o", archive, &name]);
    assert_eq!(raw(&format!("oci-archive:{archive}:1")), index);
    let copied = strata.dir().join("copied");
    testkit::registry::skopeo(&[
        "copy",
        "--quiet",
        "--all",
        &format!("oci-archive:{archive}:1"),
        &format!("oci:{}:1", copied.display()),
    ]);
    assert_eq!(
        fs::read_dir(copied.join("blobs/sha256")).unwrap().count(),
        8,
        "an index, two images, three layers"
    );

    // An archive that holds all of it, whoever wrote it, is loaded whole.
    let theirs = format!("{}.skopeo", archive);
    let (from, to) = (
        format!("oci:{}:1", copied.display()),
        format!("oci-archive:{theirs}:docker.io/library/many:1"),
    );
    testkit::registry::skopeo(&["copy", "--quiet", "--all", &from, &to]);
    let again = empty();
    again.ok(["load", "-q", "--all-platforms", "-i", &theirs]);
    assert_eq!(again.ok(["run", "--rm", "many:1", "cat", "/arch"]), "own");
    again.ok(["image", "prune", "--force"]);
    again.ok(["fsck", "--deep"]);
    let saved = again.dir().join("saved.tar");
    let saved = saved.to_str().unwrap();
    again.ok(["save", "--all-platforms", "-o", saved, "many:1"]);
    assert_eq!(raw(&format!("oci-archive:{saved}:1")), index);
    // What was saved without the others is one build, and whole as such.
    strata.ok(["save", "-o", saved, &name]);
    assert_eq!(
        empty()
            .ok(["load", "-q", "--all-platforms", "-i", saved])
            .lines()
            .count(),
        1
    );

    let pushed = registry.name("copy:2");
    strata.ok(["push", "-q", "--all-platforms", &name, &pushed]);
    assert_eq!(raw(&format!("docker://{pushed}")), index);
    // Another machine finds its build there.
    let other = empty();
    let loaded = other.end(["pull", "-q", "--platform", "linux/s390x", &pushed]);
    assert_eq!(loaded.code, 0, "{loaded:#?}");
    assert!(other.ok(["image", "inspect", &pushed]).contains("s390x"));
    // Of a name that is gone the other builds go too.
    strata.ok(["rmi", &name]);
    strata.ok(["image", "prune", "--force"]);
    let blobs = fs::read_dir(strata.root().join("content/blobs/sha256"))
        .unwrap()
        .count();
    assert_eq!(blobs, 0);
}

#[test]
fn manifests_and_what_refers_to_them() {
    let strata = empty();
    let (registry, index) = registry(&strata);
    let name = registry.name("many:1");
    // Not in the store: the registry's.
    assert_eq!(strata.ok(["manifest", "inspect", &name]).into_bytes(), index);
    assert_eq!(strata.ok(["images", "-q"]), "", "nothing was pulled");
    // Nothing refers to it; the registry has no list, nor the tag that stands in for one.
    assert_eq!(
        strata
            .ok(["manifest", "referrers", "--format", "json", &name])
            .trim(),
        "[]"
    );
    refused(
        &strata.end(["manifest", "inspect", &registry.name("nosuch")]),
        &["nosuch"],
    );
    refused(
        &strata.end(["manifest", "referrers", &registry.name("nosuch")]),
        &["nosuch"],
    );
}
