//! A server of an overlay that has no descriptor left: what needs one is refused, nothing is lost, and it goes on.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit};
use testkit::Ended;

const PROGRAM: &str = env!("CARGO_BIN_EXE_strata");

#[track_caller]
fn strata(place: &Path, words: &[&str]) {
    let mut command = Command::new(PROGRAM);
    let ended: Ended = command.args(words).current_dir(place).output().unwrap().into();
    assert_eq!(ended.code, 0, "{words:?}: {ended:?}");
}

fn errno<T>(done: std::io::Result<T>) -> Option<Errno> {
    done.err().and_then(|error| Errno::from_io_error(&error))
}

/// A place for layers, whose mount is gone when it is, and the server with it, however the test ended.
struct Place(tempfile::TempDir);

impl Drop for Place {
    fn drop(&mut self) {
        while sys::mount::detach_at(self.0.path().join("mnt")).is_ok() {}
    }
}

#[test]
fn a_server_without_descriptors_says_so_and_goes_on() {
    let place = Place(tempfile::tempdir().unwrap());
    let path = place.0.path();
    let at = |name: &str| path.join(name);
    for name in ["low/d", "low/e", "up", "work", "mnt"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    for number in 0..100 {
        fs::write(at(&format!("low/{number}")), "low").unwrap();
    }
    fs::write(at("low/d/file"), "low").unwrap();
    fs::write(at("low/e/file"), "low").unwrap();
    strata(
        path,
        &[
            "mount",
            "--driver",
            "fuse",
            "-o",
            "lowerdir=low,upperdir=up,workdir=work",
            "mnt",
        ],
    );
    let mut buffer = [0u8; 64];
    let length = rustix::fs::getxattr(at("mnt"), "security.strata.server", &mut buffer[..]).unwrap();
    let said = std::str::from_utf8(&buffer[..length]).unwrap();
    let pid: i32 = said.split(' ').next().unwrap().parse().unwrap();
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // One for each open file, and the few that a server has anyway.
    let idle = open();
    assert!(idle < 40, "{idle}");
    let limit = idle as u64 + 20;
    let limit = Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    rustix::process::prlimit(Pid::from_raw(pid), Resource::Nofile, limit).unwrap();
    let mut held = Vec::new();
    let refused = (0..100).find_map(|number| match File::open(at(&format!("mnt/{number}"))) {
        Ok(file) => {
            held.push(file);
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(
        refused.and_then(|error| Errno::from_io_error(&error)),
        Some(Errno::MFILE)
    );
    assert!((10..=25).contains(&held.len()), "{}", held.len());
    assert_eq!(
        errno(fs::read_dir(at("mnt/d")).map(|dir| dir.count())),
        Some(Errno::MFILE)
    );
    assert_eq!(errno(fs::write(at("mnt/e/file"), "new")), Some(Errno::MFILE));
    assert_eq!(
        errno(fs::rename(at("mnt/e/file"), at("mnt/e/other"))),
        Some(Errno::MFILE)
    );
    // What the kernel knows needs nobody.
    assert_eq!(fs::metadata(at("mnt/0")).unwrap().len(), 3);
    drop(held);
    // The kernel tells of a close without waiting.
    let until = Instant::now() + Duration::from_secs(5);
    while errno(fs::write(at("mnt/e/file"), "new")).is_some() {
        assert!(Instant::now() < until, "it does not recover");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(fs::read_dir(at("mnt/d")).unwrap().count(), 1);
    fs::rename(at("mnt/e/file"), at("mnt/e/other")).unwrap();
    strata(path, &["umount", "mnt"]);
    assert_eq!(fs::read_to_string(at("up/e/other")).unwrap(), "new");
    assert_eq!(fs::read_dir(at("work/work")).unwrap().count(), 0);
}
