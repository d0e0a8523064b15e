//! What the tests that bring images into a store have in common. They unpack, so they need root.
#![allow(dead_code, unreachable_pub)]

pub mod archive;
pub mod client;

use std::io::Read;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::progress::{Event, Progress};
use rustix::fs::{Mode, OFlags};
use store::Store;
use tempfile::TempDir;

/// A store that lives as long as a test.
pub struct Home {
    pub dir: TempDir,
    pub store: Store,
}

impl Home {
    pub fn new() -> Home {
        assert!(
            rustix::process::geteuid().is_root(),
            "this test unpacks layers and needs root"
        );
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store")).unwrap();
        Home { dir, store }
    }

    /// The directories of an image's layers, the base first.
    pub fn layers(&self, name: &str) -> Vec<u64> {
        let image = self
            .store
            .find_image("default", name)
            .unwrap()
            .unwrap_or_else(|| panic!("no image {name}"));
        self.store
            .manifest_layers(&image.manifest.digest)
            .unwrap()
            .iter()
            .map(|l| l.layer_n)
            .collect()
    }

    /// A file of a layer.
    pub fn read(&self, layer: u64, path: &str) -> String {
        let dir = self.store.layer_dir(layer).unwrap();
        let mut file = dir.open_file(path, OFlags::RDONLY, Mode::empty()).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        text
    }

    /// Names of all images.
    pub fn names(&self) -> Vec<String> {
        self.store
            .images("default")
            .unwrap()
            .into_iter()
            .map(|i| i.name)
            .collect()
    }

    /// Nothing of what was tried is visible, and what it brought can be freed without a trace.
    pub fn assert_empty(&self) {
        assert_eq!(self.names(), [""; 0]);
        assert_eq!(self.store.layers().unwrap(), []);
        // A process that another test starts in this moment holds a copy of our locks until it runs its program.
        let mut left = Vec::new();
        for _ in 0..100 {
            self.store.collect_older_than(Duration::ZERO).unwrap();
            left = self.files();
            if left.is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("left behind: {left:?}");
    }

    fn files(&self) -> Vec<PathBuf> {
        let dirs = ["content/blobs/sha256", "content/ingest", "snapshots", "leases"];
        let read = |dir: &str| std::fs::read_dir(self.store.root().join(dir)).unwrap();
        dirs.iter()
            .flat_map(|dir| read(dir))
            .map(|entry| entry.unwrap().path())
            .collect()
    }
}

/// Counts what is told.
#[derive(Default)]
pub struct Counts {
    pub found: AtomicUsize,
    pub shared: AtomicUsize,
    pub unpacked: AtomicUsize,
    pub done: AtomicUsize,
    pub last: Mutex<String>,
}

impl Progress for Counts {
    fn event(&self, event: &Event<'_>) {
        let add = |count: &AtomicUsize| {
            count.fetch_add(1, Ordering::SeqCst);
        };
        match event {
            Event::LayerFound { shared, .. } => {
                add(&self.found);
                if *shared {
                    add(&self.shared);
                }
            }
            Event::LayerDone { .. } => add(&self.unpacked),
            Event::ImageDone { name, .. } => {
                add(&self.done);
                *self.last.lock().unwrap() = name.to_string();
            }
            _ => {}
        }
    }
}
