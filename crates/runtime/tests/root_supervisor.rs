//! The supervisor: what it records, whom it answers, and whose death it survives.

mod common;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use runtime::bundle::Bundle;
use runtime::control::{Connection, Reply, Request, Restart};
use runtime::state::{self, KillError, Status};
use serde_json::{Value, json};

#[test]
fn from_running_to_exited() {
    let container = Box::script(WAITING);
    assert_eq!(state::read(&container.bundle).unwrap(), Status::Created);
    let (mut running, mut stdout) = container.ready();
    let Status::Running { pid, started } = state::read(&container.bundle).unwrap() else {
        panic!()
    };
    assert_eq!(pid, running.pid());
    let now = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_nanos() as u64
    };
    assert!(now() - started < 10_000_000_000);
    let state = state::load(&container.bundle).unwrap().unwrap();
    let name = std::fs::read_to_string(format!("/proc/{}/comm", state.supervisor.pid)).unwrap();
    assert_eq!(name, "strata-super\n");

    state::kill(&container.bundle, libc::SIGUSR1).unwrap();
    let mut text = [0; 4];
    stdout.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"usr\n");
    running.kill(libc::SIGTERM).unwrap();
    let exit = running.wait().unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom), (3, None, false));
    assert!(now() - exit.at < 10_000_000_000 && exit.at > started);
    assert_eq!(
        state::read(&container.bundle).unwrap(),
        Status::Exited(exit.clone())
    );
    assert_eq!(running.wait().unwrap(), exit, "told again");
    running.finish().unwrap();
    assert!(!lives(state.supervisor.pid));
    assert!(!container.bundle.path().join("control.sock").exists());
    assert!(matches!(
        state::kill(&container.bundle, 0),
        Err(KillError::NotRunning(_))
    ));
}

#[test]
fn signals_to_the_supervisor_reach_the_container() {
    let container = Box::script(WAITING);
    let (mut running, _stdout) = container.ready();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor.pid;
    kill(supervisor, libc::SIGTERM);
    assert_eq!(running.wait().unwrap().code, 3);
    running.finish().unwrap();
}

#[test]
fn it_is_ended_as_it_wants_to_be_when_its_supervisor_is_to_end() {
    let by = |script: &str, annotations: Value| {
        let container = Box::script(script).with(|spec| spec["annotations"] = annotations);
        let (mut running, _stdout) = container.ready();
        let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor.pid;
        let begun = Instant::now();
        kill(supervisor, libc::SIGTERM);
        let code = running.wait().unwrap().code;
        running.finish().unwrap();
        (code, begun.elapsed())
    };
    // By its own signal.
    let heeds = "trap '' TERM; trap 'exit 4' USR1; echo ready; while :; do sleep 0.05; done";
    let signal = json!({"org.opencontainers.image.stopSignal": "SIGUSR1"});
    assert_eq!(by(heeds, signal).0, 4);
    // Not for ever.
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let (code, took) = by(deaf, json!({"strata.stop-timeout": "1"}));
    assert_eq!(code, 137);
    assert!(
        took >= Duration::from_secs(1) && took < Duration::from_secs(8),
        "{took:?}"
    );
}

#[test]
fn many_are_answered_at_once() {
    let container = Box::script(WAITING);
    let (running, _stdout) = container.ready();
    let bundle = Bundle::open(container.bundle.path()).unwrap();
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let connection = Connection::open(&bundle).unwrap();
            connection.send(&Request::Wait, &[]).unwrap();
            connection
        })
        .collect();
    let other = Connection::open(&bundle).unwrap();
    let ask = |request: &Request| {
        other.send(request, &[]).unwrap();
        other.receive::<Reply>().unwrap().unwrap().0
    };
    assert!(matches!(ask(&Request::Kill { signal: 0 }), Reply::Done));
    assert!(matches!(
        ask(&Request::Kill { signal: 1000 }),
        Reply::Error { .. }
    ));
    assert!(matches!(
        ask(&Request::Resize { rows: 1, columns: 1 }),
        Reply::Error { .. }
    ));
    other.send(&json!({"dance": {}}), &[]).unwrap();
    assert!(matches!(
        other.receive::<Reply>().unwrap().unwrap().0,
        Reply::Error { .. }
    ));
    let start = Request::Start {
        size: None,
        runtime: None,
        cleanup: Vec::new(),
        about: Default::default(),
        health: false,
        pidfile: None,
        hold: None,
        restart: Restart::No,
    };
    assert!(matches!(ask(&start), Reply::Error { .. }));
    assert!(matches!(
        ask(&Request::Kill {
            signal: libc::SIGKILL
        }),
        Reply::Done
    ));
    for connection in waiting {
        let Some((Reply::Exited(exit), _)) = connection.receive::<Reply>().unwrap() else {
            panic!()
        };
        assert_eq!((exit.code, exit.signal), (137, Some(9)));
    }
    running.finish().unwrap();
}

#[test]
fn a_client_that_does_not_read_holds_nobody_up() {
    let container = Box::script(WAITING);
    let (mut running, _stdout) = container.ready();
    let bundle = Bundle::open(container.bundle.path()).unwrap();
    let deaf = Connection::open(&bundle).unwrap();
    rustix::io::ioctl_fionbio(&deaf, true).unwrap();
    for _ in 0..5000 {
        if deaf.send(&Request::Kill { signal: 0 }, &[]).is_err() {
            break;
        }
    }
    running.kill(libc::SIGKILL).unwrap();
    assert_eq!(running.wait().unwrap().signal, Some(9));
    running.finish().unwrap();
}

/// This test binary again, as a process that starts a container and then waits to be killed.
#[test]
fn caller_to_be_killed() {
    let Ok(bundle) = std::env::var("STRATA_TEST_BUNDLE") else {
        return;
    };
    let marker = std::env::var_os("STRATA_TEST_MARKER").unwrap();
    let streams: [OwnedFd; 3] = [
        null(),
        File::create(Path::new(&bundle).join("stdout")).unwrap().into(),
        null(),
    ];
    let mut running = runtime::start(&runtime::StartRequest {
        keep: &[],
        streams: runtime::Streams::Given(streams.each_ref().map(AsFd::as_fd)),
        restart: Restart::No,
        cleanup: vec!["/bin/touch".into(), marker],
        about: Default::default(),
        health: false,
        ..order(Path::new(&bundle), &helper(), &streams[0])
    })
    .unwrap();
    File::create(Path::new(&bundle).join("started")).unwrap();
    running.wait().unwrap();
}

fn started_by_another_process(container: &Box, marker: &Path) -> std::process::Child {
    container.write_spec();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "caller_to_be_killed"])
        .env("STRATA_TEST_BUNDLE", container.bundle.path())
        .env("STRATA_TEST_MARKER", marker)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn the_death_of_the_caller() {
    let container = Box::script(WAITING);
    let marker = container.temp.path().join("cleaned-up");
    let mut caller = started_by_another_process(&container, &marker);
    let started = container.bundle.path().join("started");
    eventually("the other process starts it", || started.exists());
    caller.kill().unwrap();
    caller.wait().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    let Status::Running { pid, .. } = state::read(&container.bundle).unwrap() else {
        panic!("it died with it")
    };
    assert!(lives(pid));
    let connection = Connection::open(&container.bundle).unwrap();
    connection.send(&Request::Wait, &[]).unwrap();
    assert!(!marker.exists());
    state::kill(&container.bundle, libc::SIGTERM).unwrap();
    let Some((Reply::Exited(exit), _)) = connection.receive::<Reply>().unwrap() else {
        panic!()
    };
    assert_eq!(exit.code, 3);
    // The promise to clean up is kept by the supervisor.
    eventually("the clean-up command runs", || marker.exists());
}

#[test]
fn it_stands_still_as_long_as_somebody_wants_it() {
    let container = Box::script(WAITING);
    let (_running, _stdout) = container.ready();
    let paused = || matches!(state::read(&container.bundle), Ok(Status::Paused { .. }));
    let asking = || {
        let connection = Connection::open(&container.bundle).unwrap();
        connection.send(&Request::Pause, &[]).unwrap();
        assert!(matches!(connection.receive().unwrap(), Some((Reply::Done, _))));
        connection
    };
    let (one, other) = (asking(), asking());
    eventually("it stands still", paused);
    drop(one);
    std::thread::sleep(Duration::from_millis(50));
    assert!(paused(), "another wants it still");
    // It was killed, say.
    drop(other);
    eventually("it goes on", || !paused());

    let looking = runtime::pause(&container.bundle).unwrap().unwrap();
    assert!(paused());
    drop(looking);
    assert!(!paused());
    let _looking = runtime::pause(&container.bundle).unwrap();
    // One that stands still is ended all the same.
    state::kill(&container.bundle, libc::SIGKILL).unwrap();
    eventually("it ends", || {
        !matches!(
            state::read(&container.bundle),
            Ok(Status::Paused { .. } | Status::Running { .. })
        )
    });
}

#[test]
fn a_caller_that_stays_cleans_up_itself() {
    let container = Box::new();
    let marker = container.temp.path().join("cleaned-up");
    let null = null();
    let cleanup = vec!["/bin/touch".into(), marker.clone().into()];
    let mut running = container.start_with([&null, &null, &null], cleanup).unwrap();
    running.wait().unwrap();
    running.finish().unwrap();
    assert!(!marker.exists());
}

#[test]
fn the_death_of_the_supervisor() {
    let container = Box::script(WAITING);
    let (mut running, _stdout) = container.ready();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor.pid;
    let pid = running.pid();
    kill(supervisor, libc::SIGKILL);
    assert!(running.wait().is_err());
    // The container lives on and is found.
    assert!(matches!(
        state::read(&container.bundle).unwrap(),
        Status::Running { .. }
    ));
    assert!(lives(pid));
    let error = Connection::open(&container.bundle).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    let cgroup = state::load(&container.bundle)
        .unwrap()
        .unwrap()
        .cgroups
        .unified
        .unwrap();
    assert!(cgroup.is_dir());
    runtime::end(&container.bundle).unwrap();
    assert!(!lives(pid) && !cgroup.exists());
    assert_eq!(state::read(&container.bundle).unwrap(), Status::Lost);
    runtime::end(&container.bundle).unwrap();
    running.finish().unwrap();
}

#[test]
fn ending_it_by_force() {
    let container = Box::script("trap '' TERM INT; sleep 100");
    runtime::end(&container.bundle).unwrap();
    let mut running = container.start_quiet().unwrap();
    let state = state::load(&container.bundle).unwrap().unwrap();
    runtime::end(&container.bundle).unwrap();
    let Status::Exited(exit) = state::read(&container.bundle).unwrap() else {
        panic!()
    };
    assert_eq!(exit.signal, Some(9));
    assert!(!lives(state.process.pid) && !state.cgroups.unified.unwrap().exists());
    assert_eq!(running.wait().unwrap(), exit);
    running.finish().unwrap();
}

#[test]
fn what_it_leaves_running_ends_with_it() {
    let container = Box::script("sleep 100 & echo $!").with(|spec| {
        let namespaces = spec["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "pid");
    });
    let pid = container.output().trim().parse().unwrap();
    assert!(!lives(pid));
}

#[test]
fn a_caller_that_dies_during_the_start() {
    let container = Box::script("exec sleep 100").with(|spec| {
        spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1"]}]});
    });
    let marker = container.temp.path().join("cleaned-up");
    let mut caller = started_by_another_process(&container, &marker);
    eventually("the supervisor makes the process", || {
        state::load(&container.bundle).unwrap().is_some()
    });
    let state = state::load(&container.bundle).unwrap().unwrap();
    caller.kill().unwrap();
    caller.wait().unwrap();
    eventually("nothing of it is left", || {
        !lives(state.process.pid) && !lives(state.supervisor.pid)
    });
    eventually("the clean-up command runs", || marker.exists());
    assert_eq!(state::read(&container.bundle).unwrap(), Status::Created);
}

#[test]
fn the_program_on_disk_cannot_be_reached() {
    // CVE-2019-5736: the container's first process before its exec, and a privileged one that looks for it.
    let container = Box::script("exec sleep 100");
    let null = null();
    let mut running = container.start([&null, &null, &null]).unwrap();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor.pid;
    let exe = format!("/proc/{supervisor}/exe");
    let error = File::options().write(true).open(&exe).unwrap_err();
    assert!(
        matches!(error.raw_os_error(), Some(libc::EROFS | libc::ETXTBSY)),
        "{error}"
    );
    let status = rustix::fs::statvfs(&exe).unwrap();
    assert!(status.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    running.kill(libc::SIGKILL).unwrap();
    running.wait().unwrap();
    running.finish().unwrap();
}

#[test]
fn a_broken_bundle_is_told() {
    let container = Box::new();
    let (helper, null) = (helper(), null());
    let start = || runtime::start(&order(container.bundle.path(), &helper, &null));
    let error = start().unwrap_err().to_string();
    assert!(error.contains("config.json"), "{error}");
    container
        .bundle
        .write("config.json", b"{\"ociVersion\": 7", 0o600)
        .unwrap();
    let error = start().unwrap_err().to_string();
    assert!(
        error.contains("config.json") && error.contains("line 1"),
        "{error}"
    );
    container
        .bundle
        .write("strata.json", br#"{"version":1,"incompat":["flying"]}"#, 0o600)
        .unwrap();
    let error = start().unwrap_err().to_string();
    assert!(error.contains("flying"), "{error}");
}

#[test]
fn a_bad_helper_is_told() {
    let container = Box::new();
    container.write_spec();
    let null = null();
    for (program, says) in [
        ("/no/such/program", "/no/such/program"),
        ("/bin/true", "did not answer"),
    ] {
        let helper = runtime::Helper {
            program: program.into(),
            args: Vec::new(),
        };
        let error = runtime::start(&order(container.bundle.path(), &helper, &null)).unwrap_err();
        assert_eq!(error.exit_code(), 125);
        assert!(error.to_string().contains(says), "{error}");
    }
}

#[test]
fn a_hundred_at_once() {
    let containers: Vec<_> = (0..100)
        .map(|number| Box::script(&format!("exit {}", number % 50)))
        .collect();
    let null = null();
    let running: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = containers
            .chunks(10)
            .map(|chunk| {
                let null = &null;
                scope.spawn(move || {
                    chunk
                        .iter()
                        .map(|one| one.start([null, null, null]).unwrap())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    for (number, mut running) in running.into_iter().enumerate() {
        assert_eq!(usize::from(running.wait().unwrap().code), number % 50);
        running.finish().unwrap();
    }
}

#[test]
fn pipes_end_with_the_container() {
    // The supervisor keeps no end of them: a reader sees the end as soon as the program has gone.
    let container = Box::script("exec >&- 2>&-; sleep 100");
    let (stdout, out) = pipe();
    let mut running = container.start([&null(), &out, &null()]).unwrap();
    drop(out);
    let mut text = String::new();
    File::from(stdout).read_to_string(&mut text).unwrap();
    assert_eq!(text, "");
    running.kill(libc::SIGKILL).unwrap();
    running.wait().unwrap();
    running.finish().unwrap();
}

#[test]
fn what_the_caller_has_open_is_not_kept() {
    let container = Box::script("sleep 100");
    // Without close-on-exec, as a shell's `9<file` is.
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut running = container.start_quiet().unwrap();
    let supervisor = state::load(&container.bundle).unwrap().unwrap().supervisor.pid;
    let pipe = std::fs::read_link(format!(
        "/proc/self/fd/{}",
        std::os::fd::AsRawFd::as_raw_fd(&reader)
    ))
    .unwrap();
    for pid in [supervisor, running.pid()] {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            assert_ne!(
                std::fs::read_link(entry.unwrap().path()).unwrap_or_default(),
                pipe
            );
        }
    }
    drop(writer);
    running.kill(libc::SIGKILL).unwrap();
    running.wait().unwrap();
    running.finish().unwrap();
}

#[test]
fn again_and_only_one_at_a_time() {
    let container = Box::script("echo ready; read -r code; exit $code");
    for code in 1..4 {
        let (stdout, out) = pipe();
        let (input, stdin) = pipe();
        let mut running = container.start([&input, &out, &null()]).unwrap();
        File::from(stdout).read_exact(&mut [0; 6]).unwrap();
        // While it runs, it cannot be started.
        let error = container.start_quiet().unwrap_err();
        assert!(error.to_string().contains("already"), "{error}");
        assert!(matches!(
            state::read(&container.bundle).unwrap(),
            Status::Running { .. }
        ));
        rustix::io::write(&stdin, format!("{code}\n").as_bytes()).unwrap();
        assert_eq!(running.wait().unwrap().code, code);
        running.finish().unwrap();
    }
    // Nor while it runs without its supervisor.
    let (input, stdin) = pipe();
    let running = container.start([&input, &null(), &null()]).unwrap();
    kill(
        state::load(&container.bundle).unwrap().unwrap().supervisor.pid,
        libc::SIGKILL,
    );
    running.finish().unwrap();
    let error = container.start_quiet().unwrap_err();
    assert!(error.to_string().contains("running already"), "{error}");
    drop(stdin);
    runtime::end(&container.bundle).unwrap();
}

#[test]
fn a_start_that_is_interrupted() {
    let container = Box::script("exec sleep 100").with(|spec| {
        spec["hooks"] = json!({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1"]}]});
    });
    container.write_spec();
    let mut program = container.foreground().stderr(Stdio::piped()).spawn().unwrap();
    eventually("the supervisor makes the process", || {
        state::load(&container.bundle).unwrap().is_some()
    });
    kill(program.id().try_into().unwrap(), libc::SIGTERM);
    let mut said = String::new();
    program.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(program.wait().unwrap().code(), Some(125));
    assert!(said.contains("interrupted"), "{said}");
    assert_eq!(state::read(&container.bundle).unwrap(), Status::Created);
}

#[test]
fn memory_that_is_not_there() {
    let container = Box::new().with(|spec| {
        spec["linux"]["resources"] = json!({"memory": {"limit": 16 << 20, "swap": 16 << 20}});
        spec["process"]["args"] = json!(["/bin/dd", "if=/dev/zero", "of=/dev/shm/x", "bs=1M", "count=60"]);
    });
    let outcome = container.run();
    assert_eq!(
        (outcome.exit.code, outcome.exit.signal, outcome.exit.oom),
        (137, Some(9), true),
        "{outcome:?}"
    );
}
