//! Calls that take too long: whoever called is answered when the time is over, whatever the service does.
//!
//! The thread sleeps until the first call's time is over that it knows of, and is woken only for one that ends
//! earlier. So a server that is called often wakes it once in a call's time, and one that is not, never.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::pool::Job;
use super::sender::Sender;
use super::{Shared, thread};
use crate::status::{Code, Status};

pub(super) struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    watched: Vec<Watched>,
    /// When the thread wakes by itself.
    wakes: Option<Instant>,
    stopped: bool,
}

struct Watched {
    sender: Weak<Sender>,
    stream: u32,
    path: String,
    began: Instant,
    deadline: Instant,
}

impl Watched {
    /// Whether it still wants an answer.
    fn is_open(&self) -> bool {
        let sender = self.sender.upgrade();
        sender.is_some_and(|sender| sender.wants(self.stream))
    }
}

/// Calls watched at which those that have been answered are let go of before the time.
const MANY: usize = 256;

impl Timer {
    pub(super) fn new() -> Timer {
        Timer {
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn watch(&self, job: &Job) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.watched.len() == state.watched.capacity() && state.watched.len() >= MANY {
            state.watched.retain(Watched::is_open);
        }
        let deadline = job.call.deadline;
        state.watched.push(Watched {
            sender: Arc::downgrade(&job.sender),
            stream: job.stream,
            path: job.call.path.clone(),
            began: job.began,
            deadline,
        });
        if state.wakes.is_none_or(|wakes| deadline < wakes) {
            state.wakes = Some(deadline);
            self.changed.notify_one();
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.changed.notify_one();
    }

    /// Waits for calls whose time is over; `None` when it is stopped.
    fn overdue(&self) -> Option<Vec<Watched>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if state.stopped {
                return None;
            }
            let now = Instant::now();
            match state.wakes {
                Some(wakes) if wakes <= now => {
                    state.watched.retain(Watched::is_open);
                    let over = |watched: &mut Watched| watched.deadline <= now;
                    let overdue: Vec<Watched> = state.watched.extract_if(.., over).collect();
                    state.watched.shrink_to(MANY);
                    state.wakes = state.watched.iter().map(|watched| watched.deadline).min();
                    if !overdue.is_empty() {
                        return Some(overdue);
                    }
                }
                Some(wakes) => {
                    let waited = self.changed.wait_timeout(state, wakes - now);
                    state = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                None => {
                    let waited = self.changed.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = shared.clone();
    thread("timer", move || {
        while let Some(overdue) = shared.timer.overdue() {
            for Watched {
                sender,
                stream,
                path,
                began,
                ..
            } in overdue
            {
                let Some(sender) = sender.upgrade() else { continue };
                let text = format!(
                    "{path} took longer than {:.1} s: what it began goes on",
                    began.elapsed().as_secs_f32()
                );
                let status = Status::new(Code::DeadlineExceeded, text);
                shared.end(&sender, stream, &path, began, None, &status);
            }
        }
    })
    .map(drop)
}
