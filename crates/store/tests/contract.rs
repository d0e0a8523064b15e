//! The store passes the contract of a snapshotter.

mod common;

use common::Subject;
use store::{PrepareOptions, SnapshotError, Store};
use testkit::snapshotter::contract;

#[test]
fn the_store_is_a_snapshotter() {
    contract(&|| Box::new(Subject::new()));
}

/// What is forgotten first and removed by the next collection is gone for whoever asks at once.
#[test]
fn a_directory_that_is_left_to_the_collector() {
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(temp.path()).unwrap();
    let mounts = store.prepare("k8s.io", "one", None, &PrepareOptions::default());
    let directory = mounts.unwrap().remove(0).source;
    std::fs::write(std::path::Path::new(&directory).join("file"), "x").unwrap();
    store.remove_later("k8s.io", "one").unwrap();
    assert!(matches!(
        store.stat("k8s.io", "one"),
        Err(SnapshotError::NotFound(_))
    ));
    assert!(std::path::Path::new(&directory).join("file").exists());
    assert_eq!(store.collect().unwrap().orphans, 1);
    assert!(!std::path::Path::new(&directory).exists());
}
