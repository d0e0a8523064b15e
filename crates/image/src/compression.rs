//! Compressed layers: [`decoder`] tells by the first bytes what a layer is compressed with, and inflates it.
//!
//! gzip (also of several members) and zstd (also of several frames) are what the OCI image specification lists,
//! beside no compression at all. A stream that ends early is an error of kind `UnexpectedEof`; nothing is ever
//! passed on as if it were whole.

use std::io::{self, BufRead, Chain, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;

/// What a layer is compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, RFC 1952.
    Gzip,
    /// zstd, RFC 8878.
    Zstd,
}

/// Base-2 logarithm of the largest window, in bytes, that zstd is let have: 128 MiB, which is the most that the
/// `zstd` program makes unless it is forced to.
pub const MAX_WINDOW: u32 = 27;

/// Bytes that whatever is inflated may become before its ratio counts.
pub const FREE: u64 = 1 << 30;

/// How much larger than packed the streams of one image become, all of them together: many small bombs are a large one.
#[derive(Debug)]
pub struct Ratio {
    most: u64,
    taken: AtomicU64,
    given: AtomicU64,
}

/// What is inflated becomes too large for what it was; the error behind one of kind `InvalidData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it inflates to more than {most} times its size, and to more than {} GiB", FREE >> 30)]
pub struct Inflated {
    /// How many times are let pass.
    pub most: u64,
}

impl Ratio {
    /// Lets streams become `most` times as large as they were; what is inflated to no more than [`FREE`] may be any size.
    pub fn new(most: u64) -> Arc<Ratio> {
        Arc::new(Ratio {
            most,
            taken: AtomicU64::new(0),
            given: AtomicU64::new(0),
        })
    }

    fn count(&self, taken: u64, given: u64) -> io::Result<()> {
        let taken = taken + self.taken.fetch_add(taken, Ordering::Relaxed);
        let given = given + self.given.fetch_add(given, Ordering::Relaxed);
        match given > FREE && given / self.most.max(1) > taken {
            true => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                Inflated { most: self.most },
            )),
            false => Ok(()),
        }
    }
}

/// Whether an error of reading is that what is read becomes too large for what it was.
pub fn is_inflated(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Inflated>())
}

impl Compression {
    /// Tells by the first bytes of a stream (at least six, where there are as many). `Err` names a compression
    /// that layers do not have.
    pub fn sniff(start: &[u8]) -> Result<Compression, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
            // A skippable frame, which zstd's seekable and eStargz-like forms may begin with.
            [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Err("bzip2"),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            _ => Ok(Compression::None),
        }
    }
}

/// A decoder for `input`, whatever it is compressed with.
pub fn decoder<R: BufRead>(input: R) -> Decoder<R> {
    Decoder {
        state: State::Unknown(input),
        counted: 0,
        ratio: None,
        max_window: MAX_WINDOW,
    }
}

/// Inflates a stream. Its compression is looked at when the first byte is read.
pub struct Decoder<R: BufRead> {
    state: State<R>,
    /// Bytes taken from the stream that the ratio knows of.
    counted: u64,
    ratio: Option<Arc<Ratio>>,
    max_window: u32,
}

enum State<R: BufRead> {
    Unknown(R),
    Plain(Counted<R>),
    Gzip(Box<MultiGzDecoder<Counted<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, Counted<R>>>),
    /// Could not be begun; every further read fails too.
    Failed,
}

/// Counts what is taken from a stream whose first bytes were already looked at.
struct Counted<R> {
    input: Chain<Cursor<Vec<u8>>, R>,
    taken: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.input.read(buffer)?;
        self.taken += len as u64;
        Ok(len)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        self.taken += len as u64;
        self.input.consume(len);
    }
}

impl<R: BufRead> Decoder<R> {
    /// Refuses to inflate more than `ratio` allows, by an error that [`is_inflated`] knows. Without it a stream may become
    /// whatever it does: for those that were taken once.
    pub fn with_ratio(mut self, ratio: Arc<Ratio>) -> Decoder<R> {
        self.ratio = Some(ratio);
        self
    }

    /// Refuses a zstd stream that needs a larger window than `2^max_window` bytes (instead of [`MAX_WINDOW`]), by an
    /// error of kind `OutOfMemory`.
    pub fn with_max_window(mut self, max_window: u32) -> Decoder<R> {
        self.max_window = max_window;
        self
    }

    /// What the stream is compressed with; reads its first bytes.
    pub fn compression(&mut self) -> io::Result<Compression> {
        self.begin()?;
        Ok(match &self.state {
            State::Gzip(_) => Compression::Gzip,
            State::Zstd(_) => Compression::Zstd,
            _ => Compression::None,
        })
    }

    fn begin(&mut self) -> io::Result<()> {
        let State::Unknown(input) = &mut self.state else {
            return Ok(());
        };
        let mut start = Vec::new();
        input.take(6).read_to_end(&mut start)?;
        let compression = Compression::sniff(&start);
        let State::Unknown(input) = std::mem::replace(&mut self.state, State::Failed) else {
            unreachable!("looked at above");
        };
        let counted = Counted {
            input: Cursor::new(start).chain(input),
            taken: 0,
        };
        let unsupported = |name| {
            let text = format!("it is compressed with {name}, which is not supported; decompress it first");
            io::Error::new(io::ErrorKind::Unsupported, text)
        };
        self.state = match compression.map_err(unsupported)? {
            Compression::None => State::Plain(counted),
            Compression::Gzip => State::Gzip(Box::new(MultiGzDecoder::new(counted))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(counted)?;
                decoder.window_log_max(self.max_window)?;
                State::Zstd(Box::new(decoder))
            }
        };
        Ok(())
    }

    fn taken(&self) -> u64 {
        match &self.state {
            State::Plain(counted) => counted.taken,
            State::Gzip(decoder) => decoder.get_ref().taken,
            State::Zstd(decoder) => decoder.get_ref().taken,
            State::Unknown(_) | State::Failed => 0,
        }
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.begin()?;
        let len = match &mut self.state {
            State::Plain(input) => input.read(buffer)?,
            State::Gzip(decoder) => decoder.read(buffer)?,
            State::Zstd(decoder) => decoder.read(buffer).map_err(too_wide)?,
            State::Unknown(_) | State::Failed => {
                return Err(io::Error::other("the stream could not be begun"));
            }
        };
        if let Some(ratio) = &self.ratio {
            let taken = self.taken();
            ratio.count(taken - self.counted, len as u64)?;
            self.counted = taken;
        }
        Ok(len)
    }
}

/// The library tells errors by their words alone.
fn too_wide(error: io::Error) -> io::Error {
    match error.to_string().contains("requires too much memory") {
        true => io::Error::new(io::ErrorKind::OutOfMemory, error),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write};

    use super::*;

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::encode_all(data, 1).unwrap()
    }

    fn inflate(input: &[u8]) -> io::Result<Vec<u8>> {
        let mut output = Vec::new();
        decoder(BufReader::with_capacity(3, input)).read_to_end(&mut output)?;
        Ok(output)
    }

    fn text() -> Vec<u8> {
        (0..20_000u32).flat_map(|number| number.to_le_bytes()).collect()
    }

    #[test]
    fn each_kind_of_one_part_and_of_several() {
        let text = text();
        let (first, second) = text.split_at(1234);
        for compress in [gzip, zstd, <[u8]>::to_vec] {
            assert!(inflate(&compress(&text)).unwrap() == text);
            assert!(inflate(&[compress(first), compress(second)].concat()).unwrap() == text);
        }
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3][..], &zstd(&text)].concat();
        assert!(inflate(&skippable).unwrap() == text);
        assert_eq!(inflate(b"").unwrap(), b"");
        assert_eq!(decoder(&gzip(b"x")[..]).compression().unwrap(), Compression::Gzip);
    }

    #[test]
    fn truncation_is_an_error_wherever_it_falls() {
        let text = text();
        // With fewer bytes than its magic number has, a stream is not known as what it was.
        for (whole, known) in [(gzip(&text), 2), (zstd(&text), 4)] {
            for len in (known..30)
                .chain((30..whole.len()).step_by(997))
                .chain(whole.len() - 20..whole.len())
            {
                let error = inflate(&whole[..len]).expect_err("truncated");
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}: {error}");
            }
        }
    }

    #[test]
    fn damage_is_an_error() {
        let mut damaged = gzip(&text());
        let last = damaged.len() - 6;
        damaged[last] ^= 1;
        assert!(inflate(&damaged).is_err());
        assert!(inflate(&[gzip(b"x"), b"garbage".to_vec()].concat()).is_err());
    }

    #[test]
    fn a_window_that_is_too_wide_is_told_by_its_kind() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(25).unwrap();
        encoder.write_all(&text()).unwrap();
        let wide = encoder.finish().unwrap();
        let inflate = |window| {
            let mut out = Vec::new();
            let mut decoder = decoder(&wide[..]).with_max_window(window);
            decoder.read_to_end(&mut out).map(|_| out)
        };
        assert!(inflate(25).unwrap() == text());
        assert_eq!(inflate(24).unwrap_err().kind(), io::ErrorKind::OutOfMemory);
    }

    #[test]
    fn other_compressions_are_named() {
        for (start, name) in [
            (&b"BZh91AY&SY"[..], "bzip2"),
            (b"\xfd7zXZ\0\0", "xz"),
            (b"\x04\x22\x4d\x18", "lz4"),
        ] {
            let error = inflate(start).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    /// How many bytes the streams give, one after the other, until one is refused.
    fn given(streams: &[&[u8]], most: u64) -> (u64, Option<io::Error>) {
        let ratio = Ratio::new(most);
        let (mut given, mut buffer) = (0, vec![0; 1 << 20]);
        for stream in streams {
            let mut decoder = decoder(*stream).with_ratio(ratio.clone());
            loop {
                match decoder.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(len) => given += len as u64,
                    Err(error) => return (given, Some(error)),
                }
            }
        }
        (given, None)
    }

    #[test]
    fn bombs_are_stopped_by_the_limit_that_holds_where_nothing_is_set() {
        let most = crate::unpack::Limits::default().ratio;
        let zeros = vec![0; 16 << 20];
        let one = zstd(&zeros).repeat(70);
        // Several streams beside each other, and gzip at its best.
        let mut part = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        part.write_all(&zeros).unwrap();
        let part = part.finish().unwrap().repeat(30);
        for streams in [&[&one[..]][..], &[&part, &part, &part]] {
            let (given, error) = given(streams, most);
            let error = error.expect("it is stopped");
            assert!(is_inflated(&error), "{error}");
            assert!(error.to_string().contains("200 times"), "{error}");
            assert!((FREE - (1 << 20)..FREE + (2 << 20)).contains(&given), "{given}");
        }
        // What is little may be of nothing but zeros, and what may be so dense is taken.
        assert!(given(&[&part], most).1.is_none());
        assert!(given(&[&one], u64::MAX).1.is_none());
    }
}
