//! [`Client`]: makes calls, one at a time. For tests and measurements, and for asking containerd what it knows.

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::frame::{self, FrameReader, MAX_PAYLOAD, PREFACE, ReadError, WINDOW, flag, kind, setting};
use crate::headers;
use crate::hpack::Decoder;
use crate::message;
use crate::status::{Code, Status};

/// What a server may send on a stream, and altogether, before it is told to go on.
const GRANTED: u32 = 1 << 20;

/// The largest message that is taken.
const MESSAGE: usize = 16 << 20;

/// Bytes of an answer's headers.
const HEADERS: usize = 64 * 1024;

/// Why a call was not answered well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The server said so.
    #[error(transparent)]
    Status(#[from] Status),
    /// The connection failed.
    #[error("the connection to the server failed: {0}")]
    Io(#[from] io::Error),
    /// The server does not keep to the protocol, or ended the connection.
    #[error("the server does not speak as it should: {0}")]
    Protocol(&'static str),
}

impl ClientError {
    /// The status, where the server gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            ClientError::Status(status) => Some(status),
            _ => None,
        }
    }
}

/// A connection to a server.
pub struct Client {
    socket: UnixStream,
    reader: FrameReader<UnixStream>,
    decoder: Decoder,
    next: u32,
    /// What may be sent altogether, and on a new stream.
    window: i64,
    initial: i64,
    time: Duration,
    out: Vec<u8>,
}

/// A call under way.
struct Answer {
    stream: u32,
    window: i64,
    data: Vec<u8>,
    unread: u32,
    status: Option<Status>,
    /// Headers that have not come whole.
    block: Vec<u8>,
    ends: bool,
}

impl Client {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn connect(path: &Path) -> io::Result<Client> {
        let socket = UnixStream::connect(path)?;
        let mut out = PREFACE.to_vec();
        frame::put_settings(
            &mut out,
            &[(setting::ENABLE_PUSH, 0), (setting::INITIAL_WINDOW_SIZE, GRANTED)],
        );
        frame::put_window(&mut out, 0, GRANTED - WINDOW as u32);
        (&socket).write_all(&out)?;
        out.clear();
        Ok(Client {
            reader: FrameReader::new(socket.try_clone()?),
            socket,
            decoder: Decoder::new(),
            next: 1,
            window: WINDOW,
            initial: WINDOW,
            time: Duration::ZERO,
            out,
        })
    }

    /// Makes a call, and gives the messages of its answer. The server is told to take no longer than `time`, and is
    /// waited for a second more.
    ///
    /// # Errors
    /// Whatever but a good end.
    pub fn call(
        &mut self,
        path: &str,
        metadata: &[(&str, &str)],
        message: &[u8],
        time: Duration,
    ) -> Result<Vec<Vec<u8>>, ClientError> {
        if self.time != time {
            self.socket
                .set_read_timeout(Some(time + Duration::from_secs(1)))?;
            self.time = time;
        }
        let stream = self.next;
        self.next += 2;
        let mut block = Vec::with_capacity(256);
        headers::put_request(&mut block, path, time, metadata);
        frame::put_headers(&mut self.out, 0, stream, &block);
        let mut answer = Answer {
            stream,
            window: self.initial,
            data: Vec::new(),
            unread: 0,
            status: None,
            block: Vec::new(),
            ends: false,
        };
        let data = [&message::head(message.len())[..], message].concat();
        let mut at = 0;
        while at < data.len() && answer.status.is_none() {
            let room = self.window.min(answer.window).clamp(0, MAX_PAYLOAD as i64) as usize;
            let some = room.min(data.len() - at);
            if some == 0 {
                self.flush()?;
                self.frame(&mut answer)?;
                continue;
            }
            let end = if at + some == data.len() {
                flag::END_STREAM
            } else {
                0
            };
            frame::put(&mut self.out, kind::DATA, end, stream, &data[at..at + some]);
            at += some;
            self.window -= some as i64;
            answer.window -= some as i64;
        }
        self.flush()?;
        while answer.status.is_none() {
            self.frame(&mut answer)?;
        }
        match answer.status.take() {
            Some(status) if status.code != Code::Ok => Err(status.into()),
            _ => {
                let mut messages = Vec::new();
                while let Some(message) = message::take(&mut answer.data, MESSAGE)? {
                    messages.push(message);
                }
                Ok(messages)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let written = (&self.socket).write_all(&self.out);
        self.out.clear();
        written
    }

    /// Reads a frame, and does what it says.
    fn frame(&mut self, answer: &mut Answer) -> Result<(), ClientError> {
        const WRONG: ClientError = ClientError::Protocol("a frame is malformed");
        let frame = match self.reader.next() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(ClientError::Io(io::ErrorKind::UnexpectedEof.into())),
            Err(ReadError::Io(error)) => return Err(error.into()),
            Err(ReadError::TooLarge) => return Err(ClientError::Protocol("a frame is too large")),
        };
        let ours = frame.stream == answer.stream;
        match frame.kind {
            kind::DATA => {
                answer.unread += frame.payload.len() as u32;
                if ours {
                    answer.data.extend_from_slice(frame.content().map_err(|_| WRONG)?);
                }
                let ends = ours && frame.has(flag::END_STREAM);
                if ends {
                    answer.status = Some(Status::new(Code::Internal, "the answer ended without a status"));
                } else if answer.unread >= GRANTED / 4 {
                    frame::put_window(&mut self.out, 0, answer.unread);
                    frame::put_window(&mut self.out, answer.stream, answer.unread);
                    answer.unread = 0;
                    self.flush()?;
                }
                return Ok(());
            }
            kind::HEADERS | kind::CONTINUATION => {
                if frame.kind == kind::HEADERS {
                    answer.block.clear();
                    answer.ends = frame.has(flag::END_STREAM);
                }
                answer
                    .block
                    .extend_from_slice(frame.content().map_err(|_| WRONG)?);
                if frame.has(flag::END_HEADERS) {
                    let fields = self.decoder.decode(&answer.block, HEADERS).map_err(|_| WRONG)?;
                    if ours && answer.ends {
                        let silent = || Status::new(Code::Internal, "the answer ended without a status");
                        answer.status = Some(headers::status(&fields).unwrap_or_else(silent));
                        // What was read of the connection's window is given back with the next call.
                        if answer.unread > 0 {
                            frame::put_window(&mut self.out, 0, answer.unread);
                        }
                    }
                }
            }
            kind::RST_STREAM if ours => {
                answer.status = Some(Status::new(Code::Unavailable, "the server reset the call"));
            }
            kind::SETTINGS if !frame.has(flag::ACK) => {
                for (number, value) in frame.settings().map_err(|_| WRONG)? {
                    if number == setting::INITIAL_WINDOW_SIZE {
                        answer.window += i64::from(value) - self.initial;
                        self.initial = i64::from(value);
                    }
                }
                frame::put(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
                self.flush()?;
            }
            kind::PING if !frame.has(flag::ACK) => {
                frame::put(&mut self.out, kind::PING, flag::ACK, 0, frame.payload);
                self.flush()?;
            }
            kind::WINDOW_UPDATE => {
                let more = i64::from(frame.number().map_err(|_| WRONG)?);
                match frame.stream {
                    0 => self.window += more,
                    _ if ours => answer.window += more,
                    _ => {}
                }
            }
            kind::GOAWAY => {
                let bytes = frame.payload.get(..4).ok_or(WRONG)?;
                let last = u32::from_be_bytes(bytes.try_into().map_err(|_| WRONG)?);
                if last < answer.stream {
                    answer.status = Some(Status::new(Code::Unavailable, "the server takes no more calls"));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
