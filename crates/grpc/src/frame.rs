//! Frames of HTTP/2 (RFC 9113, sections 4 and 6): read into one buffer, written by appending to one.

use std::io::{self, Read};

/// What a client says first.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bytes of a frame's head.
const HEAD: usize = 9;

/// Bytes of a frame's payload that both sides take without having said so. We never ask for more.
pub(crate) const MAX_PAYLOAD: usize = 16 * 1024;

/// Bytes that a stream and a connection may send before they are told to go on.
pub(crate) const WINDOW: i64 = 65_535;

/// The largest window there can be.
pub(crate) const MAX_WINDOW: i64 = (1 << 31) - 1;

/// Kinds of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of frames.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Numbers of settings.
pub(crate) mod setting {
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends, as the protocol tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Reason {
    NoError = 0,
    Protocol = 1,
    FlowControl = 3,
    FrameSize = 6,
    RefusedStream = 7,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// A frame as it arrived.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: &'a [u8],
}

impl Frame<'_> {
    pub(crate) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The payload without padding, and without the priority that a HEADERS frame may begin with.
    pub(crate) fn content(&self) -> Result<&[u8], Reason> {
        let mut payload = self.payload;
        if self.has(flag::PADDED) {
            let (pad, rest) = payload.split_first().ok_or(Reason::FrameSize)?;
            let length = rest.len().checked_sub(usize::from(*pad));
            payload = &rest[..length.ok_or(Reason::Protocol)?];
        }
        if self.kind == kind::HEADERS && self.has(flag::PRIORITY) {
            payload = payload.get(5..).ok_or(Reason::FrameSize)?;
        }
        Ok(payload)
    }

    /// The number that the payload is.
    pub(crate) fn number(&self) -> Result<u32, Reason> {
        let bytes = <[u8; 4]>::try_from(self.payload).map_err(|_| Reason::FrameSize)?;
        Ok(u32::from_be_bytes(bytes))
    }

    /// The settings that the payload is.
    pub(crate) fn settings(&self) -> Result<impl Iterator<Item = (u16, u32)>, Reason> {
        let (pairs, rest) = self.payload.as_chunks::<6>();
        match rest {
            [] => Ok(pairs.iter().map(|pair| {
                let [a, b, c, d, e, f] = *pair;
                (u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))
            })),
            _ => Err(Reason::FrameSize),
        }
    }
}

/// Reads frames from a stream of bytes.
pub(crate) struct FrameReader<R> {
    from: R,
    buffer: Vec<u8>,
    /// What of the buffer was read and not yet used.
    start: usize,
    end: usize,
}

/// Why no frame could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    Io(io::Error),
    TooLarge,
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> ReadError {
        ReadError::Io(error)
    }
}

impl<R: Read> FrameReader<R> {
    pub(crate) fn new(from: R) -> FrameReader<R> {
        FrameReader {
            from,
            buffer: vec![0; HEAD + MAX_PAYLOAD],
            start: 0,
            end: 0,
        }
    }

    /// Where the bytes come from.
    pub(crate) fn source(&mut self) -> &mut R {
        &mut self.from
    }

    /// Whether everything that was read has been used.
    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads until there are `wanted` bytes; `false` where the other end was closed before the first of them.
    fn fill(&mut self, wanted: usize) -> io::Result<bool> {
        if self.start + wanted > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        while self.end - self.start < wanted {
            match self.from.read(&mut self.buffer[self.end..]) {
                Ok(0) if self.end == self.start => return Ok(false),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// The bytes that every connection begins with; `false` where others came.
    pub(crate) fn preface(&mut self) -> io::Result<bool> {
        if !self.fill(PREFACE.len())? {
            return Ok(false);
        }
        let is = self.buffer[self.start..].starts_with(PREFACE);
        self.start += PREFACE.len();
        Ok(is)
    }

    /// The next frame; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Frame<'_>>, ReadError> {
        if !self.fill(HEAD)? {
            return Ok(None);
        }
        let head = &self.buffer[self.start..][..HEAD];
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let (kind, flags) = (head[3], head[4]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & !(1 << 31);
        if length > MAX_PAYLOAD {
            return Err(ReadError::TooLarge);
        }
        if !self.fill(HEAD + length)? {
            return Ok(None);
        }
        let at = self.start + HEAD;
        self.start = at + length;
        let payload = &self.buffer[at..at + length];
        // What was read is used up, more often than not: the next begins at the front without being moved there.
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        Ok(Some(Frame {
            kind,
            flags,
            stream,
            payload,
        }))
    }
}

/// Appends a frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    debug_assert!(payload.len() <= MAX_PAYLOAD);
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Appends a block of headers, in as many frames as it needs.
pub(crate) fn put_headers(out: &mut Vec<u8>, flags: u8, stream: u32, block: &[u8]) {
    let mut chunks = block.chunks(MAX_PAYLOAD).peekable();
    let mut frame = (kind::HEADERS, flags);
    while let Some(chunk) = chunks.next() {
        let end = if chunks.peek().is_none() {
            flag::END_HEADERS
        } else {
            0
        };
        put(out, frame.0, frame.1 | end, stream, chunk);
        frame = (kind::CONTINUATION, 0);
    }
}

/// Appends settings.
pub(crate) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(number, value)| {
            let ([a, b], [c, d, e, f]) = (number.to_be_bytes(), value.to_be_bytes());
            [a, b, c, d, e, f]
        })
        .collect();
    put(out, kind::SETTINGS, 0, 0, &payload);
}

/// Appends leave to send `more` bytes.
pub(crate) fn put_window(out: &mut Vec<u8>, stream: u32, more: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes());
}

/// Appends the end of a stream.
pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, reason: Reason) {
    put(out, kind::RST_STREAM, 0, stream, &(reason as u32).to_be_bytes());
}

/// Appends the end of a connection: streams after `last` are not looked at.
pub(crate) fn put_goaway(out: &mut Vec<u8>, last: u32, reason: Reason) {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend((reason as u32).to_be_bytes());
    put(out, kind::GOAWAY, 0, 0, &payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte a read.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let read = self.0.len().min(1).min(into.len());
            into[..read].copy_from_slice(&self.0[..read]);
            self.0 = &self.0[read..];
            Ok(read)
        }
    }

    #[test]
    fn frames_are_read_however_they_arrive() {
        let mut bytes = PREFACE.to_vec();
        put_settings(&mut bytes, &[(4, 70_000), (0x1234, 1)]);
        for n in 0..5 {
            put(&mut bytes, kind::DATA, 0, 1, &vec![n; MAX_PAYLOAD]);
        }
        let block = vec![7; MAX_PAYLOAD + 1];
        put_headers(&mut bytes, flag::END_STREAM, 3, &block);
        let check = |from: &mut dyn Read| {
            let mut reader = FrameReader::new(from);
            assert!(reader.preface().unwrap());
            let frame = reader.next().unwrap().unwrap();
            assert_eq!((frame.kind, frame.stream), (kind::SETTINGS, 0));
            assert_eq!(
                frame.settings().unwrap().collect::<Vec<_>>(),
                [(4, 70_000), (0x1234, 1)]
            );
            for n in 0..5 {
                assert_eq!(reader.next().unwrap().unwrap().payload, vec![n; MAX_PAYLOAD]);
            }
            let frame = reader.next().unwrap().unwrap();
            assert_eq!(
                (frame.kind, frame.flags, frame.stream),
                (kind::HEADERS, flag::END_STREAM, 3)
            );
            let frame = reader.next().unwrap().unwrap();
            assert_eq!((frame.kind, frame.flags), (kind::CONTINUATION, flag::END_HEADERS));
            assert_eq!(frame.payload, [7]);
            assert!(reader.next().unwrap().is_none());
        };
        check(&mut &bytes[..]);
        check(&mut Drip(&bytes));
    }

    #[test]
    fn what_is_cut_or_too_long_is_an_error() {
        let mut bytes = Vec::new();
        put(&mut bytes, kind::PING, 0, 0, &[0; 8]);
        let cut = &bytes[..bytes.len() - 1];
        assert!(matches!(FrameReader::new(cut).next(), Err(ReadError::Io(_))));
        let long = [0, 0x40, 1, 0, 0, 0, 0, 0, 1];
        assert!(matches!(
            FrameReader::new(&long[..]).next(),
            Err(ReadError::TooLarge)
        ));
        assert!(
            !FrameReader::new(&b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..])
                .preface()
                .unwrap()
        );
    }

    #[test]
    fn padding_and_priority_are_passed_over() {
        let frame = |flags, payload| Frame {
            kind: kind::HEADERS,
            flags,
            stream: 1,
            payload,
        };
        let both = flag::PADDED | flag::PRIORITY;
        assert_eq!(
            frame(both, &[2, 0, 0, 0, 0, 9, 5, 6, 0, 0]).content(),
            Ok(&[5, 6][..])
        );
        assert_eq!(frame(flag::PADDED, &[2, 1]).content(), Err(Reason::Protocol));
        assert_eq!(frame(flag::PADDED, &[]).content(), Err(Reason::FrameSize));
        assert_eq!(frame(flag::PRIORITY, &[0; 4]).content(), Err(Reason::FrameSize));
    }
}
