//! `fsck`: every damage is found and named, and mended as it says. Needs root.

mod common;

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::{Image, Layer, Strata, empty};
use serde_json::Value;
use testkit::registry::Registry;

/// What `fsck` answers: its exit code and its findings.
fn fsck(strata: &Strata, words: &[&str]) -> (i32, Vec<Value>) {
    let ended = strata.end([&["fsck", "--format", "json"], words].concat());
    let told: Value = serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{error}: {ended:#?}"));
    (ended.code, told["Findings"].as_array().unwrap().clone())
}

/// Nothing is wrong, and it runs.
#[track_caller]
fn sound(strata: &Strata) {
    assert_eq!(fsck(strata, &["--deep"]), (0, Vec::new()));
    assert_eq!(
        strata.ok(["run", "--rm", "test", "cat", "/dir/file"]),
        "content\n"
    );
}

/// Something is wrong: found, named, and mended in this way; then nothing is.
#[track_caller]
fn mended(strata: &Strata, deep: bool, kind: &str, names: &str, how: &str) {
    let deep: &[&str] = if deep { &["--deep"] } else { &[] };
    let (code, found) = fsck(strata, deep);
    assert_eq!(code, 4, "{found:#?}");
    assert!(
        found
            .iter()
            .any(|it| it["Kind"] == kind && it.to_string().contains(names)),
        "{names}: {found:#?}"
    );
    let (code, found) = fsck(strata, &[&["--repair"], deep].concat());
    assert_eq!(code, 1, "{found:#?}");
    let fits =
        |it: &Value| it["Kind"] == kind && it["Mended"].as_str().is_some_and(|mended| mended.contains(how));
    assert!(found.iter().any(fits), "{how}: {found:#?}");
    assert_eq!(fsck(strata, deep), (0, Vec::new()));
}

fn layer() -> Layer {
    Layer::new()
        .dir("dir", 0o755)
        .file("dir/file", 0o644, "content\n")
        .file("dir/other", 0o4755, vec![7; 100_000])
        .symlink("dir/link", "file")
        .file("empty", 0o600, "")
}

fn loaded() -> Strata {
    let strata = empty();
    strata.load(
        &Image::busybox()
            .layer(layer())
            .name("docker.io/library/test:latest"),
    );
    strata
}

/// The directory of the topmost layer.
fn top(strata: &Strata) -> PathBuf {
    nth(strata, 0)
}

/// The directory of a layer, the topmost first.
fn nth(strata: &Strata, place: usize) -> PathBuf {
    let told: Value = serde_json::from_str(&strata.ok(["layers", "--format", "json", "test"])).unwrap();
    told["Layers"][place]["Path"].as_str().unwrap().into()
}

fn blob(strata: &Strata, place: usize) -> PathBuf {
    let built = Image::busybox()
        .layer(layer())
        .name("docker.io/library/test:latest")
        .build();
    let hex = built.layer(place).trim_start_matches("sha256:").to_owned();
    strata.root().join("content/blobs/sha256").join(hex)
}

fn flip(path: &Path) {
    let times = filetime(path);
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    fs::set_permissions(path, PermissionsExt::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.set_modified(times).unwrap();
}

fn filetime(path: &Path) -> std::time::SystemTime {
    fs::metadata(path).unwrap().modified().unwrap()
}

#[test]
fn files_of_layers_come_back_from_the_blob() {
    let strata = loaded();
    assert_eq!(fsck(&strata, &["--deep"]), (0, Vec::new()));
    let file = || top(&strata).join("dir/other");
    let mode = fs::metadata(file()).unwrap().permissions();
    flip(&file());
    fs::set_permissions(file(), mode.clone()).unwrap();
    // Only reading it shows.
    assert_eq!(fsck(&strata, &[]).0, 0);
    mended(
        &strata,
        true,
        "layer",
        "/dir/other: its content was changed",
        "unpacked anew from its blob",
    );
    assert_eq!(fs::metadata(file()).unwrap().permissions(), mode);

    fs::File::options()
        .write(true)
        .open(file())
        .unwrap()
        .set_len(10)
        .unwrap();
    mended(
        &strata,
        false,
        "layer",
        "/dir/other",
        "unpacked anew from its blob",
    );
    fs::remove_file(file()).unwrap();
    mended(
        &strata,
        false,
        "layer",
        "/dir/other: it is gone",
        "unpacked anew from its blob",
    );
    fs::remove_file(top(&strata).join("empty")).unwrap();
    mended(
        &strata,
        false,
        "layer",
        "files and directories",
        "its own files and record",
    );
    fs::remove_dir_all(top(&strata).join("dir")).unwrap();
    mended(
        &strata,
        false,
        "layer",
        "/dir/file",
        "unpacked anew from its blob",
    );
    fs::remove_dir_all(top(&strata)).unwrap();
    mended(
        &strata,
        false,
        "layer",
        "its files: not there",
        "unpacked anew from its blob",
    );
    fs::remove_dir_all(top(&strata).parent().unwrap()).unwrap();
    mended(
        &strata,
        false,
        "layer",
        "its directory: not there",
        "unpacked anew from its blob",
    );
    fs::remove_file(top(&strata).with_file_name("record")).unwrap();
    mended(
        &strata,
        false,
        "layer",
        "its record: not there",
        "unpacked anew from its blob",
    );
    flip(&top(&strata).with_file_name("record"));
    mended(&strata, true, "layer", "record", "unpacked anew from its blob");
    sound(&strata);
}

#[test]
fn owners_modes_times_links_and_attributes_come_back_from_the_record() {
    let strata = loaded();
    let how = "unpacked anew from its own files and record";
    // The blob is not needed.
    strata.ok(["prune", "blobs", "-f"]);
    let at = |name: &str| top(&strata).join(name);
    chown(at("dir/file"), Some(12), Some(34)).unwrap();
    mended(
        &strata,
        true,
        "layer",
        "/dir/file: its owner is 12:34, not 0:0",
        how,
    );
    fs::set_permissions(at("dir"), PermissionsExt::from_mode(0o700)).unwrap();
    mended(&strata, true, "layer", "/dir: its mode is 700, not 755", how);
    let file = fs::File::open(at("dir/file")).unwrap();
    file.set_modified(std::time::SystemTime::now()).unwrap();
    mended(
        &strata,
        true,
        "layer",
        "/dir/file: it was changed at another time",
        how,
    );
    let set = Command::new("setfattr")
        .args(["-n", "user.x", "-v", "y"])
        .arg(at("dir/file"))
        .status();
    assert!(set.unwrap().success());
    mended(
        &strata,
        true,
        "layer",
        "/dir/file: it has an attribute user.x",
        how,
    );
    fs::remove_file(at("dir/link")).unwrap();
    symlink("elsewhere", at("dir/link")).unwrap();
    mended(&strata, true, "layer", "/dir/link: it leads elsewhere", how);
    fs::hard_link(at("dir/file"), at("dir/more")).unwrap();
    fs::remove_file(at("empty")).unwrap();
    mended(&strata, true, "layer", "/dir/more: it does not belong there", how);
    sound(&strata);
}

#[test]
fn what_takes_something_from_a_layer_below_is_compared_once_that_is_mended() {
    let strata = empty();
    let lower = Layer::new().dir("dir", 0o750);
    // It does not list the directory.
    let upper = Layer::new().file("dir/file", 0o644, "content\n");
    let image = Image::busybox().layer(lower).layer(upper);
    strata.load(&image.name("docker.io/library/test:latest"));
    sound(&strata);
    for place in [1, 0] {
        let dir = nth(&strata, place).join("dir");
        fs::set_permissions(&dir, PermissionsExt::from_mode(0o700)).unwrap();
        let (code, found) = fsck(&strata, &["--deep", "--repair"]);
        assert_eq!((code, found.len()), (1, 1), "{found:#?}");
        assert!(
            found[0].to_string().contains("/dir: its mode is 700, not 750"),
            "{found:#?}"
        );
        sound(&strata);
    }
}

#[test]
fn blobs_are_forgotten_or_fetched_again() {
    let registry = Registry::start();
    let strata = empty();
    let archive = strata.dir().join("fill.tar");
    Image::busybox().layer(layer()).write_oci_archive(&archive);
    registry.fill(
        &format!("oci-archive:{}", archive.display()),
        "library/test:latest",
        &[],
    );
    let name = registry.name("library/test:latest");
    strata.ok(["pull", "-q", &name]);
    strata.ok(["tag", &name, "test"]);
    // A layer's own directory is enough.
    flip(&blob(&strata, 1));
    mended(
        &strata,
        true,
        "blob",
        "its content has the digest",
        "removed: its layer gives it back",
    );
    // With the blob gone, a damaged layer is fetched.
    fs::remove_file(top(&strata).join("dir/file")).unwrap();
    mended(
        &strata,
        false,
        "layer",
        "/dir/file",
        "fetched again from 127.0.0.1",
    );
    let inspected: Value = serde_json::from_str(&strata.ok(["inspect", "test"])).unwrap();
    for digest in ["Id", "ManifestDigest"] {
        let hex = inspected[0][digest]
            .as_str()
            .unwrap()
            .trim_start_matches("sha256:")
            .to_owned();
        let path = strata.root().join("content/blobs/sha256").join(hex);
        flip(&path);
        mended(
            &strata,
            true,
            "blob",
            "its content has the digest",
            "fetched again from 127.0.0.1",
        );
        fs::remove_file(&path).unwrap();
        mended(
            &strata,
            false,
            "blob",
            "its file is gone",
            "fetched again from 127.0.0.1",
        );
        fs::File::options()
            .append(true)
            .open(&path)
            .unwrap_or_else(|_| panic!("{}", path.display()));
    }
    // Without a registry it is left, until it may be removed.
    drop(registry);
    let hex = inspected[0]["Id"]
        .as_str()
        .unwrap()
        .trim_start_matches("sha256:")
        .to_owned();
    fs::remove_file(strata.root().join("content/blobs/sha256").join(hex)).unwrap();
    let (code, found) = fsck(&strata, &["--repair", "--offline"]);
    assert_eq!(code, 4, "{found:#?}");
    assert!(
        found[0]["Left"].as_str().unwrap().contains("nothing is fetched"),
        "{found:#?}"
    );
    let (code, found) = fsck(&strata, &["--repair"]);
    assert_eq!(code, 4, "{found:#?}");
    let (code, found) = fsck(&strata, &["--repair", "--remove", "--offline"]);
    assert_eq!(code, 1, "{found:#?}");
    assert!(
        found[0]["Mended"].as_str().unwrap().starts_with("removed "),
        "{found:#?}"
    );
    assert_eq!(strata.ok(["images", "-q"]), "");
    assert_eq!(fsck(&strata, &["--deep"]), (0, Vec::new()));
}

#[test]
fn no_registry_is_asked_for_what_was_not_pulled() {
    let strata = loaded();
    let inspected: Value = serde_json::from_str(&strata.ok(["inspect", "test"])).unwrap();
    let hex = inspected[0]["Id"]
        .as_str()
        .unwrap()
        .trim_start_matches("sha256:")
        .to_owned();
    fs::remove_file(strata.root().join("content/blobs/sha256").join(hex)).unwrap();
    let (code, found) = fsck(&strata, &["--repair"]);
    let left = found[0]["Left"].as_str().unwrap();
    assert!(
        code == 4 && left.contains("test:latest was not pulled"),
        "{found:#?}"
    );
    // What is told to help does.
    assert!(
        left.contains("a pull or load of test:latest brings it again"),
        "{left}"
    );
    let image = Image::busybox().layer(layer());
    strata.load(&image.name("docker.io/library/test:latest"));
    sound(&strata);
}

#[test]
fn what_nobody_owns_is_removed() {
    let strata = loaded();
    let root = strata.root();
    fs::create_dir_all(root.join("snapshots/70/fs")).unwrap();
    mended(&strata, false, "orphan", "snapshots/70", "removed");
    fs::write(root.join("content/blobs/sha256").join("ab".repeat(32)), "x").unwrap();
    mended(&strata, false, "orphan", "abab", "removed");
    fs::write(root.join("leases/dead"), "").unwrap();
    mended(&strata, false, "orphan", "leases/dead", "removed");
    fs::write(root.join("snapshots/note"), "").unwrap();
    let (code, found) = fsck(&strata, &["--repair"]);
    assert!(code == 4 && found[0]["Kind"] == "foreign", "{found:#?}");
    fs::remove_file(root.join("snapshots/note")).unwrap();

    // Run directories and mounts without a container.
    let bundle = strata.state().join("default").join("cd".repeat(32));
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    mended(&strata, false, "run directory", "cdcd", "removed");
    let stray = strata.state().join("default/stray");
    fs::create_dir_all(&stray).unwrap();
    let mount = |at: &Path| {
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "strata-test"])
            .arg(at)
            .status();
        assert!(done.unwrap().success());
    };
    mount(&stray);
    mended(&strata, false, "mount", "stray", "unmounted");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    mount(&bundle.join("rootfs"));
    mended(&strata, false, "run directory", "cdcd", "removed");

    // A row without its directory.
    strata.ok(["run", "--name", "kept", "test", "true"]);
    let id = strata.ok(["ps", "-a", "-q", "--no-trunc"]).trim().to_owned();
    let inspected: Value = serde_json::from_str(&strata.ok(["inspect", "kept"])).unwrap();
    let upper = inspected[0]["GraphDriver"]["Data"]["UpperDir"]
        .as_str()
        .unwrap()
        .to_owned();
    fs::remove_dir_all(Path::new(&upper).parent().unwrap()).unwrap();
    let (code, found) = fsck(&strata, &["--repair"]);
    assert!(
        code == 4 && found[0]["Left"].as_str().unwrap().contains("--remove"),
        "{found:#?}"
    );
    let (code, found) = fsck(&strata, &["--repair", "--remove"]);
    assert!(
        code == 1 && found.iter().any(|it| it["Name"].as_str().unwrap().ends_with(&id)),
        "{found:#?}"
    );
    assert_eq!(fsck(&strata, &["--deep"]), (0, Vec::new()));
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");

    // The root of a container that ended is mounted by nobody.
    strata.ok(["run", "--name", "ended", "test", "true"]);
    let id = strata.ok(["ps", "-a", "-q", "--no-trunc"]).trim().to_owned();
    let rootfs = strata.state().join("default").join(&id).join("rootfs");
    fs::create_dir_all(&rootfs).unwrap();
    mount(&rootfs);
    mended(&strata, false, "mount", &id, "unmounted");
}

#[test]
fn what_is_in_use_is_not_touched() {
    let strata = loaded();
    let mut running = strata.command([
        "run",
        "--rm",
        "test",
        "sh",
        "-c",
        "while [ ! -e /stop ]; do sleep 0.1; done",
    ]);
    let mut running = running.spawn().unwrap();
    while strata.ok(["ps", "-q"]).is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert_eq!(fsck(&strata, &["--deep", "--repair"]), (0, Vec::new()));
    fs::remove_file(top(&strata).join("empty")).unwrap();
    let (code, found) = fsck(&strata, &["--repair"]);
    assert!(
        code == 4 && found[0]["Left"].as_str().unwrap().contains("stop that first"),
        "{found:#?}"
    );
    strata.ok(["rm", "-f", "-a"]);
    running.wait().unwrap();
    mended(
        &strata,
        false,
        "layer",
        "files and directories",
        "its own files and record",
    );
}

#[test]
fn a_root_whose_server_died_is_named() {
    let strata = loaded();
    // It has all that it needs in memory before its root goes: else it would end of that.
    let script = "echo up; read line";
    let mut running = strata.command([
        "run", "-i", "--name", "served", "--driver", "fuse", "test", "sh", "-c", script,
    ]);
    let (stdin, stdout) = (Stdio::piped(), Stdio::piped());
    let mut running = running.stdin(stdin).stdout(stdout).spawn().unwrap();
    let mut up = [0; 3];
    running.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let id = strata.ok(["ps", "-q", "--no-trunc"]).trim().to_owned();
    let rootfs = strata.state().join("default").join(&id).join("rootfs");
    let mut server = [0; 32];
    let length = rustix::fs::getxattr(&rootfs, "security.strata.server", &mut server[..]).unwrap();
    let server = String::from_utf8_lossy(&server[..length])
        .split(" ")
        .next()
        .unwrap()
        .to_owned();
    assert!(
        Command::new("kill")
            .args(["-9", &server])
            .status()
            .unwrap()
            .success()
    );
    while fs::metadata(&rootfs).is_ok() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let (code, found) = fsck(&strata, &["--repair"]);
    assert!(
        code == 4 && found[0]["What"] == "its server is gone",
        "{found:#?}"
    );
    assert!(
        found[0]["Left"].as_str().unwrap().contains("strata rm -f served"),
        "{found:#?}"
    );
    strata.ok(["rm", "-f", "served"]);
    running.wait().unwrap();
    sound(&strata);
}

#[test]
fn a_store_that_cannot_be_opened_is_8() {
    let strata = loaded();
    // Its log would bring it back.
    fs::remove_file(strata.root().join("metadata.db-wal")).unwrap();
    fs::write(strata.root().join("metadata.db"), "no database ".repeat(1000)).unwrap();
    let ended = strata.end(["fsck"]);
    assert_eq!(ended.code, 8, "{ended:#?}");
}
