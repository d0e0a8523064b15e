//! No space left: what cannot be done leaves everything as it was.

use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::{Drivers, Scene, exceptions};
use crate::disk::Disk;
use crate::files::{self as f, refused};

/// An overlay whose upper directory has a disk of its own.
fn scene(d: &Drivers, disk: &Disk, fill: impl FnOnce(super::Tree) -> super::Tree) -> Scene {
    Scene::new(d)
        .lower(fill)
        .writable_in(&disk.path())
        .option("index=off")
        .mount()
}

/// A copy-up that does not fit fails with `ENOSPC`: the lower content is still shown, and nothing half is left.
pub fn a_copy_up_that_does_not_fit(d: &Drivers) {
    let disk = Disk::tmpfs("size=4m");
    let content = vec![b'x'; 6 << 20];
    let s = scene(d, &disk, |t| {
        t.dir("d", 0o755).file("d/big", &content).file("small", "s")
    });
    for _ in 0..2 {
        refused(f::append(s.at("d/big"), "y"), Errno::NOSPC);
        refused(f::chmod(s.at("d/big"), 0o600), Errno::NOSPC);
        refused(f::rename(s.at("d/big"), s.at("x")), Errno::NOSPC);
    }
    assert!(f::read(s.at("d/big")).unwrap() == content);
    assert_eq!(f::mode(s.at("d/big")), Ok(0o644));
    assert!(!f::exists(s.upper("d/big")));
    // The space of the failed attempts was given back.
    f::write(s.at("fits"), vec![1; 3 << 20]).unwrap();
    f::append(s.at("small"), "+").unwrap();
    assert_eq!(f::read(s.at("small")).unwrap(), b"s+");
}

/// Of a file whose attributes alone are copied up, the data finds no room later: content, attributes and times are what they
/// were, and when there is room the data comes.
pub fn data_that_does_not_fit_beside_its_attributes(d: &Drivers) {
    let disk = Disk::tmpfs("size=4m");
    let content = vec![b'x'; 6 << 20];
    let s = Scene::new(d)
        .lower(|t| t.file("big", &content).file("small", "s"))
        .writable_in(&disk.path())
        .option("index=off")
        .option("metacopy=on")
        .mount();
    let no_trace = exceptions::NO_TRACE_OF_DATA_WITHOUT_ROOM.applies(&s);
    let now = |name: &str| {
        let stat = f::lstat(s.at(name)).unwrap();
        let time = no_trace.then_some((stat.st_mtime, stat.st_mtime_nsec));
        (stat.st_mode & 0o7777, stat.st_size, time)
    };
    for name in ["big", "small"] {
        f::chmod(s.at(name), 0o600).unwrap();
    }
    f::write(s.at("filler"), vec![1; 3 << 20]).unwrap();
    let before = now("big");
    for _ in 0..2 {
        refused(f::append(s.at("big"), "y"), Errno::NOSPC);
        assert_eq!(now("big"), before);
        assert!(f::read(s.at("big")).unwrap() == content);
    }
    if no_trace {
        f::append(s.at("small"), "+").unwrap();
        assert_eq!(f::read(s.at("small")).unwrap(), b"s+");
    }
}

/// Writes to a full upper fail, and what was written before stays; removing makes room again.
pub fn writes_to_a_full_upper(d: &Drivers) {
    let disk = Disk::tmpfs("size=4m");
    let mut s = scene(d, &disk, |t| t.file("lower", "content").file("other", "o"));
    f::write(s.at("mine"), "kept").unwrap();
    let full = f::write(s.at("filler"), vec![0; 8 << 20]);
    refused(full, Errno::NOSPC);
    assert_eq!(f::read(s.at("mine")).unwrap(), b"kept");
    refused(f::append(s.at("lower"), "+"), Errno::NOSPC);
    assert_eq!(f::read(s.at("lower")).unwrap(), b"content");
    f::unlink(s.at("filler")).unwrap();
    let late = exceptions::SPACE_COMES_BACK_LATE.applies(&s);
    // A program that another case starts has the descriptor too, between its fork and its exec.
    let until = Instant::now() + Duration::from_secs(if late { 5 } else { 1 });
    while f::append(s.at("lower"), "+") == Err(Errno::NOSPC) {
        assert!(Instant::now() < until, "the space did not come back");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(f::read(s.at("lower")).unwrap(), b"content+");
    s.same_after_remounts();
}

/// With no inode left neither whiteouts nor directories can be made: names stay what they were.
pub fn no_inodes_left(d: &Drivers) {
    let disk = Disk::tmpfs("size=4m,nr_inodes=20");
    let mut s = scene(d, &disk, |t| t.file("a", "a").dir("d", 0o755).file("d/b", "b"));
    let mut made = 0;
    while f::write(s.at(format!("new{made}")), "").is_ok() {
        made += 1;
    }
    assert!(made > 2);
    refused(f::mkdir(s.at("dir"), 0o755), Errno::NOSPC);
    refused(f::chmod(s.at("a"), 0o600), Errno::NOSPC);
    refused(f::unlink(s.at("d/b")), Errno::NOSPC);
    assert_eq!(f::read(s.at("d/b")).unwrap(), b"b");
    assert_eq!(f::mode(s.at("a")), Ok(0o644));
    assert!(!f::exists(s.at(format!("new{made}"))));
    for n in 0..made {
        f::unlink(s.at(format!("new{n}"))).unwrap();
    }
    f::unlink(s.at("d/b")).unwrap();
    assert_eq!(f::names(s.at("")).unwrap(), ["a", "d"]);
    s.same_after_remounts();
}

/// On a disk with blocks and inodes of its own: neither a copy-up without room, nor one without an inode, leaves
/// anything in the work directory, and what is there can still be removed.
pub fn a_full_disk(d: &Drivers) {
    let disk = Disk::new("ext4", &["mkfs.ext4", "-q", "-m0", "-N64"], 16 << 20, "rw");
    let content = vec![b'x'; 20 << 20];
    let s = scene(d, &disk, |t| {
        t.file("big", &content).file("small", "s").file("gone", "g")
    });
    let works = || std::fs::read_dir(s.work("work")).unwrap().count();
    f::write(s.at("mine"), "m").unwrap();
    refused(f::append(s.at("big"), "y"), Errno::NOSPC);
    assert!(f::read(s.at("big")).unwrap() == content);
    assert_eq!(works(), 0);
    refused(f::write(s.at("filler"), &content), Errno::NOSPC);
    refused(f::append(s.at("big"), "y"), Errno::NOSPC);
    assert_eq!(works(), 0);
    // A whiteout takes an inode, and no block.
    f::unlink(s.at("gone")).unwrap();
    f::unlink(s.at("filler")).unwrap();
    let mut made = 0;
    while f::write(s.at(format!("new{made}")), "").is_ok() {
        made += 1;
    }
    refused(f::chmod(s.at("small"), 0o600), Errno::NOSPC);
    assert_eq!(f::mode(s.at("small")), Ok(0o644));
    f::unlink(s.at("mine")).unwrap();
    f::append(s.at("small"), "+").unwrap();
    assert_eq!(f::read(s.at("small")).unwrap(), b"s+");
    assert!(!f::exists(s.at("gone")) && !f::exists(s.at("mine")));
}
