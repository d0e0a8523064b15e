//! Single moments of a crash, made by hand. Random ones are in `processes.rs`.

mod common;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::time::Duration;

use common::{check, container, id, image, plain, top};
use rusqlite::config::DbConfig;
use store::{ContainerError, PrepareOptions, SnapshotError, Store};

/// A process writes its transaction to SQLite's log, and dies before it announces it in the log's index. The others do
/// not see it; the next recovery of the log does. A collection in between must not take the directory that it names
/// for an orphan and then let the transaction come back.
#[test]
fn a_transaction_that_its_dead_author_did_not_announce() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("store");
    let witness = Store::open(&root).unwrap();
    witness.prepare("ns", "before", None, &plain()).unwrap();

    // The index's header, twice, is what announces (https://sqlite.org/walformat.html#walidxfmt).
    let index = OpenOptions::new()
        .read(true)
        .write(true)
        .open(root.join("metadata.db-shm"))
        .unwrap();
    let mut header = [0; 96];
    index.read_exact_at(&mut header, 0).unwrap();
    let dying = Store::open(&root).unwrap();
    dying
        .prepare(
            "ns",
            "dying",
            None,
            &PrepareOptions {
                ephemeral: true,
                ..plain()
            },
        )
        .unwrap();
    drop(dying);
    index.write_all_at(&header, 0).unwrap();

    assert!(matches!(
        witness.stat("ns", "dying"),
        Err(SnapshotError::NotFound(_))
    ));
    // Somebody reads, so that the collection cannot begin the log anew at its end.
    let reader = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
    reader
        .set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
        .unwrap();
    reader.execute_batch("BEGIN; SELECT count(*) FROM meta;").unwrap();
    witness.collect_older_than(Duration::ZERO).unwrap();
    drop((witness, reader));
    // Nobody has the store open now: the next one recovers the log.
    let store = Store::open(&root).unwrap();
    store.stat("ns", "before").unwrap();
    assert_eq!(check(&root, true), Vec::<String>::new());
}

/// A power cut may bring back the row of an ephemeral container whose directory is gone.
#[test]
fn a_container_without_its_directory_can_be_removed() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("store")).unwrap();
    let record = image(&store, "default", "n", &["x"]);
    let mut new = container(1, "c", Some(&record));
    new.ephemeral = true;
    store
        .create_container(&new, Some((Some(&top(&record)), &plain())))
        .unwrap();
    fs::remove_dir_all(store.upper_path("default", &id(1)).unwrap().parent().unwrap()).unwrap();
    store.remove_container("default", &id(1)).unwrap();
    assert!(matches!(
        store.find_container("default", "c"),
        Err(ContainerError::NotFound(_))
    ));
    assert_eq!(check(store.root(), false), Vec::<String>::new());
}

/// A kill leaves directories, blobs, downloads and lease files without rows, and with rows leases without files.
#[test]
fn what_a_kill_leaves_is_collected_and_nothing_else() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("store")).unwrap();
    image(&store, "default", "n", &["x", "y"]);
    let at = |rel: &str| store.root().join(rel);
    fs::create_dir_all(at("snapshots/77/fs/some/tree")).unwrap();
    fs::create_dir_all(at("snapshots/lost+found")).unwrap();
    let blob = format!("content/blobs/sha256/{}", "ab".repeat(32));
    for file in [
        &blob,
        "content/blobs/sha256/README",
        "content/ingest/aa",
        "leases/bb",
    ] {
        File::create(at(file)).unwrap();
    }
    let lease = store.lease("without file").unwrap();
    fs::remove_file(at("leases").join(lease.id())).unwrap();
    drop(lease);
    // Owned by somebody who lives.
    let busy = store.lease("busy").unwrap();
    let layer = store.new_layer(&busy).unwrap();
    let ingest = store.ingest(&busy, "busy", None).unwrap();

    let collected = store.collect_older_than(Duration::ZERO).unwrap();
    assert_eq!(
        (
            collected.orphans,
            collected.leases,
            collected.layers,
            collected.blobs
        ),
        (3, 1, 0, 0)
    );
    for gone in ["snapshots/77", &blob, "content/ingest/aa", "leases/bb"] {
        assert!(!at(gone).exists(), "{gone}");
    }
    assert!(layer.fs().metadata().unwrap().st_nlink > 0);
    // Not strata's: left alone.
    fs::remove_dir(at("snapshots/lost+found")).unwrap();
    fs::remove_file(at("content/blobs/sha256/README")).unwrap();

    let n = layer.n();
    drop((layer, ingest, busy));
    assert!(!at(&format!("snapshots/{n}")).exists());
    let collected = store.collect_older_than(Duration::ZERO).unwrap();
    assert_eq!((collected.orphans, collected.leases), (1, 1));
    assert_eq!(check(store.root(), true), Vec::<String>::new());
}

/// The pull was interrupted; the next one, within the grace period, goes on with what there is.
#[test]
fn a_fresh_download_is_left_for_the_next_try() {
    use std::io::Write;
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("store")).unwrap();
    let lease = store.lease("pull").unwrap();
    let mut ingest = store.ingest(&lease, "layer", None).unwrap();
    ingest.write_all(b"half").unwrap();
    drop((ingest, lease));
    assert_eq!(store.collect().unwrap(), Default::default());
    let lease = store.lease("pull").unwrap();
    assert_eq!(store.ingest(&lease, "layer", None).unwrap().offset(), 4);
}
