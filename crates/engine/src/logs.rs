//! `logs`: what a container printed.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use jiff::Timestamp;
use runtime::bundle::Bundle;
use runtime::control::{Connection, Request};
use runtime::log::{Entry, Reader};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify;
use store::{ContainerError, SnapshotError};
use sys::Dir;

use crate::Engine;
use crate::run::Details;

pub use runtime::log::Stream;

/// How often to look whether a container still runs that has no supervisor to ask, and whether it is late enough.
const LOOK_AGAIN: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Which part of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogsOptions {
    /// Go on with what comes, until the container ends.
    pub follow: bool,
    /// No more than so many lines, the last ones.
    pub tail: Option<usize>,
    /// Nothing of before.
    pub since: Option<Timestamp>,
    /// Nothing of after.
    pub until: Option<Timestamp>,
}

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogsError {
    /// None of that name or id; the store.
    #[error(transparent)]
    Container(#[from] ContainerError),
    /// Nothing is kept of what it prints.
    #[error("container {0} keeps no log")]
    None(String),
    /// Where it is kept.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// It cannot be read.
    #[error("the log of container {name}: {source}")]
    Read {
        /// The container's name.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
}

impl Engine {
    /// Hands what a container printed, entry by entry, to `take`; false from it ends that.
    ///
    /// # Errors
    /// See [`LogsError`].
    pub fn logs(
        &self,
        name: &str,
        options: &LogsOptions,
        mut take: impl FnMut(&Entry) -> io::Result<bool>,
    ) -> Result<(), LogsError> {
        let row = self.store.find_container(self.ns(), name)?;
        let kept = Details::of(&row).plan.is_some_and(|plan| plan.log.is_some());
        if !kept {
            return Err(LogsError::None(row.name));
        }
        let dir = self.store.log_dir(self.ns(), &row.id)?;
        let mut read = || -> io::Result<()> {
            // Before the first look, so that nothing comes in between unseen.
            let watch = options.follow.then(|| watch(&dir)).transpose()?;
            let mut reader = Reader::open(dir.try_clone()?)?;
            let wanted = |entry: &Entry| options.since.is_none_or(|since| entry.at >= since);
            let over = |entry: &Entry| options.until.is_some_and(|until| entry.at > until);
            if let Some(count) = options.tail {
                for entry in last(&mut reader, count, |entry| wanted(entry) && !over(entry))? {
                    if !take(&entry)? {
                        return Ok(());
                    }
                }
            }
            let mut supervisor = None;
            loop {
                // In this order: what was printed before the end is there when the end is seen.
                let up = options.follow && self.state(&row).is_up();
                if up && supervisor.is_none() {
                    supervisor = self.listen_for_end(&row);
                }
                while let Some(entry) = reader.next_entry()? {
                    // One of later may stand before one of earlier: the clock may have been set back between them.
                    if wanted(&entry) && !over(&entry) && !take(&entry)? {
                        return Ok(());
                    }
                }
                let Some(watch) = watch.as_ref().filter(|_| up) else {
                    return Ok(());
                };
                if options.until.is_some_and(|until| Timestamp::now() > until) {
                    return Ok(());
                }
                if wait(watch, supervisor.as_ref(), options.until.is_some())? {
                    supervisor = None;
                }
            }
        };
        read().map_err(|source| LogsError::Read {
            name: row.name.clone(),
            source,
        })
    }
}

impl Engine {
    /// A connection that becomes readable when the container ends.
    fn listen_for_end(&self, row: &store::Container) -> Option<Connection> {
        let bundle = Bundle::open(&self.bundle_of(row)).ok()?;
        let connection = Connection::open(&bundle).ok()?;
        connection.send(&Request::Wait, &[]).ok()?;
        Some(connection)
    }
}

/// The last `count` lines that are wanted; a line may be of several entries.
fn last(reader: &mut Reader, count: usize, wanted: impl Fn(&Entry) -> bool) -> io::Result<Vec<Entry>> {
    let mut kept: VecDeque<Entry> = VecDeque::new();
    let mut lines = 0;
    let ends = |entry: &Entry| entry.text.ends_with(b"\n");
    while let Some(entry) = reader.next_entry()? {
        if !wanted(&entry) {
            continue;
        }
        lines += usize::from(ends(&entry));
        kept.push_back(entry);
        // A piece of a line at the end counts as one.
        let whole = kept.back().is_some_and(ends);
        while lines + usize::from(!whole) > count {
            match kept.pop_front() {
                Some(entry) => lines -= usize::from(ends(&entry)),
                None => break,
            }
        }
    }
    Ok(kept.into())
}

fn watch(dir: &Dir) -> io::Result<OwnedFd> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    let path = format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd());
    let changes = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
    inotify::add_watch(&watch, path, changes)?;
    Ok(watch)
}

/// Waits for a change, or for the end; not for long where there is a time to look at. Whether the supervisor has told the
/// end.
fn wait(watch: &OwnedFd, supervisor: Option<&Connection>, timed: bool) -> io::Result<bool> {
    let mut fds = vec![PollFd::new(watch, PollFlags::IN)];
    fds.extend(supervisor.map(|supervisor| PollFd::new(supervisor, PollFlags::IN)));
    let time = (timed || supervisor.is_none()).then_some(LOOK_AGAIN);
    match rustix::event::poll(&mut fds, time.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let told = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
    let mut buffer = [0; 4096];
    while rustix::io::read(watch, &mut buffer).is_ok_and(|length| length > 0) {}
    Ok(told)
}
