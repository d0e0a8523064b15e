//! The known ways out of a container that are races: a container that is there already changes a directory which both have,
//! while another is started over it. And what may lie in the way of one that goes into a container which runs.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use runtime::ExecRequest;
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use serde_json::{Value, json};

/// How long each of these is tried.
const LONG_ENOUGH: Duration = Duration::from_secs(2);

/// Runs `tries` again and again while every pair of names in `dir` changes places.
fn while_they_are_swapped(dir: &Path, pairs: &[(&str, &str)], mut tries: impl FnMut()) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for (a, b) in pairs {
            let (a, b) = (dir.join(a), dir.join(b));
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // What is made anew meanwhile may be in the way.
                    let _ = rustix::fs::renameat_with(CWD, &a, CWD, &b, RenameFlags::EXCHANGE);
                }
            });
        }
        let ends = Ends(&stop);
        let begin = Instant::now();
        while begin.elapsed() < LONG_ENOUGH {
            tries();
        }
        drop(ends);
    });
}

/// Lets the others end, also where a test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A container whose /dev is a directory that others have too.
fn over(dev: &Path, script: &str) -> Box {
    Box::script(script).with(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| !mount["destination"].as_str().unwrap().starts_with("/dev"));
        mounts
            .push(json!({"destination": "/dev", "type": "bind", "source": dev, "options": ["bind", "dev"]}));
    })
}

/// Runs one more program in a container that runs.
fn execute(container: &Box, args: &[&str], stdout: &OwnedFd) {
    execute_by(container, args, "PATH=/bin", stdout);
}

/// The same, with a variable of the environment.
fn execute_by(container: &Box, args: &[&str], variable: &str, stdout: &OwnedFd) {
    let process = json!({"args": args, "cwd": "/", "env": [variable], "user": {"uid": 0, "gid": 0}});
    let null = null();
    let started = runtime::exec(&ExecRequest {
        bundle: &container.bundle,
        process: &serde_json::from_value(process).unwrap(),
        stdio: [&null, stdout, &null].map(AsFd::as_fd),
        size: None,
        attention: None,
    });
    assert_eq!(started.unwrap().wait().unwrap().code, 0);
}

const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

/// What the machine does with cores: the usual way from a file of /proc to a program run by the host. Where a test finds it
/// changed, it is as it was afterwards.
struct CorePattern(String);

impl CorePattern {
    fn now() -> CorePattern {
        CorePattern(std::fs::read_to_string(CORE_PATTERN).unwrap())
    }

    #[track_caller]
    fn is_as_it_was(&self, what: &str) {
        assert_eq!(std::fs::read_to_string(CORE_PATTERN).unwrap(), self.0, "{what}");
    }
}

impl Drop for CorePattern {
    fn drop(&mut self) {
        if std::thread::panicking() {
            write(Path::new(CORE_PATTERN), &self.0);
        }
    }
}

/// CVE-2025-31133: the null device that masks is swapped with a link to what the host would then show in its place.
#[test]
fn a_null_device_that_is_swapped_masks_nothing_else() {
    need_root();
    let temp = tempfile::tempdir().unwrap();
    let dev = temp.path().join("dev");
    mkdir(&dev);
    let number = rustix::fs::makedev(1, 3);
    rustix::fs::mknodat(
        CWD,
        dev.join("null"),
        rustix::fs::FileType::CharacterDevice,
        Mode::from_raw_mode(0o666),
        number,
    )
    .unwrap();
    symlink("/proc/sys/kernel/core_pattern", dev.join("link")).unwrap();
    let before = CorePattern::now();
    let mut ran = 0;
    while_they_are_swapped(&dev, &[("null", "link")], || {
        let script = "stat -c '%t:%T' /proc/keys; (echo evil >/proc/keys) 2>/dev/null; true";
        let container = over(&dev, script);
        match container.try_run() {
            Ok(outcome) => {
                ran += 1;
                assert_eq!(outcome.stdout, "1:3\n", "{outcome:?}");
            }
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        before.is_as_it_was("after a start");
    });
    assert!(ran > 0, "not one came so far");
}

/// CVE-2025-52565: what /dev/console and the terminal's name lead to is swapped while the terminal is put there.
#[test]
fn a_console_that_is_swapped_is_still_the_terminal() {
    need_root();
    let temp = tempfile::tempdir().unwrap();
    let (dev, outside) = (temp.path().join("dev"), temp.path().join("outside"));
    for dir in [&dev, &outside, &dev.join("pts"), &dev.join("other")] {
        mkdir(dir);
    }
    write(&dev.join("console"), "");
    write(&outside.join("file"), "untouched");
    // Anything that a name in a devpts could be taken for.
    symlink("/proc/sys/kernel/core_pattern", dev.join("link")).unwrap();
    symlink(outside.join("file"), dev.join("other/0")).unwrap();
    symlink(outside.join("file"), dev.join("other/ptmx")).unwrap();
    let before = CorePattern::now();
    let mut ran = 0;
    while_they_are_swapped(&dev, &[("console", "link"), ("pts", "other")], || {
        let script = "stat -c %t /dev/console >/said; echo evil >/dev/console; true";
        let container = over(&dev, script).with(|spec| {
            spec["process"]["terminal"] = json!(true);
            let devpts = json!({"destination": "/dev/pts", "type": "devpts", "options": ["newinstance", "ptmxmode=0666"]});
            spec["mounts"].as_array_mut().unwrap().push(devpts);
        });
        if let Ok(mut running) = container.start_quiet() {
            running.wait().unwrap();
            let _ = running.finish();
            let said = std::fs::read_to_string(container.inside("said")).unwrap_or_default();
            // The slave of a pseudo-terminal is a device of number 136.
            if said == "88\n" {
                ran += 1;
            }
            let is = ["88\n", ""].contains(&said.as_str()) || console_is_a_link(&said);
            assert!(is, "/dev/console is {said:?}");
        }
        before.is_as_it_was("after a start");
        assert_eq!(
            std::fs::read_to_string(outside.join("file")).unwrap(),
            "untouched"
        );
    });
    assert!(ran > 0, "not one came so far");
}

/// Swapped after the start, the name is the link again, which is the container's own doing and leads to its own /proc; `stat`
/// then tells of no device.
fn console_is_a_link(said: &str) -> bool {
    said == "0\n"
}

/// CVE-2016-9962: a process on its way into a container is looked into from there, and what it has open is taken.
#[test]
fn one_that_comes_in_cannot_be_looked_into() {
    // Whatever in its own view is not one of its own programs.
    let script = "echo ready; while :; do for p in /proc/[0-9]*; do
        e=$(readlink $p/exe 2>/dev/null)
        case $e in
            ''|/bin/busybox) ;;
            *) echo \"$p is $e\"; ls -l $p/fd $p/cwd $p/root ;;
        esac
        ls -l $p/fd 2>/dev/null | grep -e socket: -e ' /proc$' -e cgroup
        cat $p/environ 2>/dev/null | tr '\\0' '\\n' | grep -v -e ^PATH= -e ^SHLVL= -e ^PWD= -e ^OLDPWD=
    done; done";
    // Who comes in looks for its program in so many places that it stands for long where it has no more rights than those
    // who are there.
    let path = format!("PATH={}/bin", "/x:".repeat(40_000));
    let container = Box::script(script);
    let (running, mut out) = container.ready();
    let begin = Instant::now();
    let null = null();
    while begin.elapsed() < LONG_ENOUGH {
        execute_by(&container, &["true"], &path, &null);
        // The first process of another container that comes among these.
        let other = Box::new().with(|spec| {
            spec["process"]["args"] = json!(["true"]);
            spec["process"]["env"] = json!([path]);
            for one in spec["linux"]["namespaces"].as_array_mut().unwrap() {
                if one["type"] == "pid" {
                    one["path"] = json!(format!("/proc/{}/ns/pid", running.pid()));
                }
            }
        });
        other.run();
    }
    running.kill(libc::SIGKILL).unwrap();
    let mut seen = String::new();
    out.read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "");
}

/// CVE-2022-0811 and its like: a parameter of the kernel whose name or value brings another one along.
#[test]
fn a_parameter_brings_no_other_along() {
    let before = CorePattern::now();
    let run = |name: &str, value: &str| {
        let container = Box::new().with(|spec| spec["linux"]["sysctl"] = json!({name: value}));
        let outcome = container.try_run();
        before.is_as_it_was(&format!("{name} {value}"));
        outcome
    };
    for value in [
        "1+kernel.core_pattern=|/evil",
        "1\nkernel.core_pattern=|/evil",
        "1\0kernel.core_pattern=|/evil",
    ] {
        // Whatever the kernel makes of the value.
        let _ = run("kernel.shm_rmid_forced", value);
    }
    for name in [
        "kernel.core_pattern",
        "kernel.shm_rmid_forced+kernel.core_pattern",
        "kernel.shm_rmid_forced=1\nkernel.core_pattern",
        "net/../kernel/core_pattern",
        "net/ipv4/../../kernel/core_pattern",
        "net.ipv4/../../kernel/core_pattern",
        "/kernel/core_pattern",
        "net./kernel/core_pattern",
        "",
    ] {
        let error = run(name, "|/evil").unwrap_err();
        assert!(error.to_string().contains("sysctl"), "{name}: {error}");
    }
}

/// CVE-2023-28642 and its like: links and mounts of the image's in place of /proc and /sys, so that what confines is written to
/// another place.
#[test]
fn what_confines_is_not_written_elsewhere() {
    let container = Box::new();
    std::fs::remove_dir(container.inside("sys")).unwrap();
    mkdir(&container.inside("fake"));
    symlink("fake", container.inside("sys")).unwrap();
    let error = container.try_run().unwrap_err();
    assert!(error.to_string().contains("/sys"), "{error}");

    // The image's own files under /proc, where no procfs is mounted: nothing of the host's is shown there or changed.
    let container = Box::script("cat /proc/self/attr/exec /proc/sys/kernel/core_pattern").with(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/proc");
        spec["linux"]["maskedPaths"] = Value::Null;
        spec["linux"]["readonlyPaths"] = Value::Null;
    });
    for (path, text) in [("proc/self/attr", "exec"), ("proc/sys/kernel", "core_pattern")] {
        mkdir(&container.inside(path));
        write(&container.inside(path).join(text), "the image's\n");
    }
    assert_eq!(container.output(), "the image's\nthe image's\n");
}

/// What a program is given open leads nowhere else, whatever its number: a directory of the host's among the preserved ones is the
/// caller's wish, one that was open by chance is not (CVE-2024-21626).
#[test]
fn what_is_open_by_chance_is_closed_for_those_who_come_later() {
    let container = Box::script("echo ready; exec sleep 1000");
    // Without close-on-exec, as careless callers leave them, and before there is a supervisor that would inherit them.
    let open: Vec<OwnedFd> = (0..20)
        .map(|_| rustix::fs::open("/", OFlags::RDONLY, Mode::empty()).unwrap())
        .collect();
    let (running, _out) = container.ready();
    let (reader, writer) = pipe();
    let script = "for n in /proc/self/fd/*; do readlink $n; done | grep -v -e pipe: -e /dev/null -e '^/proc/[0-9]*/fd$'; true";
    execute(&container, &["/bin/sh", "-c", script], &writer);
    drop((writer, open));
    let mut seen = String::new();
    File::from(reader).read_to_string(&mut seen).unwrap();
    assert_eq!(seen, "");
    running.kill(libc::SIGKILL).unwrap();
}
