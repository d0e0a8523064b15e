//! What comes in on one connection: frames become calls, which go to the threads that answer them.
//!
//! What a client may send is bounded by what it is granted: a message's bytes on each stream, never more, and
//! [`CONNECTION`] that is not yet read. So a call that is too large is known before it fills any memory.

use std::collections::HashMap;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::pool::Job;
use super::sender::{Admission, Sender};
use super::{Call, Shared};
use crate::frame::{self, Frame, FrameReader, ReadError, Reason, WINDOW, flag, kind, setting};
use crate::headers::{self, Request};
use crate::hpack::Decoder;
use crate::message;
use crate::status::{Code, Status};

/// What a client may send that is not yet read.
const CONNECTION: u32 = 1 << 20;

/// Bytes of a call's headers.
const HEADERS: usize = 64 * 1024;

/// How long a client may take to say that it speaks HTTP/2.
const GREETING: Duration = Duration::from_secs(10);

/// Serves a connection until it ends.
pub(super) fn serve(shared: &Arc<Shared>, sender: &Arc<Sender>, socket: &UnixStream) {
    let mut connection = Connection {
        shared,
        sender,
        decoder: Decoder::new(),
        calls: HashMap::new(),
        last: 0,
        block: None,
        unread: 0,
    };
    let mut reader = FrameReader::new(socket);
    let greeted = socket.set_read_timeout(Some(GREETING)).is_ok()
        && reader.preface().is_ok_and(|is| is)
        && socket.set_read_timeout(None).is_ok();
    if !greeted {
        return sender.break_off();
    }
    let limits = &shared.limits;
    let stream = u32::try_from(limits.message + message::HEAD).unwrap_or(u32::MAX);
    let streams = u32::try_from(limits.streams).unwrap_or(u32::MAX);
    sender.govern(|out| {
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, streams),
            (setting::INITIAL_WINDOW_SIZE, stream),
        ];
        frame::put_settings(out, &settings);
        frame::put_window(out, 0, CONNECTION - WINDOW as u32);
    });
    let ended = loop {
        match reader.next() {
            Ok(Some(frame)) => {
                if let Err(reason) = connection.frame(&frame) {
                    break Some(reason);
                }
            }
            Ok(None) | Err(ReadError::Io(_)) => break None,
            Err(ReadError::TooLarge) => break Some(Reason::FrameSize),
        }
    };
    match ended {
        Some(reason) => sender.refuse(reason),
        None => sender.break_off(),
    }
}

struct Connection<'a> {
    shared: &'a Arc<Shared>,
    sender: &'a Arc<Sender>,
    decoder: Decoder,
    /// Calls whose message has not come whole.
    calls: HashMap<u32, Incoming>,
    last: u32,
    /// Headers that have not come whole.
    block: Option<Block>,
    /// Bytes that were read since the client was told to go on.
    unread: u32,
}

struct Incoming {
    request: Request,
    data: Vec<u8>,
}

struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

impl Connection<'_> {
    fn frame(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        if let Some(block) = &self.block
            && (frame.kind, frame.stream) != (kind::CONTINUATION, block.stream)
        {
            return Err(Reason::Protocol);
        }
        match frame.kind {
            kind::DATA => self.data(frame),
            kind::HEADERS => self.begin_block(
                Block {
                    stream: frame.stream,
                    ends: frame.has(flag::END_STREAM),
                    bytes: frame.content()?.to_vec(),
                },
                frame.has(flag::END_HEADERS),
            ),
            kind::CONTINUATION => {
                let mut block = self.block.take().ok_or(Reason::Protocol)?;
                block.bytes.extend_from_slice(frame.payload);
                self.begin_block(block, frame.has(flag::END_HEADERS))
            }
            kind::RST_STREAM => {
                frame.number()?;
                self.calls.remove(&frame.stream);
                self.sender.forget(frame.stream);
                Ok(())
            }
            kind::SETTINGS if frame.has(flag::ACK) => Ok(()),
            kind::SETTINGS => {
                for (number, value) in frame.settings()? {
                    if number == setting::INITIAL_WINDOW_SIZE {
                        self.sender.set_initial_window(value)?;
                    }
                }
                let ack = |out: &mut Vec<u8>| frame::put(out, kind::SETTINGS, flag::ACK, 0, &[]);
                self.sender.govern(ack);
                Ok(())
            }
            kind::PING if frame.payload.len() != 8 => Err(Reason::FrameSize),
            kind::PING if frame.has(flag::ACK) => Ok(()),
            kind::PING => {
                let ack = |out: &mut Vec<u8>| frame::put(out, kind::PING, flag::ACK, 0, frame.payload);
                self.sender.govern(ack);
                Ok(())
            }
            kind::WINDOW_UPDATE => self.sender.grow(frame.stream, frame.number()? & !(1 << 31)),
            kind::PUSH_PROMISE => Err(Reason::Protocol),
            // Priorities, a client that says it will leave, and what nobody knows: nothing to do.
            _ => Ok(()),
        }
    }

    fn begin_block(&mut self, block: Block, whole: bool) -> Result<(), Reason> {
        if block.bytes.len() > HEADERS {
            return Err(Reason::EnhanceYourCalm);
        }
        match whole {
            true => self.headers(block),
            false => {
                self.block = Some(block);
                Ok(())
            }
        }
    }

    fn headers(&mut self, block: Block) -> Result<(), Reason> {
        // Read in any case: the table of what was said before must stay that of the client.
        let fields = self.decoder.decode(&block.bytes, HEADERS);
        let fields = fields.map_err(|_| Reason::Compression)?;
        if block.stream.is_multiple_of(2) {
            return Err(Reason::Protocol);
        }
        if block.stream <= self.last {
            // The end of a message; of a call that has ended, nobody cares.
            return match block.ends {
                true => self.whole(block.stream),
                false => Err(Reason::Protocol),
            };
        }
        self.last = block.stream;
        if self.sender.admit(block.stream, self.shared.limits.streams) == Admission::Refused {
            return Ok(());
        }
        match headers::request(fields) {
            Ok(request) => {
                let data = Vec::new();
                self.calls.insert(block.stream, Incoming { request, data });
                match block.ends {
                    true => self.whole(block.stream),
                    false => Ok(()),
                }
            }
            Err(status) => {
                self.refuse(block.stream, "", &status);
                Ok(())
            }
        }
    }

    fn data(&mut self, frame: &Frame<'_>) -> Result<(), Reason> {
        self.unread += frame.payload.len() as u32;
        if self.unread >= CONNECTION / 2 {
            let more = std::mem::take(&mut self.unread);
            self.sender.govern(|out| frame::put_window(out, 0, more));
        }
        if frame.stream == 0 || frame.stream > self.last {
            return Err(Reason::Protocol);
        }
        // What comes for a call that has ended was under way when it did.
        let Some(incoming) = self.calls.get_mut(&frame.stream) else {
            return Ok(());
        };
        incoming.data.extend_from_slice(frame.content()?);
        // Its length is known from the beginning: one that is too long need not come whole.
        if incoming.data.len() >= message::HEAD {
            let announced = u32::from_be_bytes([1, 2, 3, 4].map(|at| incoming.data[at])) as usize;
            if announced > self.shared.limits.message {
                let most = self.shared.limits.message;
                let text = format!("a message of {announced} bytes is larger than the limit of {most}");
                let path = self.calls.remove(&frame.stream).map(|call| call.request.path);
                let status = Status::new(Code::ResourceExhausted, text);
                self.refuse(frame.stream, &path.unwrap_or_default(), &status);
                return Ok(());
            }
        }
        match frame.has(flag::END_STREAM) {
            true => self.whole(frame.stream),
            // What is sent beyond the message that was announced is more than was granted, too.
            false
                if incoming.data.len() > self.shared.limits.message.max(WINDOW as usize) + message::HEAD =>
            {
                Err(Reason::FlowControl)
            }
            false => Ok(()),
        }
    }

    /// A call has come whole.
    fn whole(&mut self, stream: u32) -> Result<(), Reason> {
        let Some(Incoming { request, mut data }) = self.calls.remove(&stream) else {
            return Ok(());
        };
        let limits = &self.shared.limits;
        let message = message::take(&mut data, limits.message)
            .and_then(|message| {
                message.ok_or_else(|| Status::new(Code::Internal, "a call without a message"))
            })
            .and_then(|message| match data.is_empty() {
                true => Ok(message),
                false => Err(Status::new(Code::Unimplemented, "a call with several messages")),
            });
        let message = match message {
            Ok(message) => message,
            Err(status) => {
                self.refuse(stream, &request.path, &status);
                return Ok(());
            }
        };
        let began = Instant::now();
        let time = request
            .timeout
            .map_or(limits.time, |timeout| timeout.min(limits.time));
        let job = Job {
            sender: self.sender.clone(),
            stream,
            began,
            call: Call {
                path: request.path,
                metadata: request.metadata,
                message,
                deadline: began + time,
            },
        };
        let lane = self.shared.service.lane(&job.call.path);
        self.shared.timer.watch(&job);
        if let Err(job) = self.shared.pool.push(lane, job) {
            let text = format!(
                "{} calls wait already: the disk is slow, or too much is asked",
                limits.queue
            );
            let status = Status::new(Code::ResourceExhausted, text);
            self.refuse(stream, &job.call.path, &status);
        }
        Ok(())
    }

    fn refuse(&self, stream: u32, path: &str, status: &Status) {
        self.shared
            .end(self.sender, stream, path, Instant::now(), None, status);
    }
}
