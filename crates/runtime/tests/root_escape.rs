//! The known ways out of a container, tried.

mod common;

use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;
use serde_json::{Value, json};

fn all_capabilities(spec: &mut Value) {
    let all = json!([
        "CAP_DAC_OVERRIDE",
        "CAP_SYS_PTRACE",
        "CAP_SYS_ADMIN",
        "CAP_DAC_READ_SEARCH",
        "CAP_SETUID"
    ]);
    for set in ["bounding", "effective", "permitted"] {
        spec["process"]["capabilities"][set] = all.clone();
    }
}

/// CVE-2019-5736: the runtime's own program, reached through a process that is about to become the container's.
#[test]
fn the_runtimes_program_is_not_written_to() {
    let before = std::fs::read(helper().program).unwrap();
    let script = "for p in /proc/[0-9]*; do echo x 2>&1 >$p/exe; done; true";
    let container = Box::script("cat /tmp/log").with(|spec| {
        all_capabilities(spec);
        // Run while process 1 still is the launcher's child.
        let script = format!("({script}) >/tmp/log");
        spec["hooks"] = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin"]}]});
    });
    let output = container.output();
    assert!(
        output.contains("can't create /proc/1/exe: Read-only file system"),
        "{output}"
    );
    assert_eq!(std::fs::read(helper().program).unwrap(), before);

    // The other way: the container names it as its program, or as the interpreter of it.
    for (name, text) in [("link", None), ("script", Some("#!/proc/self/exe\n"))] {
        let container = Box::new().with(|spec| spec["process"]["args"] = json!([format!("/bin/{name}")]));
        let path = container.inside("bin").join(name);
        match text {
            None => symlink("/proc/self/exe", &path).unwrap(),
            Some(text) => {
                write(&path, text);
                std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
        // Whatever it comes to, the program is as it was.
        let _ = container.try_run();
        assert_eq!(std::fs::read(helper().program).unwrap(), before, "{name}");
    }
}

/// CVE-2024-21626: a working directory that is one of the host's, open in the runtime.
#[test]
fn the_working_directory_is_not_the_hosts() {
    for number in 3..24 {
        for path in [
            format!("/proc/self/fd/{number}"),
            format!("/proc/self/fd/{number}/../../.."),
        ] {
            let container = Box::script("ls").with(|spec| spec["process"]["cwd"] = json!(path));
            let error = container.try_run().unwrap_err();
            assert!(error.to_string().contains("working directory"), "{error}");
        }
    }
    // The same by a link that the image brings.
    let container = Box::script("ls").with(|spec| spec["process"]["cwd"] = json!("/way/out"));
    symlink("/proc/self/fd", container.inside("way")).unwrap();
    assert!(container.try_run().is_err());
}

/// A descriptor of the host's that the program inherits.
#[test]
fn no_descriptor_is_inherited() {
    // Without close-on-exec, as careless callers leave them.
    let open: Vec<_> = (0..5)
        .map(|_| rustix::fs::open("/", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).unwrap())
        .collect();
    let output = Box::new()
        .with(|spec| spec["process"]["args"] = json!(["/bin/ls", "/proc/self/fd"]))
        .output();
    // Its streams, and the directory it lists.
    assert_eq!(output, "0\n1\n2\n3\n");
    drop(open);
}

/// CVE-2019-16884, CVE-2023-27561 and their kind: an image whose /proc is not where it should be.
#[test]
fn an_image_cannot_move_proc() {
    let container = Box::new();
    std::fs::remove_dir(container.inside("proc")).unwrap();
    mkdir(&container.inside("fake/self/attr"));
    symlink("fake", container.inside("proc")).unwrap();
    let error = container.try_run().unwrap_err();
    assert!(error.to_string().contains("/proc"), "{error}");
}

/// CVE-2019-16884, CVE-2019-19921: something of the image's or the bundle's in the place of /proc.
#[test]
fn nothing_but_the_kernels_own_lies_at_proc() {
    let refused = |container: &dyn Fn() -> Box, mount: Value, alone: bool| {
        let made = container().with(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.retain(|mount| !alone || mount["destination"] != "/proc");
            mounts.push(mount.clone());
        });
        let error = made.try_run().unwrap_err();
        assert!(error.to_string().contains("/proc"), "{mount}: {error}");
    };
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    mkdir(&source.join("self/attr"));
    write(&source.join("self/attr/exec"), "fake");
    let bind = |source: &Path, to: &str| json!({"destination": to, "type": "bind", "source": source, "options": ["rbind"]});
    let of_type = |kind: &str, to: &str| json!({"destination": to, "type": kind, "source": kind});
    let plain: &dyn Fn() -> Box = &Box::new;
    for alone in [true, false] {
        for to in ["/proc", "proc", "/proc/", "/srv/../proc"] {
            refused(plain, bind(&source, to), alone);
            refused(plain, of_type("tmpfs", to), alone);
        }
        // A part of /proc is not the whole.
        refused(plain, bind(Path::new("/proc/1"), "/proc"), alone);
        refused(plain, of_type("sysfs", "/proc"), alone);
        // By links, the one at the target's place or the one at /proc's.
        let linked = || {
            let container = Box::new();
            symlink("proc", container.inside("volume")).unwrap();
            container
        };
        refused(&linked, bind(&source, "/volume"), alone);
    }
    let moved = || {
        let container = Box::new();
        std::fs::remove_dir(container.inside("proc")).unwrap();
        mkdir(&container.inside("real"));
        symlink("real", container.inside("proc")).unwrap();
        container
    };
    refused(&moved, bind(&source, "/proc"), true);
    refused(&moved, bind(&source, "/real"), true);
    // The machine's own is one.
    let container = Box::script("cat /proc/sys/kernel/ostype").with(|spec| {
        let mounts = spec["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/proc");
        mounts.insert(0, bind(Path::new("/proc"), "/proc"));
    });
    assert_eq!(container.output(), "Linux\n");
}

/// CVE-2025-31133: masking with a /dev/null that the container replaced.
#[test]
fn what_masks_is_the_null_device() {
    let container = Box::script("stat -c '%t:%T' /proc/keys; wc -c </proc/keys").with(|spec| {
        // The image's own /dev, with a link for a null device.
        spec["mounts"]
            .as_array_mut()
            .unwrap()
            .retain(|mount| mount["destination"] == "/proc");
        spec["linux"]["maskedPaths"] = json!(["/proc/keys"]);
    });
    symlink("/proc/sys/kernel/core_pattern", container.inside("dev/null")).unwrap();
    assert_eq!(container.output(), "1:3\n0\n");
}

/// CVE-2025-52881: writes of the runtime to /proc that the container turns elsewhere.
#[test]
fn nothing_may_lie_over_what_the_runtime_writes() {
    for destination in [
        "/proc/self/attr/exec",
        "/proc/sys/kernel/hostname",
        "/proc/thread-self",
        "/proc/sys",
    ] {
        let container = Box::new();
        let source = container.temp.path().join("source");
        mkdir(&source);
        let error = container
            .with(|spec| {
                let mount = json!({"destination": destination, "type": "bind", "source": source, "options": ["bind"]});
                spec["mounts"].as_array_mut().unwrap().push(mount);
            })
            .try_run()
            .unwrap_err();
        assert!(error.to_string().contains("beneath /proc"), "{error}");
    }
    // What lxcfs mounts is allowed.
    let container = Box::script("cat /proc/uptime");
    let source = container.temp.path().join("uptime");
    write(&source, "1 2\n");
    let container = container.with(|spec| {
        let mount = json!({"destination": "/proc/uptime", "type": "bind", "source": source, "options": ["bind", "ro"]});
        spec["mounts"].as_array_mut().unwrap().push(mount);
    });
    assert_eq!(container.output(), "1 2\n");
}

/// CVE-2021-30465: a directory that another container swaps with a link while this one is being started.
#[test]
fn a_target_that_is_swapped_meanwhile_does_not_lead_out() {
    need_root();
    let temp = tempfile::tempdir().unwrap();
    let (volume, outside) = (temp.path().join("volume"), temp.path().join("outside"));
    for dir in [&volume, &outside] {
        mkdir(dir);
    }
    mkdir(&volume.join("real"));
    // From the root of a container, of the host, or anywhere: all ways to it.
    symlink(&outside, volume.join("link")).unwrap();
    mkdir(&volume.join("name"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                let (a, b) = (volume.join("link"), volume.join("name"));
                rustix::fs::renameat_with(rustix::fs::CWD, &a, rustix::fs::CWD, &b, flags).unwrap();
            }
        });
        let begin = Instant::now();
        let mut ran = 0;
        while begin.elapsed() < Duration::from_secs(2) {
            let container = Box::new().with(|spec| {
                let mounts = spec["mounts"].as_array_mut().unwrap();
                mounts.push(
                    json!({"destination": "/volume", "type": "bind", "source": volume, "options": ["bind"]}),
                );
                mounts.push(json!({"destination": "/volume/name/deep", "type": "tmpfs"}));
                mounts
                    .push(json!({"destination": "/volume/name/file", "type": "bind", "source": "/dev/null"}));
                spec["process"]["cwd"] = json!("/volume/name/cwd");
                spec["linux"]["maskedPaths"] = json!(["/volume/name"]);
                spec["linux"]["devices"] =
                    json!([{"path": "/volume/name/node", "type": "p", "major": 0, "minor": 0}]);
            });
            ran += usize::from(container.try_run().is_ok());
            assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "after {ran}");
            let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!table.contains(outside.to_str().unwrap()));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(Path::new(&outside).is_dir());
}

/// The old way out of cgroup v1.
#[test]
fn no_release_agent_can_be_set() {
    let output =
        Box::script("find /sys/fs/cgroup -name release_agent; touch /sys/fs/cgroup/cgroup.procs 2>&1; true")
            .output();
    assert!(!output.contains("/release_agent"), "{output}");
    assert!(output.contains("Read-only"), "{output}");
    let refused =
        Box::script("mkdir /tmp/c; mount -t cgroup -o memory c /tmp/c 2>&1; mount -t cgroup2 c /tmp/c 2>&1")
            .run();
    assert_eq!(
        refused.stdout.matches("permission denied").count(),
        2,
        "{refused:?}"
    );
}

/// A name, a variable or an annotation is text wherever it goes.
#[test]
fn text_injects_nothing() {
    let nasty = "a\nb\" }, { $(touch /tmp/x) ../../x \u{202e}";
    let container = Box::script("printf '%s' \"$NASTY\"").with(|spec| {
        spec["process"]["env"] = json!(["PATH=/bin", format!("NASTY={nasty}")]);
        spec["annotations"] = json!({nasty: nasty});
        spec["hooks"] = json!({"poststart": [{"path": "/bin/true"}]});
    });
    assert_eq!(container.output(), nasty);
    let error = Box::new()
        .with(|spec| spec["hostname"] = json!("x".repeat(65)))
        .try_run()
        .unwrap_err();
    assert!(error.to_string().starts_with("hostname"), "{error}");
}
