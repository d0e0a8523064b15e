//! One more program in a container that runs.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use common::*;
use runtime::cgroup::Cgroup;
use runtime::control::{Connection, Reply, Request};
use runtime::{ExecError, ExecRequest, Running, state};
use serde_json::{Value, json};

/// The first process's configuration with another program and what `change` makes of it.
fn process(container: &Box, args: &[&str], change: impl FnOnce(&mut Value)) -> oci_spec::runtime::Process {
    let mut process = container.spec["process"].clone();
    process["args"] = json!(args);
    process["terminal"] = json!(false);
    change(&mut process);
    serde_json::from_value(process).unwrap()
}

fn begin(
    container: &Box,
    process: &oci_spec::runtime::Process,
    stdio: [&OwnedFd; 3],
) -> Result<Running, ExecError> {
    runtime::exec(&ExecRequest {
        bundle: &container.bundle,
        process,
        stdio: stdio.map(AsFd::as_fd),
        size: Some((11, 44)),
        attention: None,
    })
}

/// What it printed, and its exit code.
fn exec_with(container: &Box, args: &[&str], change: impl FnOnce(&mut Value)) -> (String, u8) {
    let (reader, out) = pipe();
    let started = begin(
        container,
        &process(container, args, change),
        [&null(), &out, &out],
    );
    drop(out);
    let mut running = started.unwrap_or_else(|error| panic!("{args:?}: {error}"));
    let mut text = String::new();
    File::from(reader).read_to_string(&mut text).unwrap();
    (text, running.wait().unwrap().code)
}

fn exec(container: &Box, script: &str) -> String {
    let (text, code) = exec_with(container, &["sh", "-c", script], |_| {});
    assert_eq!(code, 0, "{script}: {text}");
    text
}

/// Begins one that is not expected to start, and gives exit code and text of the error.
fn refused(container: &Box, args: &[&str], change: impl FnOnce(&mut Value)) -> (u8, String) {
    let null = null();
    match begin(
        container,
        &process(container, args, change),
        [&null, &null, &null],
    ) {
        Err(ExecError::Start(error)) => (error.exit_code(), error.to_string()),
        other => panic!("{args:?}: {other:?}"),
    }
}

fn cgroup(container: &Box) -> Cgroup {
    let state = state::load(&container.bundle).unwrap().unwrap();
    Cgroup::open(&state.cgroups).unwrap()
}

#[test]
fn it_is_where_the_first_process_is() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    let here = exec(
        &container,
        "cd /proc/self/ns; for ns in *; do readlink $ns; done; cat /proc/self/cgroup; hostname",
    );
    let there = exec(
        &container,
        "cd /proc/1/ns; for ns in *; do readlink $ns; done; cat /proc/1/cgroup; hostname",
    );
    assert_eq!(here, there);
    assert!(here.contains("net:[") && here.ends_with("box\n"), "{here}");
    let own = std::fs::read_link("/proc/self/ns/cgroup").unwrap();
    assert!(!here.contains(own.to_str().unwrap()), "{here}");

    // As the host sees it: a child of the supervisor, in every cgroup that the first process is in.
    let null = null();
    let mut one = begin(
        &container,
        &process(&container, &["sleep", "100"], |_| {}),
        [&null, &null, &null],
    )
    .unwrap();
    let of = |pid: i32, file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    assert_eq!(of(one.pid(), "cgroup"), of(first.pid(), "cgroup"));
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor.pid;
    assert!(of(one.pid(), "status").contains(&format!("PPid:\t{supervisor}\n")));
    one.kill(9).unwrap();
    assert_eq!(one.wait().unwrap().code, 137);
    first.kill(15).unwrap();
}

#[test]
fn it_may_do_no_more_than_the_first_process() {
    let profile = runtime::seccomp::default_profile(&Default::default());
    let container = Box::script(WAITING).with(|spec| {
        spec["linux"]["seccomp"] = serde_json::to_value(profile).unwrap();
        spec["process"]["user"]["umask"] = json!(0o077);
        spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 55, "hard": 66}]);
        spec["process"]["oomScoreAdj"] = json!(77);
    });
    let (first, _out) = container.ready();
    let look = |pid: &str| {
        exec(
            &container,
            &format!(
                "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|Umask|SigBlk)' /proc/{pid}/status; \
             cat /proc/{pid}/oom_score_adj; grep 'open files' /proc/{pid}/limits; grep -c . /proc/{pid}/mountinfo"
            ),
        )
    };
    let (own, of_first) = (look("self"), look("1"));
    assert_eq!(own, of_first);
    assert!(
        own.contains("Seccomp:\t2\n") && own.contains("NoNewPrivs:\t1\n") && own.contains("77\n"),
        "{own}"
    );
    let hidden = exec(
        &container,
        "(echo 9 >/proc/sys/kernel/pid_max) 2>&1 | grep -ci read-only",
    );
    assert_eq!(hidden, "1\n");
    // Its filter: a new user namespace is what it refuses.
    let (text, code) = exec_with(&container, &["unshare", "-U", "true"], |_| {});
    assert_ne!(code, 0, "{text}");
    first.kill(15).unwrap();
}

#[test]
fn nothing_of_the_host_comes_in() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    // 3 is what ls has the directory open by.
    assert_eq!(exec(&container, "ls /proc/self/fd"), "0\n1\n2\n3\n");
    // Variables of nobody but those asked for.
    let (text, _) = exec_with(&container, &["env"], |process| {
        process["env"] = json!(["PATH=/bin", "A=1"])
    });
    assert_eq!(text, "PATH=/bin\nA=1\n");
    assert_eq!(exec(&container, "readlink /proc/self/exe"), "/bin/busybox\n");
    // CVE-2024-21626: through no descriptor does the working directory lead outside.
    for number in 0..24 {
        let (code, text) = refused(&container, &["pwd"], |process| {
            process["cwd"] = json!(format!("/proc/self/fd/{number}"));
        });
        assert_eq!(code, 125, "{number}: {text}");
    }
    first.kill(15).unwrap();
}

/// A cgroup that stands still until this is dropped, also where a test fails before: whoever waits for what is in it
/// would wait for ever.
struct Frozen<'a>(&'a Cgroup);

impl<'a> Frozen<'a> {
    fn new(cgroup: &'a Cgroup) -> Frozen<'a> {
        cgroup.freeze().unwrap();
        Frozen(cgroup)
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.thaw().unwrap();
    }
}

/// Has a process made in the container, which stands still before its first step while `look` looks at it: it is given its
/// number.
fn at_its_birth(container: &Box, look: impl FnOnce(i32)) {
    let cgroup = cgroup(container);
    // Born into a cgroup that is frozen.
    let frozen = Frozen::new(&cgroup);
    // Not before: the script has new processes all the time.
    let before = cgroup.pids().unwrap();
    let request = process(container, &["true"], |_| {});
    std::thread::scope(|scope| {
        let frozen = frozen;
        let asking = scope.spawn(|| {
            let null = null();
            let mut one = begin(container, &request, [&null, &null, &null]).unwrap();
            one.wait().unwrap()
        });
        let mut pid = 0;
        eventually("it is born", || {
            let all = cgroup.pids().unwrap();
            pid = all.into_iter().find(|pid| !before.contains(pid)).unwrap_or(0);
            pid != 0
        });
        look(pid);
        assert!(!asking.is_finished());
        drop(frozen);
        assert_eq!(asking.join().unwrap().code, 0);
    });
}

#[test]
fn on_its_way_it_holds_nothing_that_it_does_not_need() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    at_its_birth(&container, |pid| {
        let links: Vec<PathBuf> = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap())
            .collect();
        let named: Vec<_> = links.iter().filter(|link| link.starts_with("/")).collect();
        let allowed = |link: &&PathBuf| {
            let is = |path: &str| link.as_path() == std::path::Path::new(path);
            is("/dev/null") || is("/proc") || link.to_string_lossy().contains("cgroup")
        };
        assert!(named.iter().all(allowed), "{links:?}");
        let sockets = links
            .iter()
            .filter(|link| link.starts_with("socket:") || link.to_string_lossy().starts_with("socket:"));
        assert_eq!(sockets.count(), 1, "{links:?}");

        // The supervisor does not wait for it.
        let other = Connection::open(&container.bundle).unwrap();
        other.send(&Request::Kill { signal: 0 }, &[]).unwrap();
        assert!(matches!(
            other.receive::<Reply>().unwrap().unwrap().0,
            Reply::Done
        ));
    });
    first.kill(15).unwrap();
}

/// A container's root that has every right in a user namespace may look into whatever comes into that one, unless that is hidden
/// from its birth on.
#[test]
fn on_its_way_it_is_hidden_from_the_first_step_on() {
    let container = Box::script(WAITING).with(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.push(json!({"type": "user"}));
        for kind in ["uidMappings", "gidMappings"] {
            spec["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    });
    std::os::unix::fs::chown(container.inside("tmp"), Some(100_000), Some(100_000)).unwrap();
    for path in [container.temp.path(), container.bundle.path()] {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let (first, _out) = container.ready();
    at_its_birth(&container, |_| {
        let script = "for p in /proc/[0-9]*; do echo here; readlink $p/exe >/dev/null || echo hidden; done";
        let seen = std::process::Command::new("nsenter")
            .args(["--target", &first.pid().to_string()])
            .args(["--user", "--pid", "--mount", "/bin/sh", "-c", script])
            .output()
            .unwrap();
        let seen = String::from_utf8(seen.stdout).unwrap();
        assert!(seen.matches("here").count() >= 3, "{seen}");
        assert_eq!(seen.matches("hidden").count(), 1, "{seen}");
    });
    first.kill(15).unwrap();
}

#[test]
fn codes_tell_why_nothing_runs() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    for (args, code, says) in [
        (&["nothing"][..], 127, "PATH"),
        (&["/nothing/here"], 127, "no such file"),
        (&["/etc/passwd"], 126, "permission denied"),
        (&["/etc"], 126, "/etc"),
        (&[], 125, "no program"),
    ] {
        let (found, text) = refused(&container, args, |_| {});
        assert_eq!(found, code, "{args:?}: {text}");
        assert!(text.contains(says), "{args:?}: {text}");
    }
    for (cwd, says) in [
        ("/nowhere", "No such file"),
        ("relative", "absolute"),
        ("/etc/passwd", "Not a directory"),
    ] {
        let (code, text) = refused(&container, &["true"], |process| process["cwd"] = json!(cwd));
        assert_eq!(code, 125, "{text}");
        assert!(
            text.contains("working directory") && text.contains(says),
            "{text}"
        );
    }
    let (code, text) = refused(&container, &["true"], |process| {
        process["selinuxLabel"] = json!("a:b")
    });
    assert_eq!((code, text.contains("selinuxLabel")), (125, true), "{text}");
    assert_eq!(exec_with(&container, &["sh", "-c", "exit 42"], |_| {}).1, 42);
    first.kill(15).unwrap();
}

#[test]
fn signals_reach_it_and_not_the_container() {
    let container = Box::script(WAITING);
    let (first, mut out) = container.ready();
    let (reader, writer) = pipe();
    let script = "trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.05; done";
    let request = process(&container, &["sh", "-c", script], |_| {});
    let mut one = begin(&container, &request, [&null(), &writer, &writer]).unwrap();
    drop(writer);
    let mut reader = File::from(reader);
    let mut up = [0; 3];
    reader.read_exact(&mut up).unwrap();
    one.kill(15).unwrap();
    assert_eq!(one.wait().unwrap().code, 9);
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "got\n");
    first.kill(10).unwrap();
    let mut text = [0; 4];
    out.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"usr\n");
    first.kill(15).unwrap();
}

#[test]
fn it_goes_on_without_the_one_who_asked() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    let null = null();
    let script = "while [ ! -e /tmp/go ]; do sleep 0.02; done; echo $PPID >/tmp/done";
    drop(
        begin(
            &container,
            &process(&container, &["sh", "-c", script], |_| {}),
            [&null, &null, &null],
        )
        .unwrap(),
    );
    write(&container.inside("tmp/go"), "");
    let done = container.inside("tmp/done");
    eventually("it goes on", || {
        std::fs::read_to_string(&done).is_ok_and(|text| text == "0\n")
    });

    // One with a terminal prints more than that holds, and nobody reads.
    let script = "seq 20000; echo $? >/tmp/printed";
    let request = process(&container, &["sh", "-c", script], |process| {
        process["terminal"] = json!(true)
    });
    drop(begin(&container, &request, [&null, &null, &null]).unwrap());
    let printed = container.inside("tmp/printed");
    eventually("it prints on", || {
        std::fs::read_to_string(&printed).is_ok_and(|text| text == "0\n")
    });
    first.kill(15).unwrap();
}

#[test]
fn the_containers_end_is_its_end() {
    for own_pids in [true, false] {
        let container = Box::script(WAITING).with(|spec| {
            if !own_pids {
                let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
                namespaces.retain(|one| one["type"] != "pid");
                // Of the host's processes none may be shown there.
                spec["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .retain(|one| one["type"] != "proc");
                spec["linux"]["maskedPaths"] = json!([]);
                spec["linux"]["readonlyPaths"] = json!([]);
            }
        });
        let (mut first, _out) = container.ready();
        let null = null();
        let request = process(&container, &["sleep", "1000"], |_| {});
        let mut all: Vec<Running> = (0..3)
            .map(|_| begin(&container, &request, [&null, &null, &null]).unwrap())
            .collect();
        let pid = all[0].pid();
        first.kill(15).unwrap();
        assert_eq!(first.wait().unwrap().code, 3);
        for one in &mut all {
            let exit = one.wait().unwrap();
            assert_eq!((exit.code, exit.signal), (137, Some(9)), "own pids: {own_pids}");
        }
        first.finish().unwrap();
        assert!(!lives(pid));
    }
}

#[test]
fn a_terminal_is_of_the_containers_own() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    let null = null();
    let script = "tty; stty size; stat -c %u $(tty); read -r line; echo \"<$line>\"; exit 4";
    let request = process(&container, &["sh", "-c", script], |process| {
        process["terminal"] = json!(true);
        process["user"] = json!({"uid": 1000, "gid": 1000});
    });
    let mut one = begin(&container, &request, [&null, &null, &null]).unwrap();
    let mut console = File::from(one.console().unwrap().try_clone_to_owned().unwrap());
    // What is typed is echoed at once, between two letters of what is printed too: not before all that is printed.
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"1000\r\n") {
        console.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    assert_eq!(String::from_utf8_lossy(&text), "/dev/pts/0\r\n11 44\r\n1000\r\n");
    console.write_all(b"hello\n").unwrap();
    text.clear();
    // A terminal that nobody has open any more answers with an error.
    let _ = console.read_to_end(&mut text);
    assert_eq!(String::from_utf8_lossy(&text), "hello\r\n<hello>\r\n");
    assert_eq!(one.wait().unwrap().code, 4);
    first.kill(15).unwrap();
}

#[test]
fn users_of_a_namespace() {
    let container = Box::script(WAITING).with(|spec| {
        spec["linux"]["namespaces"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "user"}));
        for kind in ["uidMappings", "gidMappings"] {
            spec["linux"][kind] = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        }
    });
    // Its users own its files, and reach them.
    for path in ["", "home/user", "tmp"] {
        std::os::unix::fs::chown(container.inside(path), Some(100_000), Some(100_000)).unwrap();
    }
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(container.temp.path(), std::fs::Permissions::clone(&open)).unwrap();
    std::fs::set_permissions(container.bundle.path(), open).unwrap();
    let (first, _out) = container.ready();
    let text = exec(
        &container,
        "id -u; cat /proc/self/uid_map; readlink /proc/self/ns/user; touch /tmp/made",
    );
    let namespace = std::fs::read_link(format!("/proc/{}/ns/user", first.pid())).unwrap();
    let words: Vec<&str> = text.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536", namespace.to_str().unwrap()]);
    let made = std::fs::metadata(container.inside("tmp/made")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 100_000);
    first.kill(15).unwrap();
}

#[test]
fn many_at_once_and_long_ones() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..48)
            .map(|number| {
                let container = &container;
                scope.spawn(move || {
                    exec_with(
                        container,
                        &["sh", "-c", "echo $0; exit $0", &number.to_string()],
                        |_| {},
                    )
                })
            })
            .collect();
        for (number, one) in all.into_iter().enumerate() {
            assert_eq!(one.join().unwrap(), (format!("{number}\n"), number as u8));
        }
    });
    // Longer than a message of the protocol.
    let (text, _) = exec_with(
        &container,
        &["sh", "-c", "echo ${#LONG} ${#1}", "sh", &"x".repeat(100_000)],
        |process| {
            process["env"] = json!(["PATH=/bin", format!("LONG={}", "y".repeat(120_000))]);
        },
    );
    assert_eq!(text, "120000 100000\n");
    assert_eq!(
        exec(&container, "ps -o comm | grep -c strata-super || true"),
        "0\n"
    );
    first.kill(15).unwrap();
}

#[test]
fn without_a_supervisor_it_is_refused() {
    let container = Box::script(WAITING);
    let (mut first, _out) = container.ready();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor.pid;
    let null = null();
    let request = process(&container, &["true"], |_| {});
    kill(supervisor, 9);
    eventually("the supervisor ends", || !lives(supervisor));
    let error = begin(&container, &request, [&null, &null, &null]).unwrap_err();
    assert!(matches!(error, ExecError::NoSupervisor(_)), "{error}");
    assert!(first.wait().is_err());
    runtime::end(&container.bundle).unwrap();

    let container = Box::script("exit 0");
    container.run();
    let error = begin(&container, &request, [&null, &null, &null]).unwrap_err();
    assert!(matches!(error, ExecError::NoSupervisor(_)), "{error}");
}

#[test]
fn requests_that_mean_nothing() {
    let container = Box::script(WAITING);
    let (first, _out) = container.ready();
    let ask = |request: &Request, fds: &[std::os::fd::BorrowedFd<'_>]| {
        let connection = Connection::open(&container.bundle).unwrap();
        connection.send(request, fds).unwrap();
        match connection.receive::<Reply>().unwrap().unwrap().0 {
            Reply::Failed {
                message, code: 125, ..
            } => message,
            other => panic!("{other:?}"),
        }
    };
    let exec = Request::Exec { size: None };
    let null = null();
    let (reader, _writer) = pipe();
    let mut not_json = File::from(rustix::fs::memfd_create("x", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    not_json.write_all(b"{\"args\": 5}").unwrap();
    std::io::Seek::rewind(&mut not_json).unwrap();
    let [n, r, j] = [null.as_fd(), reader.as_fd(), not_json.as_fd()];
    assert!(ask(&exec, &[]).contains("four descriptors"));
    assert!(ask(&exec, &[n, n, n]).contains("four descriptors"));
    // A pipe would keep the supervisor waiting.
    assert!(ask(&exec, &[n, n, n, r]).contains("not in a file"));
    assert!(ask(&exec, &[n, n, n, j]).contains("the process to execute"));
    assert!(matches!(
        refused(&container, &["true"], |process| process["rlimits"] =
            json!([{"type": "RLIMIT_NOFILE", "soft": 9, "hard": 8}])),
        (125, _)
    ));
    first.kill(15).unwrap();
}
