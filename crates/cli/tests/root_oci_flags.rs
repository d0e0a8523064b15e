//! What of runc's command line and of the specification's words is seldom said: flags, mount options, capabilities, hooks that
//! fail late.

#[path = "common/oci.rs"]
mod oci;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use oci::{Runtime, each, wait_until};
use serde_json::{Value, json};

/// An engine may know what this program, or the kernel, does not: the specification has a warning of that, and no error.
#[test]
fn a_capability_that_is_none_is_warned_of() {
    each(|runtime| {
        let caps = json!(["CAP_KILL", "CAP_OF_TOMORROW"]);
        runtime.configure(|spec| {
            spec["process"]["capabilities"] = json!({"bounding": caps, "effective": caps, "permitted": caps});
            spec["process"]["scheduler"] =
                json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]});
        });
        runtime.args(&["sleep", "1000"]);
        let log = runtime.path("log");
        let warned = |words: &[&str]| {
            let ended = runtime.end(&[&["--log", &log, "--log-format", "json"], words].concat());
            assert_eq!((ended.code, ended.err.as_str()), (0, ""));
            let lines = fs::read_to_string(&log).unwrap();
            fs::remove_file(&log).unwrap();
            let line: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
            assert_eq!(line["level"], "warning");
            let text = line["msg"].as_str().unwrap();
            assert!(text.contains("[CAP_OF_TOMORROW]"), "{line}");
            ended.out
        };
        warned(&["run", "--detach", "one"]);
        assert_eq!(runtime.status("one"), "running");
        let effective = ["grep", "CapEff", "/proc/self/status"];
        let exec = ["exec", "--cap", "CAP_OF_TOMORROW", "one"];
        assert!(warned(&[&exec[..], &effective].concat()).contains(":\t0000000000000020\n"));
        // Where there is no file, it is on standard error.
        let ended = runtime.end(&["exec", "--cap", "CAP_OF_TOMORROW", "one", "true"]);
        assert!(ended.err.contains("level=warning"), "{}", ended.err);
        runtime.ok(&["delete", "--force", "one"]);
    });
    // One that the caller has not itself. That none is ambient which is not inheritable is nothing to be told.
    let runtime = Runtime::ours();
    let caps = json!(["CAP_KILL", "CAP_SYS_TIME"]);
    runtime.configure(|spec| {
        spec["process"]["capabilities"] =
            json!({"bounding": caps, "effective": caps, "permitted": caps, "ambient": ["CAP_KILL"]});
    });
    runtime.args(&["grep", "CapEff", "/proc/self/status"]);
    let call = runtime.command(&["run", "one"]);
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-sys_time"])
        .arg(call.get_program())
        .args(call.get_args())
        .current_dir(runtime.dir())
        .output()
        .unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && err.contains("[CAP_SYS_TIME]"),
        "{output:?}"
    );
}

/// What is seldom asked for by runc's flags.
#[test]
fn flags_that_are_rarely_given() {
    each(|runtime| {
        runtime.args(&["sleep", "1000"]);
        // What a caller says of criu and of cgroups that cannot be had does not keep a container from running.
        runtime.ok(&["--criu", "/no/criu", "--rootless=false", "run", "--detach", "one"]);
        let pid = runtime.state("one")["pid"].to_string();
        let group = |pid: &str, of: &str| {
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            let line = groups.lines().find_map(|line| line.split_once(of));
            line.unwrap_or_else(|| panic!("{of} in {groups}")).1.to_owned()
        };
        let exec = |flags: &[&str]| {
            let words = [&["exec"], flags, &["one", "cat", "/proc/self/cgroup"]].concat();
            runtime.end(&words)
        };
        let legacy = Path::new("/sys/fs/cgroup/memory").is_dir();
        let (prefix, mount) = match (legacy, Path::new("/sys/fs/cgroup/unified").is_dir()) {
            (true, _) => (":memory:", "/sys/fs/cgroup/memory"),
            (false, true) => ("0::", "/sys/fs/cgroup/unified"),
            (false, false) => ("0::", "/sys/fs/cgroup"),
        };
        let own = group(&pid, prefix);
        assert!(exec(&["--cgroup", "/"]).out.contains(&format!("{prefix}{own}\n")));
        for (path, says) in [
            ("no/such", "o such file or directory"),
            ("../", "not a sub cgroup path"),
            ("nosuch:/", "unknown controller"),
            ("a:b:c", "invalid --cgroup argument"),
        ] {
            let ended = exec(&["--cgroup", path]);
            assert!(ended.code == 255 && ended.err.contains(says), "{path}: {ended:?}");
        }
        let below = format!("{mount}{own}/below");
        fs::create_dir(&below).unwrap();
        let path = if legacy { "memory:below" } else { "below" };
        let ended = exec(&["--cgroup", path]);
        assert!(ended.out.contains(&format!("{prefix}{own}/below\n")), "{ended:?}");

        runtime.ok(&[
            "update",
            "--memory",
            "64m",
            "--memory-reservation",
            "32MiB",
            "one",
        ]);
        assert_eq!(oci::memory_limit(&pid), 64 << 20);
        assert_ne!(runtime.end(&["update", "--memory", "64x", "one"]).code, 0);
        let ended = runtime.end(&[
            "update",
            "--kernel-memory",
            "1g",
            "--kernel-memory-tcp",
            "1g",
            "one",
        ]);
        assert!(
            ended.code == 0 && ended.err.contains("level=warning"),
            "{ended:?}"
        );
        runtime.refused(&["update", "--l3-cache-schema", "L3:0=f", "one"], "Intel RDT");
        runtime.refused(&["update", "--mem-bw-schema", "MB:0=20", "one"], "Intel RDT");

        runtime.ok(&["pause", "one"]);
        runtime.refused(&["exec", "one", "true"], "cannot exec in a paused container");
        let waits = runtime
            .command(&["exec", "--ignore-paused", "one", "true"])
            .spawn();
        let mut waits = waits.unwrap();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(waits.try_wait().unwrap().is_none());
        runtime.ok(&["resume", "one"]);
        assert!(waits.wait().unwrap().success());
        runtime.ok(&["delete", "--force", "one"]);

        runtime.args(&["sh", "-c", "exit 3"]);
        assert_eq!(runtime.end(&["run", "--keep", "--no-subreaper", "one"]).code, 3);
        assert_eq!(runtime.status("one"), "stopped");
        runtime.ok(&["delete", "one"]);
        let fresh = runtime.dir().join("fresh");
        fs::create_dir(&fresh).unwrap();
        let bundle = fresh.to_str().unwrap();
        runtime.ok(&["spec", "--rootless", "--bundle", bundle]);
        let text = fs::read_to_string(fresh.join("config.json")).unwrap();
        let spec: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(spec["process"]["terminal"], true);
        assert_eq!(spec["linux"]["uidMappings"][0]["size"], 1);
        assert!(spec["linux"]["resources"].is_null());
        let network = |kind: &Value| kind["type"] == "network";
        assert!(
            !spec["linux"]["namespaces"]
                .as_array()
                .unwrap()
                .iter()
                .any(network)
        );
    });
}

/// The options of mounts that a runtime must take, and what `features` says of them.
#[test]
fn options_of_mounts_are_taken() {
    each(|runtime| {
        let features: Value = serde_json::from_str(&runtime.ok(&["features"])).unwrap();
        let listed: Vec<&str> = features["mountOptions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|option| option.as_str().unwrap())
            .collect();
        let whole = [
            "acl",
            "async",
            "dirsync",
            "iversion",
            "lazytime",
            "loud",
            "mand",
            "noacl",
            "noiversion",
            "nolazytime",
            "nomand",
            "silent",
            "sync",
        ];
        for option in whole.iter().chain(&["symfollow", "unbindable"]) {
            assert!(listed.contains(option), "{option}");
        }
        // Each by itself: some undo others.
        runtime.configure(|spec| {
            let mounts = spec["mounts"].as_array_mut().unwrap();
            for option in whole {
                let source = runtime.path("rootfs/tmp");
                mounts.push(
                    json!({"destination": format!("/of/{option}"), "type": "tmpfs", "source": "tmpfs",
                    "options": [option, "size=64k"]}),
                );
                mounts.push(
                    json!({"destination": format!("/bound/{option}"), "type": "none", "source": source,
                    "options": ["rbind", option, "ro"]}),
                );
                mounts.push(
                    json!({"destination": format!("/kind/{option}"), "type": "bind", "source": source,
                    "options": ["bind", option]}),
                );
            }
        });
        runtime.args(&["cat", "/proc/self/mounts"]);
        let mounts = runtime.ok(&["run", "one"]);
        let has = |at: &str, option: &str| {
            let line = mounts
                .lines()
                .find(|line| line.contains(&format!(" {at} ")))
                .unwrap();
            line.split(' ')
                .nth(3)
                .unwrap()
                .split(',')
                .any(|one| one == option)
        };
        for option in ["sync", "dirsync", "lazytime"] {
            assert!(has(&format!("/of/{option}"), option), "{mounts}");
        }
        assert!(has("/bound/sync", "ro") && has("/kind/sync", "rw"));
    });
}

/// What a hook says when nothing can be undone any more.
#[test]
fn late_hooks_that_fail_are_told() {
    each(|runtime| {
        let says = |text: &str| {
            let script = format!("cat >/dev/null; echo {text} >&2; exit 3");
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        runtime.configure(|spec| spec["hooks"] = json!({"poststop": says("too late")}));
        runtime.args(&["true"]);
        let ended = runtime.end(&["run", "one"]);
        assert!(ended.err.contains("too late"), "{ended:?}");
        if runtime.is_ours() {
            assert!(
                ended.code == 0 && ended.err.contains("level=warning"),
                "{ended:?}"
            );
        }
        // The container has ended by the time that the hook fails: the hook's words are what is told.
        runtime.configure(|spec| {
            let script = "cat >/dev/null; sleep 0.2; echo not so >&2; exit 3";
            spec["hooks"] = json!({"poststart": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
        });
        runtime.refused(&["run", "one"], "not so");
        runtime.ok(&["delete", "--force", "one"]);
    });
}

/// On cgroup v1, where a new cgroup has no time for real-time processes, nor those above it that were made for it.
#[test]
fn real_time_processes_have_their_share() {
    let runtime = Runtime::ours();
    let mount = Path::new("/sys/fs/cgroup/cpu");
    if !mount.join("cpu.rt_runtime_us").exists() {
        return;
    }
    let places = [
        format!("/{}/of/one", runtime.unique("parent")),
        format!("/{}", runtime.unique("one")),
    ];
    for place in places {
        let held = || fs::read_to_string(mount.join(&place[1..]).join("cpu.rt_runtime_us")).unwrap();
        runtime.configure(|spec| {
            spec["linux"]["cgroupsPath"] = json!(place);
            spec["linux"]["resources"]["cpu"] = json!({"realtimeRuntime": 1000, "realtimePeriod": 500_000});
        });
        runtime.args(&["sleep", "1000"]);
        runtime.start_in_the_background("one");
        assert_eq!(held(), "1000\n");
        runtime.ok(&["update", "--cpu-rt-runtime", "2000", "one"]);
        assert_eq!(held(), "2000\n");
        runtime.ok(&["delete", "--force", "one"]);
        let first = place.split('/').nth(1).unwrap();
        assert!(!mount.join(first).exists(), "nothing of it is left");
    }
}

/// As podman's `--systemd` has it on cgroup v1.
#[test]
fn something_is_mounted_beneath_the_cgroups() {
    if !Path::new("/sys/fs/cgroup/memory").is_dir() {
        return;
    }
    each(|runtime| {
        runtime.configure(|spec| {
            let options = ["nosuid", "noexec", "nodev", "relatime", "ro"];
            let mounts = spec["mounts"].as_array_mut().unwrap();
            mounts.push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": options}));
            mounts.push(json!({"destination": "/sys/fs/cgroup/systemd", "type": "bind",
                "source": runtime.path("rootfs/tmp"), "options": ["bind", "rprivate"]}));
            spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20});
        });
        let script = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes; cat pids/cgroup.procs | grep -x $$; \
            echo x > systemd/file; cat systemd/file; mkdir pids/more 2>/dev/null || echo read-only";
        runtime.args(&["sh", "-c", script]);
        assert_eq!(runtime.ok(&["run", "one"]), "67108864\n1\nx\nread-only\n");
    });
}

/// The runtime 1.1 of runc knows nothing of it: ours alone.
#[test]
fn one_that_comes_in_runs_on_the_processors_that_are_named() {
    let runtime = Runtime::ours();
    runtime.args(&["sleep", "1000"]);
    runtime.start_in_the_background("one");
    let own = rustix::thread::sched_getaffinity(None).unwrap();
    let first = (0..).find(|cpu| own.is_set(*cpu)).unwrap();
    let file = runtime.path("process.json");
    let said = |affinity: Value| {
        let process = json!({
            "args": ["grep", "Cpus_allowed_list", "/proc/self/status"], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0}, "execCPUAffinity": affinity,
            "scheduler": {"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]},
        });
        fs::write(&file, process.to_string()).unwrap();
        runtime.end(&["exec", "--process", &file, "one"])
    };
    let number = first.to_string();
    for affinity in [
        json!({"final": number}),
        json!({"initial": number, "final": number}),
    ] {
        let ended = said(affinity);
        assert_eq!(
            ended.out,
            format!("Cpus_allowed_list:\t{number}\n"),
            "{}",
            ended.err
        );
    }
    for which in ["initial", "final"] {
        let ended = said(json!({which: "1000"}));
        let named = ended.err.contains(&format!("execCPUAffinity.{which}"));
        assert!(ended.code == 255 && named, "{}", ended.err);
    }
    // In a container that stands still it comes no further than to its birth: there the first list holds.
    let last = (0..rustix::thread::CpuSet::MAX_CPU)
        .rfind(|cpu| own.is_set(*cpu))
        .unwrap();
    said(json!({"initial": number, "final": last.to_string()}));
    let here =
        || -> Vec<i64> { serde_json::from_str(&runtime.ok(&["ps", "--format", "json", "one"])).unwrap() };
    runtime.ok(&["pause", "one"]);
    let before = here();
    let call = ["exec", "--ignore-paused", "--process", &file, "one"];
    let waits = runtime.command(&call).stdout(Stdio::piped()).spawn().unwrap();
    let born = || here().into_iter().find(|pid| !before.contains(pid));
    wait_until(|| born().is_some());
    let status = fs::read_to_string(format!("/proc/{}/status", born().unwrap())).unwrap();
    assert!(
        status.contains(&format!("Cpus_allowed_list:\t{number}\n")),
        "{status}"
    );
    runtime.ok(&["resume", "one"]);
    let output = waits.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(told, format!("Cpus_allowed_list:\t{last}\n"));
    runtime.ok(&["delete", "--force", "one"]);
}
