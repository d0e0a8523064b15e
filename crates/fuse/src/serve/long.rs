//! Calls that take long: copying a large file up, waiting for that, making things durable.
//!
//! A worker is at one request until it is answered. So that two who copy files up do not stop everybody else, another
//! thread reads the device for as long as no worker would be left. And nobody copies for a caller that was killed: the
//! kernel waits for our answer before it lets such a process go.
//!
//! Where requests come through rings the kernel has dealt them out to the threads of a processor beforehand, and a
//! further thread would get none.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use overlay::live::{FrontEnd, NodeId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use super::Shared;
use super::asker::Asker;
use super::worker::Worker;
use crate::abi::reply::Reply;

/// Threads that help out, at most.
const MOST: usize = 32;

/// How long one that helps out waits for a request before it sees whether it is still needed.
const IDLE: Duration = Duration::from_secs(1);

thread_local! {
    static SERVED: RefCell<Weak<Shared>> = const { RefCell::new(Weak::new()) };
    static ASKED_BY: Cell<u32> = const { Cell::new(0) };
}

/// The calling thread is a worker from here on.
pub(super) fn works_for(shared: &Arc<Shared>) {
    SERVED.set(Arc::downgrade(shared));
}

/// The thread whose request the calling thread is at.
pub(super) fn asked_by(pid: u32) {
    ASKED_BY.set(pid);
}

/// The overlay's front end: the worker whose thread makes the call.
#[derive(Debug)]
pub(crate) struct Caller;

impl FrontEnd for Caller {
    fn long_begins(&self) {
        if let Some(shared) = SERVED.with_borrow(Weak::upgrade) {
            shared.helpers.begin(&shared);
        }
    }

    fn long_ends(&self) {
        if let Some(shared) = SERVED.with_borrow(Weak::upgrade) {
            shared.helpers.long.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn touched(&self, directory: NodeId) {
        if let Some(shared) = SERVED.with_borrow(Weak::upgrade) {
            // It fails where the kernel believes nothing of the directory.
            let _ = rustix::io::write(&shared.device, &Reply::forget_attributes(directory));
        }
    }

    fn given_up(&self) -> bool {
        match ASKED_BY.get() {
            0 => false,
            pid => Asker::was_killed(pid),
        }
    }
}

/// Those who help out.
#[derive(Debug)]
pub(super) struct Helpers {
    /// Threads that read the device; none to be helped where requests come through rings.
    workers: Option<usize>,
    /// Calls that take long.
    long: AtomicUsize,
    helping: AtomicUsize,
}

impl Helpers {
    /// For so many `workers`.
    pub(super) fn new(workers: Option<usize>) -> Helpers {
        Helpers {
            workers,
            long: AtomicUsize::new(0),
            helping: AtomicUsize::new(0),
        }
    }

    fn begin(&self, shared: &Arc<Shared>) {
        let long = self.long.fetch_add(1, Ordering::Relaxed) + 1;
        let helping = self.helping.load(Ordering::Relaxed);
        if self.workers.is_none_or(|workers| long < workers + helping) || helping >= MOST {
            return;
        }
        // Another may take the request that a helper was woken for; it then goes back to see whether it is needed.
        let device = sys::fuse::clone_device(shared.device.as_fd()).and_then(|device| {
            rustix::fs::fcntl_setfl(&device, OFlags::NONBLOCK)?;
            Ok(device)
        });
        let Ok(device) = device else { return };
        self.helping.fetch_add(1, Ordering::Relaxed);
        let helper = shared.clone();
        let thread = std::thread::Builder::new().name("fuse-helper".to_owned());
        // Without a thread others wait, as they would have.
        if thread.spawn(move || help(device, &helper)).is_err() {
            self.helping.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether one who helps out should go on.
    fn are_needed(&self) -> bool {
        self.workers
            .is_some_and(|workers| self.long.load(Ordering::Relaxed) >= workers)
    }
}

/// Answers requests until nobody needs that any more, or the connection ends.
fn help(device: OwnedFd, shared: &Arc<Shared>) {
    works_for(shared);
    let mut worker = Worker::new(device, shared.clone());
    let timeout = Timespec {
        tv_sec: IDLE.as_secs() as _,
        tv_nsec: 0,
    };
    loop {
        let mut fds = [PollFd::new(&worker, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) if !shared.helpers.are_needed() => break,
            Ok(0) | Err(Errno::INTR) => continue,
            Ok(_) if worker.serve_one() => {}
            Ok(_) | Err(_) => break,
        }
    }
    shared.helpers.helping.fetch_sub(1, Ordering::Relaxed);
}
