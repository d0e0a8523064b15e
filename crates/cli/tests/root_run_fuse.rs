//! `strata run --driver fuse`: a container whose root file system a process of ours serves.

mod common;

use common::{busybox, said};

const FUSE: &[&str] = &["--driver", "fuse"];

#[test]
fn a_container_on_it() {
    let strata = busybox();
    let script = "grep ' / ' /proc/mounts | cut -d' ' -f3; echo new > /new; mv /etc /moved; cat /new; ls / | grep -c moved";
    assert_eq!(said(&strata, FUSE, script), "fuse.strata\nnew\n1\n");
    let ended = common::sh(&strata, FUSE, "exit 7");
    assert_eq!(ended.code, 7);
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn set_id_bits_and_devices_count_on_it() {
    let strata = busybox();
    let script = "mknod /null c 1 3; echo x > /null; cat /null; stat -c '%t %T' /null; \
         cp /bin/busybox /suid; chmod 4755 /suid; stat -c %a /suid; \
         grep ' / ' /proc/mounts | cut -d' ' -f4 | grep -c -E 'nosuid|nodev'";
    let ended = common::sh(&strata, &["--driver=fuse", "--cap-add=MKNOD"], script);
    assert_eq!(ended.out, "1 3\n4755\n0\n", "{ended:?}");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()));
}

#[test]
fn what_it_changed_is_seen_and_taken_away() {
    let strata = busybox();
    let script = "echo x > /new; rm /bin/true";
    let words = [
        "run",
        "--driver=fuse",
        "--name",
        "one",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    strata.ok(words);
    let diff = strata.ok(["diff", "one"]);
    assert!(diff.contains("A /new") && diff.contains("D /bin/true"), "{diff}");
    assert_eq!(strata.in_use(), (Vec::new(), Vec::new()), "its root is unmounted");
    strata.ok(["rm", "one"]);
}
