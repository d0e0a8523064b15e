//! Cgroups on this machine's hierarchies, whichever they are: everything made is gone at the end. Needs root.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime::Spec;
use runtime::cgroup::{Cgroup, CgroupError, DeviceControl, Hierarchies};

/// A spec with these resources, at a place that no other test has.
fn spec(place: &str, resources: &str) -> Spec {
    let text = format!(
        r#"{{"ociVersion": "1.2.0", "linux": {{"cgroupsPath": "/strata-test-{}-{place}", "resources": {resources}}}}}"#,
        std::process::id()
    );
    serde_json::from_str(&text).unwrap()
}

fn create(place: &str, resources: &str) -> Cgroup {
    Cgroup::create(&spec(place, resources), "id").expect("making a cgroup needs root")
}

fn directories(cgroup: &Cgroup) -> Vec<PathBuf> {
    let paths = cgroup.paths();
    paths.unified.into_iter().chain(paths.v1).collect()
}

/// Puts somebody else into the v1 hierarchies.
fn join_v1(cgroup: &Cgroup, shell: &Shell) {
    for path in cgroup.paths().v1 {
        std::fs::write(path.join("cgroup.procs"), shell.pid().to_string()).unwrap();
    }
}

/// A shell that does nothing until it is told; killed when the test fails.
struct Shell(Child);

impl Shell {
    fn start(script: &str) -> Shell {
        let script = format!("read go || exit 99; {script}");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Shell(command.spawn().unwrap())
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        BufReader::new(self.0.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        line.trim().to_owned()
    }

    fn finish(mut self) -> (Option<i32>, String) {
        let mut text = String::new();
        std::io::Read::read_to_string(self.0.stderr.as_mut().unwrap(), &mut text).unwrap();
        (self.0.wait().unwrap().code(), text)
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn state(pid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

#[test]
fn made_filled_killed_and_removed() {
    let cgroup = create("life/inner", "{}");
    let made = directories(&cgroup);
    assert!(!made.is_empty(), "this machine has no cgroup2");
    assert_eq!(
        cgroup.paths().v1,
        Vec::<PathBuf>::new(),
        "no limit, no v1 hierarchy"
    );
    assert!(cgroup.fd().is_some());

    let mut shell = Shell::start("sleep 1000 & sleep 1000 & echo ready; wait");
    cgroup.join_unified(shell.pid()).unwrap();
    shell.go();
    assert_eq!(shell.line(), "ready");
    let pids = cgroup.pids().unwrap();
    assert!(pids.len() == 3 && pids.contains(&shell.pid()), "{pids:?}");

    // A cgroup that the container made, with a process in it.
    let below = made[0].join("own/deeper");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("cgroup.procs"), pids[1].to_string()).unwrap();
    assert_eq!(cgroup.pids().unwrap().len(), 3);

    // Another process finds it again by its paths alone.
    let paths = serde_json::from_str(&serde_json::to_string(&cgroup.paths()).unwrap()).unwrap();
    drop(cgroup);
    let again = Cgroup::open(&paths).unwrap();
    assert_eq!(again.pids().unwrap().len(), 3);
    again.remove().unwrap();
    let (code, _) = shell.finish();
    assert_eq!(code, None, "killed");
    for path in &made {
        assert!(!path.exists(), "{path:?}");
        assert!(
            !path.parent().unwrap().exists(),
            "the parent was ours and empty: {path:?}"
        );
    }
    Cgroup::open(&paths)
        .unwrap()
        .remove()
        .expect("removing what is gone is no error");
}

#[test]
fn frozen_and_thawed() {
    let cgroup = create("freeze", "{}");
    let mut shell = Shell::start("while :; do :; done");
    cgroup.join_unified(shell.pid()).unwrap();
    shell.go();
    cgroup.freeze().unwrap();
    let time = |pid| std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    let before = time(shell.pid());
    std::thread::sleep(Duration::from_millis(30));
    assert_eq!(before, time(shell.pid()), "it ran while it was frozen");
    cgroup.thaw().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while time(shell.pid()) == before {
        assert!(
            Instant::now() < deadline,
            "it does not run again: {:?}",
            state(shell.pid())
        );
    }
    // Frozen processes are killed too.
    cgroup.freeze().unwrap();
    let paths = cgroup.paths();
    let other = Cgroup::open(&paths).unwrap();
    cgroup.remove().unwrap();
    assert_eq!(shell.finish().0, None);
    // Who was about to let them go on finds nobody who waits for it, and no error; to hold them still is one.
    other.thaw().unwrap();
    assert!(other.freeze().unwrap_err().is_gone());
    Cgroup::open(&paths).unwrap().thaw().unwrap();
}

#[test]
fn limits_are_where_the_kernel_keeps_them() {
    let resources = r#"{"memory": {"limit": 67108864}, "pids": {"limit": 4}, "cpu": {"shares": 2048, "quota": 50000, "period": 100000, "cpus": "0"}}"#;
    let cgroup = create("limits", resources);
    let made = directories(&cgroup);
    let has = |names: [&str; 2], expected: &str| {
        let read = |name: &&str| {
            made.iter()
                .find_map(|path| std::fs::read_to_string(path.join(name)).ok())
        };
        let text = names
            .iter()
            .find_map(read)
            .unwrap_or_else(|| panic!("{names:?} in {made:?}"));
        assert_eq!(text.trim(), expected, "{names:?}");
    };
    has(["memory.max", "memory.limit_in_bytes"], "67108864");
    has(["pids.max", "pids.max"], "4");
    has(["cpuset.cpus", "cpuset.cpus"], "0");
    match made.iter().any(|path| path.join("cpu.weight").exists()) {
        true => {
            has(["cpu.weight", ""], "174");
            has(["cpu.max", ""], "50000 100000");
        }
        false => {
            has(["cpu.shares", ""], "2048");
            has(["cpu.cfs_quota_us", ""], "50000");
        }
    }

    let mut shell = Shell::start("for i in 1 2 3 4 5 6 7 8; do sleep 1000 & done; wait");
    cgroup.join_unified(shell.pid()).unwrap();
    join_v1(&cgroup, &shell);
    shell.go();
    let mut error = String::new();
    BufReader::new(shell.0.stderr.take().unwrap())
        .read_line(&mut error)
        .unwrap();
    assert!(error.contains("fork"), "the fifth process: {error}");
    assert!(cgroup.pids().unwrap().len() <= 4);
    cgroup.remove().unwrap();
    for path in made {
        assert!(!path.exists(), "{path:?}");
    }
}

#[test]
fn a_process_killed_for_memory_is_counted() {
    let cgroup = create("oom", r#"{"memory": {"limit": 16777216, "swap": 16777216}}"#);
    let shell = {
        let mut shell = Shell::start("exec dd if=/dev/zero of=/dev/null bs=200M count=1");
        cgroup.join_unified(shell.pid()).unwrap();
        join_v1(&cgroup, &shell);
        shell.go();
        shell
    };
    assert_eq!(cgroup.oom_kills(), Some(0));
    assert_eq!(shell.finish().0, None, "killed");
    assert_eq!(cgroup.oom_kills(), Some(1));
    cgroup.remove().unwrap();
}

#[test]
fn a_device_node_made_inside_opens_nothing() {
    let rules = r#"{"devices": [{"allow": false, "access": "rwm"}, {"allow": true, "type": "b", "access": "m"},
        {"allow": true, "type": "c", "access": "m"}, {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"}]}"#;
    let cgroup = create("devices", rules);
    assert_eq!(cgroup.devices(), DeviceControl::Program);
    assert_eq!(sys::bpf::device_program_count(cgroup.fd().unwrap()).unwrap(), 1);
    let directory = tempfile::tempdir().unwrap();
    let disk = directory.path().join("disk");
    // Block major 1 is the RAM disk, or nothing: what matters is who answers, the rules (EPERM) or the driver (ENXIO).
    let script = format!("mknod {0} b 1 0 && : </dev/null && : <{0}", disk.display());
    let run = |cgroup: &Cgroup| {
        let _ = std::fs::remove_file(&disk);
        let mut shell = Shell::start(&script);
        cgroup.join_unified(shell.pid()).unwrap();
        shell.go();
        shell.finish()
    };
    let (code, text) = run(&cgroup);
    assert!(
        code != Some(0) && text.contains("Operation not permitted") && text.contains("disk"),
        "{code:?} {text}"
    );
    cgroup.remove().unwrap();

    let open = create("open", r#"{"devices": [{"allow": true, "access": "rwm"}]}"#);
    assert_eq!(open.devices(), DeviceControl::NotNeeded);
    let (_, text) = run(&open);
    assert!(!text.contains("not permitted"), "{text}");
    open.remove().unwrap();
}

#[test]
fn what_cannot_be_had_is_named() {
    let error = |place: &str, resources: &str| Cgroup::create(&spec(place, resources), "id").unwrap_err();
    let refused = error(
        "refused",
        r#"{"unified": {"imaginary.max": "1"}, "pids": {"limit": 5}}"#,
    );
    assert!(matches!(refused, CgroupError::Controller { .. }), "{refused}");
    assert!(refused.to_string().contains("controller imaginary"), "{refused}");
    let wrong = error("wrong", r#"{"cpu": {"cpus": "4095"}}"#);
    assert!(
        wrong.to_string().contains("the CPU set cannot be set") && wrong.to_string().contains("4095"),
        "{wrong}"
    );
    let nothing = Hierarchies::find().unwrap();
    for mount in nothing
        .unified()
        .into_iter()
        .map(Path::to_owned)
        .chain(nothing.v1("cpuset").unwrap())
    {
        for place in ["refused", "wrong"] {
            let left = mount.join(format!("strata-test-{}-{place}", std::process::id()));
            assert!(!left.exists(), "{left:?}");
        }
    }
}

#[test]
fn found_again_without_a_record() {
    let asked = spec("find", r#"{"pids": {"limit": 5}}"#);
    let made = Cgroup::create(&asked, "id").unwrap();
    let mut shell = Shell::start("sleep 1000");
    made.join_unified(shell.pid()).unwrap();
    join_v1(&made, &shell);
    shell.go();
    let paths = made.paths();
    drop(made);
    let found = Cgroup::find(&asked, "id").unwrap();
    assert_eq!(found.paths(), paths);
    found.remove().unwrap();
    assert_eq!(shell.finish().0, None, "killed");
    let nothing = Cgroup::find(&asked, "id").unwrap();
    assert!(nothing.fd().is_none() && nothing.pids().unwrap().is_empty());
    nothing.remove().unwrap();
}

#[test]
fn one_in_use_is_not_taken_and_a_stale_one_is_replaced() {
    let first = create("stale", "{}");
    let again = create("stale", "{}");
    let mut shell = Shell::start("sleep 1000");
    again.join_unified(shell.pid()).unwrap();
    shell.go();
    let refused = Cgroup::create(&spec("stale", "{}"), "id").unwrap_err();
    assert!(matches!(refused, CgroupError::InUse { .. }), "{refused}");
    again.remove().unwrap();
    drop(first);
}

#[test]
fn many_at_once_share_a_parent_that_goes_with_the_last() {
    let parent = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|thread| {
                scope.spawn(move || {
                    let mut parent = PathBuf::new();
                    for round in 0..25 {
                        let cgroup = create(&format!("crowd/{thread}-{round}"), "{}");
                        parent = cgroup.paths().unified.unwrap().parent().unwrap().to_owned();
                        cgroup.remove().unwrap();
                    }
                    parent
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .next()
            .unwrap()
    });
    assert!(!parent.exists(), "{parent:?}");
}

/// A limit whose controller the cgroup2 has, on every machine that we test on: with all of them there, or with the
/// one that v1 left over.
fn unified_limit() -> (&'static str, String) {
    let mount = Hierarchies::find().unwrap().unified().unwrap().to_owned();
    let offered = std::fs::read_to_string(mount.join("cgroup.controllers")).unwrap();
    // Not pids or cpu: threaded controllers may be enabled where processes are.
    if offered
        .split_whitespace()
        .any(|controller| controller == "memory")
    {
        return ("memory.max", r#"{"memory": {"limit": 67108864}}"#.to_owned());
    }
    assert!(
        offered.contains("hugetlb"),
        "a cgroup2 controller to test with, not only {offered:?}"
    );
    (
        "hugetlb.2MB.max",
        r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}]}"#.to_owned(),
    )
}

#[test]
fn controllers_are_enabled_on_the_way_and_only_then() {
    let (file, resources) = unified_limit();
    let plain = create("enable/plain", "{}");
    let unlimited = plain.paths().unified.unwrap();
    assert!(!unlimited.join(file).exists(), "no limit, no controller");
    let limited = create("enable/limited", &resources);
    let path = limited.paths().unified.unwrap();
    let value = std::fs::read_to_string(path.join(file)).unwrap();
    assert!(resources.contains(value.trim()), "{value}");
    assert!(limited.paths().v1.is_empty());
    limited.remove().unwrap();
    plain.remove().unwrap();
}

#[test]
fn a_parent_with_processes_is_named() {
    let parent = create("busy", "{}");
    let mut shell = Shell::start("sleep 1000");
    parent.join_unified(shell.pid()).unwrap();
    shell.go();
    let refused = Cgroup::create(&spec("busy/below", &unified_limit().1), "id").unwrap_err();
    assert!(
        refused.to_string().contains("holds processes itself"),
        "{refused}"
    );
    // Without a limit it may lie there.
    create("busy/below", "{}").remove().unwrap();
    parent.remove().unwrap();
}

/// What a file holds in whichever directory of the cgroup has it.
fn held(cgroup: &Cgroup, files: [&str; 2]) -> String {
    let paths = directories(cgroup).into_iter();
    let found = paths
        .flat_map(|path| files.map(|file| path.join(file)))
        .find_map(|file| std::fs::read_to_string(file).ok());
    found.unwrap_or_default().trim().to_owned()
}

#[test]
fn limits_change_while_processes_run() {
    let resources = |text: &str| serde_json::from_str::<oci_spec::runtime::LinuxResources>(text).unwrap();
    let cgroup = create(
        "update",
        r#"{"memory": {"limit": 67108864}, "pids": {"limit": 50}, "cpu": {"quota": 50000, "period": 100000}}"#,
    );
    let mut shell = Shell::start("echo ready; sleep 1000");
    cgroup.join_unified(shell.pid()).unwrap();
    join_v1(&cgroup, &shell);
    shell.go();
    assert_eq!(shell.line(), "ready");
    let memory = ["memory.max", "memory.limit_in_bytes"];
    let tasks = ["pids.max", "pids.max"];
    let time = ["cpu.max", "cpu.cfs_quota_us"];
    for (limits, memory_now, tasks_now, time_now) in [
        (
            r#"{"memory": {"limit": 134217728}, "pids": {"limit": 7}, "cpu": {"quota": 20000, "period": 100000}}"#,
            "134217728",
            "7",
            "20000",
        ),
        (
            r#"{"memory": {"limit": 33554432}, "cpu": {"quota": 70000, "period": 100000}}"#,
            "33554432",
            "max",
            "70000",
        ),
    ] {
        cgroup.update(&resources(limits)).unwrap();
        assert_eq!(held(&cgroup, memory), memory_now, "{limits}");
        assert_eq!(held(&cgroup, tasks), tasks_now, "{limits}");
        assert_eq!(held(&cgroup, time).split(' ').next(), Some(time_now), "{limits}");
    }
    // Nothing is limited any more: the word for that, or a number that no machine has.
    cgroup.update(&resources("{}")).unwrap();
    let lifted = held(&cgroup, memory);
    assert!(
        lifted == "max" || lifted.parse::<u64>().is_ok_and(|limit| limit > 1 << 60),
        "{lifted}"
    );
    assert!(matches!(
        held(&cgroup, time).split(' ').next(),
        Some("max" | "-1")
    ));
    cgroup.remove().unwrap();
    shell.finish();

    // One that was started without a limit: v2 gives it the controller then, on v1 it would have to move.
    let bare = create("update-bare", "{}");
    let changed = bare.update(&resources(r#"{"pids": {"limit": 9}}"#));
    match Hierarchies::find().unwrap().v1("pids").unwrap() {
        None => {
            changed.unwrap();
            assert_eq!(held(&bare, tasks), "9");
        }
        Some(_) => assert!(
            matches!(changed, Err(CgroupError::Unsupported { because, .. }) if because.contains("next start"))
        ),
    }
    bare.remove().unwrap();
}

#[test]
fn what_nobody_will_remove_is_removed_once_it_is_old_and_empty() {
    let place = format!("/strata/{:064x}", std::process::id());
    let text = format!(r#"{{"ociVersion": "1.2.0", "linux": {{"cgroupsPath": "{place}"}}}}"#);
    let spec: Spec = serde_json::from_str(&text).unwrap();
    let cgroup = Cgroup::create(&spec, "id").unwrap();
    let there = directories(&cgroup).remove(0);
    std::thread::sleep(Duration::from_secs(3));
    runtime::cgroup::sweep(Duration::from_secs(3600));
    assert!(there.exists(), "it is young");
    let mut shell = Shell::start("echo gone");
    cgroup.join_unified(shell.pid()).unwrap();
    runtime::cgroup::sweep(Duration::from_secs(2));
    assert!(there.exists(), "a process is in it");
    shell.go();
    assert_eq!(shell.line(), "gone");
    shell.0.wait().unwrap();
    runtime::cgroup::sweep(Duration::from_secs(2));
    assert!(!there.exists());
}
