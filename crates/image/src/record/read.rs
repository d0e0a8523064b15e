//! Reading the items of a record.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::{
    DISPLACED, END, FILE, FileData, HEAD, MAGIC, MAX_PATH, PIECE, RAW, RecordError, SKIPPABLE, TAIL, VERSION,
};
use crate::tar::Segment;

/// One item of a record.
pub(super) enum Item {
    End,
    Raw(Vec<u8>),
    File(FileData),
    Displaced,
}

/// Reads items from inflated content.
pub(super) struct Items<R>(R);

pub(super) fn damaged<T>(what: &'static str) -> Result<T, RecordError> {
    Err(RecordError::Damaged(what))
}

impl<R: Read> Items<R> {
    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), RecordError> {
        self.0.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => RecordError::Damaged("it ends too early"),
            _ => RecordError::Read(error),
        })
    }

    fn byte(&mut self) -> Result<u8, RecordError> {
        let mut byte = [0];
        self.fill(&mut byte)?;
        Ok(byte[0])
    }

    fn number(&mut self) -> Result<u64, RecordError> {
        let mut number = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        damaged("a number is too large")
    }

    fn bytes(&mut self, most: u64) -> Result<Vec<u8>, RecordError> {
        let len = self.number()?;
        if len > most {
            return damaged("an item is too long");
        }
        let mut bytes = vec![0; len as usize];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn path(&mut self) -> Result<PathBuf, RecordError> {
        Ok(PathBuf::from(OsStr::from_bytes(&self.bytes(MAX_PATH)?)))
    }

    pub(super) fn item(&mut self) -> Result<Item, RecordError> {
        Ok(match self.byte()? {
            END => Item::End,
            RAW => Item::Raw(self.bytes(PIECE as u64)?),
            FILE => {
                let path = self.path()?;
                let (size, blocks) = (self.number()?, self.number()?);
                let segments = match self.number()? {
                    0 => None,
                    count => {
                        let mut segments = Vec::new();
                        for _ in 1..count {
                            let (offset, len) = (self.number()?, self.number()?);
                            segments.push(Segment { offset, len });
                        }
                        Some(segments)
                    }
                };
                let mut digest = [0; 16];
                self.fill(&mut digest)?;
                Item::File(FileData {
                    path,
                    size,
                    blocks,
                    segments,
                    digest: u128::from_be_bytes(digest),
                })
            }
            DISPLACED => {
                self.path()?;
                Item::Displaced
            }
            _ => return damaged("an item of an unknown kind"),
        })
    }

    /// The next run of a displaced file; an empty one ends them.
    pub(super) fn run(&mut self) -> Result<(u64, Vec<u8>), RecordError> {
        Ok((self.number()?, self.bytes(PIECE as u64)?))
    }
}

/// Where a displaced file's content is.
pub(super) struct Displaced {
    pub(super) path: PathBuf,
    pub(super) before: u64,
    pub(super) offset: u64,
}

/// Reads a file from a place of its own, so that several can read it at once.
pub(super) struct At<'f> {
    file: &'f File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.file.read_at(buffer, self.offset)?;
        self.offset += len as u64;
        Ok(len)
    }
}

pub(super) type Inflated<'f> = BufReader<zstd::stream::read::Decoder<'static, BufReader<At<'f>>>>;

/// Reads items from the frame at `offset` on.
pub(super) fn items_at(file: &File, offset: u64) -> Result<Items<Inflated<'_>>, RecordError> {
    let decoder = zstd::stream::read::Decoder::new(At { file, offset }).map_err(RecordError::Read)?;
    Ok(Items(BufReader::with_capacity(PIECE, decoder)))
}

/// Reads head, tail and index.
pub(super) fn open(record: &File) -> Result<Vec<Displaced>, RecordError> {
    let exact = |buffer: &mut [u8], at: u64| {
        record
            .read_exact_at(buffer, at)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => RecordError::Damaged("it is too short"),
                _ => RecordError::Read(error),
            })
    };
    let word = |bytes: &[u8], at: usize| {
        bytes[at..]
            .first_chunk()
            .map_or(0, |word| u32::from_le_bytes(*word))
    };
    let mut head = [0; HEAD];
    exact(&mut head, 0)?;
    if word(&head, 0) != SKIPPABLE || word(&head, 4) != 32 || head[8..24] != *MAGIC {
        return damaged("it does not begin as a record");
    }
    let (version, incompatible) = (word(&head, 24), word(&head, 36));
    if version != VERSION || incompatible != 0 {
        return Err(RecordError::Newer {
            version,
            incompatible,
        });
    }
    let end = record.metadata().map_err(RecordError::Read)?.len();
    let Some(tail_at) = end.checked_sub(TAIL as u64).filter(|at| *at >= HEAD as u64) else {
        return damaged("it is too short");
    };
    let mut tail = [0; TAIL];
    exact(&mut tail, tail_at)?;
    if word(&tail, 0) != SKIPPABLE || word(&tail, 4) != 16 {
        return damaged("it has no end");
    }
    let long = |at: usize| u64::from(word(&tail, at)) | u64::from(word(&tail, at + 4)) << 32;
    let (index, count) = (long(8), long(16));
    if index < HEAD as u64 || index >= tail_at {
        return damaged("its index is outside of it");
    }
    let mut items = items_at(record, index)?;
    let mut displaced = Vec::new();
    for _ in 0..count {
        let path = items.path()?;
        let (before, offset) = (items.number()?, items.number()?);
        displaced.push(Displaced { path, before, offset });
    }
    Ok(displaced)
}
