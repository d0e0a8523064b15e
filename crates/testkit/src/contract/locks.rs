//! Locks of whole files and of ranges, between descriptors and between processes.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use sys::record_lock::{self, Kind, Owner};

use super::{Drivers, Scene};
use crate::files::{self as f, refused};

fn lock(file: &OwnedFd, owner: Owner, kind: Kind, start: i64, length: i64) -> f::Answer<()> {
    record_lock::set(file.as_fd(), owner, kind, start, length)
        .map_err(|error| Errno::from_io_error(&error).expect("the kernel's"))
}

/// Whether another process can have a lock right now. It is Perl's that asks, which every Debian has.
fn another_process_may(path: &Path, how: &str) -> bool {
    let program = format!(
        "use Fcntl qw(:DEFAULT :flock); sysopen(F, $ARGV[0], O_RDWR) or exit 2; {how} or exit 1; exit 0"
    );
    let status = Command::new("perl")
        .args(["-e", &program])
        .arg(path)
        .stdin(Stdio::null())
        .status()
        .expect("perl");
    match status.code() {
        Some(0) => true,
        Some(1) => false,
        _ => panic!("perl: {status}"),
    }
}

const FLOCK_EXCLUSIVE: &str = "flock(F, LOCK_EX | LOCK_NB)";
const FLOCK_SHARED: &str = "flock(F, LOCK_SH | LOCK_NB)";
/// `struct flock` of 64-bit Linux: type, whence, start, length, process.
const RECORD_EXCLUSIVE: &str =
    "do { my $l = pack('s s x4 q q i x4', F_WRLCK, 0, 0, 0, 0); fcntl(F, F_SETLK, $l) }";
const RECORD_BEYOND_100: &str =
    "do { my $l = pack('s s x4 q q i x4', F_WRLCK, 0, 100, 0, 0); fcntl(F, F_SETLK, $l) }";

/// What a dropped descriptor held is free once nobody has it any more: a program that another test starts holds it for a
/// moment (from fork to exec).
fn soon(act: impl Fn() -> f::Answer<()>) {
    let until = Instant::now() + Duration::from_secs(5);
    while act() == Err(Errno::AGAIN) {
        assert!(Instant::now() < until, "it is still locked");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `flock` belongs to the open file description: two of them, of one process, keep each other out.
pub fn flock_between_descriptors(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "").dir("dir", 0o755));
    for name in ["f", "dir"] {
        let (one, two) = (
            f::open_read(s.at(name)).unwrap(),
            f::open_read(s.at(name)).unwrap(),
        );
        flock(&one, FlockOperation::LockExclusive).unwrap();
        refused(flock(&two, FlockOperation::NonBlockingLockShared), Errno::AGAIN);
        flock(&one, FlockOperation::LockShared).unwrap();
        flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
        refused(
            flock(&two, FlockOperation::NonBlockingLockExclusive),
            Errno::AGAIN,
        );
        drop(one);
        soon(|| flock(&two, FlockOperation::NonBlockingLockExclusive));
    }
}

/// `flock` and the locks of ranges between processes.
pub fn locks_between_processes(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", ""));
    let file = f::open_write(s.at("f")).unwrap();
    let may = |how| another_process_may(&s.at("f"), how);
    assert!(may(FLOCK_EXCLUSIVE) && may(RECORD_EXCLUSIVE));
    flock(&file, FlockOperation::LockShared).unwrap();
    assert!(may(FLOCK_SHARED) && !may(FLOCK_EXCLUSIVE));
    flock(&file, FlockOperation::Unlock).unwrap();
    lock(&file, Owner::Process, Kind::Write, 0, 50).unwrap();
    assert!(!may(RECORD_EXCLUSIVE) && may(RECORD_BEYOND_100) && may(FLOCK_EXCLUSIVE));
    lock(&file, Owner::Process, Kind::None, 0, 0).unwrap();
    lock(&file, Owner::Description, Kind::Read, 200, 1).unwrap();
    assert!(!may(RECORD_EXCLUSIVE) && !may(RECORD_BEYOND_100));
    drop(file);
    soon(|| {
        if may(RECORD_EXCLUSIVE) {
            Ok(())
        } else {
            Err(Errno::AGAIN)
        }
    });
}

/// Locks of open file descriptions, on ranges, keep two descriptors of one process apart.
pub fn locks_of_descriptions(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "0123456789"));
    let (one, two) = (
        f::open_write(s.at("f")).unwrap(),
        f::open_write(s.at("f")).unwrap(),
    );
    let own = Owner::Description;
    lock(&one, own, Kind::Write, 0, 5).unwrap();
    refused(lock(&two, own, Kind::Read, 4, 2), Errno::AGAIN);
    lock(&two, own, Kind::Write, 5, 5).unwrap();
    let found = record_lock::conflict(two.as_fd(), own, Kind::Read, 0, 0).unwrap();
    assert_eq!(found, Some((0, 5)));
    lock(&one, own, Kind::Read, 0, 5).unwrap();
    lock(&two, own, Kind::Read, 0, 5).unwrap();
    refused(lock(&two, own, Kind::Write, 0, 5), Errno::AGAIN);
    drop(one);
    soon(|| lock(&two, own, Kind::Write, 0, 0));
}

/// A lock held by who opened the file before its copy-up keeps out who opened it after.
pub fn locks_hold_across_the_copy_up(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", "lower"));
    let before = f::open_read(s.at("f")).unwrap();
    flock(&before, FlockOperation::LockExclusive).unwrap();
    lock(&before, Owner::Description, Kind::Read, 0, 0).unwrap();
    let after = f::open_write(s.at("f")).unwrap();
    f::write_all(&after, b"upper", 0).unwrap();
    refused(flock(&after, FlockOperation::NonBlockingLockShared), Errno::AGAIN);
    refused(lock(&after, Owner::Description, Kind::Write, 0, 1), Errno::AGAIN);
    assert!(!another_process_may(&s.at("f"), FLOCK_SHARED));
}

/// Who waits for a lock gets it when it is let go.
pub fn waiting_for_a_lock(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", ""));
    let first = f::open_read(s.at("f")).unwrap();
    flock(&first, FlockOperation::LockExclusive).unwrap();
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let second = f::open_read(s.at("f")).unwrap();
            flock(&second, FlockOperation::LockExclusive).unwrap();
        });
        std::thread::sleep(std::time::Duration::from_millis(50));
        assert!(!waiter.is_finished());
        drop(first);
        waiter.join().unwrap();
    });
}

/// A range is locked for writing only by who may write.
pub fn locks_need_the_right_descriptor(d: &Drivers) {
    let s = Scene::mounted(d, |t| t.file("f", ""));
    let reader = f::open_read(s.at("f")).unwrap();
    let writer = f::open(s.at("f"), OFlags::WRONLY, 0).unwrap();
    refused(lock(&reader, Owner::Process, Kind::Write, 0, 1), Errno::BADF);
    refused(lock(&writer, Owner::Process, Kind::Read, 0, 1), Errno::BADF);
}
