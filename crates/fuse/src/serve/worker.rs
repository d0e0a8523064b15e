//! One worker: read, decode, answer.

use std::io::IoSlice;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use overlay::live::NodeId;
use rustix::io::Errno;

use super::Shared;
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
pub(super) struct Out {
    pub(super) reply: Reply,
    /// What READ brings.
    pub(super) data: Aligned,
    pub(super) granted: Granted,
    /// Where the entries of a listing lie.
    pub(super) layers: Vec<usize>,
}

impl Out {
    fn clear(&mut self) {
        self.reply.clear();
        self.granted.nodes.clear();
        self.granted.handle = None;
    }
}

/// A thread's part of the connection.
#[derive(Debug)]
pub(super) struct Worker {
    device: OwnedFd,
    shared: Arc<Shared>,
    requests: Aligned,
    out: Out,
}

/// How long other workers are given to let go of removed files.
const LET_GO: Duration = Duration::from_millis(2);

/// Where a request begins in its buffer, so that the data of a WRITE begins at a page.
const BEGIN: usize = PAGE - IN_HEADER - WRITE_IN;

impl Worker {
    pub(super) fn new(device: OwnedFd, shared: Arc<Shared>) -> Worker {
        Worker {
            device,
            shared,
            requests: Aligned::new(PAGE + MAX_WRITE),
            out: Out {
                reply: Reply::default(),
                data: Aligned::new(MAX_WRITE),
                granted: Granted::default(),
                layers: Vec::new(),
            },
        }
    }

    /// Answers requests until the connection ends.
    pub(super) fn run(&mut self) {
        loop {
            let buffer = self.requests.get_mut(BEGIN, PAGE + MAX_WRITE);
            match rustix::io::read(&self.device, buffer) {
                Ok(length) => self.answer(length),
                // ENOENT: the request was given up before it was read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                // ENODEV: unmounted. ECONNABORTED: aborted. Anything else cannot be mended either.
                Err(_) => break,
            }
        }
        let _ = rustix::io::write(&self.shared.ended, &1u64.to_ne_bytes());
    }

    fn answer(&mut self, length: usize) {
        let bytes = self.requests.get(BEGIN, BEGIN + length);
        let long_setxattr = self.shared.agreed.contains(InitFlags::SETXATTR_EXT);
        let out = &mut self.out;
        out.clear();
        let (unique, answer) = match Request::decode(bytes, long_setxattr) {
            Ok(request) => {
                let mut answer = self.shared.dispatch(self.device.as_fd(), &request, out);
                // The space of a file that was just removed comes free when its FORGET is answered, which nobody waits
                // for and another worker may be at. What was refused left nothing behind, and is tried once more.
                if matches!(answer, Answer::Reply(Err(Errno::NOSPC | Errno::DQUOT))) {
                    std::thread::sleep(LET_GO);
                    out.clear();
                    answer = self.shared.dispatch(self.device.as_fd(), &request, out);
                }
                (request.unique, answer)
            }
            Err(_) => match Request::unique_of(bytes) {
                Some(unique) => (unique, Answer::Reply(Err(Errno::IO))),
                None => return,
            },
        };
        let (result, data) = match answer {
            Answer::Reply(result) => (result, 0),
            Answer::Data(length) => (Ok(()), length),
            Answer::Silent => return,
        };
        let head = out.reply.finish(unique, result, data);
        let written = if data == 0 {
            rustix::io::write(&self.device, head)
        } else {
            let parts = [IoSlice::new(head), IoSlice::new(out.data.get(0, data))];
            rustix::io::writev(&self.device, &parts)
        };
        if written.is_err() {
            self.shared.take_back(self.device.as_fd(), &out.granted);
        }
    }
}

#[cfg(test)]
mod tests;
