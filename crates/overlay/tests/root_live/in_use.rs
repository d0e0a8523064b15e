//! Directories that another overlay has: refused, unless it is about to let go of them.

use std::fs::{self, File};
use std::time::Duration;

use overlay::live::{Layers, OpenError, Options, Overlay};
use sys::Dir;

#[test]
fn a_server_that_ends_is_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let open = |name| Dir::open_ambient(temp.path().join(name)).unwrap();
    for name in ["lower", "upper", "work"] {
        fs::create_dir(temp.path().join(name)).unwrap();
    }
    let overlay = || {
        let layers = Layers {
            lower: vec![open("lower")],
            upper: Some(open("upper")),
            work: Some(open("work")),
        };
        Overlay::new(layers, Options::default())
    };
    for name in ["upper", "work"] {
        let lock = File::open(temp.path().join(name)).unwrap();
        lock.lock().unwrap();
        let refused = overlay().unwrap_err();
        assert!(
            matches!(refused, OpenError::InUse(what) if what == name),
            "{refused}"
        );
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                lock.unlock().unwrap();
            });
            overlay().unwrap();
        });
    }
}
