//! `strata serve snapshotter` as a server: its socket, systemd, what is counted, and what a kill leaves.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Barrier;
use std::time::Duration;

use snapshotter::wire;
use testkit::Strata;
use testkit::snapshots::{Remote, Served};
use testkit::snapshotter::Snapshotter;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");

fn keys(remote: &Remote) -> Vec<String> {
    let infos = remote.list(&[]).unwrap();
    infos.into_iter().map(|info| info.key).collect()
}

#[test]
fn socket_and_store_are_one_servers() {
    let strata = Strata::new(PROGRAM);
    let mut served = Served::start(&strata, &[]);
    let found = fs::metadata(&served.socket).unwrap();
    assert!(found.file_type().is_socket());
    assert_eq!(found.permissions().mode() & 0o777, 0o600);
    let socket = served.socket.to_str().unwrap().to_owned();
    let second = strata.end(["serve", "snapshotter", "--address", &socket]);
    assert_eq!(second.code, 125);
    assert!(
        second.err.contains("is served by another process") && second.err.contains("hint:"),
        "{}",
        second.err
    );
    assert_eq!(served.client("a").list(&[]).unwrap(), []);
    // At another socket as well: what one containerd knows is garbage to the other.
    let other = strata.dir().join("other.sock");
    let second = strata.end(["serve", "snapshotter", "--address", other.to_str().unwrap()]);
    assert_eq!(second.code, 125);
    assert!(
        second.err.contains(" is served by another process\n")
            && second.err.contains("hint: stop the other one"),
        "{}",
        second.err
    );
    assert!(!other.exists());
    served.kill();
    assert!(served.socket.exists());
    let mut next = Served::start(&strata, &[]);
    assert_eq!(next.stop(), 0);
    assert!(!next.socket.exists());
    let refused = strata.end(["serve", "snapshotter", "--mount-options", "upperdir=/etc"]);
    assert!(refused.err.contains("upperdir=/etc"), "{}", refused.err);
}

/// A server as the manager starts it: the socket is descriptor 3, and the process that is named is the one that is executed.
fn started(strata: &Strata, notes: &Path, listener: UnixListener, flags: &[&str]) -> Child {
    let program = strata.command([&["serve", "snapshotter"], flags].concat());
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\" 3<&0 0</dev/null",
        "sh",
    ]);
    shell.arg(program.get_program()).args(program.get_args());
    shell.envs(
        program
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    shell
        .env("NOTIFY_SOCKET", notes)
        .stdin(std::os::fd::OwnedFd::from(listener));
    shell.spawn().unwrap()
}

/// What the manager is told next.
fn heard(notes: &UnixDatagram) -> String {
    let mut text = [0; 64];
    notes.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let length = notes.recv(&mut text).unwrap();
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// It may take longer than the manager waits for the end of a service, and longer than `--timeout`.
#[test]
fn a_commit_under_way_is_finished_and_the_manager_is_asked_for_the_time() {
    let strata = Strata::new(PROGRAM);
    let (socket, notes) = (strata.dir().join("passed.sock"), strata.dir().join("notify"));
    let hears = UnixDatagram::bind(&notes).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut child = started(
        &strata,
        &notes,
        listener.try_clone().unwrap(),
        &["--timeout", "5"],
    );
    assert_eq!(heard(&hears), "READY=1");
    let remote = Remote::new(&socket, "k8s.io");
    remote.prepare("work", None, &Default::default()).unwrap();
    // Somebody writes for so long, as a disk that is slow would have it.
    let db = rusqlite::Connection::open(strata.root().join("metadata.db")).unwrap();
    db.execute_batch("BEGIN IMMEDIATE").unwrap();
    let committing = std::thread::spawn(move || remote.commit("done", "work", &Default::default(), None));
    let locked = strata.root().join("snapshots/1");
    testkit::eventually("it commits", || {
        let dir = fs::File::open(&locked).unwrap();
        rustix::fs::flock(&dir, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
    });
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(heard(&hears), "STOPPING=1");
    // One a second, for longer than a call that does not take its time may.
    for _ in 0..6 {
        assert_eq!(heard(&hears), "EXTEND_TIMEOUT_USEC=15000000");
    }
    db.execute_batch("ROLLBACK").unwrap();
    committing.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    let mut child = started(&strata, &notes, listener, &[]);
    assert_eq!(keys(&Remote::new(&socket, "k8s.io")), ["done"]);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn systemd_opens_the_socket_and_hears_when_it_is_served() {
    let strata = Strata::new(PROGRAM);
    let (socket, notes) = (strata.dir().join("passed.sock"), strata.dir().join("notify"));
    let hears = UnixDatagram::bind(&notes).unwrap();
    let hear = || heard(&hears);
    let listener = UnixListener::bind(&socket).unwrap();
    let mut child = started(&strata, &notes, listener, &[]);
    assert_eq!(hear(), "READY=1");
    let remote = Remote::new(&socket, "k8s.io");
    remote.prepare("one", None, &Default::default()).unwrap();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(hear(), "STOPPING=1");
    assert!(child.wait().unwrap().success());
    assert!(socket.exists(), "it is the manager's");
}

#[test]
fn metrics_and_health_are_told_where_that_is_asked() {
    let strata = Strata::new(PROGRAM);
    // A port that was free a moment ago: another may take it meanwhile, and then another is tried.
    let (served, address) = (0..20)
        .find_map(|_| {
            let free = std::net::TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .to_string();
            let start = || Served::start(&strata, &["--metrics", &free]);
            let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(start)).ok()?;
            Some((served, free))
        })
        .unwrap();
    let get = |path: &str| {
        let mut connection = std::net::TcpStream::connect(&address).unwrap();
        write!(connection, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        text
    };
    let remote = served.client("k8s.io");
    remote.prepare("one", None, &Default::default()).unwrap();
    let _ = remote.stat("nobody");
    assert!(get("/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get("/").starts_with("HTTP/1.1 404"));
    // Counted right after the answer.
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let text = get("/metrics");
        let lines = [
            "strata_snapshotter_calls_total{method=\"Prepare\",code=\"OK\"} 1",
            "strata_snapshotter_calls_total{method=\"Stat\",code=\"NOT_FOUND\"} 1",
            "strata_store_objects{kind=\"snapshots\"} 1",
        ];
        if lines.iter().all(|line| text.lines().any(|found| found == *line)) {
            break;
        }
        assert!(std::time::Instant::now() < end, "{text}");
    }
}

#[test]
fn a_server_that_is_killed_at_any_moment_loses_nothing_that_it_answered() {
    let strata = Strata::new(PROGRAM);
    let mut served = Served::start(&strata, &[]);
    for round in 0..6 {
        let (begun, socket) = (Barrier::new(4), served.socket.clone());
        let answered: Vec<Vec<(String, bool)>> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..3)
                .map(|client| {
                    let (begun, socket) = (&begun, &socket);
                    scope.spawn(move || {
                        let remote = Remote::new(socket, "k8s.io");
                        let mut answered = Vec::new();
                        begun.wait();
                        // Until the server is gone.
                        for n in 0.. {
                            let key = format!("k8s.io/{round}{client}{n}/x");
                            let request = wire::PrepareRequest {
                                key: key.clone(),
                                ..wire::PrepareRequest::default()
                            };
                            if remote.call("Prepare", &request).is_err() {
                                break;
                            }
                            answered.push((key.clone(), true));
                            if n % 3 == 0 {
                                let request = wire::KeyRequest {
                                    key: key.clone(),
                                    ..wire::KeyRequest::default()
                                };
                                // Of a removal that was not answered, nothing is known.
                                answered.pop();
                                if remote.call("Remove", &request).is_err() {
                                    break;
                                }
                                answered.push((key, false));
                            }
                        }
                        answered
                    })
                })
                .collect();
            begun.wait();
            std::thread::sleep(Duration::from_millis(20 + 30 * round));
            served.kill();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        served = Served::start(&strata, &[]);
        let there = keys(&served.client("k8s.io"));
        for (key, is) in answered.iter().flatten() {
            assert_eq!(there.contains(key), *is, "{key}");
        }
        // What was not answered can be done again.
        served.client("k8s.io").cleanup().unwrap();
    }
    let told = strata.end(["fsck"]);
    assert_eq!(told.code, 0, "{}{}", told.out, told.err);
}
