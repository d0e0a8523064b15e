//! An overlay and a plain directory, given the same random operations, must agree.
//!
//! A session starts with random layers and a plain copy of what the kernel's overlay shows of them. Each operation is
//! applied to the mount and to the copy: the same errno, the same answer, the same attributes of the names concerned.
//! After every few the whole trees must agree: names, attributes, content, which names are one file, numbers that stay.
//! Then the other driver mounts the layers, must show the same, and goes on.
//!
//! What makes a session is its seed. A session that fails is made as short as can be, and printed as the list of
//! operations that still fails. [`crowd`] has several threads at it at once.

pub mod compare;
pub mod crowd;
pub mod op;
pub mod side;
pub mod start;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tempfile::TempDir;

use crate::contract::{self, Driver, Drivers, Layers};
use crate::disk::Disk;
use crate::files as f;
use crate::random::Random;
use compare::Snapshot;
use op::Op;
use side::{Outcome, Side, Times};
use start::shown;

/// Operations before the other driver takes over.
const SEGMENT: usize = 120;

/// Operations between two looks at everything.
const STRIDE: usize = 40;

/// What was done without a disagreement.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Operations.
    pub operations: usize,
    /// Those among them that did what they were asked, rather than fail in the same way on both sides.
    pub succeeded: usize,
    /// Renames of directories that answered `EXDEV`, and were left out of the plain directory.
    pub too_long: usize,
}

impl std::ops::AddAssign for Done {
    fn add_assign(&mut self, more: Done) {
        self.operations += more.operations;
        self.succeeded += more.succeeded;
        self.too_long += more.too_long;
    }
}

/// Runs sessions with seeds drawn from `seed` until the time is over.
///
/// # Panics
/// With the shortest list of operations that still disagrees.
pub fn run(drivers: &Drivers, seed: u64, how_long: Duration) -> Done {
    let until = Instant::now() + how_long;
    let mut seeds = Random::new(seed);
    let mut next = seed;
    let mut agreed = Done::default();
    while Instant::now() < until {
        agreed += session(drivers, next, SEGMENT * 5);
        next = seeds.number();
    }
    agreed
}

/// One session of `length` operations.
///
/// # Panics
/// As [`run`].
pub fn session(drivers: &Drivers, seed: u64, length: usize) -> Done {
    let mut random = Random::new(seed);
    let mut ops = Vec::new();
    while ops.len() < length {
        ops.append(&mut op::list(&mut random, SEGMENT.min(length)));
        ops.push(Op::Remount);
    }
    match attempt(drivers, seed, &ops) {
        Ok(done) => done,
        Err(disagreement) => {
            let short = shorten(drivers, seed, &ops, &disagreement);
            panic!("{}", report(drivers, seed, &short));
        }
    }
}

/// Where two sides disagreed.
#[derive(Debug, Clone)]
struct Disagreement {
    /// Operations that had been applied.
    after: usize,
    what: String,
}

fn attempt(drivers: &Drivers, seed: u64, ops: &[Op]) -> Result<Done, Disagreement> {
    let caught = catch_unwind(AssertUnwindSafe(|| {
        contract::apart("differential", || {
            Session::new(drivers, seed).and_then(|mut session| session.run(ops))
        })
    }));
    caught.unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        Err(Disagreement {
            after: ops.len(),
            what: said.unwrap_or_else(|| "a panic".into()),
        })
    })
}

/// Leaves out whatever can be left out so that the session still fails: ever smaller pieces, for two minutes at most.
fn shorten(drivers: &Drivers, seed: u64, ops: &[Op], first: &Disagreement) -> (Vec<Op>, Disagreement) {
    let until = Instant::now() + Duration::from_secs(120);
    let mut best = ops[..ops.len().min(first.after)].to_vec();
    let mut seen = match attempt(drivers, seed, &best) {
        Err(seen) => seen,
        Ok(_) => {
            best = ops.to_vec();
            first.clone()
        }
    };
    let mut piece = best.len() / 2;
    while piece > 0 && Instant::now() < until {
        let mut at = 0;
        while at < best.len() && Instant::now() < until {
            let mut fewer = best.clone();
            fewer.drain(at..(at + piece).min(best.len()));
            match attempt(drivers, seed, &fewer) {
                Err(disagreement) => {
                    fewer.truncate(disagreement.after);
                    (best, seen) = (fewer, disagreement);
                }
                Ok(_) => at += piece,
            }
        }
        piece /= 2;
    }
    (best, seen)
}

fn report(drivers: &Drivers, seed: u64, (ops, disagreement): &(Vec<Op>, Disagreement)) -> String {
    let mut text = format!(
        "{:?} disagrees with a plain directory, seed {seed}, after {} operations:\n",
        drivers.judged,
        ops.len()
    );
    for op in ops {
        let _ = writeln!(text, "  {op:?}");
    }
    let _ = write!(text, "{}", disagreement.what);
    text
}

/// Two sides, and the layers under one of them.
struct Session {
    drivers: Drivers,
    layers: Layers,
    mounted: Option<Driver>,
    mount: Side,
    plain: Side,
    times: Times,
    /// Numbers of the mount's things, by their counterparts' identity, since it was mounted.
    numbers: HashMap<compare::Identity, u64>,
    done: Done,
    // Last, so that they go when all else is closed.
    _place: Place,
}

/// Where a session's layers lie: in memory most often, at times on the disk of temporary files.
enum Place {
    Memory(Disk),
    Disk(TempDir),
}

impl Place {
    fn new(random: &mut Random) -> Place {
        if random.below(4) > 0 {
            let memory = Disk::tmpfs("size=200m,mode=755");
            // Since Linux 6.6.
            if f::set_xattr(memory.path(), "user.strata", "").is_ok() {
                return Place::Memory(memory);
            }
        }
        let dir = tempfile::Builder::new()
            .prefix("strata-differential-")
            .tempdir()
            .expect("a temporary directory");
        f::chmod(dir.path(), 0o755).expect("our own directory");
        Place::Disk(dir)
    }

    fn path(&self) -> PathBuf {
        match self {
            Place::Memory(disk) => disk.path(),
            Place::Disk(dir) => dir.path().to_owned(),
        }
    }
}

impl Session {
    fn new(drivers: &Drivers, seed: u64) -> Result<Session, Disagreement> {
        // Another sequence than that of the operations, so that fewer of them start from the same layers.
        let mut random = Random::new(seed ^ 0x5eed);
        let place = Place::new(&mut random);
        let path = place.path();
        for dir in ["merged", "upper", "work", "plain"] {
            f::mkdir(path.join(dir), 0o755).expect("a new directory");
        }
        // Users without privilege shall be able to do something as well.
        f::chmod(path.join("upper"), 0o777).expect("our own directory");
        let mut lower = start::layers(&mut random, &path);
        lower.reverse();
        let mut options = vec!["redirect_dir=on".to_owned(), "index=on".to_owned()];
        let mut times = Times::Compared;
        if random.below(4) == 0 {
            options.push("metacopy=on".to_owned());
            times = Times::Left;
        }
        let layers = Layers {
            lower,
            writable: Some((path.join("upper"), path.join("work"))),
            options,
        };
        let mut session = Session {
            drivers: drivers.clone(),
            layers,
            mounted: None,
            mount: Side::new(path.join("merged"), times),
            plain: Side::new(path.join("plain"), times),
            times,
            numbers: HashMap::new(),
            done: Done::default(),
            _place: place,
        };
        session.mount(Driver::Kernel)?;
        start::copy(session.mount.root(), session.plain.root())
            .map_err(|errno| session.disagree(format!("copying what the kernel shows: {errno}")))?;
        session.remount(drivers.judged.clone())?;
        Ok(session)
    }

    fn disagree(&self, what: String) -> Disagreement {
        Disagreement {
            after: self.done.operations,
            what: match &self.mounted {
                Some(driver) => format!("{what}\n  (mounted by {driver:?}, {:?})", self.layers.options),
                None => what,
            },
        }
    }

    fn mount(&mut self, driver: Driver) -> Result<(), Disagreement> {
        let mounted = driver.mount(&self.layers, self.mount.root());
        mounted.map_err(|error| self.disagree(error.0))?;
        self.mounted = Some(driver);
        Ok(())
    }

    /// By this driver from now on, which must show what was there.
    fn remount(&mut self, driver: Driver) -> Result<(), Disagreement> {
        self.mount.close_all();
        self.plain.close_all();
        if let Some(mounted) = self.mounted.take() {
            let gone = mounted.unmount(self.mount.root());
            gone.map_err(|error| self.disagree(error.0))?;
        }
        self.numbers.clear();
        self.mount(driver)?;
        self.compare()
    }

    fn run(&mut self, ops: &[Op]) -> Result<Done, Disagreement> {
        for op in ops {
            if matches!(op, Op::Remount) {
                self.compare()?;
                let is_judged = self.mounted.as_ref() == Some(&self.drivers.judged);
                let next = if is_judged {
                    &self.drivers.other
                } else {
                    &self.drivers.judged
                };
                self.remount(next.clone())?;
                self.done.operations += 1;
                continue;
            }
            self.apply(op)?;
            if self.done.operations.is_multiple_of(STRIDE) {
                self.compare()?;
            }
        }
        self.compare()?;
        self.remount(self.drivers.other.clone())?;
        Ok(self.done)
    }

    fn apply(&mut self, op: &Op) -> Result<(), Disagreement> {
        let mounts = self.mount.apply(op);
        self.done.operations += 1;
        self.done.succeeded += usize::from(matches!(&mounts, Ok(outcome) if *outcome != Outcome::Empty));
        if too_long_for_a_redirect(op, &mounts) {
            self.done.too_long += 1;
            return Ok(());
        }
        let plains = self.plain.apply(op);
        if mounts != plains {
            return Err(self.disagree(format!("{op:?}:\n  mount {mounts:?}\n  plain {plains:?}")));
        }
        let parents: Vec<_> = op.paths().into_iter().filter_map(|path| path.parent()).collect();
        if mounts.is_err() && self.mounted == Some(Driver::Kernel) && is_rename(op) {
            self.forgive_a_failed_rename(&parents);
        }
        for path in op.paths().into_iter().map(PathBuf::as_path).chain(parents) {
            let (one, other) = (self.mount.attributes(path), self.plain.attributes(path));
            if one != other {
                let path = shown(path);
                return Err(self.disagree(format!(
                    "after {op:?}: {path}:\n  mount {one:?}\n  plain {other:?}"
                )));
            }
        }
        Ok(())
    }

    /// The kernel's overlay changes the time of a directory out of which a directory of a lower layer would have been
    /// renamed over one that is not empty (Linux 6.18). Where it did, the plain directory's is the clock's too.
    fn forgive_a_failed_rename(&self, parents: &[&Path]) {
        for parent in parents {
            let modified = |side: &Side| {
                side.attributes(parent)
                    .ok()
                    .and_then(|attributes| attributes.modified)
            };
            if modified(&self.mount).is_none() && modified(&self.plain).is_some() {
                let _ = f::touch(self.plain.root().join(parent));
            }
        }
    }

    fn compare(&mut self) -> Result<(), Disagreement> {
        let one = Snapshot::take(self.mount.root(), self.times).map_err(|what| self.disagree(what))?;
        let other = Snapshot::take(self.plain.root(), self.times).map_err(|what| self.disagree(what))?;
        one.agree(&other).map_err(|what| self.disagree(what))?;
        if self.mounted.as_ref().is_some_and(Driver::is_fuse) {
            one.numbers_are_listed().map_err(|what| self.disagree(what))?;
        }
        for (identity, number, path) in one.numbers(&other) {
            let before = *self.numbers.entry(identity).or_insert(number);
            if before != number {
                let path = shown(path);
                return Err(self.disagree(format!("{path} had the number {before} and now has {number}")));
            }
        }
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.mount.close_all();
        if let Some(driver) = self.mounted.take()
            && driver.unmount(self.mount.root()).is_err()
        {
            let _ = mount::detach(self.mount.root());
        }
    }
}

fn is_rename(op: &Op) -> bool {
    match op {
        Op::ByUser(op) => is_rename(op),
        op => matches!(op, Op::Rename(..)),
    }
}

/// A directory whose way from the root of the lower layers is longer than a redirect can be (256 bytes) is not renamed
/// elsewhere, and that way may have been another than its path tells. A plain directory has no such limit; the operation
/// is left out there. That this happens seldom is for the caller to see ([`Done::too_long`]).
fn too_long_for_a_redirect(op: &Op, answer: &f::Answer<Outcome>) -> bool {
    match op {
        Op::ByUser(op) => too_long_for_a_redirect(op, answer),
        Op::Rename(..) => *answer == Err(Errno::XDEV),
        _ => false,
    }
}
