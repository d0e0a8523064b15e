//! Limits and control groups on this machine, whatever hierarchy it has. Needs root. `vm_run.rs` has cgroup v2.

mod common;

use std::process::Command;

use common::{Ended, Image, Layer, Strata, busybox, empty, refused, said, sh};

#[test]
fn memory_has_a_limit() {
    let strata = busybox();
    let ended = sh(
        &strata,
        &["-m", "32m"],
        "a=0123456789abcdef; while :; do a=$a$a; done",
    );
    assert_eq!(ended.code, 137, "{ended:?}");
    assert_eq!(said(&strata, &["-m", "64m"], "echo fits"), "fits\n");
}

#[test]
fn processes_have_a_limit() {
    let strata = busybox();
    let script = "for n in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 2 & done; wait";
    let ended = sh(&strata, &["--pids-limit", "8"], script);
    assert!(ended.code != 0 && ended.err.contains("fork"), "{ended:?}");
    assert_eq!(sh(&strata, &["--pids-limit", "-1"], "true").code, 0);
}

#[test]
fn processor_time_has_a_limit() {
    let strata = busybox();
    // The same work with a quarter of a processor takes longer, by the wall's clock, than its own processor time.
    let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done";
    let timed = format!("time sh -c '{busy}'");
    let seen = sh(&strata, &["--cpus", "0.25"], &timed).err;
    let seconds = |what: &str| -> f64 {
        let line = seen
            .lines()
            .find_map(|line| line.strip_prefix(what))
            .unwrap_or_else(|| panic!("no {what} in {seen}"));
        let (minutes, seconds) = line.trim().trim_end_matches('s').split_once("m ").unwrap();
        minutes.trim().parse::<f64>().unwrap() * 60.0 + seconds.parse::<f64>().unwrap()
    };
    assert!(
        seconds("real") > 2.0 * (seconds("user") + seconds("sys")),
        "{seen}"
    );
}

/// What a file of a container's groups holds, whichever hierarchy it is in.
fn held(strata: &Strata, name: &str, files: [&str; 2]) -> String {
    let pid = strata.ok(["inspect", "-f", "{{.State.Pid}}", name]);
    let groups = std::fs::read_to_string(format!("/proc/{}/cgroup", pid.trim())).unwrap();
    let group = groups
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.1.split_once(':')?.1));
    let own = group.filter(|group| *group != "/");
    let found = own.flat_map(|group| {
        let mounts = [
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/unified",
            "/sys/fs/cgroup/cpu",
            "/sys/fs/cgroup/cpuset",
            "/sys/fs/cgroup/memory",
        ];
        mounts.map(|mount| std::path::PathBuf::from(format!("{mount}{group}")))
    });
    let texts = found.flat_map(|dir| files.map(|file| std::fs::read_to_string(dir.join(file))));
    let text = texts
        .flatten()
        .next()
        .unwrap_or_else(|| panic!("none of {files:?} is in {groups}"));
    text.trim().to_owned()
}

#[test]
fn shares_and_sets_are_given_and_changed() {
    let strata = busybox();
    let flags = [
        "-c",
        "512",
        "--cpuset-cpus",
        "0-1",
        "--cpu-quota",
        "50000",
        "--cpu-period",
        "50000",
        "--memory-reservation",
        "16m",
    ];
    strata.ok([
        &["run", "-d", "--name", "box"],
        &flags[..],
        &["busybox", "sleep", "1000"],
    ]
    .concat());
    let shares = held(&strata, "box", ["cpu.shares", "cpu.weight"]);
    assert!(["512", "59"].contains(&shares.as_str()), "{shares}");
    assert_eq!(held(&strata, "box", ["cpuset.cpus", "cpuset.cpus"]), "0-1");
    let quota = held(&strata, "box", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(["50000", "50000 50000"].contains(&quota.as_str()), "{quota}");
    assert_eq!(
        held(&strata, "box", ["memory.soft_limit_in_bytes", "memory.low"]),
        "16777216"
    );
    strata.ok([
        "update",
        "--cpu-shares",
        "1024",
        "--cpuset-cpus",
        "1",
        "--cpus",
        "0.5",
        "box",
    ]);
    let shares = held(&strata, "box", ["cpu.shares", "cpu.weight"]);
    assert!(["1024", "100"].contains(&shares.as_str()), "{shares}");
    assert_eq!(held(&strata, "box", ["cpuset.cpus", "cpuset.cpus"]), "1");
    let quota = held(&strata, "box", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    strata.ok(["update", "--cpus", "0", "box"]);
    let quota = held(&strata, "box", ["cpu.cfs_quota_us", "cpu.max"]);
    assert!(["-1", "max 100000"].contains(&quota.as_str()), "{quota}");
    let told = strata.ok([
        "inspect",
        "-f",
        "{{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}} {{.HostConfig.MemoryReservation}}",
        "box",
    ]);
    assert_eq!(told, "1024 1 16777216\n");
    strata.ok(["rm", "-f", "box"]);
    let refusals = [
        ["--cpuset-cpus", "900"],
        ["--cpuset-cpus", "x"],
        ["--cpu-shares", "1"],
        ["--oom-score-adj", "2000"],
    ];
    for flags in refusals {
        let ended = sh(&strata, &flags, "true");
        assert_eq!(ended.code, 125, "{ended:?}");
        assert!(ended.err.contains("hint: "), "{ended:?}");
    }
    refused(
        &sh(&strata, &["--cpus", "1", "--cpu-quota", "1000"], "true"),
        &["--cpus", "--cpu-quota"],
    );
    assert_eq!(
        said(
            &strata,
            &["--oom-score-adj", "500"],
            "cat /proc/self/oom_score_adj"
        ),
        "500\n"
    );
}

#[test]
fn every_container_is_in_a_group_of_its_own() {
    let strata = busybox();
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let seen = said(&strata, &["--pid", "host"], "sleep 0.1; cat /proc/self/cgroup");
    assert!(!seen.is_empty() && own.lines().count() > 0);
    // Seen from inside, the cgroup2 group is the root of its namespace.
    assert!(seen.lines().any(|line| line == "0::/"), "{seen}");
}

#[test]
fn a_size_needs_a_file_system_that_keeps_it() {
    // A file system in memory has no project quotas.
    let strata = testkit::Strata::beneath("/dev/shm".as_ref(), env!("CARGO_BIN_EXE_strata"));
    let size = ["--storage-opt", "size=1g"];
    let ended = strata.end([&["run", "--rm"], &size[..], &["host", "echo", "ran"]].concat());
    refused(&ended, &["project quotas", "/dev/shm"]);
    assert!(ended.err.contains("prjquota"), "{ended:?}");
    assert!(strata.ok(["info"]).contains("- project quotas"));
    assert_eq!(strata.ok(["ps", "-a", "-q"]), "");
    refused(
        &strata.end(["run", "--storage-opt", "size=lots", "host", "true"]),
        &["lots"],
    );
}

/// An image of many layers has several files open for each while it is brought in: more than a shell's usual limit
/// may allow, less than what the program may allow itself. The container does not get what the program took.
#[test]
fn open_files_are_limited_for_the_container_and_not_for_the_program() {
    let strata = empty();
    let limited = |args: &[&str]| {
        let wanted = strata.command(args);
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -Sn 100; exec \"$@\"", "sh"])
            .arg(wanted.get_program())
            .args(wanted.get_args());
        for (name, value) in wanted.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        Ended::from(command.output().unwrap())
    };
    let image = (0..60).fold(Image::busybox(), |image, layer| {
        image.layer(Layer::new().file(format!("f{layer}"), 0o644, ""))
    });
    let archive = strata.dir().join("image.tar");
    image.write_oci_archive(&archive);
    let loaded = limited(&["load", "-q", "-i", archive.to_str().unwrap()]);
    assert_eq!(loaded.code, 0, "{loaded:#?}");
    let seen = limited(&[
        "run",
        "--rm",
        "busybox",
        "sh",
        "-c",
        "ls / | grep -c ^f; ulimit -Sn",
    ]);
    assert_eq!((seen.code, seen.out.as_str()), (0, "60\n100\n"), "{seen:#?}");
}
