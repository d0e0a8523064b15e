//! The life of a container as an engine drives it, by runc's command line: the same expectations of runc, the reference,
//! and of `strata oci`.

#[path = "common/oci.rs"]
mod oci;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use oci::{Runtime, each, wait_until};
use serde_json::{Value, json};

const FOREVER: &str = "trap 'exit 5' TERM; while :; do sleep 0.02; done";

#[test]
fn from_created_to_deleted() {
    each(|runtime| {
        runtime.args(&["sh", "-c", "echo begun > /said; exec sleep 1000"]);
        // What else lies in a bundle is the engine's.
        fs::write(runtime.path("strata.json"), "{}").unwrap();
        runtime.ok(&["create", "--pid-file", &runtime.path("pid"), "one"]);
        let state = runtime.state("one");
        assert_eq!(state["status"], "created");
        assert_eq!(state["id"], "one");
        assert_eq!(state["bundle"].as_str(), runtime.dir().to_str());
        assert_eq!(state["annotations"]["org.example.key"], "value");
        let pid = state["pid"].as_i64().unwrap();
        assert_eq!(fs::read_to_string(runtime.path("pid")).unwrap(), pid.to_string());
        assert!(!runtime.dir().join("rootfs/said").exists());

        runtime.ok(&["start", "one"]);
        wait_until(|| runtime.dir().join("rootfs/said").exists());
        assert_eq!(runtime.status("one"), "running");
        assert_eq!(runtime.state("one")["pid"].as_i64(), Some(pid));
        runtime.refused(&["start", "one"], "cannot start");
        runtime.refused(&["delete", "one"], "not stopped");
        runtime.ok(&["kill", "one", "KILL"]);
        wait_until(|| runtime.status("one") == "stopped");
        runtime.refused(&["kill", "one", "TERM"], "not running");
        runtime.refused(&["exec", "one", "true"], "");
        runtime.ok(&["delete", "one"]);
        runtime.refused(&["state", "one"], "does not exist");
    });
}

#[test]
fn one_that_was_never_started_is_deleted() {
    each(|runtime| {
        runtime.ok(&["create", "one"]);
        let pid = runtime.state("one")["pid"].to_string();
        runtime.ok(&["delete", "one"]);
        wait_until(|| !oci::lives(&pid));
        // Its id is free again, and killed before its start it is one that has stopped.
        runtime.ok(&["create", "one"]);
        runtime.ok(&["kill", "one", "9"]);
        wait_until(|| runtime.status("one") == "stopped");
        assert_ne!(runtime.end(&["start", "one"]).code, 0);
        runtime.ok(&["delete", "one"]);
    });
}

#[test]
fn what_cannot_be_is_refused() {
    each(|runtime| {
        for verb in ["state", "start", "kill", "delete", "pause", "resume"] {
            runtime.refused(&[verb, "nosuch"], "does not exist");
        }
        runtime.ok(&["delete", "--force", "nosuch"]);
        runtime.refused(&["create", "--bundle", "/nosuch", "one"], "/nosuch");
        runtime.refused(&["create", "a/b"], "invalid");
        runtime.args(&["/no/such/program"]);
        runtime.refused(&["create", "one"], "no such file or directory");
        runtime.args(&["nosuch"]);
        runtime.refused(&["create", "one"], "executable file not found in $PATH");
        runtime.args(&["/etc"]);
        assert_ne!(runtime.end(&["run", "one"]).code, 0);
        // None of these left anything.
        runtime.ok(&["delete", "--force", "one"]);
        assert_eq!(runtime.ok(&["list", "-q"]), "");
        runtime.args(&["sleep", "1000"]);
        runtime.ok(&["create", "one"]);
        runtime.refused(&["create", "one"], "already exists");
        assert_eq!(runtime.status("one"), "created");
        runtime.ok(&["delete", "--force", "one"]);
        runtime.configure(|spec| spec["process"]["terminal"] = json!(true));
        runtime.refused(&["create", "one"], "console socket");
    });
}

#[test]
fn errors_are_in_the_log_too() {
    each(|runtime| {
        let log = runtime.path("log");
        let call = ["--log", log.as_str(), "--log-format", "json", "state", "nosuch"];
        let ended = runtime.end(&call);
        assert_eq!(ended.code, 1);
        assert!(ended.err.contains("does not exist"), "{}", ended.err);
        let line: Value = serde_json::from_str(&fs::read_to_string(&log).unwrap()).unwrap();
        assert_eq!(line["level"], "error");
        assert!(line["msg"].as_str().unwrap().contains("does not exist"));
        assert!(line["time"].as_str().unwrap().contains('T'));
        runtime.end(&call);
        assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 2);
        // Of a command line that is none too.
        runtime.end(&["--log", &log, "--log-format=json", "state", "--nosuch", "one"]);
        let lines = fs::read_to_string(&log).unwrap();
        let line: Value = serde_json::from_str(lines.lines().nth(2).unwrap()).unwrap();
        assert!(line["msg"].as_str().unwrap().contains("nosuch"), "{line}");
    });
}

#[test]
fn in_the_foreground() {
    each(|runtime| {
        runtime.args(&["sh", "-c", "echo out; echo err >&2; cat; exit 3"]);
        let mut command = runtime.command(&["run", "one"]);
        let input = runtime.dir().join("input");
        fs::write(&input, "typed\n").unwrap();
        let output = command.stdin(fs::File::open(&input).unwrap()).output().unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(String::from_utf8_lossy(&output.stdout), "out\ntyped\n");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
        assert_eq!(runtime.ok(&["list", "-q"]), "");
        // A signal to the one who waits is for the program.
        runtime.args(&["sh", "-c", FOREVER]);
        let mut child = runtime.command(&["run", "two"]).spawn().unwrap();
        wait_until(|| runtime.end(&["state", "two"]).code == 0 && runtime.status("two") == "running");
        wait_until(|| runtime.ok(&["ps", "two"]).contains("sleep"));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(5));
        assert_eq!(runtime.ok(&["list", "-q"]), "");
    });
}

#[test]
fn one_more_program() {
    each(|runtime| {
        runtime.args(&["sh", "-c", FOREVER]);
        runtime.start_in_the_background("one");
        let script = "echo $GREETING; pwd; id -u; id -g; grep -c ^ /proc/1/cmdline; exit 4";
        let ended = runtime.end(&[
            "exec",
            "--cwd",
            "/tmp",
            "--env",
            "GREETING=hello there",
            "--user",
            "7:8",
            "one",
            "sh",
            "-c",
            script,
        ]);
        assert_eq!(
            (ended.code, ended.out.as_str()),
            (4, "hello there\n/tmp\n7\n8\n1\n"),
            "{}",
            ended.err
        );
        assert_eq!(runtime.end(&["exec", "one", "nosuch"]).code, 255);
        let ended = "cat /proc/[0-9]*/status | grep '^State:.*Z'; true";
        assert_eq!(
            runtime.ok(&["exec", "one", "sh", "-c", ended]),
            "",
            "nothing is left of it"
        );
        assert_eq!(runtime.end(&["exec", "nosuch", "true"]).code, 255);
        assert!(runtime.state("one")["owner"].is_string());
        let caps = |flags: &[&str]| {
            let line = ["exec"]
                .iter()
                .chain(flags)
                .chain(&["one", "grep", "CapEff", "/proc/self/status"]);
            runtime.ok(&line.copied().collect::<Vec<_>>())
        };
        let (plain, more) = (caps(&[]), caps(&["--cap", "CAP_SYS_TIME"]));
        let bits = |line: &str| u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap();
        assert_eq!(bits(&more), bits(&plain) | 1 << 25);
        let privileges = [
            "exec",
            "--no-new-privs",
            "one",
            "grep",
            "NoNewPrivs",
            "/proc/self/status",
        ];
        assert!(runtime.ok(&privileges).ends_with("1\n"));

        let file = runtime.path("process.json");
        let process = json!({
            "args": ["sh", "-c", "echo $$ > /tmp/number; exec sleep 1000"], "cwd": "/", "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        fs::write(&file, process.to_string()).unwrap();
        let pid_file = runtime.path("exec.pid");
        runtime.ok(&[
            "exec",
            "--detach",
            "--process",
            &file,
            "--pid-file",
            &pid_file,
            "one",
        ]);
        let pid = fs::read_to_string(&pid_file).unwrap();
        assert!(oci::lives(&pid));
        let listed: Vec<i64> = serde_json::from_str(&runtime.ok(&["ps", "--format", "json", "one"])).unwrap();
        assert!(listed.contains(&pid.parse().unwrap()), "{listed:?} {pid}");
        wait_until(|| runtime.dir().join("rootfs/tmp/number").exists());
        runtime.ok(&["kill", "one"]);
        wait_until(|| runtime.status("one") == "stopped" && !oci::lives(&pid));
        runtime.ok(&["delete", "one"]);
    });
}

#[test]
fn descriptors_are_passed_on() {
    each(|runtime| {
        let script = "echo through >&3; echo too >&4; [ -e /proc/self/fd/5 ] && echo leaked; true";
        runtime.args(&["sh", "-c", script]);
        // 3, 4 and 5 are the standard error of whoever calls.
        let with_three = |words: &[&str]| {
            let call = runtime.command(words);
            let output = Command::new("sh")
                .args(["-c", "exec \"$@\" 3>&2 4>&2 5>&2 2>/dev/null", "sh"])
                .arg(call.get_program())
                .args(call.get_args())
                .current_dir(runtime.dir())
                .output()
                .unwrap();
            assert!(output.status.success(), "{output:?}");
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
            (text(output.stdout), text(output.stderr))
        };
        let expected = (String::new(), "through\ntoo\n".to_owned());
        assert_eq!(with_three(&["run", "--preserve-fds", "2", "one"]), expected);
        runtime.args(&["sleep", "1000"]);
        runtime.start_in_the_background("one");
        let call = ["exec", "--preserve-fds", "2", "one", "sh", "-c", script];
        assert_eq!(with_three(&call), expected);
        runtime.ok(&["delete", "--force", "one"]);
        let ended = runtime.end(&["run", "--preserve-fds", "9", "two"]);
        assert_ne!(ended.code, 0);
    });
}

#[test]
fn a_terminal_goes_to_the_socket() {
    each(|runtime| {
        runtime.configure(|spec| spec["process"]["terminal"] = json!(true));
        runtime.args(&["sh", "-c", "tty; read line; echo heard $line; exec sleep 1000"]);
        let path = runtime.path("console.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut command = runtime.command(&["create", "--console-socket", &path, "one"]);
        // The pipes have an end: nothing of the caller's is left with the one who waits.
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let console = oci::Console::receive(&listener);
        runtime.ok(&["start", "one"]);
        console.wait_for("/dev/pts/0");
        console.write("this\n");
        console.wait_for("heard this");
        let call = [
            "exec",
            "--detach",
            "--tty",
            "--console-socket",
            &path,
            "one",
            "sh",
            "-c",
        ];
        runtime.ok(&[
            &call[..],
            &["test -t 0 && echo a terminal $((6 * 7)); exec sleep 1000"],
        ]
        .concat());
        oci::Console::receive(&listener).wait_for("a terminal 42");
        runtime.ok(&["delete", "--force", "one"]);
        runtime.refused(&["run", "--console-socket", &path, "two"], "console socket");
    });
}

#[test]
fn held_still_listed_and_limited() {
    each(|runtime| {
        runtime.configure(|spec| spec["linux"]["resources"]["memory"] = json!({"limit": 64 << 20}));
        runtime.args(&[
            "sh",
            "-c",
            "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.01; done",
        ]);
        runtime.start_in_the_background("one");
        let count = || fs::read_to_string(runtime.dir().join("rootfs/tmp/count")).unwrap_or_default();
        wait_until(|| !count().is_empty());
        runtime.ok(&["pause", "one"]);
        assert_eq!(runtime.status("one"), "paused");
        let before = count();
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert_eq!(count(), before);
        runtime.ok(&["resume", "one"]);
        assert_eq!(runtime.status("one"), "running");
        wait_until(|| count() != before);
        runtime.refused(&["resume", "one"], "not paused");

        let listed: Value = serde_json::from_str(&runtime.ok(&["list", "--format", "json"])).unwrap();
        assert_eq!(listed[0]["id"], "one");
        assert_eq!(listed[0]["status"], "running");
        assert_eq!(runtime.ok(&["list", "-q"]), "one\n");
        assert!(runtime.ok(&["list"]).contains("running"));
        assert!(
            runtime
                .ok(&["ps", "one", "-o", "pid,args", "-e"])
                .contains("count")
        );

        let pid = runtime.state("one")["pid"].to_string();
        assert_eq!(oci::memory_limit(&pid), 64 << 20);
        runtime.ok(&["update", "--memory", "33554432", "one"]);
        assert_eq!(oci::memory_limit(&pid), 32 << 20);
        let file = runtime.path("limits.json");
        fs::write(&file, r#"{"memory":{"limit":41943040}}"#).unwrap();
        runtime.ok(&["update", "--resources", &file, "one"]);
        assert_eq!(oci::memory_limit(&pid), 40 << 20);
        runtime.ok(&["kill", "--all", "one", "KILL"]);
        wait_until(|| runtime.status("one") == "stopped");
        runtime.ok(&["delete", "one"]);
        // Processors: those that a process may use are the kernel's to tell.
        runtime.configure(|spec| spec["linux"]["resources"]["cpu"] = json!({"cpus": "0-1"}));
        runtime.args(&["sleep", "1000"]);
        runtime.start_in_the_background("two");
        let allowed = |list: &str| {
            let pid = runtime.state("two")["pid"].to_string();
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            status.contains(&format!("Cpus_allowed_list:\t{list}\n"))
        };
        assert!(allowed("0-1"));
        runtime.ok(&["update", "--cpuset-cpus", "1", "two"]);
        assert!(allowed("1"));
        runtime.ok(&["delete", "--force", "two"]);
    });
}

#[test]
fn hooks_come_when_they_are_due() {
    each(|runtime| {
        let said = runtime.path("hooks");
        let hook = |name: &str| {
            let script = format!("cat > /dev/null; echo {name} >> {said}");
            json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
        };
        let inside =
            json!([{"path": "/bin/sh", "args": ["sh", "-c", "cat > /dev/null; echo inside > /hooked"]}]);
        runtime.configure(|spec| {
            spec["hooks"] = json!({
                "prestart": hook("prestart"), "createRuntime": hook("createRuntime"),
                "createContainer": hook("createContainer"), "startContainer": inside,
                "poststart": hook("poststart"), "poststop": hook("poststop"),
            });
        });
        let so_far = || {
            fs::read_to_string(&said)
                .unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        runtime.args(&["sh", "-c", "cat /hooked > /ran; exec sleep 1000"]);
        runtime.ok(&["create", "one"]);
        // runc 1.1 runs those of poststart here already, against the specification.
        let early = so_far();
        let early = early
            .strip_suffix(" poststart")
            .filter(|_| !runtime.is_ours())
            .unwrap_or(&early);
        assert_eq!(early, "prestart createRuntime createContainer");
        assert!(!runtime.dir().join("rootfs/hooked").exists());
        runtime.ok(&["start", "one"]);
        assert_eq!(so_far(), "prestart createRuntime createContainer poststart");
        let ran = runtime.dir().join("rootfs/ran");
        wait_until(|| fs::read_to_string(&ran).is_ok_and(|text| text == "inside\n"));
        runtime.ok(&["delete", "--force", "one"]);
        assert_eq!(
            so_far(),
            "prestart createRuntime createContainer poststart poststop"
        );
        // One that fails ends the creation.
        runtime.configure(|spec| {
            spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", "exit 3"]}]});
        });
        runtime.refused(&["create", "one"], "hook");
        assert_eq!(runtime.ok(&["list", "-q"]), "");
    });
}

#[test]
fn it_tells_what_it_is() {
    each(|runtime| {
        assert!(runtime.ok(&["--version"]).contains("spec: 1."));
        let features: Value = serde_json::from_str(&runtime.ok(&["features"])).unwrap();
        assert_eq!(features["ociVersionMin"], "1.0.0");
        assert_eq!(features["linux"]["seccomp"]["enabled"], true);
        let dir = runtime.dir().join("fresh");
        fs::create_dir(&dir).unwrap();
        let bundle = dir.to_str().unwrap().to_owned();
        runtime.ok(&["spec", "--bundle", &bundle]);
        runtime.refused(&["spec", "--bundle", &bundle], "config.json");
        let mut spec: Value = serde_json::from_slice(&fs::read(dir.join("config.json")).unwrap()).unwrap();
        assert!([json!("runc"), json!("strata")].contains(&spec["hostname"]));
        spec["process"]["terminal"] = json!(false);
        spec["root"]["path"] = json!(runtime.path("rootfs"));
        spec["process"]["args"] = json!(["echo", "from the specification"]);
        fs::write(dir.join("config.json"), spec.to_string()).unwrap();
        let said = runtime.ok(&["run", "--bundle", &bundle, &runtime.unique("one")]);
        assert_eq!(said, "from the specification\n");
    });
}

#[test]
fn what_ours_refuses_by_name() {
    let runtime = Runtime::ours();
    runtime.args(&["true"]);
    runtime.refused(&["--systemd-cgroup", "create", "one"], "SLICE:PREFIX:NAME");
    runtime.refused(&["checkpoint", "one"], "unrecognized subcommand");
    runtime.refused(&["create", "--nosuch", "one"], "--nosuch");
    runtime.configure(|spec| spec["linux"]["intelRdt"] = json!({}));
    runtime.refused(&["create", "one"], "intelRdt");
}

/// A program that is there and is none: runc finds that out when nobody is left to be told.
#[test]
fn start_tells_what_exec_says() {
    let runtime = Runtime::ours();
    let program = runtime.dir().join("rootfs/garbage");
    fs::write(&program, "\u{1}garbage").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&program, mode).unwrap();
    runtime.args(&["/garbage"]);
    runtime.ok(&["create", "one"]);
    runtime.refused(&["start", "one"], "exec format error");
    wait_until(|| runtime.status("one") == "stopped");
    runtime.ok(&["delete", "one"]);
}

#[test]
fn one_that_waits_holds_nothing_of_the_hosts() {
    let runtime = Runtime::ours();
    runtime.args(&["sleep", "1000"]);
    runtime.ok(&["create", "one"]);
    let pid = runtime.state("one")["pid"].to_string();
    let fds = std::path::PathBuf::from(format!("/proc/{pid}/fd"));
    let streams = ["0", "1", "2"].map(|number| fs::read_link(fds.join(number)).unwrap());
    for entry in fs::read_dir(&fds).unwrap() {
        let path = entry.unwrap().path();
        let name = fs::read_link(&path).unwrap();
        let procfs =
            name.is_absolute() && rustix::fs::statfs(&path).unwrap().f_type == rustix::fs::PROC_SUPER_MAGIC;
        let known = streams.contains(&name) || name.to_string_lossy().starts_with("socket:") || procfs;
        assert!(known, "{name:?}");
    }
    // The program on disk is out of reach (CVE-2019-5736).
    let program = fs::OpenOptions::new()
        .write(true)
        .open(format!("/proc/{pid}/exe"));
    let error = program.unwrap_err();
    let refused =
        [rustix::io::Errno::ROFS, rustix::io::Errno::TXTBSY].map(|errno| Some(errno.raw_os_error()));
    assert!(refused.contains(&error.raw_os_error()), "{error}");
    let mounts = rustix::fs::statvfs(format!("/proc/{pid}/exe")).unwrap();
    assert!(mounts.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // It was not executed a second time for that: what was written to of its file is memory without one.
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let program = fs::metadata(env!("CARGO_BIN_EXE_strata"))
        .unwrap()
        .ino()
        .to_string();
    let parts: Vec<_> = maps
        .lines()
        .filter(|line| line.split_whitespace().nth(4) == Some(program.as_str()))
        .collect();
    assert!(parts.iter().any(|part| part.contains(" r-xp ")), "{maps}");
    assert!(parts.iter().all(|part| !part.contains(" rw")), "{maps}");
    runtime.ok(&["start", "one"]);
    runtime.ok(&["delete", "--force", "one"]);
}

/// CVE-2016-9962, where no supervisor is there to be hidden: what comes in is looked into from there, as is the first process
/// of another container that comes among its own.
#[test]
fn one_that_comes_in_cannot_be_looked_into() {
    let runtime = Runtime::ours();
    let script = "while :; do for p in /proc/[0-9]*; do
        e=$(readlink $p/exe 2>/dev/null)
        case $e in ''|/bin/busybox) ;; *) echo $p is $e >>/seen; ls -l $p/fd >>/seen ;; esac
    done; done";
    runtime.args(&["sh", "-c", script]);
    runtime.start_in_the_background("one");
    let pid = runtime.state("one")["pid"].to_string();
    // So many places are looked into for the program that a process stands there for long with no more rights than those
    // who are there.
    let path = format!("PATH={}/bin", "/x:".repeat(40_000));
    runtime.configure(|spec| {
        spec["process"]["args"] = json!(["true"]);
        spec["process"]["env"] = json!([path]);
        spec["linux"]["cgroupsPath"] = json!(format!("/{}", runtime.unique("other")));
        for one in spec["linux"]["namespaces"].as_array_mut().unwrap() {
            if one["type"] == "pid" {
                one["path"] = json!(format!("/proc/{pid}/ns/pid"));
            }
        }
    });
    for _ in 0..15 {
        runtime.ok(&["exec", "--env", &path, "one", "true"]);
        runtime.ok(&["run", "two"]);
    }
    runtime.ok(&["delete", "--force", "one"]);
    let seen = fs::read_to_string(runtime.dir().join("rootfs/seen")).unwrap_or_default();
    assert_eq!(seen, "");
}

/// Eight at a time: nothing of one is in another's way, and of two that start the same one, one does.
#[test]
fn several_at_once() {
    let runtime = Runtime::ours();
    runtime.args(&["sleep", "1000"]);
    runtime.configure(|spec| spec["linux"]["cgroupsPath"] = Value::Null);
    std::thread::scope(|scope| {
        for number in 0..8 {
            let runtime = &runtime;
            scope.spawn(move || {
                let id = runtime.unique(&number.to_string());
                runtime.ok(&["create", &id]);
                let starts: Vec<_> = (0..2)
                    .map(|_| {
                        runtime
                            .command(&["start", &id])
                            .stderr(Stdio::null())
                            .spawn()
                            .unwrap()
                    })
                    .collect();
                let started = starts
                    .into_iter()
                    .filter_map(|mut start| start.wait().unwrap().success().then_some(()))
                    .count();
                assert_eq!(started, 1, "{id}");
                assert_eq!(runtime.status(&id), "running");
                runtime.ok(&["delete", "--force", &id]);
            });
        }
    });
    assert_eq!(runtime.ok(&["list", "-q"]), "");
}
