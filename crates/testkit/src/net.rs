//! A network of a test's own: interfaces, addresses and packet filter of the machine stay as they are.

use std::path::Path;
use std::process::{Command, Stdio};

use sys::process::namespaces;

/// Gives the calling thread, and what it starts from now on, a network namespace with loopback alone. A test that calls it
/// again is on a machine that was restarted, as far as networks go.
pub fn apart() {
    sys::process::unshare(namespaces::NETWORK).expect("a network namespace of the test's own");
    sys::net::loopback_up().expect("loopback comes up");
}

/// What a program prints that must succeed. It is started from the calling thread, and so in its network.
#[track_caller]
pub fn said(words: &[&str]) -> String {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", words[0]));
    assert!(
        output.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What containers left in the calling thread's network and beneath a state directory: interfaces, rules that name a
/// container, addresses that are taken, network namespaces.
pub fn left_behind(state: &Path) -> Vec<String> {
    let mut left = Vec::new();
    left.extend(
        said(&["ip", "-o", "link", "show", "type", "veth"])
            .lines()
            .map(str::to_owned),
    );
    for program in ["iptables-save", "ip6tables-save"] {
        let rules = said(&[program]);
        let of_container = |line: &&str| {
            let words = line.split(|c: char| !c.is_ascii_hexdigit());
            line.starts_with("-A") && words.into_iter().any(|word| word.len() == 64)
                || line.contains("-s 10.62.")
        };
        left.extend(rules.lines().filter(of_container).map(str::to_owned));
    }
    let mut dirs = vec![state.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                // A container's root may be anything.
                if name != "rootfs" {
                    dirs.push(path);
                }
                continue;
            }
            let taken = name.parse::<std::net::IpAddr>().is_ok();
            let member = path
                .parent()
                .and_then(Path::parent)
                .is_some_and(|dir| dir.ends_with("names"));
            if taken || member || name == "netns" || name == "network.json" {
                left.push(path.display().to_string());
            }
        }
    }
    left
}
