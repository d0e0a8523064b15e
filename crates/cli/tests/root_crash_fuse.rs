//! The server of a mount killed at random moments under a random load: after each kill both drivers mount what is
//! left, show the same tree without an error anywhere, and the lower directory is as it was. What a crash leaves of
//! one operation is `root_crash` of the overlay.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags};
use rustix::process::{Pid, Signal, kill_process};
use testkit::random::Random;

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn strata(dir: &Path, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strata"));
    command.args(words).current_dir(dir).stdin(Stdio::null());
    // The lock of a server that was killed goes with the last of its threads, which takes as long as it takes.
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("in use by another overlay") && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        }
        assert!(output.status.success(), "{words:?}: {output:?}");
        return;
    }
}

fn mount(dir: &Path, driver: &str) {
    let options = "lowerdir=low,upperdir=up,workdir=work,redirect_dir=on,index=on";
    strata(dir, &["mount", "--driver", driver, "-o", options, "mnt"]);
}

/// What is mounted here goes with the test, even if that fails.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        while sys::mount::detach_at(self.0).is_ok() {}
    }
}

/// Directories with files in them, some with two names.
fn fill(dir: &Path, depth: u32) {
    for (number, name) in NAMES.iter().enumerate() {
        let path = dir.join(name);
        if number < 3 && depth > 0 {
            fs::create_dir(&path).unwrap();
            fill(&path, depth - 1);
        } else {
            fs::write(&path, name.repeat(2000 * number)).unwrap();
            fs::hard_link(&path, dir.join(format!("{name}-too"))).unwrap();
        }
    }
}

/// Everything beneath a directory; an error is a failure.
fn tree(root: &Path, at: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(root.join(at)).unwrap_or_else(|error| panic!("{at:?}: {error}")) {
        let path = at.join(entry.unwrap().file_name());
        let real = root.join(&path);
        let meta = match fs::symlink_metadata(&real) {
            Ok(meta) => meta,
            // The kernel lists a directory of one layer alone as it is, whiteouts and all.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{path:?}: {error}"),
        };
        let mut line = format!("{:o} {} {}", meta.mode(), meta.uid(), meta.gid());
        if meta.is_dir() {
            tree(root, &path, all);
        } else if meta.is_symlink() {
            line += &format!(" to {:?}", fs::read_link(&real).unwrap());
        } else if !meta.file_type().is_char_device() {
            let content = fs::read(&real).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            let sum = content.iter().fold(7u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
            });
            line += &format!(
                " {} bytes {sum:x} {} links {}",
                content.len(),
                meta.mtime(),
                meta.nlink()
            );
        }
        all.insert(path, line);
    }
}

fn tree_of(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    tree(root, Path::new(""), &mut all);
    all
}

/// One change, which may fail for a hundred good reasons.
fn change(random: &mut Random, root: &Path) -> std::io::Result<()> {
    let path = |random: &mut Random| {
        let depth = 1 + random.below(3);
        let mut path = root.to_owned();
        path.extend((0..depth).map(|_| *random.choose(&NAMES)));
        path
    };
    let (one, other) = (path(random), path(random));
    match random.below(12) {
        0 => fs::write(one, b"written"),
        1 => fs::OpenOptions::new().append(true).open(one)?.write_all(b"more"),
        2 => fs::create_dir(one),
        3 => fs::remove_file(one),
        4 => fs::remove_dir(one),
        5 | 6 => fs::rename(one, other),
        7 => Ok(rustix::fs::renameat_with(
            CWD,
            one,
            CWD,
            other,
            RenameFlags::EXCHANGE,
        )?),
        8 => fs::hard_link(one, other),
        9 => symlink("target", one),
        10 => fs::set_permissions(one, fs::Permissions::from_mode(0o700 + random.below(8) as u32)),
        _ => fs::OpenOptions::new()
            .write(true)
            .open(one)?
            .set_len(random.below(9000)),
    }
}

#[test]
fn a_server_that_is_killed_at_random_leaves_a_tree_that_both_drivers_show() {
    let seed = match std::env::var("STRATA_SEED") {
        Ok(seed) => seed.parse().expect("STRATA_SEED is a number"),
        Err(_) => Random::seed(),
    };
    println!("STRATA_SEED={seed}");
    let mut random = Random::new(seed);
    let temp = tempfile::tempdir().unwrap();
    let (dir, mnt) = (temp.path(), temp.path().join("mnt"));
    for name in ["low", "up", "work", "mnt"] {
        fs::create_dir(dir.join(name)).unwrap();
    }
    let _mounted = Mounted(&mnt);
    fill(&dir.join("low"), 2);
    let lower = tree_of(&dir.join("low"));
    let mut changes = 0;
    for round in 0..30 {
        mount(dir, "fuse");
        let mut buffer = [0u8; 64];
        let length = rustix::fs::getxattr(&mnt, "security.strata.server", &mut buffer[..]).unwrap();
        let server = String::from_utf8_lossy(&buffer[..length]);
        let server: i32 = server.split(' ').next().unwrap().parse().unwrap();
        let killed = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let loads: Vec<_> = (0..3)
                .map(|_| {
                    let mut random = Random::new(random.number());
                    let (mnt, killed) = (&mnt, &killed);
                    scope.spawn(move || {
                        let mut done = 0;
                        loop {
                            let result = change(&mut random, mnt);
                            if killed.load(Ordering::SeqCst) {
                                return done;
                            }
                            match result {
                                Ok(()) => done += 1,
                                Err(error) => assert_ne!(error.raw_os_error(), Some(5), "round {round}"),
                            }
                        }
                    })
                })
                .collect();
            std::thread::sleep(random.duration(Duration::from_millis(600)));
            killed.store(true, Ordering::SeqCst);
            kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
            for load in loads {
                changes += load.join().unwrap();
            }
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        let lives =
            || fs::read_to_string(format!("/proc/{server}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while lives() {
            assert!(Instant::now() < deadline, "the server ends");
            std::thread::sleep(Duration::from_millis(2));
        }
        strata(dir, &["umount", "mnt"]);
        let mut seen = Vec::new();
        let drivers = if round % 2 == 0 {
            ["kernel", "fuse"]
        } else {
            ["fuse", "kernel"]
        };
        for driver in drivers {
            mount(dir, driver);
            let looked = std::panic::catch_unwind(|| tree_of(&mnt));
            strata(dir, &["umount", "mnt"]);
            seen.push(looked.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        for path in seen[0].keys().chain(seen[1].keys()) {
            let (one, other) = (seen[0].get(path), seen[1].get(path));
            assert_eq!(one, other, "round {round}: {path:?}: {drivers:?}");
        }
        assert!(
            tree_of(&dir.join("low")) == lower,
            "round {round}: the lower directory changed"
        );
    }
    assert!(changes > 100, "only {changes} changes were made");
}
