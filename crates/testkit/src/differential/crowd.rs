//! Several threads at one mount at once.
//!
//! In subtrees of their own each agrees with its plain copy, as if it were alone. In one subtree nothing can be said of
//! a single answer but that it is one of those that losing a race explains; what is there in the end must be sound, and
//! the same for both drivers.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::compare::Snapshot;
use super::op::{self, Op};
use super::side::{Side, Times};
use super::{Place, start, too_long_for_a_redirect};
use crate::contract::{self, Drivers, Layers};
use crate::files as f;
use crate::random::Random;

const THREADS: u64 = 4;

/// What an operation may answer when others are at the same names.
const ALLOWED: &[Errno] = &[
    Errno::NOENT,
    Errno::EXIST,
    Errno::NOTDIR,
    Errno::ISDIR,
    Errno::NOTEMPTY,
    Errno::INVAL,
    Errno::LOOP,
    Errno::PERM,
    Errno::ACCESS,
    Errno::NODATA,
    Errno::NXIO,
    Errno::BADF,
    Errno::OPNOTSUPP,
    Errno::NAMETOOLONG,
    Errno::XDEV,
    Errno::TXTBSY,
    Errno::BUSY,
    Errno::NODEV,
    Errno::SPIPE,
    // A fifo that nobody reads is full at last.
    Errno::AGAIN,
];

/// Runs rounds, each with other layers, until the time is over; answers how many operations there were.
///
/// # Panics
/// When something does not hold; the message has the round's seed.
pub fn run(drivers: &Drivers, seed: u64, how_long: Duration) -> usize {
    let until = Instant::now() + how_long;
    let mut seeds = Random::new(seed);
    let mut next = seed;
    let mut applied = 0;
    while Instant::now() < until {
        applied += contract::apart("apart", || round(drivers, next, true));
        applied += contract::apart("together", || round(drivers, next, false));
        next = seeds.number();
    }
    applied
}

fn round(drivers: &Drivers, seed: u64, apart: bool) -> usize {
    let mut random = Random::new(seed);
    let place = Place::new(&mut random);
    let path = place.path();
    for dir in ["merged", "upper", "work", "plain"] {
        f::mkdir(path.join(dir), 0o755).expect("a new directory");
    }
    // One layer: a directory for each thread, filled as a whole layer would be.
    let lower = path.join("lower");
    f::mkdir(&lower, 0o755).expect("a new directory");
    for thread in 0..THREADS {
        let dir = lower.join(format!("thread{thread}"));
        f::mkdir(&dir, 0o755).expect("a new directory");
        start::one_layer(&mut random, &dir);
    }
    let layers = Layers {
        lower: vec![lower],
        writable: Some((path.join("upper"), path.join("work"))),
        options: vec!["redirect_dir=on".into(), "index=on".into()],
    };
    let (merged, plain) = (path.join("merged"), path.join("plain"));
    let mounted = |driver: &contract::Driver| {
        driver
            .mount(&layers, &merged)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    };
    let gone = |driver: &contract::Driver| {
        driver
            .unmount(&merged)
            .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    };
    mounted(&drivers.judged);
    let detached = Detach(&merged);
    start::copy(&merged, &plain).unwrap_or_else(|errno| panic!("seed {seed}: copying: {errno}"));
    let applied = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let seed = random.number();
            let (merged, plain, applied) = (&merged, &plain, &applied);
            scope.spawn(move || {
                let dir = format!("thread{thread}");
                let count = match apart {
                    true => agree(seed, &merged.join(&dir), &plain.join(&dir)),
                    false => survive(
                        seed,
                        &merged.join("thread0"),
                        drivers.judged == contract::Driver::Kernel,
                    ),
                };
                applied.fetch_add(count, Ordering::Relaxed);
            });
        }
    });
    if !apart && drivers.judged == contract::Driver::Kernel {
        // After a race the kernel's overlay may remember that a name is not there which is (seen on Linux 6.18: a fifo that
        // a mount anew shows). What is on the disk has to be sound.
        gone(&drivers.judged);
        mounted(&drivers.judged);
    }
    let shown = take(&merged, seed);
    if apart {
        let there = take(&plain, seed);
        shown
            .agree(&there)
            .unwrap_or_else(|what| panic!("seed {seed}: {what}"));
    }
    let mut last = &drivers.judged;
    for driver in [&drivers.other, &drivers.judged] {
        gone(last);
        mounted(driver);
        last = driver;
        take(&merged, seed)
            .agree(&shown)
            .unwrap_or_else(|what| panic!("seed {seed}: after a remount by {driver:?}: {what}"));
    }
    gone(last);
    std::mem::forget(detached);
    applied.into_inner()
}

/// For a round that panics: its place cannot go while it is mounted.
struct Detach<'a>(&'a Path);

impl Drop for Detach<'_> {
    fn drop(&mut self) {
        let _ = mount::detach(self.0);
    }
}

fn take(root: &Path, seed: u64) -> Snapshot {
    Snapshot::take(root, Times::Compared).unwrap_or_else(|what| panic!("seed {seed}: {what}"))
}

fn list(seed: u64) -> Vec<Op> {
    op::list(&mut Random::new(seed), 300)
}

/// Alone in a subtree: as in a session of one.
fn agree(seed: u64, mount: &Path, plain: &Path) -> usize {
    let (mut mount, mut plain) = (
        Side::new(mount.to_owned(), Times::Compared),
        Side::new(plain.to_owned(), Times::Compared),
    );
    let ops = list(seed);
    for (number, op) in ops.iter().enumerate() {
        let mounts = mount.apply(op);
        if too_long_for_a_redirect(op, &mounts) {
            continue;
        }
        let plains = plain.apply(op);
        assert_eq!(mounts, plains, "thread's seed {seed}, operation {number}: {op:?}");
    }
    ops.len()
}

/// Among others: every answer is one that a race explains.
///
/// The kernel's own overlay rarely answers ESTALE when a directory goes while something in it is copied up; ours must not.
fn survive(seed: u64, mount: &Path, may_be_stale: bool) -> usize {
    let mut side = Side::new(PathBuf::from(mount), Times::Left);
    let mut ops = list(seed);
    ops.retain(|op| !writes_a_map(op));
    for op in &ops {
        if let Err(errno) = side.apply(op) {
            assert!(
                ALLOWED.contains(&errno) || may_be_stale && errno == Errno::STALE,
                "thread's seed {seed}: {op:?}: {errno:?}"
            );
        }
    }
    ops.len()
}

/// A page that another thread cuts off between the map and the write is a SIGBUS, rightly, on any file system.
fn writes_a_map(op: &Op) -> bool {
    match op {
        Op::ByUser(op) => writes_a_map(op),
        op => matches!(op, Op::MapWrite(..)),
    }
}
