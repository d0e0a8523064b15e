//! What everything takes on disk: as `du` says, and told at once however much there is.

#![allow(clippy::print_stdout, reason = "the figure is what one runs it for")]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use common::{container, image, plain, top};
use store::{Disk, Store};

fn du(root: &Path) -> u64 {
    let output = Command::new("du").args(["-s", "-B1"]).arg(root).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

fn total(disk: &Disk) -> u64 {
    let layers = disk.layers.iter().map(|layer| layer.usage.bytes + layer.overhead);
    let snapshots = disk.snapshots.iter().map(|one| one.usage.bytes + one.overhead);
    let blobs = disk.blobs.iter().map(|blob| blob.bytes);
    layers.chain(snapshots).chain(blobs).sum::<u64>() + disk.unowned + disk.own
}

#[test]
fn everything_is_counted_once() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("store");
    let store = Store::open(&root).unwrap();
    let big = "x".repeat(100_000);
    let a = image(&store, "default", "a", &["base", &big]);
    image(&store, "default", "b", &["base", "b"]);
    let from = top(&a);
    store
        .create_container(&container(1, "one", Some(&a)), Some((Some(&from), &plain())))
        .unwrap();
    let upper = store.upper_path("default", &common::id(1)).unwrap();
    fs::write(upper.join("written"), vec![1; 50_000]).unwrap();
    image(&store, "client", "a", &["base", "a"]);
    let below = store
        .find_image("client", "a")
        .unwrap()
        .unwrap()
        .top_chain
        .unwrap()
        .to_string();
    store.prepare("client", "work", Some(&below), &plain()).unwrap();
    store
        .commit("client", "kept", "work", &Default::default())
        .unwrap();
    // What a crash leaves.
    fs::create_dir_all(root.join("snapshots/77/fs/deep")).unwrap();
    fs::write(root.join("snapshots/77/fs/deep/f"), "left").unwrap();
    fs::write(root.join("content/ingest").join("ab".repeat(32)), "half a blob").unwrap();
    fs::write(root.join("leases/dead"), "").unwrap();

    store.disk().unwrap();
    let disk = store.disk().unwrap();
    assert_eq!(total(&disk), du(&root));
    assert_eq!((disk.layers.len(), disk.manifests.len()), (4, 3));
    assert_eq!(disk.snapshots.len(), 2);
    assert!(disk.snapshots[0].usage.bytes >= 50_000, "{:?}", disk.snapshots);
    assert!(disk.unowned > 0);
    assert_eq!(disk.beneath.len(), 2);
    assert_eq!(disk.manifests[0].layers.len(), 2);
    assert_eq!(disk.manifests[0].blobs.len(), 4);
    // What is measured is written down.
    drop(store);
    let store = Store::open_read_only(&root).unwrap();
    assert_eq!(store.disk().unwrap().layers, disk.layers);
}

#[test]
fn ten_thousand_layers() {
    const LAYERS: u64 = 10_000;
    // In memory: making and removing so many directories is not what is measured.
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let root = temp.path().join("store");
    let store = Store::open(&root).unwrap();
    let db = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
    for n in 1..=LAYERS {
        fs::create_dir(root.join(format!("snapshots/{n}"))).unwrap();
    }
    db.execute_batch(&format!(
        "BEGIN;
         CREATE TEMP TABLE many AS WITH RECURSIVE many (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < {LAYERS})
           SELECT n, 'sha256:' || printf('%064x', n) AS digest FROM many;
         INSERT INTO layers (n, diff_id, chain_id, depends_on_below, root_listed, bytes, apparent, inodes, created, overhead)
           SELECT n, digest, digest, 0, 1, 8192, 4, 2, 1, 4096 FROM many;
         INSERT INTO blobs (digest, size, created, bytes) SELECT digest, 4, 1, 4096 FROM many;
         INSERT INTO manifests
           SELECT 1, min(digest), 't', 1, max(digest), 't', 1, 'linux', 'amd64', NULL, NULL, 1, NULL, 0, 0, 0 FROM many;
         INSERT INTO manifest_layers SELECT 1, n, digest, 't', 4, digest, digest, n, NULL FROM many;
         COMMIT"
    ))
    .unwrap();
    let begin = Instant::now();
    let disk = store.disk().unwrap();
    let took = begin.elapsed();
    println!("{LAYERS} layers: {took:?}");
    assert_eq!(disk.layers.len() as u64, LAYERS);
    assert_eq!(disk.manifests[0].layers.len() as u64, LAYERS);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
