//! The store passes those parts of a snapshotter's contract that can only be seen through a mount.

mod common;

use common::Subject;
use testkit::snapshotter::mounted_contract;

#[test]
fn what_the_store_answers_mounts_as_it_should() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts: run it as root"
    );
    mounted_contract(&|| Box::new(Subject::new()));
}
