//! A full disk, an exhausted inode table, and a read-only file system. Needs root, for a small file system of its own.

mod common;

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::Duration;

use common::{check, container, id, image, plain, top};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use store::{
    ContainerError, Fault, ImageError, IngestError, OpenError, PrepareOptions, SnapshotError, Store,
};

/// A small file system in memory, gone with the value.
struct Disk(tempfile::TempDir);

impl Disk {
    fn new(options: &str) -> Disk {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test mounts: run it as root"
        );
        let temp = tempfile::tempdir().unwrap();
        let options = std::ffi::CString::new(options).unwrap();
        rustix::mount::mount(
            "strata-test",
            temp.path(),
            "tmpfs",
            MountFlags::empty(),
            Some(&*options),
        )
        .unwrap();
        rustix::mount::mount_change(temp.path(), MountPropagationFlags::PRIVATE).unwrap();
        Disk(temp)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn read_only(&self, on: bool) {
        let flags = if on {
            MountFlags::RDONLY
        } else {
            MountFlags::empty()
        };
        rustix::mount::mount_remount(self.path(), flags, "").unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.path(), UnmountFlags::DETACH).unwrap();
    }
}

fn settle(store: &Store) {
    store.collect_older_than(Duration::ZERO).unwrap();
    assert_eq!(check(store.root(), true), Vec::<String>::new());
}

#[test]
fn a_full_disk_is_said_so_and_space_can_be_freed_on_it() {
    let disk = Disk::new("size=8m");
    let store = Store::open(&disk.path().join("store")).unwrap();
    let record = image(&store, "default", "n", &["x", "y"]);
    let lease = store.lease("before").unwrap();
    store
        .create_container(
            &container(1, "full", Some(&record)),
            Some((Some(&top(&record)), &plain())),
        )
        .unwrap();
    let upper = store.upper_path("default", &id(1)).unwrap();

    // To the last byte.
    let mut file = File::create(upper.join("data")).unwrap();
    for size in [1 << 16, 4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    // As long as what is reserved for the log lasts, small things go on.
    let mut refused = None;
    for n in 2..2000 {
        let mut new = container(n, &format!("c{n}"), Some(&record));
        new.details = serde_json::json!({"long": "x".repeat(3000)});
        if let Err(error) = store.create_container(&new, Some((Some(&top(&record)), &plain()))) {
            refused = Some((n, error));
            break;
        }
    }
    let (n, error) = refused.expect("a disk of 8 MiB takes no 2000 containers");
    assert!(
        matches!(&error, ContainerError::Fault(Fault::Full(..))),
        "{error:?}"
    );
    assert!(error.to_string().contains("no space left"), "{error}");

    let mut ingest = store.ingest(&lease, "large", None).unwrap();
    let error = std::iter::repeat_with(|| ingest.write_all(&[1; 1 << 16]))
        .find_map(Result::err)
        .unwrap();
    assert_eq!(error.kind(), ErrorKind::StorageFull);
    drop(ingest);
    let error = store.put_blob(&lease, &[1; 1 << 16]).unwrap_err();
    assert!(
        matches!(&error, IngestError::Fault(Fault::Full(path, _)) if path.starts_with(store.root())),
        "{error:?}"
    );

    // Nothing is broken, and it can still be opened and read, when nobody has it open too.
    drop(store);
    while file.write_all(&[1]).is_ok() {}
    let store = Store::open(&disk.path().join("store")).unwrap();
    assert_eq!(store.containers("default").unwrap().len() as u64, n - 1);
    store.find_image("default", "n").unwrap().unwrap();

    // Freeing needs a transaction, for which there is the reserve.
    while file.write_all(&[1]).is_ok() {}
    drop(file);
    let reserve = || std::fs::metadata(store.root().join("reserve")).unwrap().len();
    store.remove_container("default", &id(1)).unwrap();
    assert_eq!(reserve(), 2 << 20);
    assert_eq!(check(store.root(), false), Vec::<String>::new());
    for n in 2..n {
        store.remove_container("default", &id(n)).unwrap();
    }
    image(&store, "default", "m", &["z"]);
    drop(lease);
    settle(&store);
}

#[test]
fn a_full_disk_can_be_pruned() {
    let disk = Disk::new("size=8m");
    let store = Store::open(&disk.path().join("store")).unwrap();
    let lease = store.lease("fill").unwrap();
    let mut size = 1 << 18;
    let mut number = 0u64;
    while size > 4096 {
        let mut content = vec![1; size];
        content[..8].copy_from_slice(&number.to_le_bytes());
        number += 1;
        let put = store.put_blob(&lease, &content);
        if put.and_then(|_| store.settle(&lease)).is_err() {
            size /= 2;
        }
    }
    drop((lease, store));
    let store = Store::open(&disk.path().join("store")).unwrap();
    let collected = store.collect_older_than(Duration::ZERO).unwrap();
    assert!(collected.bytes > 2 << 20, "{collected:?}");
    settle(&store);
    assert_eq!(store.counts().unwrap(), Default::default());
}

#[test]
fn no_inodes_left() {
    let disk = Disk::new("nr_inodes=60");
    let store = Store::open(&disk.path().join("store")).unwrap();
    let mut made = 0;
    let error = loop {
        match store.prepare("ns", &format!("key {made}"), None, &plain()) {
            Ok(_) => made += 1,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(&error, SnapshotError::Fault(Fault::Full(..))),
        "{error:?}"
    );
    assert!(
        error.to_string().starts_with("no inodes left on the disk for"),
        "{error}"
    );
    assert!(made > 5);
    assert_eq!(check(store.root(), true), Vec::<String>::new());
    store.remove("ns", "key 0").unwrap();
    store.prepare("ns", "again", None, &plain()).unwrap();
}

#[test]
fn no_room_for_a_store_at_all() {
    let disk = Disk::new("size=8k");
    let error = Store::open(&disk.path().join("store")).err().unwrap();
    assert!(matches!(&error, OpenError::Fault(Fault::Full(..))), "{error:?}");
}

#[test]
fn a_read_only_file_system_is_read_and_not_written() {
    let disk = Disk::new("");
    let root = disk.path().join("store");
    let store = Store::open(&root).unwrap();
    let record = image(&store, "default", "n", &["x"]);
    store
        .create_container(
            &container(1, "c", Some(&record)),
            Some((Some(&top(&record)), &plain())),
        )
        .unwrap();
    store.prepare("default", "snap", None, &plain()).unwrap();
    drop(store);
    // With a log to read, and without.
    for clean in [false, true] {
        if clean {
            let database = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
            database
                .query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
                .unwrap();
            drop(database);
            assert!(!root.join("metadata.db-wal").exists());
        }
        disk.read_only(true);
        for store in [Store::open(&root).unwrap(), Store::open_read_only(&root).unwrap()] {
            assert!(store.is_read_only());
            let found = store.find_image("default", "n").unwrap().unwrap();
            assert_eq!(
                store.read_blob(&found.config.digest, 999).unwrap().len() as u64,
                found.config.size
            );
            assert_eq!(store.containers("default").unwrap().len(), 1);
            assert_eq!(store.mounts("default", &id(1)).unwrap()[0].kind, "overlay");
            store.usage("default", &id(1)).unwrap();

            let read_only = |fault: &Fault| {
                assert!(matches!(fault, Fault::ReadOnly(_)), "{fault:?}");
                assert!(fault.to_string().starts_with(root.to_str().unwrap()), "{fault}");
            };
            let ephemeral = PrepareOptions {
                ephemeral: true,
                ..plain()
            };
            read_only(&store.lease("x").unwrap_err());
            read_only(&store.collect().unwrap_err());
            for error in [
                store.prepare("ns", "k", None, &plain()).unwrap_err(),
                store.prepare("ns", "k", None, &ephemeral).unwrap_err(),
                store.view("ns", "k", None, &plain()).unwrap_err(),
                store.remove("default", "snap").unwrap_err(),
                store
                    .update("default", &id(1), &Default::default(), &[])
                    .unwrap_err(),
            ] {
                let SnapshotError::Fault(fault) = &error else {
                    panic!("{error:?}")
                };
                read_only(fault);
            }
            let Err(ContainerError::Fault(fault)) = store.remove_container("default", &id(1)) else {
                panic!()
            };
            read_only(&fault);
            let Err(ContainerError::Fault(fault)) = store.create_container(&container(2, "d", None), None)
            else {
                panic!()
            };
            read_only(&fault);
            let Err(ImageError::Fault(fault)) = store.tag("default", "n", "m") else {
                panic!()
            };
            read_only(&fault);
            let Err(ImageError::Fault(fault)) = store.remove_image("default", "n") else {
                panic!()
            };
            read_only(&fault);
        }
        disk.read_only(false);
    }
    let store = Store::open(&root).unwrap();
    assert!(!store.is_read_only());
    store.remove_container("default", &id(1)).unwrap();
    store.remove("default", "snap").unwrap();
    settle(&store);
}

#[test]
fn there_is_no_store_on_a_read_only_file_system() {
    let disk = Disk::new("");
    disk.read_only(true);
    let error = Store::open(&disk.path().join("store")).err().unwrap();
    assert!(
        matches!(&error, OpenError::Fault(Fault::ReadOnly(_))),
        "{error:?}"
    );
}
