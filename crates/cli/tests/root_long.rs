//! A mount while a large file is copied up: it is there for everybody else, and whoever waits for the copy can be killed.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

fn strata(place: &Path, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    let output = command.args(words).current_dir(place).output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// A place for layers, whose mount is gone when it is.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        while sys::mount::detach_at(self.0.path().join("mnt")).is_ok() {}
    }
}

/// Makes a server slow: each piece that it copies takes a second.
struct Slow(Child);

impl Slow {
    fn make(server: i32) -> Slow {
        let words = [
            "-f",
            "-qq",
            "-e",
            "trace=copy_file_range",
            "-e",
            "inject=copy_file_range:delay_enter=1000000",
            "-o",
            "/dev/null",
            "-p",
        ];
        let mut command = Command::new("strace");
        command.args(words).arg(server.to_string());
        let slow = Slow(command.spawn().expect("strace is installed (Debian: strace)"));
        let traced = |thread: fs::DirEntry| {
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            !status.lines().any(|line| line == "TracerPid:\t0")
        };
        let until = Instant::now() + Duration::from_secs(20);
        let threads = || fs::read_dir(format!("/proc/{server}/task")).unwrap();
        while !threads().all(|thread| traced(thread.unwrap())) {
            assert!(Instant::now() < until, "strace does not attach");
            std::thread::sleep(Duration::from_millis(5));
        }
        slow
    }
}

impl Drop for Slow {
    /// What is traced goes on, as fast as before.
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

#[test]
fn others_are_served_and_who_waits_can_be_killed() {
    // No disk whose files share blocks: there a copy takes no time.
    let place = Place(tempfile::tempdir_in("/dev/shm").unwrap());
    let path = place.0.path();
    for name in ["low/dir", "up", "work", "mnt"] {
        fs::create_dir_all(path.join(name)).unwrap();
    }
    let content = vec![7; 60 << 20];
    fs::write(path.join("low/large"), &content).unwrap();
    for number in 0..3 {
        fs::write(path.join(format!("low/dir/{number}")), "low").unwrap();
    }
    let options = "lowerdir=low,upperdir=up,workdir=work";
    strata(path, &["mount", "--driver", "fuse", "-o", options, "mnt"]);
    let mut buffer = [0u8; 64];
    let length = rustix::fs::getxattr(path.join("mnt"), "security.strata.server", &mut buffer[..]).unwrap();
    let said = std::str::from_utf8(&buffer[..length]).unwrap();
    let server = said.split(' ').next().unwrap().parse().unwrap();
    let threads = || fs::read_dir(format!("/proc/{server}/task")).unwrap().count();
    let before = threads();
    let slow = Slow::make(server);
    // More than there are workers; all but the first wait for the same copy.
    let open = |_| {
        let mut command = Command::new("sh");
        command.args(["-c", ": >> mnt/large"]).current_dir(path);
        command.stdin(Stdio::null()).spawn().unwrap()
    };
    let mut waiting: Vec<Child> = (0..before + 4).map(open).collect();
    std::thread::sleep(Duration::from_millis(500));
    fs::write(path.join("mnt/dir/0"), "new").unwrap();
    assert_eq!(fs::read_dir(path.join("mnt/dir")).unwrap().count(), 3);
    fs::rename(path.join("mnt/dir/1"), path.join("mnt/dir/3")).unwrap();
    let copied = || path.join("up/large").exists();
    assert!(!copied(), "others had to wait");
    for child in &mut waiting {
        child.kill().unwrap();
    }
    for child in &mut waiting {
        child.wait().unwrap();
    }
    assert!(!copied(), "those who were killed had to wait");
    drop(slow);
    assert_eq!(fs::read_dir(path.join("work/work")).unwrap().count(), 0);
    let file = fs::OpenOptions::new().append(true).open(path.join("mnt/large"));
    drop(file.unwrap());
    assert!(fs::read(path.join("up/large")).unwrap() == content);
    let until = Instant::now() + Duration::from_secs(20);
    while threads() > before {
        assert!(Instant::now() < until, "those who helped out stay");
        std::thread::sleep(Duration::from_millis(20));
    }
    strata(path, &["umount", "mnt"]);
}
