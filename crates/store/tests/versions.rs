//! A store of every version that ever was opens, says the same, and works on.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use common::{check, id};
use store::{Digest, Kind, Store};

/// Contents of the blobs in the fixture.
const BLOBS: [&str; 8] = [
    "base",
    "a",
    "b",
    "left behind",
    r#"manifest of ["base", "a"]"#,
    r#"manifest of ["base", "b"]"#,
    r#"config of ["base", "a"]"#,
    r#"config of ["base", "b"]"#,
];

/// Makes a store of a dump, with the directories and blobs that its rows name.
fn restore(dump: &str, root: &Path) {
    for rel in ["content/blobs/sha256", "content/ingest", "leases", "snapshots"] {
        fs::create_dir_all(root.join(rel)).unwrap();
    }
    for content in BLOBS {
        let path = root.join("content/blobs/sha256").join(Digest::of(content).hex());
        File::create(path).unwrap().write_all(content.as_bytes()).unwrap();
    }
    let db = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
    db.pragma_update(None, "journal_mode", "WAL").unwrap();
    db.execute_batch(dump).unwrap();
    let mut numbers = db
        .prepare("SELECT n FROM layers UNION SELECT n FROM snapshots WHERE n NOT NULL")
        .unwrap();
    for n in numbers.query_map((), |row| row.get::<_, i64>(0)).unwrap() {
        fs::create_dir_all(root.join(format!("snapshots/{}/fs", n.unwrap()))).unwrap();
    }
}

fn schema(root: &Path) -> Vec<String> {
    let db = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
    let mut statement = db
        .prepare("SELECT sql FROM sqlite_schema WHERE sql NOT NULL ORDER BY name")
        .unwrap();
    let rows = statement.query_map((), |row| row.get::<_, String>(0)).unwrap();
    // Spaces are not kept by a dump.
    rows.map(|sql| sql.unwrap().split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[test]
fn version_1() {
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("store");
    restore(include_str!("fixtures/v1.sql"), &root);
    let store = Store::open(&root).unwrap();

    let fresh = temp.path().join("fresh");
    drop(Store::open(&fresh).unwrap());
    assert_eq!(schema(&root), schema(&fresh));

    let images = store.images("default").unwrap();
    assert_eq!(images.len(), 1);
    assert_eq!(
        (images[0].name.as_str(), images[0].layers),
        ("docker.io/library/a:latest", 2)
    );
    assert_eq!(images[0].id, Digest::of(r#"config of ["base", "a"]"#));
    assert_eq!(images[0].used, images[0].updated);
    let kept = store.find_container("default", "kept").unwrap();
    assert_eq!(
        (kept.id, kept.labels["k"].as_str(), kept.ephemeral),
        (id(1), "v", false)
    );
    assert_eq!(kept.details["argv"][0], "sh");
    let mounts = store.mounts("default", &id(2)).unwrap();
    let base = root.join("snapshots").display().to_string();
    assert_eq!(
        mounts[0].options,
        [
            format!("workdir={base}/5/work"),
            format!("upperdir={base}/5/fs"),
            format!("lowerdir={base}/2/fs:{base}/1/fs"),
            "redirect_dir=on".to_owned(),
            "volatile".to_owned(),
            "index=off".to_owned(),
        ]
    );
    let committed = store.stat("k8s.io", "committed").unwrap();
    assert_eq!(
        (committed.kind, committed.labels["a"].as_str()),
        (Kind::Committed, "b")
    );
    assert_eq!(
        store.stat("k8s.io", "look").unwrap().parent.as_deref(),
        Some("committed")
    );

    // The interrupted pull's lease is long dead, and nothing else is.
    let collected = store.collect_older_than(Duration::ZERO).unwrap();
    assert_eq!((collected.leases, collected.blobs, collected.layers), (1, 1, 0));
    assert_eq!(check(&root, true), Vec::<String>::new());
    common::image(&store, "default", "docker.io/library/c:latest", &["base", "c"]);
    store.remove_container("default", &id(1)).unwrap();
    store.remove_container("default", &id(2)).unwrap();
    for (ns, name) in [
        ("default", "docker.io/library/a:latest"),
        ("default", "docker.io/library/c:latest"),
        ("k8s.io", "docker.io/library/b:latest"),
    ] {
        store.remove_image(ns, name).unwrap();
    }
    store.remove("k8s.io", "look").unwrap();
    store.remove("k8s.io", "committed").unwrap();
    store.collect_older_than(Duration::ZERO).unwrap();
    assert_eq!(check(&root, true), Vec::<String>::new());
    assert_eq!(store.counts().unwrap(), Default::default());
}
