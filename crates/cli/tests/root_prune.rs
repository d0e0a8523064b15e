//! `prune`: what is not in use goes, as it was told before; on a full disk too. Needs root.

mod common;

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use common::{Compression, Ended, Image, Layer, Strata, empty, refused};
use rustix::mount::{MountFlags, mount_remount};
use serde_json::{Value, json};
use testkit::Disk;
use testkit::registry::Registry;
use testkit::snapshots::Served;
use testkit::snapshotter::Snapshotter;

fn noise(seed: u32, size: u32) -> Vec<u8> {
    (0..size / 4)
        .flat_map(|n| {
            (n ^ seed)
                .wrapping_mul(2_654_435_761)
                .rotate_left(n % 31)
                .to_le_bytes()
        })
        .collect()
}

fn image(name: &str, seed: u32) -> Image {
    let layer = Layer::new().file("noise", 0o644, noise(seed, 200_000));
    Image::busybox()
        .layer(layer)
        .name(&format!("docker.io/library/{name}:latest"))
}

fn json(strata: &Strata, words: &[&str]) -> Value {
    let ended = strata.end([words, &["--format", "json"]].concat());
    assert_eq!(ended.code, 0, "{ended:#?}");
    serde_json::from_str(&ended.out).unwrap()
}

fn names(told: &Value, kind: &str) -> Vec<String> {
    let of = |gone: &Value| {
        gone["Names"][0]
            .as_str()
            .unwrap_or_default()
            .trim_end_matches(":latest")
            .to_owned()
    };
    told[kind].as_array().unwrap().iter().map(of).collect()
}

fn images(strata: &Strata) -> Vec<String> {
    strata
        .ok(["images", "--format", "{{.Repository}}"])
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What images, containers and the rest take, without the store's own.
fn taken(strata: &Strata) -> u64 {
    let told = json(strata, &["df"]);
    let of = |what: &Value| what.as_u64().unwrap();
    of(&told["Images"]["Bytes"]) + of(&told["Containers"]["Bytes"]) + of(&told["LeftOver"])
}

#[test]
fn what_is_told_goes_and_gives_back_so_much() {
    let strata = empty();
    for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
        strata.load(&image(name, number as u32));
    }
    strata.ok([
        "run",
        "--name",
        "ended",
        "--label",
        "keep=no",
        "one",
        "sh",
        "-c",
        "head -c 90000 /dev/zero >/x",
    ]);
    strata.ok(["run", "--name", "kept", "--label", "keep=yes", "two", "true"]);
    // Left by a crash.
    std::fs::create_dir(strata.root().join("snapshots/90")).unwrap();
    std::fs::write(strata.root().join("snapshots/90/f"), noise(9, 50_000)).unwrap();
    taken(&strata);

    let before = taken(&strata);
    let words = ["prune", "-a", "--filter", "label!=keep=yes"];
    let told = json(&strata, &[&words[..], &["--dry-run"]].concat());
    assert_eq!(
        (names(&told, "Containers"), told["DryRun"] == true),
        (vec!["ended".to_owned()], true)
    );
    let mut chosen = names(&told, "Images");
    chosen.sort();
    assert_eq!(chosen, ["one", "three"]);
    assert!(told["LeftOver"].as_u64().unwrap() > 50_000, "{told:#}");
    assert_eq!(taken(&strata), before);

    // Without an answer nothing is removed.
    refused(
        &Ended {
            out: String::new(),
            ..ask(&strata, &words, "n\n")
        },
        &["nothing was removed"],
    );
    assert_eq!(taken(&strata), before);
    let said = ask(&strata, &words, "y\n");
    assert_eq!(said.code, 0, "{said:#?}");
    assert!(
        said.err.contains("containers that do not run") && said.out.contains("Image one:latest"),
        "{said:#?}"
    );
    assert_eq!(before - taken(&strata), told["Bytes"].as_u64().unwrap());
    assert_eq!(images(&strata), ["two"]);
    assert_eq!(strata.ok(["ps", "-a", "--format", "{{.Names}}"]), "kept\n");

    let told = json(&strata, &["container", "prune", "-f"]);
    assert_eq!(names(&told, "Containers"), ["kept"]);
    assert_eq!(images(&strata), ["two"]);
    let told = json(&strata, &["image", "prune", "-f"]);
    assert_eq!(names(&told, "Images"), [""; 0]);
    json(&strata, &["image", "prune", "-a", "-f"]);
    assert_eq!(json(&strata, &["df"])["Images"]["Bytes"], 0);
    refused(
        &strata.end(["prune", "containers", "--keep-bytes", "1GB", "-f"]),
        &["--keep-bytes"],
    );
    refused(&strata.end(["prune", "--filter", "colour=red"]), &["colour=red"]);
}

fn ask(strata: &Strata, words: &[&str], answer: &str) -> Ended {
    let mut command = strata.command(words);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
    let mut ended = Ended::from(child.wait_with_output().unwrap());
    // What is asked stands before what is said.
    if ended.code != 0 {
        let from = ended.err.find("error:").unwrap();
        ended.err.drain(..from);
    }
    ended
}

#[test]
fn the_least_recently_used_go_first() {
    let strata = empty();
    for (number, name) in ["one", "two", "three", "four"].into_iter().enumerate() {
        strata.load(&image(name, number as u32));
    }
    let db = strata.root().join("metadata.db");
    let ago = |name: &str, hours: i64| {
        let sql =
            "UPDATE images SET used = used - ?1 * 3600000000000 WHERE name LIKE '%/' || ?2 || ':latest'";
        let db = rusqlite::Connection::open(&db).unwrap();
        assert_eq!(db.execute(sql, (hours, name)).unwrap(), 1);
    };
    for (name, hours) in [("one", 10), ("two", 40), ("three", 30), ("four", 20)] {
        ago(name, hours);
    }
    // Used now, whatever was before.
    strata.ok(["run", "--rm", "two", "true"]);
    let size = json(&strata, &["df"])["Images"]["Bytes"].as_u64().unwrap();
    let told = json(
        &strata,
        &[
            "image",
            "prune",
            "-f",
            "--keep-bytes",
            &(size - 500_000).to_string(),
        ],
    );
    assert_eq!(names(&told, "Images"), ["three", "four"], "{told:#}");
    assert!(json(&strata, &["df"])["Images"]["Bytes"].as_u64().unwrap() <= size - 500_000);
    let told = json(&strata, &["image", "prune", "-f", "-a", "--until", "2h"]);
    assert_eq!(names(&told, "Images"), ["one"]);
    assert_eq!(images(&strata), ["two"]);
}

#[test]
fn a_policy_is_kept_to_whatever_brings_an_image() {
    const KEEP: &str = "[store]\nkeep_bytes = \"1MB\"\n";
    let strata = empty();
    let policy = |text: &str| std::fs::write(strata.dir().join("config.toml"), text).unwrap();
    let another = |name: &str| {
        policy("");
        strata.load(&image(name, 9));
        policy(KEEP);
    };
    another("one");
    strata.load(&image("loaded", 5));
    assert_eq!(images(&strata), ["loaded"]);

    strata.ok(["run", "--name", "changed", "loaded", "touch", "/x"]);
    another("two");
    strata.ok(["commit", "changed", "committed"]);
    assert_eq!(images(&strata), ["committed", "loaded"]);
    strata.ok(["rm", "changed"]);
    strata.ok(["image", "squash", "loaded", "squashed"]);
    assert_eq!(images(&strata), ["squashed"]);

    let registry = Registry::start();
    let archive = strata.dir().join("pulled.tar");
    image("pulled", 6).write_oci_archive(&archive);
    registry.fill(
        &format!("oci-archive:{}", archive.display()),
        "library/pulled:latest",
        &[],
    );
    let pulled = registry.name("library/pulled");
    strata.ok(["run", "--rm", &pulled, "true"]);
    assert_eq!(images(&strata), [pulled]);
}

#[test]
fn blobs_may_go_and_what_needs_them_does_without() {
    let strata = empty();
    strata.load(&image("one", 1));
    taken(&strata);
    let before = taken(&strata);
    let told = json(&strata, &["prune", "blobs", "-f"]);
    assert_eq!(told["Blobs"].as_array().unwrap().len(), 2, "{told:#}");
    assert_eq!(before - taken(&strata), told["Bytes"].as_u64().unwrap());
    assert_eq!(json(&strata, &["prune", "blobs", "-f"])["Blobs"], json!([]));
    assert_eq!(strata.ok(["run", "--rm", "one", "echo", "up"]), "up\n");
    // An image that shares the base is loaded all the same, and nothing is wrong.
    strata.load(&image("two", 2));
    assert_eq!(strata.end(["fsck", "--deep"]).code, 0);
    // A damaged layer is not let go of its blob.
    strata.ok(["rmi", "one"]);
    strata.load(&image("one", 1));
    let layer = layer_of(&strata, "one");
    std::fs::write(layer.join("noise"), noise(7, 200_000)).unwrap();
    let ended = strata.end(["prune", "blobs", "-f"]);
    assert_eq!(ended.code, 125, "{ended:#?}");
    assert!(
        ended.err.contains("noise") && ended.err.contains("stays"),
        "{ended:#?}"
    );

    std::fs::write(strata.dir().join("config.toml"), "[store]\nkeep_blobs = false\n").unwrap();
    strata.load(&image("three", 3));
    let blobs = json(&strata, &["df"])["Blobs"]["Count"].as_u64().unwrap();
    // Manifests and configurations of three images, and the blob that stays.
    assert_eq!(blobs, 7);
}

/// The directory of an image's topmost layer.
fn layer_of(strata: &Strata, image: &str) -> std::path::PathBuf {
    let told = json(strata, &["layers", image]);
    told["Layers"][0]["Path"].as_str().unwrap().into()
}

#[test]
fn a_full_disk_is_freed() {
    const ROOM: &str = "size=16m,nr_inodes=3000";
    for full_of_inodes in [false, true] {
        let disk = Disk::tmpfs(ROOM);
        let strata = Strata::beneath(&disk.path(), env!("CARGO_BIN_EXE_strata"));
        let archives = tempfile::tempdir().unwrap();
        let load = |image: Image| {
            let archive = archives.path().join("image.tar");
            image.write_oci_archive(&archive);
            strata.end([Path::new("load"), Path::new("-q"), Path::new("-i"), &archive])
        };
        assert_eq!(load(image("one", 1)).code, 0);
        assert_eq!(load(image("two", 2)).code, 0);
        strata.ok(["run", "--name", "ended", "one", "true"]);
        let filler = disk.path().join("filler");
        std::fs::create_dir(&filler).unwrap();
        if full_of_inodes {
            let mut number = 0;
            while std::fs::write(filler.join(number.to_string()), "").is_ok() {
                number += 1;
            }
        } else {
            let mut file = std::fs::File::create(filler.join("0")).unwrap();
            while file.write(&[1; 4096]).is_ok_and(|count| count > 0) {}
        }
        let ended = load(image("three", 3));
        let why = if full_of_inodes {
            "no inodes left"
        } else {
            "no space left"
        };
        refused(&ended, &[why]);
        let ended = strata.end(["df"]);
        assert_eq!(ended.code, 0, "{ended:#?}");
        let ended = strata.end(["prune", "-a", "-f"]);
        assert_eq!(ended.code, 0, "{full_of_inodes}: {ended:#?}");
        assert!(
            ended.out.contains("Container ended") && ended.out.contains("Image two:latest"),
            "{ended:#?}"
        );
        std::fs::remove_dir_all(&filler).unwrap();
        assert_eq!(images(&strata), [""; 0]);
        assert_eq!(strata.end(["fsck", "--deep"]).code, 0);
        assert_eq!(load(image("three", 3)).code, 0);
        // A disk that cannot be written still tells.
        mount_remount(disk.path(), MountFlags::RDONLY, ROOM).unwrap();
        let state = tempfile::tempdir().unwrap();
        let end = |words: &[&str]| {
            let mut command = strata.command(words);
            Ended::from(command.env("STRATA_STATE", state.path()).output().unwrap())
        };
        let told = end(&["prune", "-a", "--dry-run"]);
        assert!(
            told.code == 0 && told.out.contains("Image three:latest"),
            "{told:#?}"
        );
        assert_eq!(end(&["df"]).code, 0);
        assert_eq!(end(&["fsck"]).code, 0);
        refused(&end(&["prune", "-a", "-f"]), &["read-only"]);
        mount_remount(disk.path(), MountFlags::empty(), ROOM).unwrap();
    }
}

/// What the files of a store take in truth.
fn really(disk: &Disk) -> u64 {
    rustix::fs::sync();
    let stat = rustix::fs::statvfs(disk.path().as_path()).unwrap();
    (stat.f_blocks - stat.f_bfree) * stat.f_frsize
}

#[test]
fn equal_files_share_blocks_and_layers_stay_as_they_are() {
    let disks = [
        Disk::xfs(),
        Disk::new("btrfs", &["mkfs.btrfs", "-q"], 256 << 20, "rw"),
    ];
    for disk in &disks {
        let strata = Strata::beneath(&disk.path(), env!("CARGO_BIN_EXE_strata"));
        let one = |name: &str, extra: &str| {
            let layer = Layer::new()
                .file("a", 0o644, noise(1, 3_000_000))
                .file("odd size", 0o600, noise(2, 1_000_003))
                .file("small", 0o644, "small")
                .file("own", 0o644, extra);
            Image::busybox()
                .compression(Compression::None)
                .layer(layer)
                .name(&format!("docker.io/library/{name}:latest"))
        };
        for (name, extra) in [("one", "1"), ("two", "2"), ("three", "3")] {
            strata.load(&one(name, extra));
        }
        strata.ok(["prune", "blobs", "-f"]);
        json(&strata, &["df"]);
        let (before, size) = (really(disk), json(&strata, &["df"])["Total"].as_u64().unwrap());
        let told = json(&strata, &["dedup"]);
        assert_eq!(told["Files"], 4, "{told:#}");
        assert_eq!(told["Bytes"], told["Saved"]);
        let saved = told["Saved"].as_u64().unwrap();
        assert!(saved >= 8_000_000, "{told:#}");
        let gone = before - really(disk);
        assert!(
            gone.abs_diff(saved) < 1_000_000,
            "{saved} were told, {gone} are free"
        );
        let df = json(&strata, &["df"]);
        assert_eq!(df["SavedByDedup"], saved);
        assert!(df["Total"].as_u64().unwrap().abs_diff(size) < 300_000);
        // Content, owners, modes and times are as the tars say.
        assert_eq!(strata.end(["fsck", "--deep"]).code, 0);
        assert_eq!(json(&strata, &["dedup"])["Files"], 0);
        // With one of the three gone, less is saved.
        strata.ok(["rmi", "one"]);
        assert_eq!(
            json(&strata, &["df"])["SavedByDedup"].as_u64().unwrap(),
            saved / 2
        );
        // By policy as well.
        std::fs::write(strata.dir().join("config.toml"), "[store]\ndedup = true\n").unwrap();
        strata.load(&one("four", "4"));
        assert_eq!(json(&strata, &["df"])["SavedByDedup"].as_u64().unwrap(), saved);
    }
    let disk = Disk::tmpfs("size=20m");
    let strata = Strata::beneath(&disk.path(), env!("CARGO_BIN_EXE_strata"));
    // Also where there is nothing to be shared.
    refused(&strata.end(["dedup"]), &["shares no blocks"]);
}

#[test]
fn snapshots_of_others_go_when_nothing_stands_on_them() {
    let strata = empty();
    strata.load(&image("one", 1));
    strata.ok(["run", "--name", "kept", "one", "true"]);
    let store = store::Store::open(&strata.root()).unwrap();
    let row = store
        .find_image("default", "docker.io/library/one:latest")
        .unwrap()
        .unwrap();
    let chain = row.top_chain.unwrap().to_string();
    let options = store::PrepareOptions::default();
    store.prepare("default", "work", Some(&chain), &options).unwrap();
    let upper = store.upper_path("default", "work").unwrap();
    std::fs::write(upper.join("written"), noise(1, 100_000)).unwrap();
    store
        .commit("default", "committed", "work", &store::CommitOptions::default())
        .unwrap();
    store
        .view("default", "look", Some("committed"), &options)
        .unwrap();
    let mounts = store
        .prepare("default", "mounted", Some(&chain), &options)
        .unwrap();
    let target = strata.dir().join("target");
    std::fs::create_dir(&target).unwrap();
    let words = mounts[0].options.join(",");
    let mount = std::process::Command::new("mount")
        .args(["-t", "overlay", "overlay", "-o", &words])
        .arg(&target)
        .status();
    assert!(mount.unwrap().success());

    let ids = |told: &Value| -> Vec<String> {
        told["Snapshots"]
            .as_array()
            .unwrap()
            .iter()
            .map(|gone| gone["Id"].as_str().unwrap().to_owned())
            .collect()
    };
    // Who made what is young may not have come to the end yet.
    let young = json(&strata, &["prune", "snapshots", "--dry-run"]);
    assert_eq!(ids(&young), [] as [&str; 0]);
    age(&strata);
    let before = json(&strata, &["df"])["Snapshots"]["Bytes"].as_u64().unwrap();
    let told = json(&strata, &["prune", "snapshots", "--dry-run"]);
    assert_eq!(ids(&told), ["look", "committed"]);
    assert_eq!(
        json(&strata, &["prune", "snapshots", "-f", "--until", "1h"])["Snapshots"],
        json!([])
    );
    assert_eq!(
        json(&strata, &["prune", "snapshots", "-f"])["Snapshots"],
        told["Snapshots"]
    );
    let after = json(&strata, &["df"])["Snapshots"]["Bytes"].as_u64().unwrap();
    assert_eq!(before - after, told["Bytes"].as_u64().unwrap());
    assert!(told["Bytes"].as_u64().unwrap() > 100_000, "{told:#}");
    sys::mount::detach_at(&target).unwrap();
    assert_eq!(ids(&json(&strata, &["prune", "snapshots", "-f"])), ["mounted"]);
    // What a containerd may know stays where it does not answer, or listens elsewhere: it may be just starting anew.
    let socket = strata.dir().join("containerd.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    store
        .prepare("default", "default/1/gone", None, &options)
        .unwrap();
    age(&strata);
    let asked = format!("--containerd={}", socket.display());
    refused(
        &strata.end(["prune", "snapshots", "-f", &asked]),
        &["cannot be asked"],
    );
    let gone = json(&strata, &["prune", "snapshots", "-f", "--all"]);
    assert_eq!(ids(&gone), ["default/1/gone"]);
    // What an image or a container holds is not theirs.
    assert_eq!(strata.ok(["run", "--rm", "one", "echo", "up"]), "up\n");
    assert_eq!(strata.ok(["ps", "-a", "--format", "{{.Names}}"]), "kept\n");
    assert_eq!(strata.end(["fsck"]).code, 0);
}

/// As if everything that other engines have made had been made two minutes ago.
fn age(strata: &Strata) {
    let db = rusqlite::Connection::open(strata.root().join("metadata.db")).unwrap();
    let sql = "UPDATE snapshots SET created = created - 120000000000, updated = updated - 120000000000";
    db.busy_timeout(Duration::from_secs(60)).unwrap();
    db.execute(sql, ()).unwrap();
}

#[test]
fn what_is_served_or_seen_by_a_view_is_not_pruned() {
    let strata = empty();
    let served = Served::start(&strata, &["--driver", "fuse"]);
    let remote = served.client("default");
    let mut parent: Option<String> = None;
    for n in 0..3 {
        let work = format!("default/{n}/work");
        remote
            .prepare(&work, parent.as_deref(), &Default::default())
            .unwrap();
        let name = format!("default/{n}/layer");
        remote.commit(&name, &work, &Default::default(), None).unwrap();
        parent = Some(name);
    }
    let top = parent.as_deref();
    remote.prepare("default/5/run", top, &Default::default()).unwrap();
    let gone = |strata: &Strata| -> Vec<String> {
        let told = json(strata, &["prune", "snapshots", "-f", "--all"]);
        let gone = told["Snapshots"].as_array().unwrap().iter();
        gone.map(|gone| gone["Id"].as_str().unwrap().to_owned()).collect()
    };
    // Nobody has bound it yet: its server holds it.
    assert_eq!(gone(&strata), [] as [&str; 0]);
    remote.remove("default/5/run").unwrap();
    drop(served);
    // A view as containerd mounts one of many layers: from the directory that they lie in.
    let store = store::Store::open(&strata.root()).unwrap();
    let options = store::PrepareOptions::default();
    let mounts = store.view("default", "default/6/look", top, &options).unwrap();
    let target = strata.dir().join("target");
    std::fs::create_dir(&target).unwrap();
    let beneath = strata.root().join("snapshots");
    let words = mounts[0].options.join(",");
    let words = words.replace(&format!("{}/", beneath.display()), "");
    let mount = std::process::Command::new("mount")
        .args(["-i", "-t", "overlay", "overlay", "-o", &words])
        .arg(&target)
        .current_dir(&beneath)
        .status();
    assert!(mount.unwrap().success(), "{words}");
    assert_eq!(gone(&strata), [] as [&str; 0]);
    sys::mount::detach_at(&target).unwrap();
    assert_eq!(gone(&strata).len(), 4);
}
