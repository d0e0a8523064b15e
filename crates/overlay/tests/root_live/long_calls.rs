//! Calls that take long: the front end hears of them, and may give them up.

use std::ffi::OsStr;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use overlay::live::{FrontEnd, NodeId, Options, ROOT};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::layers::overlay_at;

#[derive(Debug, Default)]
struct Watcher {
    begun: AtomicUsize,
    ended: AtomicUsize,
    gives_up: AtomicBool,
    touched: Mutex<Vec<NodeId>>,
}

impl FrontEnd for Watcher {
    fn long_begins(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
    }

    fn long_ends(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn touched(&self, directory: NodeId) {
        self.touched.lock().unwrap().push(directory);
    }

    fn given_up(&self) -> bool {
        self.gives_up.load(Ordering::Relaxed)
    }
}

#[test]
fn a_copy_up_that_is_given_up_leaves_all_as_it_was() {
    // No disk whose files share blocks: there a copy takes no time.
    let temp = tempfile::tempdir_in("/dev/shm").unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    let lower = temp.path().join("lower").canonicalize().unwrap();
    let content = vec![7; 40 << 20];
    fs::write(lower.join("large"), &content).unwrap();
    fs::write(lower.join("small"), "small").unwrap();
    let watcher = Arc::new(Watcher::default());
    let options = Options {
        front_end: Some(watcher.clone()),
        ..Options::default()
    };
    let overlay = overlay_at(temp.path(), std::slice::from_ref(&lower), options);
    let seen = || [&watcher.begun, &watcher.ended].map(|count| count.load(Ordering::Relaxed));
    let open = |name: &str| {
        let node = overlay.lookup(ROOT, OsStr::new(name)).unwrap().node;
        overlay.open(node, OFlags::WRONLY, false).map(drop)
    };
    watcher.gives_up.store(true, Ordering::Relaxed);
    open("small").unwrap();
    assert_eq!(seen(), [0, 0]);
    assert_eq!(open("large"), Err(Errno::INTR));
    assert_eq!(seen(), [1, 1]);
    assert!(!temp.path().join("upper/large").exists());
    assert_eq!(fs::read_dir(temp.path().join("work/work")).unwrap().count(), 0);
    watcher.gives_up.store(false, Ordering::Relaxed);
    open("large").unwrap();
    assert_eq!(seen(), [2, 2]);
    assert!(fs::read(temp.path().join("upper/large")).unwrap() == content);
    // One for each file that was copied up.
    assert_eq!(*watcher.touched.lock().unwrap(), [ROOT, ROOT]);
}
