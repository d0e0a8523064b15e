//! Writing a record while its layer is unpacked.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{DISPLACED, END, FILE, FileData, HEAD, MAGIC, PIECE, RAW, SKIPPABLE, TAIL, VERSION, next_run};

/// Almost all of a record is headers, which differ little from each other; more effort gains nothing.
const LEVEL: i32 = 1;

/// Counts what is written.
struct Counted<W> {
    output: W,
    written: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = self.output.write(bytes)?;
        self.written += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

type Encoder<W> = zstd::stream::write::Encoder<'static, Counted<W>>;

/// Writes a record while its layer is unpacked.
pub struct Writer<W: Write> {
    /// `None` after an error has taken the encoder away.
    encoder: Option<Encoder<W>>,
    files: u64,
    index: Vec<u8>,
    displaced: u64,
}

fn encoder<W: Write>(output: Counted<W>) -> io::Result<Encoder<W>> {
    let mut encoder = zstd::stream::write::Encoder::new(output, LEVEL)?;
    encoder.include_checksum(true)?;
    Ok(encoder)
}

fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

impl<W: Write> Writer<W> {
    /// Begins a record.
    pub fn new(output: W) -> io::Result<Writer<W>> {
        let mut head = Vec::with_capacity(HEAD);
        head.extend(SKIPPABLE.to_le_bytes());
        head.extend(32u32.to_le_bytes());
        head.extend(MAGIC);
        for number in [VERSION, 0, 0, 0] {
            head.extend(number.to_le_bytes());
        }
        let mut output = Counted { output, written: 0 };
        output.write_all(&head)?;
        Ok(Writer {
            encoder: Some(encoder(output)?),
            files: 0,
            index: Vec::new(),
            displaced: 0,
        })
    }

    fn encoder(&mut self) -> io::Result<&mut Encoder<W>> {
        self.encoder
            .as_mut()
            .ok_or_else(|| io::Error::other("the record failed before"))
    }

    /// Bytes of the tar that are no file's data.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE) {
            let mut head = vec![RAW];
            put_number(&mut head, piece.len() as u64);
            let encoder = self.encoder()?;
            encoder.write_all(&head)?;
            encoder.write_all(piece)?;
        }
        Ok(())
    }

    /// Data of the tar that now lies in a file.
    pub fn file(&mut self, file: &FileData) -> io::Result<()> {
        let mut item = vec![FILE];
        put_bytes(&mut item, file.path.as_os_str().as_bytes());
        put_number(&mut item, file.size);
        put_number(&mut item, file.blocks);
        match &file.segments {
            None => put_number(&mut item, 0),
            Some(segments) => {
                put_number(&mut item, segments.len() as u64 + 1);
                for segment in segments {
                    put_number(&mut item, segment.offset);
                    put_number(&mut item, segment.len);
                }
            }
        }
        item.extend(file.digest.to_be_bytes());
        self.files += 1;
        self.encoder()?.write_all(&item)
    }

    /// Keeps the content of the file at `path`, which is about to be replaced.
    pub fn displaced(&mut self, path: &Path, file: &File) -> io::Result<()> {
        let start = self.new_frame()?;
        put_bytes(&mut self.index, path.as_os_str().as_bytes());
        put_number(&mut self.index, self.files);
        put_number(&mut self.index, start);
        self.displaced += 1;

        let mut item = vec![DISPLACED];
        put_bytes(&mut item, path.as_os_str().as_bytes());
        self.encoder()?.write_all(&item)?;
        let mut buffer = vec![0; PIECE];
        let mut at = 0;
        while let Some((begin, end)) = next_run(file, at)? {
            at = begin;
            while at < end {
                let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
                let len = file.read_at(&mut buffer[..want], at)?;
                if len == 0 {
                    break;
                }
                let mut head = Vec::new();
                put_number(&mut head, at);
                put_number(&mut head, len as u64);
                let encoder = self.encoder()?;
                encoder.write_all(&head)?;
                encoder.write_all(&buffer[..len])?;
                at += len as u64;
            }
            at = end;
        }
        self.encoder()?.write_all(&[0, 0])?;
        self.new_frame().map(drop)
    }

    /// Ends the frame and begins another; returns where it begins.
    fn new_frame(&mut self) -> io::Result<u64> {
        let ended = self
            .encoder
            .take()
            .ok_or_else(|| io::Error::other("the record failed before"))?;
        let output = ended.finish()?;
        let start = output.written;
        self.encoder = Some(encoder(output)?);
        Ok(start)
    }

    /// Completes the record and returns the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.encoder()?.write_all(&[END])?;
        let start = self.new_frame()?;
        let index = std::mem::take(&mut self.index);
        self.encoder()?.write_all(&index)?;
        self.new_frame()?;
        let ended = self
            .encoder
            .take()
            .ok_or_else(|| io::Error::other("the record failed before"))?;
        let mut output = ended.finish()?;
        let mut tail = Vec::with_capacity(TAIL);
        tail.extend(SKIPPABLE.to_le_bytes());
        tail.extend(16u32.to_le_bytes());
        tail.extend(start.to_le_bytes());
        tail.extend(self.displaced.to_le_bytes());
        output.write_all(&tail)?;
        output.flush()?;
        Ok(output.output)
    }
}
