//! One worker at a ring: requests of one processor or a few come through io_uring.
//!
//! The kernel writes header, fixed part and payload of a request to three places of a slot; here they are put together
//! again as a read of the device would give them. What READ brings is read straight into the payload. There is nobody to
//! take back what a reply handed out: the kernel takes every answer, or the connection is at its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::mpsc::Sender;

use rustix::io::Errno;
use sys::fuse_ring::{HEAD, HEADERS};

use super::worker::{Answer, Buffers, Worker};
use super::{Shared, long};
use crate::abi::{IN_HEADER, OUT_HEADER, opcode, ring};
use crate::session::rings::Seat;

/// A thread's ring.
#[derive(Debug)]
pub(super) struct RingWorker {
    seat: Seat,
    shared: Arc<Shared>,
    request: Vec<u8>,
    buffers: Buffers,
}

impl RingWorker {
    pub(super) fn new(seat: Seat, shared: Arc<Shared>) -> RingWorker {
        RingWorker {
            seat,
            shared,
            request: Vec::new(),
            buffers: Buffers::default(),
        }
    }

    /// Answers requests until the connection ends. Tells `registered` whether the kernel took the ring; if it did not,
    /// requests come through the device, and are read there.
    pub(super) fn run(mut self, registered: &Sender<bool>) {
        self.seat.stay();
        long::works_for(&self.shared);
        let taken = self.seat.ring.register();
        let _ = registered.send(taken.is_ok());
        if taken.is_err() {
            if let Ok(device) = self.seat.ring.device().try_clone_to_owned() {
                Worker::new(device, self.shared).run();
            }
            return;
        }
        // Apart from the ring, which is asked for a slot's memory while requests need the connection.
        if let Ok(device) = self.seat.ring.device().try_clone_to_owned() {
            while let Ok(index) = self.seat.ring.receive() {
                self.answer(device.as_fd(), index);
            }
        }
        self.shared.end();
    }

    fn answer(&mut self, device: BorrowedFd<'_>, index: usize) {
        let memory = self.seat.ring.memory(index);
        let unique = number(memory, ring::COMMIT);
        let answered = answer(&self.shared, device, memory, &mut self.request, &mut self.buffers);
        let (result, data) = match answered {
            Ok(Answer::Reply(result)) => (result, 0),
            Ok(Answer::Data(length)) => (Ok(()), length),
            // Whoever asks this way waits for an answer.
            Ok(Answer::Silent) => (Ok(()), 0),
            Err(_) => (Err(Errno::IO), 0),
        };
        let reply = self.buffers.reply.finish(unique, result, data);
        let (head, payload) = memory.split_at_mut(HEAD);
        let (header, body) = reply.split_at(OUT_HEADER);
        put(head, 0, header);
        put(payload, 0, body);
        let length = if result.is_ok() { body.len().max(data) } else { 0 };
        put(head, ring::PAYLOAD_SIZE, &(length as u32).to_ne_bytes());
        self.seat.ring.commit(index, unique);
    }
}

/// Answers the request in a slot's memory.
fn answer(
    shared: &Shared,
    device: BorrowedFd<'_>,
    memory: &mut [u8],
    request: &mut Vec<u8>,
    buffers: &mut Buffers,
) -> io::Result<Answer> {
    let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let length = small(memory, 0) as usize;
    let payload = small(memory, ring::PAYLOAD_SIZE) as usize;
    let fixed = length.checked_sub(IN_HEADER + payload).ok_or_else(cut)?;
    if fixed > ring::OPERATION_MOST {
        return Err(cut());
    }
    let answered = if small(memory, 4) == opcode::WRITE {
        // The data stays where it is; the rest goes before it, behind the kernel's headers.
        let begin = HEAD - fixed - IN_HEADER;
        debug_assert!(begin >= HEADERS);
        memory.copy_within(ring::OPERATION..ring::OPERATION + fixed, HEAD - fixed);
        memory.copy_within(..IN_HEADER, begin);
        let bytes = memory.get(begin..HEAD + payload).ok_or_else(cut)?;
        shared.answer(device, bytes, &mut buffers.out(&mut []))
    } else {
        request.clear();
        for (from, count) in [(0, IN_HEADER), (ring::OPERATION, fixed), (HEAD, payload)] {
            request.extend_from_slice(memory.get(from..from + count).ok_or_else(cut)?);
        }
        let data = memory.get_mut(HEAD..).unwrap_or_default();
        shared.answer(device, request, &mut buffers.out(data))
    };
    Ok(answered.ok_or_else(cut)?.1)
}

fn put(memory: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = memory.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn small(memory: &[u8], at: usize) -> u32 {
    let bytes = memory.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().map_or(0, u32::from_ne_bytes)
}

fn number(memory: &[u8], at: usize) -> u64 {
    let bytes = memory.get(at..).and_then(|rest| rest.first_chunk());
    bytes.copied().map_or(0, u64::from_ne_bytes)
}
