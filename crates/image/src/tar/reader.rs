//! [`Reader`]: from bytes to entries, one pass, nothing kept.

use std::io::{self, BufRead};

use super::header::{self, Dialect, Header, number, text};
use super::pax::Extended;
use super::sparse;
use super::{BLOCK, Entry, Kind, Segment, Time};

/// Why an archive cannot be read. Every variant tells the entry or the byte it concerns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The stream beneath failed.
    #[error("reading failed after {at} bytes, inside of {}", entry(.name))]
    Read {
        /// The entry that is not complete; `None` in a header.
        name: Option<String>,
        /// Bytes read before.
        at: u64,
        /// What the stream said.
        #[source]
        source: io::Error,
    },
    /// The archive ends inside of an entry.
    #[error("the archive is truncated: it ends after {at} bytes, inside of {}", entry(.name))]
    Truncated {
        /// The entry that is not complete; `None` in a header.
        name: Option<String>,
        /// Bytes read before.
        at: u64,
    },
    /// A header that makes no sense.
    #[error("{}: {what} (header at byte {at})", entry(.name))]
    Malformed {
        /// The entry's name where it is known.
        name: Option<String>,
        /// What is wrong with it.
        what: String,
        /// Where its header begins.
        at: u64,
    },
}

fn entry(name: &Option<String>) -> String {
    name.as_ref()
        .map_or("a header".into(), |name| format!("{name:?}"))
}

/// Reads the entries of an archive from a stream.
///
/// After each [`Reader::next`] the caller takes the entry's data piece by piece from [`Reader::data`]. Every byte
/// of the archive that is not such data passes through [`Reader::raw`], so that the two together are the archive.
pub struct Reader<R> {
    input: R,
    /// Bytes of the archive read so far.
    at: u64,
    /// Data of the current entry not yet taken, and the padding after it.
    remaining: u64,
    padding: u64,
    raw: Vec<u8>,
    global: Extended,
    /// Name of the current entry, for errors; `None` in a header.
    current: Option<String>,
    /// Most bytes of extended headers and maps that one entry may have.
    limit: usize,
    done: bool,
}

/// What precedes an entry and belongs to it.
#[derive(Default)]
struct Before {
    extended: Option<Extended>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    spent: usize,
}

/// A name for messages: readable, whatever bytes it has.
pub(crate) fn shown(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`. Extended headers, long names and sparse maps of one entry may together have `limit`
    /// bytes.
    pub fn new(input: R, limit: usize) -> Reader<R> {
        Reader {
            input,
            at: 0,
            remaining: 0,
            padding: 0,
            raw: Vec::new(),
            global: Extended::default(),
            current: None,
            limit,
            done: false,
        }
    }

    /// How many bytes of the archive were read.
    pub fn position(&self) -> u64 {
        self.at
    }

    /// Bytes read that are no file data, since the caller last emptied this.
    pub fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    /// The next entry; `None` at the end of the archive. Data of the entry before that was not taken is an error
    /// of the caller and is skipped.
    #[allow(clippy::should_implement_trait)] // It lends nothing, but it fails.
    pub fn next(&mut self) -> Result<Option<Entry>, TarError> {
        while !self.data()?.is_empty() {
            let len = self.data()?.len();
            self.consume(len);
        }
        self.padding()?;
        if self.done {
            return Ok(None);
        }
        self.current = None;
        let mut before = Before::default();
        loop {
            let start = self.at;
            let Some(block) = self.block()? else {
                // No end blocks; an extended header without its entry is a truncation all the same.
                if before.spent > 0 {
                    return Err(self.truncated());
                }
                self.done = true;
                return Ok(None);
            };
            if block == [0; BLOCK] {
                return self.end(before.spent > 0).map(|()| None);
            }
            let header = Header(&block);
            if !header.checksum_holds() {
                return Err(self.malformed(start, "wrong checksum: this is no tar header"));
            }
            match header.flag() {
                b'x' | b'g' => {
                    self.current = Some(shown(&header.name()));
                    let content = self.meta(&header, start, &mut before)?;
                    let extended = Extended::parse(&content).map_err(|what| self.malformed(start, what))?;
                    if header.flag() == b'x' {
                        before.extended = Some(extended);
                    } else {
                        self.global.set_global(extended);
                    }
                }
                b'L' => before.name = Some(text(&self.meta(&header, start, &mut before)?).to_vec()),
                b'K' => before.link = Some(text(&self.meta(&header, start, &mut before)?).to_vec()),
                // A volume label: a name and nothing else.
                b'V' => {
                    self.meta(&header, start, &mut before)?;
                }
                _ => return self.entry(&block, start, before).map(Some),
            }
        }
    }

    /// The next piece of the current entry's data; empty when there is no more.
    pub fn data(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        // Filled twice, because the borrow of an error path and of the result exclude each other.
        if self.fill()? == 0 {
            return Err(self.truncated());
        }
        let piece = match self.input.fill_buf() {
            Ok(piece) => piece,
            Err(source) => return Err(read_error(&self.current, self.at, source)),
        };
        let len = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(piece.len());
        Ok(&piece[..len])
    }

    /// Marks `len` bytes of the piece that [`Reader::data`] gave as taken.
    pub fn consume(&mut self, len: usize) {
        self.input.consume(len);
        self.at += len as u64;
        self.remaining -= len as u64;
    }

    /// The current entry's data is not in the stream: its padding comes next.
    pub fn left_out(&mut self) {
        self.at += std::mem::take(&mut self.remaining);
    }

    /// What follows the end of the archive, piece by piece into [`Reader::raw`]; `false` at the end of the stream.
    pub fn trailer(&mut self) -> Result<bool, TarError> {
        let len = self.fill()?;
        self.take_raw(len)?;
        Ok(len > 0)
    }

    fn fill(&mut self) -> Result<usize, TarError> {
        loop {
            match self.input.fill_buf() {
                Ok(piece) => return Ok(piece.len()),
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(read_error(&self.current, self.at, source)),
            }
        }
    }

    /// Moves `len` bytes, which must be buffered, to the raw bytes.
    fn take_raw(&mut self, len: usize) -> Result<(), TarError> {
        let piece = match self.input.fill_buf() {
            Ok(piece) => piece,
            Err(source) => return Err(read_error(&self.current, self.at, source)),
        };
        self.raw.extend_from_slice(&piece[..len]);
        self.input.consume(len);
        self.at += len as u64;
        Ok(())
    }

    /// Takes up to `len` bytes as raw; fewer only at the end of the stream. Returns where they begin in `raw`.
    fn take(&mut self, len: usize) -> Result<usize, TarError> {
        let start = self.raw.len();
        let mut left = len;
        while left > 0 {
            let piece = self.fill()?.min(left);
            if piece == 0 {
                break;
            }
            self.take_raw(piece)?;
            left -= piece;
        }
        Ok(start)
    }

    /// The next block; `None` at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let start = self.take(BLOCK)?;
        match self.raw[start..].first_chunk::<BLOCK>() {
            Some(block) => Ok(Some(*block)),
            None if self.raw.len() == start => Ok(None),
            None => Err(self.truncated()),
        }
    }

    /// Padding after data; an archive may end without it.
    fn padding(&mut self) -> Result<(), TarError> {
        let padding = std::mem::take(&mut self.padding);
        self.take(padding as usize).map(drop)
    }

    /// After a block of zeros: a second one ends the archive, and so does the end of the stream.
    fn end(&mut self, inside: bool) -> Result<(), TarError> {
        if inside {
            return Err(self.truncated());
        }
        let at = self.at;
        match self.block()? {
            Some(block) if block != [0; BLOCK] => {
                Err(self.malformed(at, "a single block of zeros and then something else"))
            }
            _ => {
                self.done = true;
                Ok(())
            }
        }
    }

    /// Content of an entry that only says something about the next one.
    fn meta(&mut self, header: &Header, start: u64, before: &mut Before) -> Result<Vec<u8>, TarError> {
        let size = number(header.field(header::SIZE))
            .and_then(|size| usize::try_from(size).ok())
            .ok_or_else(|| self.malformed(start, "malformed size"))?;
        self.spend(size + BLOCK, start, before)?;
        let from = self.take(size)?;
        if self.raw.len() - from < size {
            return Err(self.truncated());
        }
        let content = self.raw[from..].to_vec();
        self.padding = padding(size as u64);
        self.padding()?;
        Ok(content)
    }

    fn spend(&self, bytes: usize, start: u64, before: &mut Before) -> Result<(), TarError> {
        before.spent = before.spent.saturating_add(bytes);
        if before.spent > self.limit.saturating_add(BLOCK) {
            let what = format!("extended headers larger than {} bytes", self.limit);
            return Err(self.malformed(start, what));
        }
        Ok(())
    }

    fn malformed(&self, at: u64, what: impl Into<String>) -> TarError {
        TarError::Malformed {
            name: self.current.clone(),
            what: what.into(),
            at,
        }
    }

    fn truncated(&self) -> TarError {
        TarError::Truncated {
            name: self.current.clone(),
            at: self.at,
        }
    }

    /// The entry that `block` heads.
    fn entry(&mut self, block: &[u8; BLOCK], start: u64, mut before: Before) -> Result<Entry, TarError> {
        let header = Header(block);
        let extended = before.extended.take().unwrap_or_default();
        let sparse_name = extended.sparse.name.clone().filter(|_| extended.sparse.is_one());
        let name = sparse_name.or(before.name.take()).or(extended.path.clone());
        let name = name.unwrap_or_else(|| header.name());
        self.current = Some(shown(&name));

        let field = |range, what: &str| {
            number(header.field(range)).ok_or_else(|| self.malformed(start, format!("malformed {what}")))
        };
        let owner = |stated: Option<u64>, range, what: &str| {
            let value = match stated {
                Some(value) => i64::try_from(value).unwrap_or(i64::MAX),
                None => field(range, what)?,
            };
            // The greatest number means "leave it as it is" to chown(2).
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| self.malformed(start, format!("{what} {value} is out of range")))
        };
        let kind = match header.flag() {
            // Before POSIX a directory was told by its name.
            0 if name.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            // GNU's incremental dump: a directory with a listing as its data.
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            flag => {
                let what = format!("entries of type '{}' are not supported", flag.escape_ascii());
                return Err(self.malformed(start, what));
            }
        };
        let stated = match extended.size {
            Some(size) => Some(size),
            None => u64::try_from(field(header::SIZE, "size")?).ok(),
        };
        let stated = stated
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or_else(|| self.malformed(start, "size is out of range"))?;

        let mut entry = Entry::new(name, kind);
        entry.mode = field(header::MODE, "mode")? as u32 & 0o7777;
        entry.uid = owner(extended.uid.or(self.global.uid), header::UID, "owner")?;
        entry.gid = owner(extended.gid.or(self.global.gid), header::GID, "group")?;
        entry.mtime = match extended.mtime.or(self.global.mtime) {
            Some(time) => time,
            None => Time {
                secs: field(header::MTIME, "time")?,
                nanos: 0,
            },
        };
        entry.atime = extended.atime.or(self.global.atime);
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            let part = |range| {
                u32::try_from(field(range, "device number")?)
                    .map_err(|_| self.malformed(start, "malformed device number"))
            };
            entry.device = (part(header::MAJOR)?, part(header::MINOR)?);
        }
        if matches!(kind, Kind::HardLink | Kind::Symlink) {
            let link = before.link.take().or(extended.linkpath.clone());
            entry.link = link.unwrap_or_else(|| text(header.field(header::LINK)).to_vec());
        }
        entry.xattrs = extended.xattrs.clone().into_iter().collect();

        // Only what can have data has any, whatever its size field says (as in Go; POSIX lets a directory's size
        // be a quota).
        let has_data = matches!(header.flag(), 0 | b'0' | b'7' | b'S' | b'D');
        self.remaining = if has_data { stated } else { 0 };
        self.padding = padding(self.remaining);
        if kind == Kind::File {
            entry.size = stated;
            self.sparse_map(&mut entry, block, start, &extended, &mut before)?;
        }
        Ok(entry)
    }

    /// Recognizes a sparse file, reads its map, and sets the entry's size and segments.
    fn sparse_map(
        &mut self,
        entry: &mut Entry,
        block: &[u8; BLOCK],
        start: u64,
        extended: &Extended,
        before: &mut Before,
    ) -> Result<(), TarError> {
        let header = Header(block);
        let sparse = &extended.sparse;
        let mut map: Vec<Segment> = Vec::new();
        let size;
        if header.flag() == b'S' {
            if header.dialect() != Dialect::Gnu {
                return Err(self.malformed(start, "a sparse file in a header that is not GNU's"));
            }
            size = number(header.field(header::GNU_REAL_SIZE)).and_then(|size| u64::try_from(size).ok());
            let mut more = sparse::old_header(block, &mut map).map_err(|what| self.malformed(start, what))?;
            while more {
                self.spend(BLOCK, start, before)?;
                let block = self.block()?.ok_or_else(|| self.truncated())?;
                more = sparse::old_extension(&block, &mut map).map_err(|what| self.malformed(start, what))?;
            }
        } else {
            size = sparse.size.or(Some(entry.size));
            match (sparse.major, sparse.minor) {
                (Some(1), Some(0)) => {
                    let mut lines = sparse::Lines::default();
                    loop {
                        if self.remaining < BLOCK as u64 {
                            return Err(self.malformed(start, "sparse map that exceeds its data"));
                        }
                        self.spend(BLOCK, start, before)?;
                        let block = self.block()?.ok_or_else(|| self.truncated())?;
                        self.remaining -= BLOCK as u64;
                        if lines.block(&block).map_err(|what| self.malformed(start, what))? {
                            break;
                        }
                    }
                    map = lines.map;
                }
                (Some(0), Some(0 | 1)) => map.clone_from(&sparse.map),
                (None, None) if sparse.is_one() => map.clone_from(&sparse.map),
                (None, None) => return Ok(()),
                _ => return Err(self.malformed(start, "sparse file of an unknown version")),
            }
        }
        let size = size
            .filter(|size| i64::try_from(*size).is_ok())
            .ok_or_else(|| self.malformed(start, "malformed size of a sparse file"))?;
        let map = sparse::check(map, size, self.remaining).map_err(|what| self.malformed(start, what))?;
        entry.size = size;
        entry.segments = Some(map);
        Ok(())
    }
}

fn read_error(name: &Option<String>, at: u64, source: io::Error) -> TarError {
    let name = name.clone();
    TarError::Read { name, at, source }
}

/// Bytes from the end of `len` bytes of data to the next block.
pub(super) fn padding(len: u64) -> u64 {
    len.wrapping_neg() % BLOCK as u64
}
