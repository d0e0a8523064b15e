//! Layers and blobs that were damaged in the store: what comes in anew takes their place. Needs root.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::{Image, Layer, Strata, empty, refused};
use serde_json::Value;
use testkit::registry::Registry;

const NAME: &str = "docker.io/library/test:latest";

fn image() -> Image {
    let layer = Layer::new()
        .dir("dir", 0o755)
        .file("dir/file", 0o644, "content\n")
        .file("dir/other", 0o644, vec![7; 100_000]);
    Image::busybox().layer(layer).name(NAME)
}

/// The archive that the image is loaded from.
fn archive(strata: &Strata) -> PathBuf {
    let archive = strata.dir().join("test.tar");
    image().write_oci_archive(&archive);
    archive
}

fn load(strata: &Strata, archive: &Path) {
    strata.ok(["load", "-q", "-i", archive.to_str().unwrap()]);
}

/// The directory of the topmost layer.
fn top(strata: &Strata) -> PathBuf {
    let told: Value = serde_json::from_str(&strata.ok(["layers", "--format", "json", NAME])).unwrap();
    told["Layers"][0]["Path"].as_str().unwrap().into()
}

fn blob(strata: &Strata, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    strata.root().join("content/blobs/sha256").join(hex)
}

/// Changes a byte in the middle, and not the size.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

#[track_caller]
fn sound(strata: &Strata) {
    let ended = strata.end(["fsck", "--deep"]);
    assert_eq!(ended.code, 0, "{ended:#?}");
    let said = strata.ok(["run", "--rm", NAME, "cat", "/dir/file"]);
    assert_eq!(said, "content\n");
}

#[test]
fn a_load_replaces_what_is_gone_or_was_found_damaged() {
    let strata = empty();
    let archive = archive(&strata);
    load(&strata, &archive);
    let at = top(&strata);
    // What is plainly gone needs no check to be found so.
    let spoil: [&dyn Fn(); 3] = [
        &|| fs::remove_dir_all(at.parent().unwrap()).unwrap(),
        &|| fs::remove_dir_all(&at).unwrap(),
        &|| fs::remove_file(at.with_file_name("record")).unwrap(),
    ];
    for spoil in spoil {
        spoil();
        load(&strata, &archive);
        assert_eq!(top(&strata), at, "it lies where it lay");
        sound(&strata);
    }
    // What only reading it shows is found by a check, and the next load replaces it; the blob in the store may be
    // damaged as well.
    for blob_too in [false, true] {
        flip(&at.join("dir/other"));
        if blob_too {
            flip(&blob(&strata, &image().build().layer(1)));
        }
        assert_eq!(strata.end(["fsck", "--deep"]).code, 4);
        let again = strata.end(["fsck"]);
        assert!(
            again.code == 4 && again.out.contains("an earlier check found it damaged"),
            "{again:#?}"
        );
        load(&strata, &archive);
        sound(&strata);
    }
    // Mended by hand, it is found sound.
    let file = at.join("dir/other");
    let time = fs::metadata(&file).unwrap().modified().unwrap();
    fs::write(&file, vec![8; 100_000]).unwrap();
    assert_eq!(strata.end(["fsck", "--deep"]).code, 4);
    fs::write(&file, vec![7; 100_000]).unwrap();
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_modified(time)
        .unwrap();
    assert_eq!(strata.end(["fsck"]).code, 4);
    let deep = strata.end(["fsck", "--deep"]);
    assert_eq!(deep.code, 0, "{deep:#?}");
    sound(&strata);
}

#[test]
fn one_that_a_container_runs_on_is_replaced_when_that_has_ended() {
    let strata = empty();
    let archive = archive(&strata);
    load(&strata, &archive);
    strata.ok(["run", "-d", "--name", "busy", NAME, "sleep", "1000"]);
    flip(&top(&strata).join("dir/other"));
    assert_eq!(strata.end(["fsck", "--deep"]).code, 4);
    let ended = strata.end(["load", "-q", "-i", archive.to_str().unwrap()]);
    refused(
        &ended,
        &["damaged in the store", "container busy is running on it"],
    );
    assert!(ended.err.contains("strata stop busy"), "{ended:#?}");
    strata.ok(["stop", "-t", "0", "busy"]);
    load(&strata, &archive);
    sound(&strata);
    strata.ok(["rm", "busy"]);
}

#[test]
fn a_pull_replaces_it_too_and_fetches_a_damaged_blob_again() {
    let registry = Registry::start();
    let strata = empty();
    let archive = archive(&strata);
    registry.fill(
        &format!("oci-archive:{}", archive.display()),
        "library/test:latest",
        &[],
    );
    let name = registry.name("library/test:latest");
    strata.ok(["pull", "-q", &name]);
    strata.ok(["tag", &name, NAME]);
    let inspected: Value = serde_json::from_str(&strata.ok(["inspect", NAME])).unwrap();
    let digest = |key: &str| inspected[0][key].as_str().unwrap().to_owned();
    let built = image().build();
    let spoil: [&dyn Fn(); 4] = [
        &|| flip(&top(&strata).join("dir/other")),
        &|| {
            flip(&top(&strata).join("dir/other"));
            flip(&blob(&strata, &built.layer(1)));
        },
        &|| {
            flip(&top(&strata).join("dir/other"));
            fs::remove_file(blob(&strata, &built.layer(1))).unwrap();
        },
        &|| {
            flip(&blob(&strata, &digest("Id")));
            flip(&blob(&strata, &digest("ManifestDigest")));
        },
    ];
    for spoil in spoil {
        spoil();
        assert_eq!(strata.end(["fsck", "--deep"]).code, 4);
        strata.ok(["pull", "-q", &name]);
        sound(&strata);
    }
}

#[test]
fn an_archive_is_read_though_its_layers_are_there() {
    let strata = empty();
    let whole = archive(&strata);
    load(&strata, &whole);
    let built = image().build();
    let bytes = fs::read(&whole).unwrap();
    // A byte of the layer's own file: its content is where the archive has it, as it is.
    let content = &built.blobs[&built.layer(1)];
    let at = bytes
        .windows(content.len())
        .position(|part| part == content)
        .unwrap();
    let mut spoilt = bytes.clone();
    spoilt[at + content.len() / 2] ^= 1;
    let damaged = strata.dir().join("damaged.tar");
    fs::write(&damaged, spoilt).unwrap();
    let ended = strata.end(["load", "-q", "-i", damaged.to_str().unwrap()]);
    refused(
        &ended,
        &[
            "docker.io/library/test:latest",
            &built.layer(1),
            "damaged where it comes from",
        ],
    );
    load(&strata, &whole);
    sound(&strata);
}

#[test]
fn a_run_names_the_layer_that_is_gone() {
    let strata = empty();
    let archive = archive(&strata);
    load(&strata, &archive);
    let run = |driver: &str| strata.end(["run", "--rm", "--driver", driver, NAME, "true"]);
    for driver in ["kernel", "fuse"] {
        fs::remove_dir_all(top(&strata)).unwrap();
        let ended = run(driver);
        refused(
            &ended,
            &["layer sha256:", "is damaged in the store", "/fs is not there"],
        );
        assert!(ended.err.contains("strata fsck --repair"), "{ended:#?}");
        assert_eq!(strata.end(["fsck", "--repair", "--offline"]).code, 1);
        assert_eq!(run(driver).code, 0);
    }
    assert_eq!(strata.ok(["ps", "-aq"]), "");
}

#[test]
fn a_start_waits_until_a_layer_lies_in_its_place() {
    let strata = empty();
    let archive = archive(&strata);
    load(&strata, &archive);
    // As whoever exchanges a layer has it.
    let snapshots = fs::File::open(strata.root().join("snapshots")).unwrap();
    rustix::fs::flock(&snapshots, rustix::fs::FlockOperation::LockExclusive).unwrap();
    // What mounts nothing does not wait, and keeps nobody waiting: it may have to pull.
    strata.ok(["create", "--name", "made", NAME, "cat", "/dir/file"]);
    let starts: [&[&str]; 3] = [
        &["run", "--rm", NAME, "cat", "/dir/file"],
        &["start", "-a", "made"],
        &["cp", "made:/dir/file", "-"],
    ];
    for arguments in starts {
        let mut child = strata.command(arguments).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(400));
        assert!(child.try_wait().unwrap().is_none(), "{arguments:?}");
        rustix::fs::flock(&snapshots, rustix::fs::FlockOperation::Unlock).unwrap();
        assert!(child.wait().unwrap().success(), "{arguments:?}");
        rustix::fs::flock(&snapshots, rustix::fs::FlockOperation::LockExclusive).unwrap();
    }
}
