//! Random operations on our own overlay and on a plain directory agree, and so does the kernel's that mounts the same
//! layers in between.

use std::time::Duration;

use testkit::contract::Drivers;
use testkit::differential;

fn drivers() -> Drivers {
    Drivers::fuse(env!("CARGO_BIN_EXE_strata"))
}

#[test]
fn our_overlay_agrees_with_a_plain_directory() {
    let done = differential::run(&drivers(), 2, Duration::from_secs(30));
    // The virtual machine is emulated, and slow.
    let enough = match std::env::var_os("STRATA_TEST_VM") {
        None => 1000,
        Some(_) => 100,
    };
    assert!(
        done.succeeded > enough && done.too_long < done.succeeded / 20,
        "{done:?}"
    );
}

#[test]
fn over_io_uring_too() {
    let drivers = Drivers::fuse_over_io_uring(env!("CARGO_BIN_EXE_strata"));
    let done = differential::run(&drivers, 3, Duration::from_secs(8));
    assert!(done.succeeded > 300, "{done:?}");
}

/// Longer ones: `cargo xtask soak overlay-threads`.
#[test]
fn several_threads_at_once() {
    let applied = differential::crowd::run(&drivers(), 2, Duration::from_secs(15));
    assert!(applied > 200, "only {applied} operations");
}

#[test]
fn several_threads_at_once_over_io_uring() {
    let drivers = Drivers::fuse_over_io_uring(env!("CARGO_BIN_EXE_strata"));
    let applied = differential::crowd::run(&drivers, 3, Duration::from_secs(15));
    assert!(applied > 200, "only {applied} operations");
}
