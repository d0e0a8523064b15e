//! The other driver: overlays that a process of ours serves, and that containerd is told to bind.
//!
//! Each overlay is mounted at a directory of its own beneath the state directory, `.snapshotter/<store>/<namespace>/<key>`,
//! since servers of several stores share that directory and each containerd counts its keys from one: when it
//! is prepared, and when its mounts are asked for and it is not there, as after the machine was started or its server was
//! killed. It is served by a process of its own, which outlives this one. Before its snapshot is committed or removed it is
//! unmounted, so that what was written has reached the store's directories and nobody writes there any more.
//!
//! What is done at one place, and with the row that it belongs to, is done by one thread at a time; the others are not kept
//! waiting, and whoever wants the same place waits for [`TURN`] at most. Nothing is asked of a server that has once answered:
//! who it is is written down beside the places, `.servers/<namespace>/<key>`, and whether that process is there is all that
//! matters. So a server that hangs keeps no thread, and takes no more with it than its own snapshot.
//!
//! What a server showed that was killed is unmounted within [`LOOK`], at its place and wherever containerd has bound it.
//!
//! The service may be started with the other driver while overlays stand: what is mounted here is answered as long as it is
//! served, and is unmounted with its snapshot, whoever mounts the next.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mount::fuse::{Helper, Request, Server, attach, detach, detach_from, is_ours, refuse_in_use};
use mount::overlay::Overlay;
use mount::{Mount, MountError, table};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use rustix::io::Errno;

/// Where overlays are mounted, beneath the state directory.
const PLACES: &str = ".snapshotter";

/// Who serves each of them, a symbolic link to the name of a process; no namespace is called so.
const SERVERS: &str = ".servers";

/// The longest name of a directory.
const LONGEST: usize = 255;

/// How long whoever wants a place waits until another is done with it.
const TURN: Duration = Duration::from_secs(10);

/// How often servers are looked at. Each costs some microseconds.
pub(crate) const LOOK: Duration = Duration::from_secs(5);

/// Mounts overlays for containerd.
#[derive(Debug)]
pub struct Fuse {
    helper: Helper,
    /// Overlays are mounted here; otherwise only those are looked after that were.
    serves: bool,
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
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    fuse: &'a Fuse,
    place: PathBuf,
}

impl Turn<'_> {
    /// Unmounts what is mounted here.
    pub(crate) fn release(&self) -> Result<(), MountError> {
        match is_there(&self.place) {
            true => self.fuse.unmount(&self.place),
            false => Ok(()),
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut doing = self.fuse.doing.lock().unwrap_or_else(PoisonError::into_inner);
        doing.taken.remove(&self.place);
        self.fuse.done.notify_all();
    }
}

impl Fuse {
    /// A driver whose servers are started by `helper`, and whose overlays, of the store at `root`, lie beneath `state`.
    /// Unless it `serves`, it looks after those alone that are there.
    ///
    /// # Errors
    /// The state directory cannot be made, or there is no store.
    pub fn new(helper: Helper, state: &Path, root: &Path, serves: bool) -> io::Result<Fuse> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state)?;
        // By whatever path it is named.
        let store = fs::metadata(root)?;
        Ok(Fuse {
            helper,
            serves,
            // As the mount table has it, without links.
            places: state
                .canonicalize()?
                .join(PLACES)
                .join(format!("{:x}-{:x}", store.dev(), store.ino())),
            doing: Mutex::default(),
            done: Condvar::new(),
        })
    }

    /// Whether overlays are mounted by this driver.
    pub(crate) fn serves(&self) -> bool {
        self.serves
    }

    /// What containerd mounts for a snapshot: a bind of what is served, where the store says an overlay.
    pub(crate) fn mounts(&self, turn: &Turn<'_>, mounts: Vec<Mount>) -> Result<Vec<Mount>, MountError> {
        let [mount] = &mounts[..] else { return Ok(mounts) };
        let place = &turn.place;
        if mount.kind != "overlay" || !(self.serves || is_there(place)) {
            return Ok(mounts);
        }
        // Layers are mapped, and the writable directory is not: its owners are those outside. A bind would map both.
        if mount.options.iter().any(|option| is_mapping(option)) {
            return Ok(mounts);
        }
        if !self.is_served(place) {
            // What a server left that was killed.
            self.clear(place)?;
            if !self.serves {
                return Ok(mounts);
            }
            // The kernel's takes no lock: a container may stand on one that was made before this driver was chosen.
            refuse_in_use(mount)?;
            make(place)?;
            let server = attach(&self.helper, &Request::new(mount, place))?;
            self.write_down(place, server.name());
            let mut doing = self.doing.lock().unwrap_or_else(PoisonError::into_inner);
            doing.servers.push(server.process);
        }
        let read_only = Overlay::parse(&mount.options).writable.is_none();
        Ok(vec![Mount::bind(place, read_only)])
    }

    /// Waits until nobody else does anything with a snapshot, and keeps others from it as long as the answer lives. A key that
    /// is too long for a place is an error only where places are made.
    pub(crate) fn turn_of(&self, ns: &str, key: &str) -> Result<Option<Turn<'_>>, MountError> {
        match self.place(ns, key) {
            Ok(place) => self.turn(place).map(Some),
            Err(error) if self.serves => Err(error),
            Err(_) => Ok(None),
        }
    }

    /// Unmounts a snapshot, where it is mounted, and keeps it so as long as the answer lives.
    pub(crate) fn release(&self, ns: &str, key: &str) -> Result<Option<Turn<'_>>, MountError> {
        // What has too long a name was never mounted.
        let Ok(place) = self.place(ns, key) else {
            return Ok(None);
        };
        let turn = self.turn(place)?;
        turn.release()?;
        Ok(Some(turn))
    }

    /// Unmounts what is there of snapshots that are not.
    pub(crate) fn sweep(&self, is_there: impl Fn(&str, &str) -> bool) {
        let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        let hidden = |entry: &fs::DirEntry| entry.file_name().as_encoded_bytes().starts_with(b".");
        for ns in entries(&self.places).filter(|entry| !hidden(entry)) {
            for place in entries(&ns.path()) {
                let (ns, name) = (ns.file_name(), place.file_name());
                if let (Some(ns), Some(key)) = (ns.to_str(), name.to_str().map(decode))
                    && let Ok(Some(turn)) = self.turn_of(ns, &key)
                    && !is_there(ns, &key)
                {
                    let _ = turn.release();
                }
            }
        }
    }

    /// Unmounts, wherever it is bound, what a server showed that was killed. Nothing in it will answer again, and it stands
    /// in the way: containerd looks at a root file system before it unmounts it, and does not get past one that does not
    /// answer, so that its container could neither be restarted nor deleted.
    pub(crate) fn clear_killed(&self) {
        let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
        for ns in entries(&self.places.join(SERVERS)) {
            for record in entries(&ns.path()) {
                let place = self.places.join(ns.file_name()).join(record.file_name());
                let is_alive = || {
                    let name = fs::read_link(record.path()).ok();
                    name.is_none_or(|name| !is_gone(&name))
                };
                if !is_alive()
                    && let Ok(turn) = self.turn(place)
                    && !is_alive()
                {
                    let _ = turn.fuse.clear(&turn.place);
                }
            }
        }
    }

    /// Unmounts what is at a place whose server is gone, and every bind of it.
    fn clear(&self, place: &Path) -> Result<(), MountError> {
        let table = table::read().map_err(|error| failed("reading the mount table for", place, error))?;
        let topmost = |target: &Path| table.iter().rev().find(|entry| entry.target == target);
        let found = table.iter().rev().find(|entry| entry.target == place);
        if let Some(found) = found.filter(|entry| is_ours(&entry.kind)) {
            let mut covered = false;
            // What lies on another comes after it.
            for entry in table.iter().rev().filter(|entry| entry.device == found.device) {
                match topmost(&entry.target).is_some_and(|top| top.id == entry.id) {
                    // Somebody else may have done it meanwhile.
                    true => drop(mount::kernel::unmount(&entry.target, true)),
                    // Something else lies on it, and would be taken in its place.
                    false => covered = true,
                }
            }
            if covered {
                // As long as it is written down it is looked at again.
                return Ok(());
            }
        }
        self.unmount(place)
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

    /// Where it is written down who serves at a place.
    fn record(&self, place: &Path) -> PathBuf {
        let rest = place.strip_prefix(&self.places).unwrap_or(place);
        self.places.join(SERVERS).join(rest)
    }

    /// Writes down who serves at a place. Where that fails, it is the mount that is asked.
    fn write_down(&self, place: &Path, server: Option<String>) {
        let (Some(name), record) = (server, self.record(place)) else {
            return;
        };
        let _ = fs::remove_file(&record);
        if let Some(dir) = record.parent() {
            let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        }
        let _ = std::os::unix::fs::symlink(name, record);
    }

    /// Whether one of ours is mounted there whose server is alive. That it answers is its own matter: whoever asked it would
    /// wait for one that hangs.
    fn is_served(&self, place: &Path) -> bool {
        is_mounted(place)
            && match fs::read_link(self.record(place)) {
                Ok(name) => !is_gone(&name),
                Err(_) => rustix::fs::statfs(place).is_ok(),
            }
    }

    /// Unmounts what is there, and removes the place.
    fn unmount(&self, place: &Path) -> Result<(), MountError> {
        let record = self.record(place);
        let server = fs::read_link(&record).ok();
        let name = server.as_ref().and_then(|name| name.to_str());
        let process = name.map_or(Ok(None), Server::named);
        match process.map_err(|error| failed("looking for the server of", place, error))? {
            Some(process) if is_mounted(place) => detach_from(process, place)?,
            _ => detach(place)?,
        };
        if server.is_some() {
            let _ = fs::remove_file(record);
        }
        // Its own alone: whatever else were in it is not ours to remove.
        let _ = fs::remove_dir(place);
        Ok(())
    }
}

/// Whether the server of that name is there no more. Where that cannot be told, for want of descriptors or memory, it is there.
fn is_gone(name: &Path) -> bool {
    matches!(name.to_str().map(Server::named), Some(Ok(None)))
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

/// Whether there is a place, or a mount that hides whether there is. Whoever serves it is not asked.
fn is_there(place: &Path) -> bool {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC;
    let found = rustix::fs::statx(CWD, place, flags, StatxFlags::TYPE);
    !matches!(found, Err(Errno::NOENT))
}

fn is_mapping(option: &str) -> bool {
    option.starts_with("uidmap=") || option.starts_with("gidmap=")
}

/// Whether one of ours is mounted there.
fn is_mounted(place: &Path) -> bool {
    matches!(table::at(place), Ok(Some(entry)) if is_ours(&entry.kind))
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
        let fuse = Fuse::new(helper, temp.path(), temp.path(), true).unwrap();
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
        assert!(fuse.turn_of("ns", &key).is_err());
        assert!(fuse.release("ns", &key).unwrap().is_none());
    }
}
