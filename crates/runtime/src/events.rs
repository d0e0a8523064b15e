//! What happens to containers, images and volumes, one line of JSON each, for whoever wants to hear of it.
//!
//! There is nobody to keep it but those who do things: each process appends its lines with one write, which the kernel
//! makes whole, to a file of the namespace in the state directory, `.events-<namespace>`. Whoever takes it past [`LIMIT`]
//! renames it to `….old`, whose lines go; so it is bounded, and goes with the machine's state. Who follows is told by
//! inotify. That an event could not be written is no reason to fail in what happened.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::Dir;

/// Bytes after which a log begins anew.
pub const LIMIT: u64 = 1 << 20;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, in nanoseconds since 1970.
    pub time: u64,
    /// `container`, `image`, `network`, `volume`.
    pub kind: String,
    /// What was done, in docker's words: `start`, `die`, `pull`.
    pub action: String,
    /// The container's id, the name of anything else.
    pub id: String,
    /// More about it: a container's `name`, `image`, labels and `exitCode`.
    #[serde(default)]
    pub attributes: BTreeMap<String, String>,
}

impl Event {
    /// Something that happens now.
    pub fn now(kind: &str, action: &str, id: &str, attributes: BTreeMap<String, String>) -> Event {
        Event {
            time: crate::state::now(),
            kind: kind.to_owned(),
            action: action.to_owned(),
            id: id.to_owned(),
            attributes,
        }
    }
}

/// The log of one namespace.
#[derive(Debug, Clone)]
pub struct Log {
    state: PathBuf,
    name: OsString,
}

impl Log {
    /// That of a namespace, in the directory that holds the bundles of all of them.
    pub fn new(state: &Path, namespace: &str) -> Log {
        Log {
            state: state.to_owned(),
            name: format!(".events-{namespace}").into(),
        }
    }

    /// That of the namespace that a bundle is in: `<state>/<namespace>/<id>`.
    pub(crate) fn of_bundle(bundle: &Path) -> Option<Log> {
        let namespace = bundle.parent()?;
        Some(Log::new(namespace.parent()?, namespace.file_name()?.to_str()?))
    }

    /// Writes down what happened.
    pub fn append(&self, events: &[Event]) {
        // Nobody is to be told.
        let _ = self.try_append(events);
    }

    fn try_append(&self, events: &[Event]) -> io::Result<()> {
        let mut text = Vec::new();
        for event in events {
            serde_json::to_writer(&mut text, event)?;
            text.push(b'\n');
        }
        let dir = self.dir()?;
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE;
        let mut file = dir.open_file(&self.name, flags, Mode::RUSR | Mode::WUSR)?;
        // In one write, so that lines of several processes stay whole.
        if file.write(&text)? < text.len() {
            file.write_all(b"\n")?;
        }
        if file.metadata()?.len() > LIMIT && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            // Another may have been faster: then the name leads elsewhere by now.
            let own = file.metadata()?.ino();
            if dir.try_stat(&self.name)?.is_some_and(|found| found.st_ino == own) {
                dir.rename(&self.name, &dir, self.old())?;
            }
        }
        Ok(())
    }

    fn old(&self) -> OsString {
        let mut old = self.name.clone();
        old.push(".old");
        old
    }

    fn dir(&self) -> io::Result<Dir> {
        match Dir::open_ambient(&self.state) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(&self.state)?;
                Dir::open_ambient(&self.state)
            }
            other => other,
        }
    }

    /// Follows the log: what is in it already if `past` says so, then what comes.
    ///
    /// # Errors
    /// The state directory cannot be read or watched.
    pub fn follow(&self, past: bool) -> io::Result<Follower> {
        let dir = self.dir()?;
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Before anything is read: nothing is missed in between.
        inotify::add_watch(&watch, &self.state, WatchFlags::MODIFY | WatchFlags::CREATE)?;
        let open = |name: &OsString| match dir.open_file(name, OFlags::RDONLY, Mode::empty()) {
            Ok(file) => Ok(Some(Part::new(file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let mut now = open(&self.name)?;
        let before = match past {
            true => open(&self.old())?,
            false => {
                if let Some(part) = &mut now {
                    part.file.seek(SeekFrom::End(0))?;
                }
                None
            }
        };
        Ok(Follower {
            log: self.clone(),
            dir,
            watch,
            before,
            now,
        })
    }
}

/// One file of a log, read as far as it goes.
#[derive(Debug)]
struct Part {
    file: File,
    /// The beginning of a line whose rest is not there yet.
    begun: Vec<u8>,
}

impl Part {
    fn new(file: File) -> Part {
        Part {
            file,
            begun: Vec::new(),
        }
    }

    fn read(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        self.file.read_to_end(&mut self.begun)?;
        let Some(end) = self.begun.iter().rposition(|byte| *byte == b'\n') else {
            return Ok(());
        };
        let rest = self.begun.split_off(end + 1);
        let lines = std::mem::replace(&mut self.begun, rest);
        // What a full disk cut short says nothing.
        events.extend(
            lines
                .split(|byte| *byte == b'\n')
                .filter_map(|line| serde_json::from_slice(line).ok()),
        );
        Ok(())
    }
}

/// Reads a log as it grows.
#[derive(Debug)]
pub struct Follower {
    log: Log,
    dir: Dir,
    watch: OwnedFd,
    /// The file before, which somebody may still be writing a line to.
    before: Option<Part>,
    now: Option<Part>,
}

impl Follower {
    /// What has come since this was asked last; nothing perhaps.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        let mut events = Vec::new();
        let there = self.dir.try_stat(&self.log.name)?.map(|found| found.st_ino);
        let own = self.now.as_ref().map(|part| part.file.metadata()).transpose()?;
        if there.is_some() && there != own.map(|own| own.ino()) {
            let new = self
                .dir
                .open_file(&self.log.name, OFlags::RDONLY, Mode::empty())?;
            // Whoever was told of more than one new file since then has missed the ones between.
            if let Some(before) = &mut self.before {
                before.read(&mut events)?;
            }
            if let Some(last) = self.now.replace(Part::new(new)) {
                self.before = Some(last);
            }
        }
        for part in [&mut self.before, &mut self.now].into_iter().flatten() {
            part.read(&mut events)?;
        }
        Ok(events)
    }

    /// Waits until there may be something new, for as long as `time` at most; whether there may be.
    ///
    /// # Errors
    /// Of poll(2).
    pub fn wait(&self, time: Option<Duration>) -> io::Result<bool> {
        let time = time.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut fds = [PollFd::new(&self.watch, PollFlags::IN)];
        match rustix::event::poll(&mut fds, time.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.watch, &mut buffer);
        // That something changed is all that is asked.
        while reader.next().is_ok() {}
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> Event {
        Event {
            time: n,
            ..Event::now("container", "start", &n.to_string(), BTreeMap::new())
        }
    }

    fn times(events: &[Event]) -> Vec<u64> {
        events.iter().map(|event| event.time).collect()
    }

    #[test]
    fn what_was_and_what_comes() {
        let temp = tempfile::tempdir().unwrap();
        let state = temp.path().join("not/there");
        let log = Log::new(&state, "ns");
        log.append(&[event(1), event(2)]);
        let (mut all, mut new) = (log.follow(true).unwrap(), log.follow(false).unwrap());
        assert_eq!(times(&all.read().unwrap()), [1, 2]);
        assert!(new.read().unwrap().is_empty());
        assert!(!new.wait(Some(Duration::ZERO)).unwrap());
        log.append(&[event(3)]);
        assert!(new.wait(Some(Duration::from_secs(5))).unwrap());
        assert_eq!(times(&new.read().unwrap()), [3]);
        assert_eq!(times(&all.read().unwrap()), [3]);
        assert_eq!(Log::of_bundle(&state.join("ns/abc")).unwrap().name, log.name);
        // A line that a full disk cut short hides no other.
        let file = state.join(".events-ns");
        File::options()
            .append(true)
            .open(&file)
            .unwrap()
            .write_all(b"{\"time\":9,\n")
            .unwrap();
        log.append(&[event(4)]);
        assert_eq!(times(&new.read().unwrap()), [4]);
    }

    #[test]
    fn it_is_bounded_and_several_write_and_nobody_misses_a_line() {
        let temp = tempfile::tempdir().unwrap();
        let log = Log::new(temp.path(), "ns");
        let mut follower = log.follow(false).unwrap();
        let written = 4 * 6000;
        let mut seen = Vec::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let log = log.clone();
                scope.spawn(move || (0..6000).for_each(|n| log.append(&[event(thread * 6000 + n)])));
            }
            let begin = std::time::Instant::now();
            while seen.len() < written && begin.elapsed() < Duration::from_secs(60) {
                follower.wait(Some(Duration::from_millis(100))).unwrap();
                seen.extend(times(&follower.read().unwrap()));
            }
        });
        assert_eq!(seen.len(), written);
        seen.sort_unstable();
        assert!(seen.iter().enumerate().all(|(n, time)| *time == n as u64));
        let sizes: Vec<u64> = std::fs::read_dir(temp.path())
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .collect();
        assert!(
            sizes.len() == 2 && sizes.iter().all(|size| *size < LIMIT + 10_000),
            "{sizes:?}"
        );
    }
}
