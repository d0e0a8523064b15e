//! Where io_uring is withheld or refused, a mount of ours is served by the device as before, though the kernel's switch is on.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sys::seccomp::{self, Flags, Instruction, Program};
use testkit::contract::driver::with_io_uring;

/// System calls, by the number that they have on every machine.
const SETUP: u32 = 425;
const ENTER: u32 = 426;
const REGISTER: u32 = 427;

/// A filter that answers EPERM to one call, and lets all others pass.
fn without(call: u32) -> Program {
    let instruction = |code, jump_true, jump_false, k| Instruction {
        code,
        jump_true,
        jump_false,
        k,
    };
    // The number; is it this one; then an errno, else as it is.
    Program::new(vec![
        instruction(0x20, 0, 0, 0),
        instruction(0x15, 0, 1, call),
        instruction(0x06, 0, 0, 0x0005_0000 | 1),
        instruction(0x06, 0, 0, 0x7fff_0000),
    ])
    .unwrap()
}

/// Mounts with a filter, or without; what the program says of it. The mount must work.
fn mounted(filter: Option<Program>) -> String {
    let place = tempfile::tempdir().unwrap();
    for name in ["low", "up", "work", "mnt"] {
        std::fs::create_dir(place.path().join(name)).unwrap();
    }
    std::fs::write(place.path().join("low/f"), "low").unwrap();
    // The filter is the thread's, and its children's.
    let start = || {
        if let Some(filter) = &filter {
            seccomp::install(filter, Flags::default()).expect("root may install a filter");
        }
        Command::new(env!("CARGO_BIN_EXE_strata"))
            .args([
                "mount",
                "-v",
                "--driver",
                "fuse",
                "-o",
                "lowerdir=low,upperdir=up,workdir=work",
                "mnt",
            ])
            .current_dir(place.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let child = std::thread::scope(|scope| scope.spawn(start).join().unwrap());
    let said = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.status.success(), "{text}");
    let look = || {
        assert_eq!(
            std::fs::read_to_string(place.path().join("mnt/f")).unwrap(),
            "low"
        );
        std::fs::write(place.path().join("mnt/new"), "new").unwrap();
        assert_eq!(
            std::fs::read_to_string(place.path().join("up/new")).unwrap(),
            "new"
        );
    };
    // A mount that nobody answers would have the test wait for ever.
    let mount = place.path().join("mnt");
    let served = std::thread::scope(|scope| {
        let looking = scope.spawn(look);
        let deadline = Instant::now() + Duration::from_secs(20);
        while !looking.is_finished() {
            if Instant::now() > deadline {
                let _ = mount::fuse::stop(&mount, mount::fuse::Unmount::Detach);
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        looking.join().is_ok()
    });
    assert!(served, "nobody serves: {text}");
    mount::fuse::stop(&mount.canonicalize().unwrap(), mount::fuse::Unmount::Detach).unwrap();
    text
}

#[test]
fn withheld_by_a_filter() {
    with_io_uring(|| {
        assert!(mounted(None).contains("over io_uring"), "it is there otherwise");
        for call in [SETUP, ENTER, REGISTER] {
            assert!(
                !mounted(Some(without(call))).contains("over io_uring"),
                "call {call}"
            );
        }
    });
}

#[test]
fn withheld_by_the_machine() {
    const SETTING: &str = "/proc/sys/kernel/io_uring_disabled";
    struct Back(String);
    impl Drop for Back {
        fn drop(&mut self) {
            std::fs::write(SETTING, &self.0).unwrap();
        }
    }
    with_io_uring(|| {
        let _back = Back(std::fs::read_to_string(SETTING).unwrap());
        // 1 leaves it to those who may administer the machine, as we may here.
        std::fs::write(SETTING, "1").unwrap();
        assert!(mounted(None).contains("over io_uring"));
        std::fs::write(SETTING, "2").unwrap();
        assert!(!mounted(None).contains("over io_uring"));
    });
}
