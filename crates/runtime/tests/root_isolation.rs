//! What a container sees of itself, from inside.

mod common;

use std::os::fd::OwnedFd;
use std::path::Path;

use common::*;
use serde_json::json;

fn lines(text: &str) -> Vec<&str> {
    text.lines().collect()
}

#[test]
fn streams_and_exit_code() {
    let outcome = Box::script("echo out; echo err >&2; exit 7").run();
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        ("out\n", "err\n")
    );
    assert_eq!((outcome.exit.code, outcome.exit.signal), (7, None));
}

#[test]
fn a_signal_ends_it() {
    // The first process of a pid namespace is spared what it does not handle; its child is not.
    let outcome = Box::script("sh -c 'kill -TERM $$'; exit $?").run();
    assert_eq!((outcome.exit.code, outcome.exit.signal), (143, None));
    let outcome = Box::script("kill -9 $$; echo $?")
        .with(|spec| {
            let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
            namespaces.retain(|namespace| namespace["type"] != "pid");
        })
        .run();
    assert_eq!((outcome.exit.code, outcome.exit.signal), (137, Some(9)));
}

#[test]
fn why_a_program_does_not_run() {
    for (args, code, says) in [
        (json!(["nothing"]), 127, "not found in the container's PATH"),
        (json!(["/bin/nothing"]), 127, "no such file"),
        (json!(["/etc/passwd"]), 126, "permission denied"),
        (json!(["/tmp"]), 126, "permission denied"),
        (json!(["/etc/garbage"]), 126, "exec format error"),
        (json!([]), 125, "no program"),
    ] {
        let container = Box::new().with(|spec| spec["process"]["args"] = args.clone());
        write(&container.inside("etc/garbage"), "\u{1}\u{2}");
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(container.inside("etc/garbage"), permissions).unwrap();
        let error = container.try_run().unwrap_err();
        assert_eq!(error.exit_code(), code, "{args}: {error}");
        assert!(error.to_string().contains(says), "{args}: {error}");
        // Nothing of it is left but the bundle.
        assert!(!container.bundle.path().join("control.sock").exists());
    }
}

#[test]
fn namespaces_are_its_own() {
    let names = ["pid", "mnt", "uts", "ipc", "net", "cgroup"];
    let script = "for n in pid mnt uts ipc net cgroup user time; do readlink /proc/self/ns/$n; done";
    let output = sh(script);
    let inside = lines(&output);
    for (index, name) in names.iter().enumerate() {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(Path::new(inside[index]), host, "{name}");
    }
    for (index, name) in [(6, "user"), (7, "time")] {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_eq!(Path::new(inside[index]), host, "{name}");
    }
}

#[test]
fn it_is_process_one_and_alone() {
    let output = sh("set -- /proc/[0-9]*; echo $$ $# $1; hostname");
    assert_eq!(lines(&output), ["1 1 /proc/1", "box"]);
}

#[test]
fn the_network_is_loopback_and_up() {
    let output = sh("ls /sys/class/net; ifconfig lo");
    assert!(output.starts_with("lo\nlo "), "{output}");
    assert!(
        output.contains("UP LOOPBACK RUNNING") && output.contains("127.0.0.1"),
        "{output}"
    );
    let answered = Box::script("ping -c 1 -W 2 127.0.0.1 >/dev/null && echo answered")
        .with(|spec| {
            for set in ["bounding", "effective", "permitted"] {
                spec["process"]["capabilities"][set] = json!(["CAP_NET_RAW"]);
            }
        })
        .output();
    assert_eq!(answered, "answered\n");
}

#[test]
fn capabilities_are_the_specs() {
    let output = sh("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status");
    // chown dac_override fowner kill setgid setuid net_bind_service sys_chroot
    let caps = 1u64 | 1 << 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 18;
    let expected = format!(
        "CapInh:\t0000000000000000\nCapPrm:\t{caps:016x}\nCapEff:\t{caps:016x}\nCapBnd:\t{caps:016x}\n\
         CapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t0\n"
    );
    assert_eq!(output, expected);
}

#[test]
fn another_user_has_no_capabilities_but_ambient_ones() {
    let script = "id -u; id -g; id -G; umask; grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status";
    let container = Box::script(script).with(|spec| {
        spec["process"]["user"] =
            json!({"uid": 1000, "gid": 1000, "additionalGids": [1000, 7, 9], "umask": 0o27});
    });
    let output = container.output();
    let none = "0000000000000000";
    assert_eq!(
        lines(&output),
        [
            "1000",
            "1000",
            "1000 7 9",
            "0027",
            &format!("CapPrm:\t{none}"),
            &format!("CapEff:\t{none}"),
            &format!("CapAmb:\t{none}")
        ]
    );
    let ambient = container
        .with(|spec| {
            let caps = &mut spec["process"]["capabilities"];
            caps["inheritable"] = json!(["CAP_NET_BIND_SERVICE"]);
            caps["ambient"] = json!(["CAP_NET_BIND_SERVICE"]);
        })
        .output();
    let bind = "0000000000000400";
    assert_eq!(
        lines(&ambient)[4..],
        [
            format!("CapPrm:\t{bind}"),
            format!("CapEff:\t{bind}"),
            format!("CapAmb:\t{bind}")
        ]
    );
}

#[test]
fn no_capabilities_in_the_spec_means_none() {
    let output = Box::script("grep CapEff /proc/self/status")
        .with(|spec| {
            spec["process"].as_object_mut().unwrap().remove("capabilities");
        })
        .output();
    assert_eq!(output, "CapEff:\t0000000000000000\n");
}

#[test]
fn a_filter_is_loaded_with_and_without_new_privileges() {
    for no_new_privileges in [true, false] {
        let outcome = Box::script("grep -E '^(Seccomp:|NoNewPrivs)' /proc/self/status; mkdir /tmp/x")
            .with(|spec| {
                spec["process"]["noNewPrivileges"] = json!(no_new_privileges);
                spec["linux"]["seccomp"] = json!({
                    "defaultAction": "SCMP_ACT_ALLOW",
                    "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
                });
            })
            .run();
        let bit = u8::from(no_new_privileges);
        assert_eq!(outcome.stdout, format!("NoNewPrivs:\t{bit}\nSeccomp:\t2\n"));
        assert!(outcome.stderr.contains("Operation not supported"), "{outcome:?}");
    }
}

#[test]
fn limits_and_scores() {
    let output = Box::script("ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj")
        .with(|spec| {
            spec["process"]["rlimits"] = json!([
                {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}, {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ]);
            spec["process"]["oomScoreAdj"] = json!(100);
        })
        .output();
    assert_eq!(lines(&output), ["100", "200", "0", "100"]);
    let error = Box::new()
        .with(|spec| {
            spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 300, "hard": 200}]);
        })
        .try_run()
        .unwrap_err();
    assert!(error.to_string().contains("soft limit 300"), "{error}");
}

#[test]
fn nothing_of_the_hosts_is_open() {
    let output = sh("for fd in /proc/self/fd/*; do readlink $fd || echo gone; done");
    // The shell's own listing of the directory is gone again.
    let expected = |line: &&str| line.starts_with("pipe:") || *line == "/dev/null" || *line == "gone";
    assert!(lines(&output).iter().all(expected), "{output}");
    let environment = Box::new()
        .with(|spec| spec["process"]["args"] = json!(["/bin/env"]))
        .output();
    assert_eq!(environment, "PATH=/bin\n");
}

#[test]
fn signals_are_as_they_should_be() {
    // Not a shell, which ignores some itself.
    let grep = json!(["/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"]);
    let output = Box::new().with(|spec| spec["process"]["args"] = grep).output();
    assert_eq!(output, "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n");
}

#[test]
fn the_session_keyring_is_its_own() {
    let sessions = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("_ses:"));
        lines.map(|line| line[..8].to_owned()).collect()
    };
    let before = sessions(&std::fs::read_to_string("/proc/keys").unwrap());
    let inside = Box::script("cat /proc/keys")
        .with(|spec| spec["linux"]["maskedPaths"] = json!([]))
        .output();
    assert!(
        sessions(&inside).iter().any(|key| !before.contains(key)),
        "{inside}"
    );
}

#[test]
fn sysctls_of_its_own_namespaces_alone() {
    let output = Box::script("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax")
        .with(|spec| {
            spec["linux"]["sysctl"] =
                json!({"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "4242"});
        })
        .output();
    assert_eq!(output, "80\n4242\n");
    assert_ne!(
        std::fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(),
        "4242\n"
    );
    let error = Box::new()
        .with(|spec| spec["linux"]["sysctl"] = json!({"kernel.panic": "7"}))
        .try_run()
        .unwrap_err();
    assert!(error.to_string().contains("kernel.panic"), "{error}");
}

#[test]
fn joined_namespaces() {
    let first = Box::script("echo ready; sleep 100");
    let (stdout, out) = pipe();
    let mut running = first.start([&null(), &out, &null()]).unwrap();
    rustix::io::read(&stdout, &mut [0; 8]).unwrap();
    let pid = running.pid();
    let second = Box::script(
        "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; hostname; ps | grep -c 'sleep 10[0]'",
    )
    .with(|spec| {
        spec.as_object_mut().unwrap().remove("hostname");
        spec["linux"]["namespaces"] = json!([
            {"type": "pid", "path": format!("/proc/{pid}/ns/pid")},
            {"type": "network", "path": format!("/proc/{pid}/ns/net")},
            {"type": "ipc", "path": format!("/proc/{pid}/ns/ipc")},
            {"type": "uts", "path": format!("/proc/{pid}/ns/uts")},
            {"type": "mount"}, {"type": "cgroup"},
        ]);
    })
    .output();
    let of = |name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    let expected: Vec<_> = ["net", "ipc", "uts", "pid"]
        .map(of)
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    assert_eq!(lines(&second)[..4], expected);
    assert_eq!(lines(&second)[4..], ["box", "1"]);
    running.kill(9).unwrap();
    assert_eq!(running.wait().unwrap().signal, Some(9));
    running.finish().unwrap();
}

#[test]
fn a_time_namespace_with_offsets() {
    let container = Box::script("cut -d. -f1 /proc/uptime; readlink /proc/self/ns/time").with(|spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "time"}));
        spec["linux"]["timeOffsets"] = json!({"boottime": {"secs": 1_000_000}});
    });
    let output = container.output();
    assert!(lines(&output)[0].parse::<u64>().unwrap() >= 1_000_000, "{output}");
    let host = std::fs::read_link("/proc/self/ns/time").unwrap();
    assert_ne!(Path::new(lines(&output)[1]), host);
}

/// In the user namespace, given as the spec has it, and with the right to mount there. The root is the mapped root's.
fn mapped(container: Box, namespace: serde_json::Value) -> Box {
    let container = container.with(|spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(namespace);
        for set in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][set] = json!(["CAP_SYS_ADMIN"]);
        }
    });
    for path in ["", "dev", "proc", "sys", "tmp", "etc", "root"] {
        std::os::unix::fs::chown(container.inside(path), Some(200_000), Some(200_000)).unwrap();
    }
    container
}

fn newly_mapped(script: &str) -> Box {
    mapped(Box::script(script), json!({"type": "user"})).with(|spec| {
        let map = json!([{"containerID": 0, "hostID": 200_000, "size": 65536}]);
        spec["linux"]["uidMappings"] = map.clone();
        spec["linux"]["gidMappings"] = map;
    })
}

const AS_ROOT_OF_IT: &str = "id -u; cat /proc/self/uid_map; stat -c %u /; echo x >/dev/null; \
    ls -l /dev/null | cut -c1; mount -t tmpfs none /tmp && echo mounted";

fn is_root_of_it(lines: &[&str]) {
    assert_eq!(lines[0], "0");
    assert_eq!(
        lines[1].split_whitespace().collect::<Vec<_>>(),
        ["0", "200000", "65536"]
    );
    assert_eq!(lines[2..], ["0", "c", "mounted"]);
}

#[test]
fn a_user_namespace_with_maps() {
    is_root_of_it(&lines(&newly_mapped(AS_ROOT_OF_IT).output()));
}

#[test]
fn the_user_namespace_of_another() {
    let first = newly_mapped(WAITING);
    let (mut running, _stdout) = first.ready();
    let own = |kind: &str| format!("/proc/{}/ns/{kind}", running.pid());
    let id = |kind: &str| std::fs::read_link(own(kind)).unwrap().display().to_string();
    let script = format!("readlink /proc/self/ns/user; readlink /proc/self/ns/net; {AS_ROOT_OF_IT}");
    let second = mapped(Box::script(&script), json!({"type": "user", "path": own("user")})).with(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "network" && namespace["type"] != "pid");
        namespaces.push(json!({"type": "network", "path": own("net")}));
        namespaces.push(json!({"type": "pid", "path": own("pid")}));
    });
    let output = second.output();
    let lines = lines(&output);
    assert_eq!(lines[..2], [id("user"), id("net")]);
    is_root_of_it(&lines[2..]);
    running.kill(9).unwrap();
    assert_eq!(running.wait().unwrap().signal, Some(9));
    running.finish().unwrap();

    // One's own is none to go to.
    let own = mapped(Box::new(), json!({"type": "user", "path": "/proc/self/ns/user"}));
    let error = own.try_run().unwrap_err().to_string();
    assert!(error.contains("/proc/self/ns/user"), "{error}");
}

#[test]
fn scheduling_is_the_specs() {
    // Nice value and policy are the 19th and the 41st field (proc_pid_stat(5)); the command is the second.
    let output = Box::script("sed 's/.*) //' /proc/$$/stat | cut -d' ' -f17,39; ionice -p $$")
        .with(|spec| {
            spec["process"]["scheduler"] = json!({"policy": "SCHED_BATCH", "nice": 5});
            spec["process"]["ioPriority"] = json!({"class": "IOPRIO_CLASS_IDLE", "priority": 0});
        })
        .output();
    const SCHED_BATCH: u32 = 3;
    assert_eq!(output, format!("5 {SCHED_BATCH}\nidle\n"));
}

#[test]
fn an_init_process_reaps_and_passes_on() {
    let container = Box::script("trap 'echo got; exit 3' USR1; echo $$; (sleep 0 & exec sleep 0); echo up; while :; do sleep 0.1; done")
        .with(|spec| spec["annotations"] = json!({"strata.init": "true"}));
    let (stdout, out) = pipe();
    let mut running = container.start([&null(), &out, &null()]).unwrap();
    drop(out);
    let text = read_until(&stdout, "up\n");
    assert_ne!(lines(&text)[0], "1");
    let name = std::fs::read_to_string(format!("/proc/{}/comm", running.pid())).unwrap();
    assert_eq!(name, "init\n");
    let open = std::fs::read_dir(format!("/proc/{}/fd", running.pid()))
        .unwrap()
        .count();
    assert_eq!(open, 3);
    running.kill(10).unwrap();
    assert_eq!(read_until(&stdout, "got\n"), "got\n");
    assert_eq!(running.wait().unwrap().code, 3);
    running.finish().unwrap();
    let missing = Box::new().with(|spec| {
        spec["annotations"] = json!({"strata.init": "true"});
        spec["process"]["args"] = json!(["nothing"]);
    });
    assert_eq!(missing.try_run().unwrap_err().exit_code(), 127);
}

fn read_until(fd: &OwnedFd, end: &str) -> String {
    let mut text = String::new();
    let mut buffer = [0; 256];
    while !text.ends_with(end) {
        let length = rustix::io::read(fd, &mut buffer).unwrap();
        assert_ne!(length, 0, "ended after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

#[test]
fn an_apparmor_profile_that_nobody_loaded_is_refused() {
    let error = Box::new()
        .with(|spec| spec["process"]["apparmorProfile"] = json!("no-such-profile"))
        .try_run()
        .unwrap_err();
    assert_eq!(error.exit_code(), 125);
    let text = error.to_string();
    assert!(text.contains("AppArmor profile \"no-such-profile\""), "{text}");
}
