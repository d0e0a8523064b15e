//! The content record of a layer: with the layer's directory it gives the tar back, bit for bit.
//!
//! [`Writer`] is fed while a layer is unpacked; [`rebuild`] reads it back. The format is in
//! `docs/format/record.md`.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use store::{Digest, Hasher};
use sys::Dir;
use twox_hash::XxHash3_128;

use crate::tar::Segment;

mod writer;

pub use writer::Writer;
pub(crate) use writer::next_run;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 16] = b"strata layer rec";
const SKIPPABLE: u32 = 0x184D_2A50;
const HEAD: usize = 8 + 32;
const TAIL: usize = 8 + 16;
/// Almost all of a record is headers, which differ little from each other; more effort gains nothing.
const LEVEL: i32 = 1;
/// The longest raw item or run that is written; a reader needs no more memory than this.
const PIECE: usize = 64 * 1024;
/// The longest path that is read, in bytes; longer than what is ever unpacked.
const MAX_PATH: u64 = 64 * 1024;

const END: u8 = 0;
const RAW: u8 = 1;
const FILE: u8 = 2;
const DISPLACED: u8 = 3;

/// The data of one entry, as it lies in the layer's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileData {
    /// Path in the layer's directory.
    pub path: PathBuf,
    /// Size of the file in bytes, holes included.
    pub size: u64,
    /// Blocks of 512 bytes it took when it was written.
    pub blocks: u64,
    /// The runs of a sparse file that the archive holds; `None` for all of it.
    pub segments: Option<Vec<Segment>>,
    /// XXH3-128 of the data.
    pub digest: u128,
}

impl FileData {
    fn runs(&self) -> Vec<Segment> {
        let whole = || {
            vec![Segment {
                offset: 0,
                len: self.size,
            }]
        };
        self.segments.clone().unwrap_or_else(whole)
    }
}

/// Why a tar cannot be rebuilt from its record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record cannot be read.
    #[error("reading the layer's record failed")]
    Read(#[source] io::Error),
    /// The record makes no sense.
    #[error("the layer's record is damaged: {0}")]
    Damaged(&'static str),
    /// The record was written by a newer strata.
    #[error("the layer's record has version {version} with flags {incompatible:#x}; a newer strata wrote it")]
    Newer {
        /// Its version.
        version: u32,
        /// Flags that a reader must know.
        incompatible: u32,
    },
    /// A file of the layer cannot be read.
    #[error("{}: reading the layer's file failed", path.display())]
    File {
        /// Path in the layer.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the layer is not what was unpacked.
    #[error("{}: the layer's file was changed", path.display())]
    Changed {
        /// Path in the layer.
        path: PathBuf,
    },
    /// The output cannot be written.
    #[error("writing the rebuilt layer failed")]
    Write(#[source] io::Error),
}

/// One item of a record.
enum Item {
    End,
    Raw(Vec<u8>),
    File(FileData),
    Displaced,
}

/// Reads items from inflated content.
struct Items<R>(R);

fn damaged<T>(what: &'static str) -> Result<T, RecordError> {
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

    fn item(&mut self) -> Result<Item, RecordError> {
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
    fn run(&mut self) -> Result<(u64, Vec<u8>), RecordError> {
        Ok((self.number()?, self.bytes(PIECE as u64)?))
    }
}

/// Where a displaced file's content is.
struct Displaced {
    path: PathBuf,
    before: u64,
    offset: u64,
}

/// Reads a file from a place of its own, so that several can read it at once.
struct At<'f> {
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

type Inflated<'f> = BufReader<zstd::stream::read::Decoder<'static, BufReader<At<'f>>>>;

/// Reads items from the frame at `offset` on.
fn items_at(file: &File, offset: u64) -> Result<Items<Inflated<'_>>, RecordError> {
    let decoder = zstd::stream::read::Decoder::new(At { file, offset }).map_err(RecordError::Read)?;
    Ok(Items(BufReader::with_capacity(PIECE, decoder)))
}

/// Reads head, tail and index.
fn open(record: &File) -> Result<Vec<Displaced>, RecordError> {
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

/// What is rebuilt, on its way out: the whole is hashed for the diff ID, each file for its own digest.
struct Output<W> {
    out: W,
    whole: Hasher,
    file: XxHash3_128,
}

impl<W: Write> Output<W> {
    fn raw(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.whole.update(bytes);
        self.out.write_all(bytes).map_err(RecordError::Write)
    }

    fn data(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        self.file.write(bytes);
        self.raw(bytes)
    }

    fn end_of_file(&mut self, file: &FileData) -> Result<(), RecordError> {
        let hasher = std::mem::replace(&mut self.file, XxHash3_128::new());
        match hasher.finish_128() == file.digest {
            true => Ok(()),
            false => Err(RecordError::Changed {
                path: file.path.clone(),
            }),
        }
    }
}

/// Reads the tar of a layer back: from the layer's directory `fs` and its `record` into `out`. Returns the SHA-256
/// of what was written, which is the layer's diff ID; the data of every file is compared with its digest on the
/// way, so that a changed file is named.
pub fn rebuild(fs: &Dir, record: &File, out: impl Write) -> Result<Digest, RecordError> {
    let mut displaced = open(record)?;
    // By path, and in the order in which they were displaced.
    displaced.sort_by(|a, b| (&a.path, a.before).cmp(&(&b.path, b.before)));
    let mut out = Output {
        out,
        whole: Hasher::new(),
        file: XxHash3_128::new(),
    };
    let mut items = items_at(record, HEAD as u64)?;
    let mut files = 0u64;
    loop {
        match items.item()? {
            Item::End => break,
            Item::Raw(bytes) => out.raw(&bytes)?,
            Item::Displaced => while !items.run()?.1.is_empty() {},
            Item::File(file) => {
                let first = displaced.partition_point(|it| (&it.path, it.before) <= (&file.path, files));
                files += 1;
                match displaced.get(first).filter(|it| it.path == file.path) {
                    _ if file.size == 0 => {}
                    None => copy_file(fs, &file, &mut out)?,
                    Some(it) => copy_displaced(items_at(record, it.offset)?, &file, &mut out)?,
                }
                out.end_of_file(&file)?;
            }
        }
    }
    out.out.flush().map_err(RecordError::Write)?;
    Ok(out.whole.finish())
}

/// Opens a file of a layer for reading, without a trace: its time of access stays. Should it be no regular file,
/// opening it has no effect and does not wait.
pub(crate) fn open_quietly(layer: &Dir, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match layer.open_file(path, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may ask for that.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            layer.open_file(path, flags, Mode::empty())
        }
        other => other,
    }
}

fn copy_file<W: Write>(fs: &Dir, data: &FileData, out: &mut Output<W>) -> Result<(), RecordError> {
    let failed = |source| RecordError::File {
        path: data.path.clone(),
        source,
    };
    let changed = || RecordError::Changed {
        path: data.path.clone(),
    };
    let file = open_quietly(fs, &data.path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() || meta.len() != data.size {
        return Err(changed());
    }
    let mut buffer = vec![0; PIECE.min(usize::try_from(data.size).unwrap_or(PIECE))];
    for run in data.runs() {
        let mut at = run.offset;
        let end = run.offset.saturating_add(run.len);
        while at < end {
            let want = buffer.len().min(usize::try_from(end - at).unwrap_or(usize::MAX));
            match file.read_at(&mut buffer[..want], at).map_err(failed)? {
                0 => return Err(changed()),
                len => {
                    out.data(&buffer[..len])?;
                    at += len as u64;
                }
            }
        }
    }
    Ok(())
}

fn copy_displaced<R: Read, W: Write>(
    mut items: Items<R>,
    data: &FileData,
    out: &mut Output<W>,
) -> Result<(), RecordError> {
    let Item::Displaced = items.item()? else {
        return damaged("its index points at something else");
    };
    let mut run = items.run()?;
    for wanted in data.runs() {
        let mut at = wanted.offset;
        let end = wanted.offset.saturating_add(wanted.len);
        while at < end {
            let run_end = run.0.saturating_add(run.1.len() as u64);
            if run.1.is_empty() || run.0 > at {
                // A hole, up to the next run or for good.
                let until = if run.1.is_empty() { end } else { end.min(run.0) };
                let zeros = usize::try_from(until - at).unwrap_or(PIECE).min(PIECE);
                out.data(&vec![0; zeros])?;
                at += zeros as u64;
            } else if run_end <= at {
                run = items.run()?;
            } else {
                let from = (at - run.0) as usize;
                let to = (end.min(run_end) - run.0) as usize;
                out.data(&run.1[from..to])?;
                at = end.min(run_end);
            }
        }
    }
    Ok(())
}
