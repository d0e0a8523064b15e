//! What a command has reported survives a power cut, and what is visible after one is whole. Needs xfs, ext4, btrfs,
//! FUSE and loop devices.

use std::time::Duration;

use testkit::soak;

/// One after the other: three seeds are three file systems. How many cuts there are depends on the machine.
#[test]
fn power_cuts_at_any_moment() {
    let (mut cuts, mut at_work) = (0, 0);
    for seed in 0..3 {
        let done = soak::cuts(env!("CARGO_BIN_EXE_strata"), seed, Duration::from_secs(20));
        println!("{done:?}");
        assert!(
            done.sound > 0 && done.layers > 0 && done.blobs > 0 && done.kept > 0,
            "{done:?}"
        );
        cuts += done.cuts.all().started;
        at_work += done.cuts.all().struck;
    }
    assert!(
        cuts >= 15 && at_work >= 5,
        "{cuts} cuts, {at_work} while a command was at work"
    );
}
