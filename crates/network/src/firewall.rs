//! What the plug-in `firewall` leaves of a network that is removed.
//!
//! It keeps networks apart by two rules a bridge and family, which no DEL takes away: another container may be in that
//! network. Who removes the network removes them.

use std::process::{Command, Stdio};

use crate::cni::PATH;

/// Both chains with the rule that each has for a bridge, as `firewall` writes it (since version 1.1).
fn rules(bridge: &str) -> [Vec<&str>; 2] {
    let comment = [
        "-m",
        "comment",
        "--comment",
        "CNI firewall plugin rules (ingressPolicy: same-bridge)",
        "-j",
    ];
    let first = ["CNI-ISOLATION-STAGE-1", "-i", bridge, "!", "-o", bridge];
    let second = ["CNI-ISOLATION-STAGE-2", "-o", bridge];
    [
        [&first[..], &comment, &["CNI-ISOLATION-STAGE-2"]].concat(),
        [&second[..], &comment, &["DROP"]].concat(),
    ]
}

/// Removes the rules that kept a bridge's network apart. One that is not there, or cannot be removed, matches nothing once
/// the bridge is gone: it is no reason to keep the network.
pub fn forget(bridge: &str) {
    for program in ["iptables", "ip6tables"] {
        for rule in rules(bridge) {
            let _ = Command::new(program)
                .args(["-w", "-D"])
                .args(rule)
                .env_clear()
                .env("PATH", PATH)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}
