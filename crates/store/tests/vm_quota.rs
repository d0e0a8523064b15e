//! Limits of writable snapshots, on file systems that have project quotas. Runs in the virtual machine only, whose
//! kernel and disk have them (`cargo xtask test`).

mod common;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use common::{container, id, plain};
use store::{ContainerError, PrepareOptions, SnapshotError, Store};
use testkit::Disk;

const NS: &str = "default";
const SIZE: u64 = 8 << 20;

fn limited() -> PrepareOptions {
    PrepareOptions {
        size: Some(SIZE),
        ..plain()
    }
}

/// Runs a check on a store on the machine's ext4, and on one on xfs.
fn on_each(check: impl Fn(&Path)) {
    let temp = tempfile::tempdir().unwrap();
    check(temp.path());
    let disk = Disk::xfs_with_project_quotas();
    check(&disk.path());
}

fn project(path: &Path) -> u32 {
    sys::quota::project(File::open(path).unwrap().as_fd()).unwrap()
}

fn limit_of(place: &Path, project: u32) -> u64 {
    let place = File::open(place).unwrap();
    sys::quota::of_project(place.as_fd(), project).unwrap().limit
}

fn fill(path: &Path, bytes: usize) {
    let mut file = File::create(path).unwrap();
    std::io::Write::write_all(&mut file, &vec![1; bytes]).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn a_snapshot_is_limited_and_measured() {
    on_each(|place| {
        let store = Store::open(&place.join("store")).unwrap();
        store.prepare(NS, "small", None, &limited()).unwrap();
        store.prepare(NS, "free", None, &plain()).unwrap();
        assert_eq!(store.quota(NS, "free").unwrap(), None);
        let empty = store.quota(NS, "small").unwrap().unwrap();
        assert_eq!(
            (empty.limit, empty.inodes),
            (SIZE, 3),
            "the directory, fs and work"
        );

        let upper = store.upper_path(NS, "small").unwrap();
        fs::create_dir(upper.join("deep")).unwrap();
        fill(&upper.join("deep/file"), 1 << 20);
        fill(&store.upper_path(NS, "free").unwrap().join("file"), 1 << 20);
        let full = store.quota(NS, "small").unwrap().unwrap();
        assert_eq!(full.inodes, 5);
        let grown = full.bytes - empty.bytes;
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&grown), "{grown}");
    });
}

#[test]
fn no_two_share_a_project() {
    on_each(|place| {
        let stores = ["one", "two"].map(|name| Store::open(&place.join(name)).unwrap());
        let mut projects: Vec<u32> = stores
            .iter()
            .flat_map(|store| {
                ["a", "b"].map(|key| {
                    store.prepare(NS, key, None, &limited()).unwrap();
                    project(&store.upper_path(NS, key).unwrap())
                })
            })
            .collect();
        projects.sort_unstable();
        projects.dedup();
        assert_eq!(projects.len(), 4);
    });
}

#[test]
fn no_limit_outlives_its_snapshot() {
    on_each(|place| {
        let root = place.join("store");
        let store = Store::open(&root).unwrap();
        let make = |key: &str| {
            store.prepare(NS, key, None, &limited()).unwrap();
            let project = project(&store.upper_path(NS, key).unwrap());
            assert_eq!(limit_of(place, project), SIZE);
            project
        };
        let removed = make("removed");
        store.remove(NS, "removed").unwrap();
        assert_eq!(limit_of(place, removed), 0);

        // A row that is lost: the collector finds the directory, and with it the limit.
        let orphan = make("orphan");
        let db = rusqlite::Connection::open(root.join("metadata.db")).unwrap();
        db.execute("DELETE FROM snapshots", ()).unwrap();
        drop(db);
        store.collect_older_than(Duration::ZERO).unwrap();
        assert_eq!(limit_of(place, orphan), 0);
        assert_eq!(fs::read_dir(root.join("snapshots")).unwrap().count(), 0);

        // A name in use is found out when the directory is there already.
        let create = |number| {
            let new = container(number, "name", None);
            store.create_container(&new, Some((None, &limited())))
        };
        create(1).unwrap();
        let kept = project(&store.upper_path(NS, &id(1)).unwrap());
        assert!(matches!(create(2), Err(ContainerError::NameInUse { .. })));
        assert_eq!(fs::read_dir(root.join("snapshots")).unwrap().count(), 1);
        assert_eq!(limit_of(place, kept), SIZE);
    });
}

#[test]
fn the_project_of_a_whole_store_is_left_alone() {
    on_each(|place| {
        let root = place.join("store");
        let store = Store::open(&root).unwrap();
        let snapshots = File::open(root.join("snapshots")).unwrap();
        let project = (1 << 30) + 5;
        sys::quota::set_project(snapshots.as_fd(), project).unwrap();
        sys::quota::limit_project(snapshots.as_fd(), project, 1 << 30).unwrap();
        store.prepare(NS, "a", None, &plain()).unwrap();
        assert_eq!(store.quota(NS, "a").unwrap(), None);
        store.remove(NS, "a").unwrap();
        assert_eq!(limit_of(place, project), 1 << 30);
        sys::quota::limit_project(snapshots.as_fd(), project, 0).unwrap();
    });
}

#[test]
fn without_project_quotas_it_is_refused() {
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    let plain_xfs = Disk::new("xfs", &["mkfs.xfs", "-q"], 400 << 20, "noquota");
    for place in [temp.path(), &plain_xfs.path()] {
        let root = place.join("store");
        let store = Store::open(&root).unwrap();
        let error = store.prepare(NS, "a", None, &limited()).unwrap_err();
        assert!(
            matches!(&error, SnapshotError::NoQuota(path) if *path == root),
            "{error:?}"
        );
        assert_eq!(fs::read_dir(root.join("snapshots")).unwrap().count(), 0);
    }
}
