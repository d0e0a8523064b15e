//! The other driver: overlays that a process of ours serves, and that containerd is told to bind.
//!
//! Each overlay is mounted at a directory of its own beneath the state directory, `.snapshotter/<namespace>/<key>`: when it
//! is prepared, and when its mounts are asked for and it is not there, as after the machine was started or its server was
//! killed. It is served by a process of its own, which outlives this one. Before its snapshot is committed or removed it is
//! unmounted, so that what was written has reached the store's directories and nobody writes there any more.
//!
//! What is done at one place is done by one thread at a time; the others are not kept waiting, and whoever wants the same
//! place waits for [`TURN`] at most, so that a server that hangs takes no more with it than its own snapshot.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mount::fuse::{Helper, Request, attach, detach, is_ours};
use mount::overlay::Overlay;
use mount::{Mount, MountError, table};
use rustix::io::Errno;

/// Where overlays are mounted, beneath the state directory.
const PLACES: &str = ".snapshotter";

/// The longest name of a directory.
const LONGEST: usize = 255;

/// How long whoever wants a place waits until another is done with it.
const TURN: Duration = Duration::from_secs(10);

/// Mounts overlays for containerd.
#[derive(Debug)]
pub struct Fuse {
    helper: Helper,
    places: PathBuf,
    doing: Mutex<Doing>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Doing {
    /// Places that a thread is at.
    taken: BTreeSet<PathBuf>,
    /// Servers that this process has started: their ends are its to take.
    servers: Vec<Child>,
}

/// A place, as long as nobody else may do anything there.
struct Turn<'a> {
    fuse: &'a Fuse,
    place: PathBuf,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut doing = self.fuse.doing.lock().unwrap_or_else(PoisonError::into_inner);
        doing.taken.remove(&self.place);
        self.fuse.done.notify_all();
    }
}

impl Fuse {
    /// A driver whose servers are started by `helper`, and whose overlays lie beneath `state`.
    pub fn new(helper: Helper, state: &Path) -> Fuse {
        Fuse {
            helper,
            places: state.join(PLACES),
            doing: Mutex::default(),
            done: Condvar::new(),
        }
    }

    /// What containerd mounts for a snapshot: a bind of what is served, where the store says an overlay.
    pub(crate) fn mounts(&self, ns: &str, key: &str, mounts: Vec<Mount>) -> Result<Vec<Mount>, MountError> {
        let [mount] = &mounts[..] else { return Ok(mounts) };
        if mount.kind != "overlay" {
            return Ok(mounts);
        }
        let turn = self.turn(self.place(ns, key)?)?;
        let place = &turn.place;
        if !is_served(place) {
            // What a server left that was killed.
            detach(place)?;
            make(place)?;
            // Ids are mapped where it is bound.
            let mut served = mount.clone();
            served.options.retain(|option| !is_mapping(option));
            let server = attach(&self.helper, &Request::new(&served, place))?.process;
            let mut doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
            doing.servers.push(server);
        }
        let read_only = Overlay::parse(&mount.options).writable.is_none();
        let mut bind = Mount::bind(place, read_only);
        let mappings = mount.options.iter().filter(|option| is_mapping(option));
        bind.options.splice(0..0, mappings.cloned());
        Ok(vec![bind])
    }

    /// Unmounts a snapshot, where it is mounted.
    pub(crate) fn release(&self, ns: &str, key: &str) -> Result<(), MountError> {
        // What has too long a name was never mounted.
        let Ok(place) = self.place(ns, key) else {
            return Ok(());
        };
        let turn = self.turn(place)?;
        // Whoever serves it is not asked: there is an entry, or there is none.
        if fs::symlink_metadata(&turn.place).is_ok() || is_mounted(&turn.place) {
            detach(&turn.place)?;
            // Its own alone: whatever else were in it is not ours to remove.
            let _ = fs::remove_dir(&turn.place);
        }
        Ok(())
    }

    /// Unmounts what is there of snapshots that are not.
    pub(crate) fn sweep(&self, is_there: impl Fn(&str, &str) -> bool) {
        let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        for ns in entries(&self.places) {
            for place in entries(&ns.path()) {
                let (ns, name) = (ns.file_name(), place.file_name());
                if let (Some(ns), Some(key)) = (ns.to_str(), name.to_str().map(decode))
                    && !is_there(ns, &key)
                {
                    let _ = self.release(ns, &key);
                }
            }
        }
    }

    /// Waits until nobody else is at a place; takes the ends of servers meanwhile.
    fn turn(&self, place: PathBuf) -> Result<Turn<'_>, MountError> {
        let until = Instant::now() + TURN;
        let mut doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
        doing
            .servers
            .retain_mut(|server| matches!(server.try_wait(), Ok(None)));
        while doing.taken.contains(&place) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let error = io::Error::from(Errno::BUSY);
                return Err(failed("waiting for whoever mounts or unmounts", &place, error));
            }
            let waited = self.done.wait_timeout(doing, left);
            doing = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        doing.taken.insert(place.clone());
        Ok(Turn { fuse: self, place })
    }

    fn place(&self, ns: &str, key: &str) -> Result<PathBuf, MountError> {
        let name = encode(key);
        let place = self.places.join(ns).join(&name);
        match name.len() <= LONGEST {
            true => Ok(place),
            false => Err(failed("making", &place, Errno::NAMETOOLONG.into())),
        }
    }
}

fn failed(what: &'static str, place: &Path, error: io::Error) -> MountError {
    MountError::Io {
        what,
        path: place.to_owned(),
        error,
    }
}

fn make(place: &Path) -> Result<(), MountError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(place);
    made.map_err(|error| failed("making", place, error))
}

fn is_mapping(option: &str) -> bool {
    option.starts_with("uidmap=") || option.starts_with("gidmap=")
}

/// Whether one of ours is mounted there.
fn is_mounted(place: &Path) -> bool {
    matches!(table::at(place), Ok(Some(entry)) if is_ours(&entry.kind))
}

/// Whether one of ours is mounted there whose server is alive.
fn is_served(place: &Path) -> bool {
    is_mounted(place) && rustix::fs::statfs(place).is_ok()
}

/// A key as a file's name.
fn encode(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    for c in key.chars() {
        match c {
            '/' => name.push_str("%2F"),
            '%' => name.push_str("%25"),
            '\0' => name.push_str("%00"),
            // Neither `.` nor `..`, nor anything that is hidden.
            '.' if name.is_empty() => name.push_str("%2E"),
            c => name.push(c),
        }
    }
    name
}

/// What [`encode`] made a name of.
fn decode(name: &str) -> String {
    let escapes = [("%2F", "/"), ("%2E", "."), ("%00", "\0"), ("%25", "%")];
    escapes
        .iter()
        .fold(name.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_names_of_files_and_back() {
        for key in [
            "k8s.io/1/sha256:abc",
            "..",
            ".",
            "a%2Fb",
            "%252F",
            "%2E%",
            "extract-1 sha256:x",
            "\0",
        ] {
            let name = encode(key);
            assert!(!name.contains(['/', '\0']) && !name.starts_with('.'), "{name}");
            assert_eq!(decode(&name), key);
        }
    }

    #[test]
    fn one_place_has_one_user_and_the_others_are_free() {
        let helper = Helper {
            program: "/nonexistent".into(),
            args: Vec::new(),
        };
        let temp = tempfile::tempdir().unwrap();
        let fuse = Fuse::new(helper, temp.path());
        let place = |key: &str| fuse.place("ns", key).unwrap();
        let first = fuse.turn(place("a")).unwrap();
        drop(fuse.turn(place("b")).unwrap());
        std::thread::scope(|scope| {
            let second = scope.spawn(|| fuse.turn(place("a")).is_ok());
            std::thread::sleep(Duration::from_millis(20));
            assert!(!second.is_finished());
            drop(first);
            assert!(second.join().unwrap());
        });
        let key = "x".repeat(256);
        assert!(fuse.place("ns", &key).is_err());
        fuse.release("ns", &key).unwrap();
    }
}
