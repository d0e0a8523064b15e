//! The program on Debian's own kernel: Linux 6.1, cgroup v2. Runs in the virtual machine only (`cargo xtask test`).

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::{Image, Layer, busybox, empty, refused, said, sh};
use testkit::eventually;

#[test]
fn an_image_runs() {
    let strata = busybox();
    assert_eq!(said(&strata, &[], "echo $((6 * 7))"), "42\n");
    assert_eq!(sh(&strata, &[], "exit 7").code, 7);
    assert!(
        said(&strata, &[], "cat /proc/self/cgroup").starts_with("0::/\n"),
        "a cgroup namespace of its own"
    );
}

#[test]
fn the_host_runs() {
    let strata = empty();
    let script = "echo changed >/etc/hostname; cat /etc/hostname; ls -A /proc | wc -l";
    assert!(
        strata
            .ok(["run", "--rm", "host", "sh", "-c", script])
            .starts_with("changed\n")
    );
    assert_eq!(fs::read_to_string("/etc/hostname").unwrap(), "strata-vm\n");
}

#[test]
fn as_many_layers_as_one_page_names() {
    let strata = empty();
    let stack = |count: usize| {
        let first = Image::busybox().name(&format!("docker.io/library/deep:{count}"));
        (0..count).fold(first, |image, layer| {
            image.layer(Layer::new().file(format!("f{layer}"), 0o644, ""))
        })
    };
    strata.load(&stack(100));
    assert_eq!(
        strata.ok(["run", "--rm", "deep:100", "sh", "-c", "ls / | grep -c ^f"]),
        "100\n"
    );
}

#[test]
fn memory_has_a_limit() {
    let strata = busybox();
    assert_eq!(
        said(&strata, &["-m", "32m"], "cat /sys/fs/cgroup/memory.max"),
        "33554432\n"
    );
    // A shell that doubles a string until it is too much.
    let ended = sh(
        &strata,
        &["-m", "32m"],
        "a=0123456789abcdef; while :; do a=$a$a; done",
    );
    assert_eq!(ended.code, 137, "{ended:?}");
    let named = strata.end([
        "run",
        "--name",
        "big",
        "-m",
        "32m",
        "busybox",
        "sh",
        "-c",
        "a=0123456789abcdef; while :; do a=$a$a; done",
    ]);
    assert_eq!(named.code, 137, "{named:?}");
    let inspected = strata.ok(["inspect", "big"]).to_lowercase();
    assert!(inspected.contains("oom"), "{inspected}");
}

#[test]
fn processes_have_a_limit() {
    let strata = busybox();
    let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 2 & done; wait";
    let ended = sh(&strata, &["--pids-limit", "8"], script);
    assert!(ended.code != 0 && ended.err.contains("fork"), "{ended:?}");
    assert_eq!(
        said(&strata, &["--pids-limit", "8"], "cat /sys/fs/cgroup/pids.max"),
        "8\n"
    );
    assert_eq!(sh(&strata, &["--pids-limit", "100"], script).code, 0);
    // Nothing said, it is podman's.
    let limit = |flags: &[&str]| said(&strata, flags, "cat /sys/fs/cgroup/pids.max");
    assert_eq!(limit(&[]), "2048\n");
    assert_eq!(limit(&["--pids-limit", "-1"]), "max\n");
}

#[test]
fn processor_time_has_a_limit() {
    let strata = busybox();
    assert_eq!(
        said(&strata, &["--cpus", "0.25"], "cat /sys/fs/cgroup/cpu.max"),
        "25000 100000\n"
    );
    let busy =
        "i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; grep nr_throttled /sys/fs/cgroup/cpu.stat";
    let seen = said(&strata, &["--cpus", "0.25"], busy);
    assert!(!seen.contains("nr_throttled 0\n"), "{seen}");
}

#[test]
fn no_cgroup_is_left() {
    let strata = busybox();
    let count = || -> usize {
        let found = std::process::Command::new("find")
            .args(["/sys/fs/cgroup", "-type", "d"])
            .output()
            .unwrap();
        String::from_utf8(found.stdout)
            .unwrap()
            .lines()
            .filter(|line| line.len() > 64 + "/sys/fs/cgroup".len())
            .count()
    };
    for _ in 0..3 {
        said(&strata, &["-m", "64m"], "true");
    }
    assert_eq!(count(), 0);
}

/// As an init system has it: the container's own cgroup gives controllers to those below, and takes no process.
#[test]
fn a_further_program_joins_the_first_where_it_is() {
    let strata = busybox();
    let script =
        "cd /sys/fs/cgroup && mkdir init && echo 1 >init/cgroup.procs && echo +memory >cgroup.subtree_control
        echo moved && exec sleep 1000";
    strata.ok([
        "run",
        "-d",
        "--name",
        "box",
        "--privileged",
        "-m",
        "64m",
        "busybox",
        "sh",
        "-c",
        script,
    ]);
    eventually("it has moved", || strata.ok(["logs", "box"]) == "moved\n");
    assert_eq!(
        strata.ok(["exec", "box", "cat", "/proc/self/cgroup"]),
        "0::/init\n"
    );
    strata.ok(["rm", "-f", "box"]);
}

#[test]
fn devices_are_kept_out() {
    let strata = busybox();
    let disk = "mknod /disk b 254 0 && head -c 1 /disk >/dev/null && echo read";
    let ended = sh(&strata, &[], disk);
    assert!(
        !ended.out.contains("read") && ended.err.contains("not permitted"),
        "{ended:?}"
    );
    assert_eq!(
        said(
            &strata,
            &["--device", "/dev/vda"],
            "head -c 1 /dev/vda >/dev/null && echo read"
        ),
        "read\n"
    );
    let read_only = sh(
        &strata,
        &["--device", "/dev/vda:/dev/disk:r"],
        "head -c 1 /dev/disk >/dev/null && echo read; : >>/dev/disk",
    );
    assert!(read_only.out == "read\n" && read_only.code != 0, "{read_only:?}");
    assert_eq!(said(&strata, &["--privileged"], disk), "read\n");
}

#[test]
fn a_cgroup_of_ones_own_choice() {
    let strata = busybox();
    fs::create_dir("/sys/fs/cgroup/chosen").unwrap();
    strata.ok([
        "run",
        "--rm",
        "--cgroup-parent",
        "/chosen",
        "-m",
        "64m",
        "busybox",
        "true",
    ]);
    assert_eq!(
        fs::read_dir("/sys/fs/cgroup/chosen")
            .unwrap()
            .filter(|entry| entry.as_ref().unwrap().path().is_dir())
            .count(),
        0
    );
    fs::remove_dir("/sys/fs/cgroup/chosen").unwrap();
    refused(
        &sh(&strata, &["--cgroup-parent", "../../etc"], "true"),
        &["../../etc"],
    );
}

/// crun 1.8 refuses the hybrid hierarchy of older machines; here is the one it wants.
#[test]
fn crun_runs_the_same_bundle() {
    let strata = busybox();
    let crun = |flags: &[&str], script: &str| {
        let flags = [&["--runtime", "crun"], flags].concat();
        sh(&strata, &flags, script)
    };
    let ended = crun(&[], "echo out; echo err >&2; exit 7");
    assert_eq!(
        (ended.code, ended.out.as_str(), ended.err.as_str()),
        (7, "out\n", "err\n")
    );
    let limits = ["-m", "32m", "--pids-limit", "8", "--cpus", "0.25"];
    let ended = crun(
        &limits,
        "cd /sys/fs/cgroup; cat memory.max pids.max cpu.max; cat /proc/self/cgroup",
    );
    assert_eq!(ended.out, "33554432\n8\n25000 100000\n0::/\n", "{ended:?}");
    let ended = crun(&limits, "a=0123456789abcdef; while :; do a=$a$a; done");
    assert_eq!(ended.code, 137, "{ended:?}");
    // The group above the container's is open to all, as those that strata makes: a user namespace's root looks there.
    assert_eq!(crun(&["--cgroup-parent", "/by-crun"], "true").code, 0);
    let mode = fs::metadata("/sys/fs/cgroup/by-crun").unwrap().mode() & 0o777;
    assert_eq!(mode, 0o755, "{mode:o}");
    fs::remove_dir("/sys/fs/cgroup/by-crun").unwrap();
    let missing = strata.end(["run", "--rm", "--runtime", "crun", "busybox", "no-such-program"]);
    assert_eq!(missing.code, 127, "{missing:?}");
    assert!(missing.err.contains("no-such-program"), "{missing:?}");
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
}
