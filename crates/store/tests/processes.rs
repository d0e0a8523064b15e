//! Many processes on one store, and processes killed at any moment.
//!
//! A worker does everything the store can, at random, with layers and blobs that the others use too, under names
//! that only it uses: what it has put must be there until it removes it itself. Workers run as threads with stores
//! of their own, and as processes that are killed. After that every row has its thing, and a collection leaves
//! nothing that has no row.

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{check, container, id, plain, record, top};
use store::{ContainerError, ImageError, ImageRecord, IngestError, PrepareOptions, SnapshotError, Store};
use testkit::random::Random;

const CONTENTS: [&str; 6] = ["base", "a", "b", "c", "d", "e"];

/// One user of the store, and what it believes to be there.
struct Worker {
    store: Store,
    random: Random,
    number: u64,
    images: BTreeMap<String, ImageRecord>,
    containers: BTreeMap<u64, bool>,
}

impl Worker {
    fn new(root: &Path, number: u64) -> Worker {
        Worker {
            store: Store::open(root).unwrap(),
            random: Random::new(number),
            number,
            images: BTreeMap::new(),
            containers: BTreeMap::new(),
        }
    }

    fn step(&mut self) {
        match self.random.below(12) {
            0..=2 => self.put_image(),
            3 => self.remove_image(),
            4..=6 => self.create(),
            7..=8 => self.remove(),
            9 => self.snapshot(),
            10 => self.download(),
            _ => {
                let grace = *self.random.choose(&[Duration::ZERO, Duration::from_secs(60)]);
                self.store.collect_older_than(grace).unwrap();
            }
        }
        self.look();
    }

    fn put_image(&mut self) {
        let name = format!("w{}/{}", self.number, self.random.below(2));
        let count = 1 + self.random.below(3);
        let contents: Vec<&str> = (0..count).map(|_| *self.random.choose(&CONTENTS)).collect();
        let lease = self.store.lease(&name).unwrap();
        let record = record(&self.store, &lease, &contents);
        self.store.put_image(&lease, "default", &name, &record).unwrap();
        self.store.release(lease).unwrap();
        self.images.insert(name, record);
    }

    fn remove_image(&mut self) {
        if let Some((name, _)) = self.images.pop_first() {
            self.store.remove_image("default", &name).unwrap();
        }
    }

    /// A container of one's own image, or of somebody else's, which may vanish meanwhile.
    fn create(&mut self) {
        let number = self.number * 1_000_000 + self.random.below(1_000_000);
        let own = self.images.values().next().cloned();
        let (manifest, key) = match (&own, self.random.below(2)) {
            (Some(record), 0) => (record.manifest.digest, top(record)),
            _ => match self.store.images("default").unwrap().first() {
                Some(image) => (image.manifest.digest, image.top_chain.unwrap().to_string()),
                None => return,
            },
        };
        let mut new = container(number, &format!("c{number}"), None);
        new.manifest = Some(manifest);
        new.ephemeral = self.random.below(2) == 0;
        match self.store.create_container(&new, Some((Some(&key), &plain()))) {
            Ok(_) => drop(self.containers.insert(number, new.ephemeral)),
            Err(ContainerError::ManifestGone(_) | ContainerError::Snapshot(SnapshotError::NotFound(_))) => {
                assert!(
                    own.is_none_or(|record| record.manifest.digest != manifest),
                    "one's own image is gone"
                );
            }
            Err(ContainerError::IdInUse(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn remove(&mut self) {
        if let Some((number, _)) = self.containers.pop_first() {
            self.store.remove_container("default", &id(number)).unwrap();
        }
    }

    /// Keys that all workers use.
    fn snapshot(&mut self) {
        let key = format!("key{}", self.random.below(3));
        let parent = format!("name{}", self.random.below(2));
        let options = PrepareOptions {
            ephemeral: self.random.below(2) == 0,
            ..plain()
        };
        let result = match self.random.below(4) {
            0 => self.store.prepare("snap", &key, None, &options).map(drop),
            1 => self
                .store
                .prepare("snap", &key, Some(&parent), &options)
                .map(drop),
            2 => self.store.commit("snap", &parent, &key, &Default::default()),
            _ => self
                .store
                .remove("snap", if self.random.below(2) == 0 { &key } else { &parent }),
        };
        // Any other error says that somebody was faster, or stands on it.
        if let Err(SnapshotError::Fault(fault)) = result {
            panic!("{fault}");
        }
    }

    fn download(&mut self) {
        let lease = self.store.lease("download").unwrap();
        let content = format!("blob {}", self.random.below(3));
        match self.store.ingest(&lease, &content, None) {
            Err(IngestError::Busy(_)) => {}
            Err(error) => panic!("{error}"),
            Ok(mut ingest) => {
                let rest = &content.as_bytes()[ingest.offset() as usize..];
                match self.random.below(2) {
                    0 => ingest.write_all(&rest[..rest.len() / 2]).unwrap(),
                    _ => {
                        ingest.write_all(rest).unwrap();
                        let digest = self.store.commit_blob(ingest, &lease).unwrap();
                        assert_eq!(self.store.read_blob(&digest, 99).unwrap(), content.as_bytes());
                    }
                }
            }
        }
        // Sometimes left to die.
        if self.random.below(2) == 0 {
            self.store.release(lease).unwrap();
        }
    }

    /// Everything believed to be there is.
    fn look(&mut self) {
        if let Some((name, record)) = self.images.iter().nth(self.random.below(2) as usize) {
            let image = self
                .store
                .find_image("default", name)
                .unwrap()
                .expect("an image is lost");
            assert_eq!(image.id, record.config.digest);
            for layer in &record.layers {
                let (found, content) = (
                    self.store
                        .find_layer(&layer.diff_id, &layer.chain_id)
                        .unwrap()
                        .expect("a layer is lost"),
                    self.store
                        .read_blob(&layer.blob.digest, 99)
                        .expect("a blob is lost"),
                );
                let unpacked = std::fs::read(self.store.layer_path(found.n).join("content")).unwrap();
                assert_eq!(unpacked, content);
            }
        }
        for number in self.containers.keys() {
            let stack = self
                .store
                .stack("default", &id(*number))
                .expect("a container is lost");
            let upper = self.store.layer_path(stack.upper.unwrap());
            assert!(upper.is_dir(), "an upper directory is lost");
            for lower in stack.lowers {
                assert!(lower.path.join("content").is_file(), "a lower directory is lost");
            }
        }
    }
}

fn settle(root: &Path) {
    assert_eq!(check(root, false), Vec::<String>::new());
    let store = Store::open(root).unwrap();
    store.collect_older_than(Duration::ZERO).unwrap();
    assert_eq!(check(root, true), Vec::<String>::new());
}

#[test]
fn threads_on_one_store_lose_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let until = Instant::now() + Duration::from_secs(5);
    std::thread::scope(|scope| {
        for number in 1..=4 {
            let root = temp.path();
            scope.spawn(move || {
                let mut worker = Worker::new(root, number);
                while Instant::now() < until {
                    worker.step();
                }
            });
        }
    });
    settle(temp.path());
}

/// Says to this very test that it is to be a worker: the store's root and the worker's number.
const WORKER: &str = "STRATA_TEST_WORKER";

fn spawn(root: &Path, number: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "processes_killed_at_any_moment_leave_nothing_that_is_not_found",
            "--nocapture",
        ])
        .env(WORKER, format!("{number} {}", root.display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn processes_killed_at_any_moment_leave_nothing_that_is_not_found() {
    if let Ok(order) = std::env::var(WORKER) {
        let (number, root) = order.split_once(' ').unwrap();
        let mut worker = Worker::new(Path::new(root), number.parse().unwrap());
        loop {
            worker.step();
        }
    }
    let temp = tempfile::tempdir().unwrap();
    let root = temp.path().join("store");
    let mut random = Random::new(0x5eed);
    for round in 0..40 {
        let mut children: Vec<Child> = (1..=3).map(|n| spawn(&root, round * 10 + n)).collect();
        std::thread::sleep(Duration::from_millis(10 + random.below(150)));
        for child in &mut children {
            child.kill().unwrap();
            // It was still at it: a worker that panicked has ended by itself.
            let status = child.wait().unwrap();
            assert_eq!(
                std::os::unix::process::ExitStatusExt::signal(&status),
                Some(9),
                "{status}"
            );
        }
        // They may not have come so far as to make the store.
        drop(Store::open(&root).unwrap());
        // Every other time, the next processes find what these left.
        if round % 2 == 0 {
            settle(&root);
        } else {
            assert_eq!(check(&root, false), Vec::<String>::new());
        }
    }
    settle(&root);
    let store = Store::open(&root).unwrap();
    let counts = store.counts().unwrap();
    assert!(
        counts.images > 0 && counts.containers > 0,
        "the workers did not get far: {counts:?}"
    );
    // Nothing is stuck: all of it can be removed.
    for container in store.containers("default").unwrap() {
        store.remove_container("default", &container.id).unwrap();
    }
    for image in store.images("default").unwrap() {
        match store.remove_image("default", &image.name) {
            Ok(_) | Err(ImageError::NotFound(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    for _ in 0..8 {
        let snapshots = store.list("snap", None, 99).unwrap();
        for info in snapshots {
            let _ = store.remove("snap", &info.key);
        }
    }
    settle(&root);
    assert_eq!(store.counts().unwrap(), Default::default());
}
