//! The threads that answer calls: three lanes, each with a queue that has an end.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use super::sender::Sender;
use super::{Call, Lane, Reply, Shared, thread};
use crate::status::{Code, Status};

/// A call that came whole.
pub(super) struct Job {
    pub(super) sender: Arc<Sender>,
    pub(super) stream: u32,
    pub(super) began: Instant,
    pub(super) call: Call,
}

pub(super) struct Pool {
    most: usize,
    lanes: [Queue; 3],
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    ready: Condvar,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    stopped: bool,
}

impl Pool {
    pub(super) fn new(most: usize) -> Pool {
        Pool {
            most,
            lanes: Default::default(),
        }
    }

    /// Queues a call; it comes back where too many wait.
    pub(super) fn push(&self, lane: Lane, job: Job) -> Result<(), Job> {
        let queue = &self.lanes[number(lane)];
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.jobs.len() >= self.most {
            return Err(job);
        }
        waiting.jobs.push_back(job);
        queue.ready.notify_one();
        Ok(())
    }

    /// Lets the threads end, each after what it is at.
    pub(super) fn stop(&self) {
        for queue in &self.lanes {
            let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.stopped = true;
            queue.ready.notify_all();
        }
    }

    fn next(&self, lane: Lane) -> Option<Job> {
        let queue = &self.lanes[number(lane)];
        let mut waiting = queue.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(job) = waiting.jobs.pop_front() {
                return Some(job);
            }
            if waiting.stopped {
                return None;
            }
            waiting = queue.ready.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Starts the threads.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let lanes = [
        (Lane::Read, "read", shared.limits.readers),
        (Lane::Write, "write", shared.limits.writers),
        (Lane::Walk, "walk", shared.limits.walkers),
    ];
    for (lane, name, threads) in lanes {
        for _ in 0..threads {
            let shared = shared.clone();
            thread(name, move || {
                while let Some(job) = shared.pool.next(lane) {
                    answer(&shared, &job);
                }
            })?;
        }
    }
    Ok(())
}

/// The place of a lane's queue. What whoever read it does not answer is one more call that reads.
fn number(lane: Lane) -> usize {
    match lane {
        Lane::Look | Lane::Read => 0,
        Lane::Write => 1,
        Lane::Walk => 2,
    }
}

pub(super) fn answer(shared: &Shared, job: &Job) {
    let Job {
        sender,
        stream,
        began,
        call,
    } = job;
    // Nobody waits for it any more: it was given up, or its time went by in the queue.
    if !sender.wants(*stream) {
        return;
    }
    let mut reply = Reply {
        sender,
        stream: *stream,
        deadline: call.deadline,
        held: None,
    };
    let called = catch_unwind(AssertUnwindSafe(|| shared.service.call(call, &mut reply)));
    let status = match called {
        Ok(Ok(())) => Status::ok(),
        Ok(Err(status)) => status,
        // Told on standard error by the panic itself. The others go on.
        Err(_) => Status::new(Code::Internal, format!("{} fell over", call.path)),
    };
    let last = match status.code {
        Code::Ok => reply.held.take(),
        _ => None,
    };
    shared.end(sender, *stream, &call.path, *began, last.as_deref(), &status);
}
