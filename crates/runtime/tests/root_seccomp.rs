//! The default filter and others on the real kernel: a thread takes the filter and starts a program that makes one
//! system call and tells what came back. Needs root (a filter without no-new-privileges) and a C compiler.
#![cfg(target_arch = "x86_64")]

mod common;

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};

use common::Box;
use oci_spec::runtime::{Capability, LinuxSeccomp};
use serde_json::{Value, json};
use sys::seccomp::Answer;

const EPERM: i64 = -1;
const ENOSYS: i64 = -38;

/// Runs `probe` under a filter. The filter belongs to the thread and to what it starts, not to the other tests.
fn probe(seccomp: &LinuxSeccomp, directory: &Path, args: &[&str]) -> Output {
    let program = runtime::seccomp::compile(seccomp).unwrap();
    let mut command = Command::new(directory.join("probe"));
    command.args(args);
    std::thread::scope(|scope| {
        let filtered = scope.spawn(move || {
            let flags = sys::seccomp::Flags::SPEC_ALLOW;
            sys::seccomp::install(&program, flags).expect("installing a filter needs root");
            command.output().expect("the filter lets a program start")
        });
        filtered.join().unwrap()
    })
}

fn build_probe() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/probe.c");
    let built = Command::new("cc")
        .args(["-O1", "-o"])
        .arg(directory.path().join("probe"))
        .arg(source)
        .status();
    assert!(built.expect("a C compiler (package gcc)").success());
    directory
}

fn answer(output: &Output) -> i64 {
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().unwrap_or_else(|_| panic!("{output:?}"))
}

#[test]
fn the_default_filter_holds_at_every_door() {
    let directory = build_probe();
    let seccomp = runtime::seccomp::default_profile(&HashSet::new());
    let ask = |args: &str| {
        answer(&probe(
            &seccomp,
            directory.path(),
            &args.split(' ').collect::<Vec<_>>(),
        ))
    };
    for (call, expected) in [
        ("native 165", EPERM),                 // mount
        ("native 272 0x10000000", EPERM),      // unshare(CLONE_NEWUSER)
        ("native 308 0 0", EPERM),             // setns
        ("native 250 0", EPERM),               // keyctl
        ("native 425 1", EPERM),               // io_uring_setup
        ("native 155", EPERM),                 // pivot_root
        ("native 56 0x10000011", EPERM),       // clone(CLONE_NEWUSER | SIGCHLD)
        ("native 56 0x00020011", EPERM),       // clone(CLONE_NEWNS | SIGCHLD)
        ("native 435 0 0", ENOSYS),            // clone3
        ("native 999", ENOSYS),                // no call
        ("native 41 38 5 0", ENOSYS),          // socket(AF_ALG)
        ("native 41 40 1 0", ENOSYS),          // socket(AF_VSOCK)
        ("native 41 0x100000028 1 0", ENOSYS), // socket(AF_VSOCK), dressed up
        ("native 41 16 3 9", -22),             // socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT)
        ("native 135 0x40000", EPERM),         // personality(ADDR_NO_RANDOMIZE)
        ("i386 21", EPERM),                    // mount
        ("i386 310 0x10000000", EPERM),        // unshare
        ("i386 435 0 0", ENOSYS),              // clone3
        ("i386 359 38 5 0", ENOSYS),           // socket(AF_ALG)
        ("i386 102 1 0", ENOSYS),              // socketcall(SYS_SOCKET)
        ("x32 165", EPERM),                    // mount
        ("x32 435", ENOSYS),                   // clone3
    ] {
        assert_eq!(ask(call), expected, "{call}");
    }
    for call in [
        "native 39",             // getpid
        "native 41 1 1 0",       // socket(AF_UNIX)
        "native 41 2 1 0",       // socket(AF_INET)
        "native 41 16 3 0",      // socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE)
        "native 135 0xffffffff", // personality, asking
        "i386 20",               // getpid
        "i386 359 1 1 0",        // socket(AF_UNIX)
    ] {
        assert!(ask(call) >= 0, "{call}: {}", ask(call));
    }
}

#[test]
fn a_capability_opens_its_calls() {
    let directory = build_probe();
    let capabilities: HashSet<Capability> = [Capability::SysAdmin].into();
    let seccomp = runtime::seccomp::default_profile(&capabilities);
    let ask = |args: &[&str]| answer(&probe(&seccomp, directory.path(), args));
    assert_eq!(
        ask(&["native", "165"]),
        -14,
        "mount reaches the kernel, which finds no paths"
    );
    assert_eq!(
        ask(&["native", "435", "0", "0"]),
        -22,
        "clone3 reaches the kernel"
    );
    assert_eq!(ask(&["native", "250", "0"]), EPERM);
}

#[test]
fn a_door_that_the_profile_does_not_list_kills() {
    let directory = build_probe();
    let text =
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"], "syscalls": []}"#;
    let seccomp: LinuxSeccomp = serde_json::from_str(text).unwrap();
    assert!(answer(&probe(&seccomp, directory.path(), &["native", "39"])) > 0);
    for args in [["i386", "20"], ["x32", "39"]] {
        let output = probe(&seccomp, directory.path(), &args);
        assert_eq!(
            output.status.signal(),
            Some(31),
            "SIGSYS for {args:?}: {output:?}"
        );
    }
}

/// A filter that asks an agent, of a container with a supervisor.
#[test]
fn an_agent_answers_for_the_kernel() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("agent");
    let socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let agent = std::thread::spawn(move || {
        let (connection, _) = socket.accept().unwrap();
        let message = sys::socket::receive(connection.as_fd(), 1 << 16)
            .unwrap()
            .unwrap();
        let call = sys::seccomp::next_call(message.fds[0].as_fd()).unwrap();
        sys::seccomp::answer(message.fds[0].as_fd(), call, Answer::Fails(123)).unwrap();
        serde_json::from_slice::<Value>(&message.bytes).unwrap()
    });
    let container = Box::script("mkdir /made 2>&1").with(|spec| {
        spec["linux"]["seccomp"] = json!({
            "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path,
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
        });
    });
    let outcome = container.run();
    assert!(outcome.stdout.ends_with("No medium found\n"), "{outcome:?}");
    let words = agent.join().unwrap();
    assert_eq!(words["state"]["id"], container.bundle.id());
    assert_eq!(words["state"]["status"], "creating");
    assert_eq!(words["pid"], words["state"]["pid"]);
    // The init process would have a filter, and a listener, of its own.
    let error = container
        .with(|spec| spec["annotations"] = json!({"strata.init": "true"}))
        .try_run();
    assert!(error.unwrap_err().to_string().contains("--init"));
}

#[test]
fn comparisons_see_sixty_four_bits() {
    let directory = build_probe();
    // getpgid(pid) is withheld for exactly one 64-bit value.
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["getpgid"], "action": "SCMP_ACT_ERRNO",
        "errnoRet": 77, "args": [{"index": 0, "value": 4294967296, "op": "SCMP_CMP_EQ"}]}]}"#;
    let seccomp: LinuxSeccomp = serde_json::from_str(text).unwrap();
    assert_eq!(
        answer(&probe(
            &seccomp,
            directory.path(),
            &["native", "121", "0x100000000"]
        )),
        -77
    );
    assert!(answer(&probe(&seccomp, directory.path(), &["native", "121", "0"])) >= 0);
}
