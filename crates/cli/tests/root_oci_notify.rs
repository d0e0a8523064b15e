//! Filters that ask an agent (`SCMP_ACT_NOTIFY`): the listener and the state of the process come over the socket that the
//! configuration names, from runc, the reference, and from `strata oci`; and what is answered is what the program sees.

#[path = "common/oci.rs"]
mod oci;

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};

use oci::{Runtime, each, wait_until};
use serde_json::{Value, json};
use sys::seccomp::Answer;

/// ENOMEDIUM: nothing else in a container fails so.
const NO_MEDIUM: i32 = 123;

/// Waits at a socket, and answers what the filters of those who come ask: directories cannot be made, the rest goes on.
fn agent(path: &str) -> Receiver<Value> {
    let socket = UnixListener::bind(path).unwrap();
    let (tell, told) = channel();
    std::thread::spawn(move || {
        for connection in socket.incoming() {
            let message = sys::socket::receive(connection.unwrap().as_fd(), 1 << 16)
                .unwrap()
                .unwrap();
            let [listener] = <[OwnedFd; 1]>::try_from(message.fds).unwrap();
            std::thread::spawn(move || serve(&listener));
            if tell
                .send(serde_json::from_slice(&message.bytes).unwrap())
                .is_err()
            {
                return;
            }
        }
    });
    told
}

fn serve(listener: &OwnedFd) {
    while let Ok(call) = sys::seccomp::next_call(listener.as_fd()) {
        let answer = match call.number {
            // mkdir and mkdirat, of x86_64 and of aarch64.
            83 | 258 if cfg!(target_arch = "x86_64") => Answer::Fails(NO_MEDIUM),
            34 if cfg!(target_arch = "aarch64") => Answer::Fails(NO_MEDIUM),
            _ => Answer::Continues,
        };
        // Whoever asked may be gone.
        let _ = sys::seccomp::answer(listener.as_fd(), call, answer);
    }
}

fn ask(runtime: &Runtime, names: &[&str]) -> String {
    let path = runtime.path("agent.sock");
    runtime.configure(|spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "listenerPath": path,
            "listenerMetadata": "of the test",
            "syscalls": [{"names": names, "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    path
}

const TRY: &str = "mkdir /made 2>&1; [ -e /made ] || echo none";

#[test]
fn the_agent_has_the_listener_and_answers() {
    each(|runtime| {
        let told = agent(&ask(runtime, &["mkdir", "mkdirat"]));
        runtime.args(&["sh", "-c", &format!("({TRY}) > /said; exec sleep 1000")]);
        runtime.ok(&["create", "one"]);
        let pid = runtime.state("one")["pid"].clone();
        runtime.ok(&["start", "one"]);
        let words = told.recv().unwrap();
        assert_eq!(words["fds"], json!(["seccompFd"]));
        assert_eq!(words["metadata"], "of the test");
        assert_eq!(words["pid"], pid);
        assert_eq!(words["state"]["id"], "one");
        assert_eq!(words["state"]["pid"], pid);
        assert_eq!(words["state"]["bundle"].as_str(), runtime.dir().to_str());
        assert_eq!(words["state"]["annotations"]["org.example.key"], "value");
        assert!(words["ociVersion"].as_str().unwrap().starts_with("1."));
        let said = runtime.dir().join("rootfs/said");
        let refused = "mkdir: can't create directory '/made': No medium found\nnone\n";
        wait_until(|| std::fs::read_to_string(&said).is_ok_and(|text| text.ends_with("none\n")));
        assert_eq!(std::fs::read_to_string(&said).unwrap(), refused);

        // One that comes later has a filter, and a listener, of its own.
        assert_eq!(runtime.ok(&["exec", "one", "sh", "-c", TRY]), refused);
        let words = told.recv().unwrap();
        assert_eq!(words["state"]["status"], "running");
        assert_eq!(words["state"]["pid"], pid);
        assert_ne!(words["pid"], pid);
        runtime.ok(&["delete", "--force", "one"]);
    });
}

/// Whatever a process does between its filter and its program may be asked about, what it would tell of the listener with
/// too. runc refuses some of these.
#[test]
fn nothing_of_its_own_needs_a_call_that_is_asked_about() {
    let runtime = Runtime::ours();
    let told = agent(&ask(
        &runtime,
        &[
            "capset",
            "close",
            "execve",
            "futex",
            "mkdir",
            "mkdirat",
            "mmap",
            "munmap",
            "prctl",
            "read",
            "rt_sigprocmask",
            "sched_yield",
            "sendmsg",
            "write",
            "writev",
        ],
    ));
    for no_new_privileges in [false, true] {
        runtime.configure(|spec| spec["process"]["noNewPrivileges"] = json!(no_new_privileges));
        runtime.args(&["sh", "-c", "mkdir /made; echo ran"]);
        assert_eq!(runtime.ok(&["run", "one"]), "ran\n");
        assert_eq!(told.recv().unwrap()["state"]["id"], "one");
    }
    runtime.args(&["sleep", "1000"]);
    runtime.start_in_the_background("one");
    assert_eq!(runtime.ok(&["exec", "one", "echo", "ran"]), "ran\n");
    // A program that is not there is told by a process that has its filter already.
    assert_eq!(runtime.end(&["exec", "one", "/nosuch"]).code, 255);
    runtime.ok(&["delete", "--force", "one"]);
}

#[test]
fn without_an_agent_nothing_begins() {
    let runtime = Runtime::ours();
    let path = ask(&runtime, &["mkdir"]);
    runtime.args(&["sleep", "1000"]);
    runtime.ok(&["create", "one"]);
    runtime.refused(&["start", "one"], &path);
    wait_until(|| runtime.status("one") == "stopped");
    runtime.ok(&["delete", "one"]);
    runtime.configure(|spec| spec["linux"]["seccomp"]["listenerPath"] = Value::Null);
    runtime.refused(&["create", "one"], "needs linux.seccomp.listenerPath");
    assert_eq!(runtime.ok(&["list", "-q"]), "");
}
