//! The store passes the contract of a snapshotter.

mod common;

use common::Subject;
use testkit::snapshotter::contract;

#[test]
fn the_store_is_a_snapshotter() {
    contract(&|| Box::new(Subject::new()));
}
