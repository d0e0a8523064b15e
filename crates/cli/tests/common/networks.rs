//! What the tests of networks share.

use serde_json::Value;
use testkit::net;

use super::{Strata, busybox};

/// A store with busybox, on a machine with loopback alone.
pub fn apart() -> Strata {
    net::apart();
    busybox()
}

#[track_caller]
pub fn nothing_left(strata: &Strata) {
    assert_eq!(net::left_behind(&strata.state()), [""; 0]);
}

pub fn inspect(strata: &Strata, container: &str) -> Value {
    let text = strata.ok(["container", "inspect", container]);
    serde_json::from_str::<Value>(&text).unwrap()[0].take()
}

/// The address of a container in a network.
pub fn address(strata: &Strata, container: &str, network: &str) -> String {
    let told = inspect(strata, container);
    let address = &told["NetworkSettings"]["Networks"][network]["IPAddress"];
    address.as_str().unwrap().to_owned()
}
