//! What comes in on one connection: frames become calls, which go to the threads that answer them.
//!
//! What a client may send is bounded by what it is granted: a message's bytes on each stream, never more, and
//! [`CONNECTION`] that is not yet read. So a call that is too large is known before it fills any memory; and of
//! messages that have not come whole, no connection holds more than [`UNFINISHED`] bytes.
//!
//! The thread that reads also tells a client that the time of a call is over, whatever the service does: so a client
//! that takes nothing keeps nobody else from being told. It wakes for that as seldom as it can: when the time of the
//! first call is over that was made since it last looked.

use std::collections::HashMap;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;

use super::pool::Job;
use super::sender::{Admission, Sender};
use super::{Call, Lane, Shared, ready};
use crate::frame::{self, Frame, FrameReader, ReadError, Reason, WINDOW, flag, kind, setting};
use crate::headers::{self, Request};
use crate::hpack::Decoder;
use crate::message;
use crate::status::{Code, Status};

/// What a client may send that is not yet read.
const CONNECTION: u32 = 1 << 20;

/// Bytes of messages that have not come whole, of all calls of a connection.
const UNFINISHED: usize = 4 << 20;

/// Calls known at which those that have been answered are let go of before the time.
const MANY: usize = 256;

/// Bytes of a call's headers. Clients are told.
const HEADERS: usize = 64 * 1024;

/// How long a client may take to say that it speaks HTTP/2.
const GREETING: Duration = Duration::from_secs(10);

/// What comes next of a connection.
pub(super) enum Next {
    /// A call that whoever reads may answer.
    Look(Job),
    /// Nothing: it has ended, or ends for this reason.
    End(Option<Reason>),
}

/// Reads from a socket until a time.
struct Patient {
    socket: UnixStream,
    until: Option<Instant>,
}

impl Read for Patient {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if let Some(until) = self.until {
            ready(&self.socket, PollFlags::IN, until)?;
        }
        self.socket.read(into)
    }
}

pub(super) struct Connection {
    reader: FrameReader<Patient>,
    greeted: bool,
    calls: Calls,
}

impl Connection {
    pub(super) fn new(shared: &Arc<Shared>, sender: &Arc<Sender>, socket: UnixStream) -> Connection {
        let until = Some(Instant::now() + GREETING);
        Connection {
            reader: FrameReader::new(Patient { socket, until }),
            greeted: false,
            calls: Calls {
                shared: shared.clone(),
                sender: sender.clone(),
                decoder: Decoder::new(),
                unfinished: HashMap::new(),
                look: None,
                timed: Vec::new(),
                wakes: None,
                last: 0,
                block: None,
                unread: 0,
            },
        }
    }

    /// Reads until there is something to do for whoever reads.
    pub(super) fn next(&mut self) -> Next {
        if !self.greeted {
            if !self.reader.preface().is_ok_and(|is| is) {
                return Next::End(None);
            }
            self.greeted = true;
            self.calls.grant();
        }
        loop {
            self.reader.source().until = self.calls.wakes;
            match self.reader.next() {
                Ok(Some(frame)) => {
                    if let Err(reason) = self.calls.frame(&frame) {
                        return Next::End(Some(reason));
                    }
                }
                Err(ReadError::Io(error)) if error.kind() == io::ErrorKind::TimedOut => self.calls.expire(),
                Ok(None) | Err(ReadError::Io(_)) => return Next::End(None),
                Err(ReadError::TooLarge) => return Next::End(Some(Reason::FrameSize)),
            }
            if let Some(job) = self.calls.look.take() {
                let shared = &self.calls.shared;
                // What came after it is not to wait for it.
                if self.reader.is_empty() && shared.watch.has_room(shared.limits.readers) {
                    return Next::Look(job);
                }
                self.calls.queue(Lane::Look, job);
            }
        }
    }
}

/// What has come.
struct Calls {
    shared: Arc<Shared>,
    sender: Arc<Sender>,
    decoder: Decoder,
    /// Calls whose message has not come whole.
    unfinished: HashMap<u32, Incoming>,
    /// The call that came last, where whoever reads may answer it.
    look: Option<Job>,
    /// Calls whose time may come to be over.
    timed: Vec<Timed>,
    /// When the first of them may have.
    wakes: Option<Instant>,
    last: u32,
    /// Headers that have not come whole.
    block: Option<Block>,
    /// Bytes that were read since the client was told to go on.
    unread: u32,
}

struct Incoming {
    request: Request,
    began: Instant,
    deadline: Instant,
    data: Vec<u8>,
}

struct Timed {
    stream: u32,
    path: String,
    began: Instant,
    deadline: Instant,
}

struct Block {
    stream: u32,
    ends: bool,
    bytes: Vec<u8>,
}

impl Calls {
    /// Says what a client may send.
    fn grant(&self) {
        let limits = &self.shared.limits;
        let stream = u32::try_from(limits.message + message::HEAD).unwrap_or(u32::MAX);
        let streams = u32::try_from(limits.streams).unwrap_or(u32::MAX);
        self.sender.govern(|out| {
            let settings = [
                (setting::MAX_CONCURRENT_STREAMS, streams),
                (setting::INITIAL_WINDOW_SIZE, stream),
                (setting::MAX_HEADER_LIST_SIZE, HEADERS as u32),
            ];
            frame::put_settings(out, &settings);
            frame::put_window(out, 0, CONNECTION - WINDOW as u32);
        });
    }

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
                self.unfinished.remove(&frame.stream);
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
                true => {
                    self.said(block.stream);
                    Ok(())
                }
                false => Err(Reason::Protocol),
            };
        }
        self.last = block.stream;
        if self.sender.admit(block.stream, self.shared.limits.streams) == Admission::Refused {
            return Ok(());
        }
        match headers::request(fields) {
            Ok(request) => {
                let began = Instant::now();
                let most = self.shared.service.time(&request.path, self.shared.limits.time);
                let deadline = began + request.timeout.map_or(most, |timeout| timeout.min(most));
                let kept = match self.shared.service.lane(&request.path) {
                    Lane::Walk => deadline.min(began + self.shared.limits.time),
                    _ => deadline,
                };
                self.sender.keep(block.stream, kept);
                self.time(block.stream, &request.path, began, deadline);
                let incoming = Incoming {
                    request,
                    began,
                    deadline,
                    data: Vec::new(),
                };
                self.unfinished.insert(block.stream, incoming);
                if block.ends {
                    self.said(block.stream);
                }
            }
            Err(status) => {
                if block.ends {
                    self.sender.heard(block.stream);
                }
                self.refuse(block.stream, "", &status);
            }
        }
        Ok(())
    }

    /// The time of a call begins.
    fn time(&mut self, stream: u32, path: &str, began: Instant, deadline: Instant) {
        if self.timed.len() == self.timed.capacity() && self.timed.len() >= MANY {
            self.timed.retain(|timed| self.sender.wants(timed.stream));
        }
        self.timed.push(Timed {
            stream,
            path: path.to_owned(),
            began,
            deadline,
        });
        self.wakes = Some(self.wakes.map_or(deadline, |wakes| wakes.min(deadline)));
    }

    /// Answers the calls whose time is over.
    fn expire(&mut self) {
        let now = Instant::now();
        self.timed.retain(|timed| self.sender.wants(timed.stream));
        let over = |timed: &mut Timed| timed.deadline <= now;
        let overdue: Vec<Timed> = self.timed.extract_if(.., over).collect();
        self.timed.shrink_to(MANY);
        self.wakes = self.timed.iter().map(|timed| timed.deadline).min();
        for Timed {
            stream, path, began, ..
        } in overdue
        {
            let took = began.elapsed().as_secs_f32();
            let text = match self.unfinished.remove(&stream) {
                Some(_) => format!("{path} had not come whole after {took:.1} s"),
                None => format!("{path} took longer than {took:.1} s: what it began goes on"),
            };
            let status = Status::new(Code::DeadlineExceeded, text);
            self.shared.end(&self.sender, stream, &path, began, None, &status);
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
        let Some(incoming) = self.unfinished.get_mut(&frame.stream) else {
            return Ok(());
        };
        incoming.data.extend_from_slice(frame.content()?);
        let most = self.shared.limits.message;
        let come = incoming.data.len().saturating_sub(message::HEAD);
        let head = incoming.data.first_chunk::<{ message::HEAD }>();
        let announced = head.map(|[_, a, b, c, d]| u32::from_be_bytes([*a, *b, *c, *d]) as usize);
        if frame.has(flag::END_STREAM) {
            self.said(frame.stream);
        } else if let Some(announced) = announced
            // Its length is known from the beginning: one that is too long need not come whole.
            && announced > most
        {
            let text = format!("a message of {announced} bytes is larger than the limit of {most}");
            self.give_up(frame.stream, text);
        } else if announced.is_some_and(|announced| come >= announced) {
            // There is one message to a call. A client that does not say so waits for the answer all the same.
            self.whole(frame.stream);
        } else if self
            .unfinished
            .values()
            .map(|call| call.data.len())
            .sum::<usize>()
            > UNFINISHED
        {
            let text =
                format!("more than {UNFINISHED} bytes of calls on this connection have not come whole");
            self.give_up(frame.stream, text);
        }
        Ok(())
    }

    /// Answers a call of which too much has come.
    fn give_up(&mut self, stream: u32, text: String) {
        let path = self.unfinished.remove(&stream).map(|call| call.request.path);
        let status = Status::new(Code::ResourceExhausted, text);
        self.refuse(stream, &path.unwrap_or_default(), &status);
    }

    /// A client has said all that it says on a stream.
    fn said(&mut self, stream: u32) {
        self.sender.heard(stream);
        self.whole(stream);
    }

    /// A call has come whole.
    fn whole(&mut self, stream: u32) {
        let Some(Incoming {
            request,
            began,
            deadline,
            mut data,
        }) = self.unfinished.remove(&stream)
        else {
            return;
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
                return;
            }
        };
        let job = Job {
            sender: self.sender.clone(),
            stream,
            began,
            call: Call {
                path: request.path,
                metadata: request.metadata,
                message,
                deadline,
            },
        };
        match self.shared.service.lane(&job.call.path) {
            Lane::Look => self.look = Some(job),
            lane => self.queue(lane, job),
        }
    }

    /// Leaves a call to the threads of its lane.
    fn queue(&self, lane: Lane, job: Job) {
        if let Err(job) = self.shared.pool.push(lane, job) {
            let text = format!(
                "{} calls wait already: the disk is slow, or too much is asked",
                self.shared.limits.queue
            );
            let status = Status::new(Code::ResourceExhausted, text);
            self.refuse(job.stream, &job.call.path, &status);
        }
    }

    fn refuse(&self, stream: u32, path: &str, status: &Status) {
        self.shared
            .end(&self.sender, stream, path, Instant::now(), None, status);
    }
}
