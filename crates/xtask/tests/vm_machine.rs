//! The virtual machine is what the other cases take it for. Runs there only (`cargo xtask test`).

use std::fs::read_to_string;
use std::process::Command;

#[test]
fn kernel_is_debians() {
    let release = read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(release.trim().ends_with("-cloud-amd64"), "{release}");
}

#[test]
fn every_controller_is_handed_down() {
    let controllers = read_to_string("/sys/fs/cgroup/cgroup.subtree_control").unwrap();
    for wanted in ["cpu", "io", "memory", "pids"] {
        assert!(
            controllers.split_whitespace().any(|name| name == wanted),
            "{wanted} not in {controllers}"
        );
    }
}

#[test]
fn disk_counts_projects() {
    let mounts = read_to_string("/proc/self/mountinfo").unwrap();
    let root = mounts
        .lines()
        .find(|line| line.split(' ').nth(4) == Some("/"))
        .unwrap();
    assert!(root.contains(" ext4 ") && root.contains("prjquota"), "{root}");
}

#[test]
fn overlay_mounts() {
    let dir = Command::new("mktemp").arg("-d").output().unwrap();
    let dir = String::from_utf8(dir.stdout).unwrap().trim().to_owned();
    let script = "cd \"$1\" && mkdir l u w m && echo below >l/f \
        && mount -t overlay -o lowerdir=l,upperdir=u,workdir=w overlay m && cat m/f && umount m";
    let output = Command::new("sh")
        .args(["-c", script, "sh", &dir])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "below\n", "{output:?}");
}
