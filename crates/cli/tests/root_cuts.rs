//! What a command has reported survives a power cut, and what is visible after one is whole. Needs xfs, ext4 and loop
//! devices.

use std::time::Duration;

use testkit::soak;

#[test]
fn power_cuts_at_any_moment() {
    let done = soak::cuts(env!("CARGO_BIN_EXE_strata"), 1, Duration::from_secs(60));
    println!("{done:?}");
    assert!(
        done.cuts >= 20 && done.at_work > 5 && done.layers > 0 && done.blobs > 0 && done.kept > 20,
        "{done:?}"
    );
}
