//! Programs that lie in the mount.

use std::io;
use std::path::Path;
use std::process::{Command, Output};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Drivers, Scene, Tree};
use crate::files::{self as f, refused};

/// A program that needs no library, and as such runs anywhere.
fn program() -> Vec<u8> {
    std::fs::read("/bin/busybox").expect("busybox-static is installed")
}

fn with_program(t: Tree) -> Tree {
    t.file("busybox", program()).mode("busybox", 0o755)
}

/// Runs something. Another test's child may hold a descriptor of what was just written for a moment (from fork to
/// exec), which makes it "busy".
fn run(path: &Path, args: &[&str]) -> io::Result<Output> {
    for _ in 0..100 {
        match Command::new(path).args(args).output() {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::TXTBSY) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            ended => return ended,
        }
    }
    Command::new(path).args(args).output()
}

/// A program runs from the lower layer, after its copy-up, and copied within the mount.
pub fn a_program_runs(d: &Drivers) {
    let s = Scene::mounted(d, with_program);
    let runs = |name: &str| {
        let ended = run(&s.at(name), &["echo", "hello"]).unwrap();
        assert_eq!(String::from_utf8_lossy(&ended.stdout), "hello\n");
    };
    runs("busybox");
    f::chmod(s.at("busybox"), 0o711).unwrap();
    assert!(f::exists(s.upper("busybox")));
    runs("busybox");
    f::write(s.at("busybox-copy"), program()).unwrap();
    f::chmod(s.at("busybox-copy"), 0o755).unwrap();
    runs("busybox-copy");
}

/// A script runs by its interpreter, which lies in the mount as well.
pub fn a_script_runs(d: &Drivers) {
    let s = Scene::mounted(d, with_program);
    f::symlink("busybox", s.at("sh")).unwrap();
    f::write(
        s.at("script"),
        format!("#!{}\necho $0 ran\n", s.at("sh").display()),
    )
    .unwrap();
    refused(
        run(&s.at("script"), &[]).map_err(|error| Errno::from_io_error(&error).unwrap()),
        Errno::ACCESS,
    );
    f::chmod(s.at("script"), 0o755).unwrap();
    let ended = run(&s.at("script"), &[]).unwrap();
    assert!(
        String::from_utf8_lossy(&ended.stdout).ends_with("script ran\n"),
        "{ended:?}"
    );
}

/// A running program of the upper layer cannot be written; it can be unlinked, and goes on.
pub fn a_running_program(d: &Drivers) {
    let s = Scene::mounted(d, with_program);
    f::chmod(s.at("busybox"), 0o711).unwrap();
    let mut child = Command::new(s.at("busybox"))
        .args(["sleep", "100"])
        .spawn()
        .unwrap();
    refused(f::open(s.at("busybox"), OFlags::WRONLY, 0), Errno::TXTBSY);
    refused(f::truncate(s.at("busybox"), 0), Errno::TXTBSY);
    f::unlink(s.at("busybox")).unwrap();
    f::write(s.at("busybox"), "something else").unwrap();
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A program that runs from the lower layer goes on through its own copy-up.
pub fn a_running_lower_program_is_copied_up(d: &Drivers) {
    let s = Scene::mounted(d, with_program);
    let mut child = Command::new(s.at("busybox"))
        .args(["sleep", "100"])
        .spawn()
        .unwrap();
    f::chmod(s.at("busybox"), 0o711).unwrap();
    assert!(f::exists(s.upper("busybox")));
    assert!(child.try_wait().unwrap().is_none());
    let ended = run(&s.at("busybox"), &["echo", "again"]).unwrap();
    assert_eq!(ended.stdout, b"again\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// Set-uid programs run as their owner.
pub fn set_uid_programs(d: &Drivers) {
    let s = Scene::mounted(d, |t| {
        with_program(t)
            .owner("busybox", 1234, 1234)
            .mode("busybox", 0o4755)
    });
    let ended = run(&s.at("busybox"), &["id", "-u"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "1234\n");
}
