//! Random operations on the kernel's overlay and on a plain directory agree: what the comparison asks of our own driver
//! can be asked.

use std::time::Duration;

use testkit::contract::Drivers;
use testkit::differential;

#[test]
fn the_kernels_overlay_agrees_with_a_plain_directory() {
    let done = differential::run(&Drivers::kernel_alone(), 1, Duration::from_secs(20));
    assert!(
        done.succeeded > 1000 && done.too_long < done.succeeded / 20,
        "{done:?}"
    );
}

#[test]
fn several_threads_at_once() {
    let applied = differential::crowd::run(&Drivers::kernel_alone(), 1, Duration::from_secs(10));
    assert!(applied > 1000, "only {applied} operations");
}
