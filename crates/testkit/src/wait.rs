//! Waiting for what happens by itself.

use std::time::{Duration, Instant};

/// Waits until `holds`, and panics with `what` when that takes longer than a machine full of other work would need.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
