//! One worker at the device: read, decode, answer.

use std::io::IoSlice;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use overlay::live::NodeId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::{Shared, long};
use crate::abi::reply::Reply;
use crate::abi::{IN_HEADER, InitFlags, Request, WRITE_IN};
use crate::session::MAX_WRITE;

/// Alignment that direct I/O may ask of memory.
const PAGE: usize = 4096;

/// Bytes whose place in memory begins at a page.
#[derive(Debug)]
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    fn new(length: usize) -> Aligned {
        // Fresh zeroed memory of this size costs nothing until it is touched.
        let memory = vec![0u8; length + PAGE];
        let start = memory.as_ptr().align_offset(PAGE).min(PAGE);
        Aligned { memory, start }
    }

    pub(super) fn get(&self, from: usize, to: usize) -> &[u8] {
        self.memory
            .get(self.start + from..self.start + to)
            .unwrap_or_default()
    }

    pub(super) fn get_mut(&mut self, from: usize, to: usize) -> &mut [u8] {
        self.memory
            .get_mut(self.start + from..self.start + to)
            .unwrap_or_default()
    }
}

/// How a request is answered.
#[derive(Debug)]
pub(super) enum Answer {
    /// With the reply's body, or an errno.
    Reply(Result<(), Errno>),
    /// With this many bytes of the worker's data.
    Data(usize),
    /// Not at all.
    Silent,
}

impl From<Result<(), Errno>> for Answer {
    fn from(result: Result<(), Errno>) -> Answer {
        Answer::Reply(result)
    }
}

/// What the answer to a request hands out, to be taken back when nobody receives it.
#[derive(Debug, Default)]
pub(super) struct Granted {
    pub(super) nodes: Vec<NodeId>,
    pub(super) handle: Option<u64>,
}

/// The buffers that an answer is made in.
#[derive(Debug)]
pub(super) struct Out<'a> {
    pub(super) reply: &'a mut Reply,
    /// What READ brings.
    pub(super) data: &'a mut [u8],
    pub(super) granted: &'a mut Granted,
    /// Directories that a listing names.
    pub(super) directories: &'a mut Vec<NodeId>,
}

/// Buffers that a thread keeps from answer to answer.
#[derive(Debug, Default)]
pub(super) struct Buffers {
    pub(super) reply: Reply,
    pub(super) granted: Granted,
    directories: Vec<NodeId>,
}

impl Buffers {
    pub(super) fn out<'a>(&'a mut self, data: &'a mut [u8]) -> Out<'a> {
        Out {
            reply: &mut self.reply,
            data,
            granted: &mut self.granted,
            directories: &mut self.directories,
        }
    }
}

impl Out<'_> {
    fn clear(&mut self) {
        self.reply.clear();
        self.granted.nodes.clear();
        self.granted.handle = None;
    }
}

/// How long other workers are given to let go of removed files, try by try: so late comes the answer that there is no
/// room.
const LET_GO: [Duration; 3] = [
    Duration::from_millis(2),
    Duration::from_millis(8),
    Duration::from_millis(32),
];

impl Shared {
    /// Answers the request in `bytes`: its number and how. `None` for what has no number.
    pub(super) fn answer(
        &self,
        device: BorrowedFd<'_>,
        bytes: &[u8],
        out: &mut Out,
    ) -> Option<(u64, Answer)> {
        let long_setxattr = self.agreed.contains(InitFlags::SETXATTR_EXT);
        out.clear();
        let Ok(request) = Request::decode(bytes, long_setxattr) else {
            return Some((Request::unique_of(bytes)?, Answer::Reply(Err(Errno::IO))));
        };
        long::asked_by(request.pid);
        let mut answer = self.dispatch(device, &request, out);
        // The space of a file that was just removed comes free when its FORGET is answered, which nobody waits for and
        // another worker may be at. What was refused left nothing behind, and is tried again.
        for pause in LET_GO {
            if !matches!(answer, Answer::Reply(Err(Errno::NOSPC | Errno::DQUOT))) {
                break;
            }
            std::thread::sleep(pause);
            out.clear();
            answer = self.dispatch(device, &request, out);
        }
        Some((request.unique, answer))
    }
}

/// How long a worker asks again before it sleeps. Who got an answer often has the next question at once, and waking a
/// sleeper takes longer than most answers: in a virtual machine, where the processor has gone to sleep too, ten times as
/// long.
const LINGER: Duration = Duration::from_micros(50);

/// A thread's part of the connection.
#[derive(Debug)]
pub(super) struct Worker {
    device: OwnedFd,
    shared: Arc<Shared>,
    requests: Aligned,
    data: Aligned,
    buffers: Buffers,
}

/// Where a request begins in its buffer, so that the data of a WRITE begins at a page.
const BEGIN: usize = PAGE - IN_HEADER - WRITE_IN;

impl Worker {
    pub(super) fn new(device: OwnedFd, shared: Arc<Shared>) -> Worker {
        Worker {
            device,
            shared,
            requests: Aligned::new(PAGE + MAX_WRITE),
            data: Aligned::new(MAX_WRITE),
            buffers: Buffers::default(),
        }
    }

    /// Answers requests until the connection ends.
    pub(super) fn run(&mut self) {
        long::works_for(&self.shared);
        loop {
            self.linger();
            if !self.serve_one() {
                break;
            }
        }
        self.shared.end();
    }

    /// Waits for a request and answers it; `false` once the connection has ended.
    pub(super) fn serve_one(&mut self) -> bool {
        let buffer = self.requests.get_mut(BEGIN, PAGE + MAX_WRITE);
        match rustix::io::read(&self.device, buffer) {
            Ok(length) => self.answer(length),
            // ENOENT: the request was given up before it was read.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
            // ENODEV: unmounted. ECONNABORTED: aborted. Anything else cannot be mended either.
            Err(_) => return false,
        }
        true
    }

    /// Stays awake for a while, unless another worker does, or there is none that could be woken meanwhile. All others who
    /// want to run go first.
    fn linger(&self) {
        if !self.shared.lingering || self.shared.awake.swap(true, Ordering::Acquire) {
            return;
        }
        let until = Instant::now() + LINGER;
        let mut fds = [PollFd::new(&self.device, PollFlags::IN)];
        while matches!(poll(&mut fds, Some(&Timespec::default())), Ok(0)) && Instant::now() < until {
            rustix::thread::sched_yield();
        }
        self.shared.awake.store(false, Ordering::Release);
    }

    fn answer(&mut self, length: usize) {
        let bytes = self.requests.get(BEGIN, BEGIN + length);
        let device = self.device.as_fd();
        let mut out = self.buffers.out(self.data.get_mut(0, MAX_WRITE));
        let (unique, result, data) = match self.shared.answer(device, bytes, &mut out) {
            Some((unique, Answer::Reply(result))) => (unique, result, 0),
            Some((unique, Answer::Data(length))) => (unique, Ok(()), length),
            Some((_, Answer::Silent)) | None => return,
        };
        let head = self.buffers.reply.finish(unique, result, data);
        let written = if data == 0 {
            rustix::io::write(device, head)
        } else {
            let parts = [IoSlice::new(head), IoSlice::new(self.data.get(0, data))];
            rustix::io::writev(device, &parts)
        };
        if written.is_err() {
            self.shared.take_back(device, &self.buffers.granted);
        }
    }
}

impl AsFd for Worker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

#[cfg(test)]
mod tests;
