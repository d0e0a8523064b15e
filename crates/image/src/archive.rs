//! The files of an image archive by name, whether it is a directory, a tar that can be read anywhere, or a stream
//! that passes once.
//!
//! A stream may bring what says how to read it last (`docker save` puts `manifest.json` behind the layers), so its
//! large files go into the store as they pass, verified where their name is a digest, and what nobody asks for
//! afterwards goes with the lease. Names in an archive are only compared, never opened.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use store::{Descriptor, Digest, IngestError, Lease, Store};
use sys::Dir;

use crate::compression::{Compression, Ratio, decoder};
use crate::load::LoadProblem;
use crate::tar::{BLOCK, Kind, Reader, TarError};
use crate::unpack::Limits;

/// Most files of an archive; 500 layers of the oldest form have three each.
const MAX_FILES: usize = 100_000;
/// A passing file up to this size stays in memory, in bytes …
const SMALL: u64 = 256 << 10;
/// … as long as all of them are no larger than this, in bytes.
const MEMORY: u64 = 16 << 20;
/// Bytes of extended headers that one entry may have.
const HEADERS: usize = 1 << 20;
/// Links from name to name, as old archives have between equal layers.
const MAX_LINKS: usize = 8;
const PIECE: usize = 128 << 10;

/// An archive's files.
pub(crate) enum Archive<'a> {
    /// A directory.
    Directory(Dir),
    /// A tar that is not compressed.
    Tar {
        file: Arc<File>,
        members: HashMap<String, Member>,
    },
    /// What a stream brought.
    Spool {
        store: &'a Store,
        members: HashMap<String, Member>,
    },
}

/// A file of an archive, open for reading.
pub(crate) type Content = Box<dyn Read + Send>;

/// One file of an archive.
#[derive(Debug, Clone)]
pub(crate) enum Member {
    /// So many bytes from here on.
    At { offset: u64, size: u64 },
    /// In memory.
    Bytes(Arc<Vec<u8>>),
    /// In the store.
    Blob { digest: Digest, size: u64 },
    /// Another name of the same.
    Link(String),
}

impl<'a> Archive<'a> {
    /// A directory, opened by the path that the user gave.
    pub(crate) fn directory(path: &Path) -> Result<Self, LoadProblem> {
        let dir = Dir::open_ambient(path).map_err(|source| LoadProblem::Open { source })?;
        Ok(Self::Directory(dir))
    }

    /// A file: looked at where it is when it is a tar, read through once when it is compressed or no regular file.
    pub(crate) fn file(
        path: &Path,
        store: &'a Store,
        lease: &Lease,
        limits: &Limits,
    ) -> Result<Self, LoadProblem> {
        let mut file = File::open(path).map_err(|source| LoadProblem::Open { source })?;
        let regular = file
            .metadata()
            .map_err(|source| LoadProblem::Open { source })?
            .is_file();
        let mut start = [0; 6];
        let compressed = regular && {
            let read = file
                .read_at(&mut start, 0)
                .map_err(|source| LoadProblem::Open { source })?;
            !matches!(Compression::sniff(&start[..read]), Ok(Compression::None))
        };
        if !regular || compressed {
            return Self::stream(&mut file, store, lease, limits);
        }
        let members = index(&mut file)?;
        Ok(Self::Tar {
            file: Arc::new(file),
            members,
        })
    }

    /// A stream, read to its end.
    pub(crate) fn stream(
        from: &mut dyn Read,
        store: &'a Store,
        lease: &Lease,
        limits: &Limits,
    ) -> Result<Self, LoadProblem> {
        let from = BufReader::with_capacity(PIECE, from);
        let inflated = decoder(from).with_ratio(Ratio::new(limits.ratio));
        let members = spool(BufReader::with_capacity(PIECE, inflated), store, lease)?;
        // What was kept is read from the store from now on.
        let settled = store.settle(lease);
        settled.map_err(|e| LoadProblem::install("the stream", e))?;
        Ok(Self::Spool { store, members })
    }

    /// Opens a file for reading, with its size in bytes; `None` when there is none of that name.
    pub(crate) fn open(&self, name: &str) -> Result<Option<(Content, u64)>, LoadProblem> {
        let name = clean(name.as_bytes());
        let failed = |source| LoadProblem::Read {
            name: name.clone(),
            source,
        };
        let mut member = match self {
            Self::Directory(dir) => {
                let file = match dir.open_file(&name, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                    other => other.map_err(failed)?,
                };
                let data = file.metadata().map_err(failed)?;
                return match data.is_file() {
                    true => Ok(Some((Box::new(file), data.len()))),
                    false => Ok(None),
                };
            }
            Self::Tar { members, .. } | Self::Spool { members, .. } => members.get(&name),
        };
        for _ in 0..MAX_LINKS {
            match (member, self) {
                (Some(Member::Link(target)), Self::Tar { members, .. } | Self::Spool { members, .. }) => {
                    member = members.get(target);
                }
                _ => break,
            }
        }
        Ok(match (member, self) {
            (Some(Member::At { offset, size }), Self::Tar { file, .. }) => Some((
                Box::new(Part {
                    file: file.clone(),
                    at: *offset,
                    end: offset + size,
                }),
                *size,
            )),
            (Some(Member::Bytes(bytes)), _) => {
                let shared = Shared(bytes.clone());
                Some((Box::new(Cursor::new(shared)), bytes.len() as u64))
            }
            (Some(Member::Blob { digest, size }), Self::Spool { store, .. }) => {
                let file = store
                    .open_blob(digest)
                    .map_err(|e| LoadProblem::install(name.clone(), e))?;
                Some((Box::new(file), *size))
            }
            _ => None,
        })
    }

    /// The whole of a small file; `None` when there is none of that name.
    pub(crate) fn bytes(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>, LoadProblem> {
        let Some((from, size)) = self.open(name)? else {
            return Ok(None);
        };
        let failed = |source| LoadProblem::Read {
            name: name.to_owned(),
            source,
        };
        if size > max {
            return Err(LoadProblem::TooLarge {
                name: name.to_owned(),
                size,
                max,
            });
        }
        let mut bytes = Vec::new();
        from.take(max).read_to_end(&mut bytes).map_err(failed)?;
        Ok(Some(bytes))
    }

    /// Where a passing file already lies in the store.
    pub(crate) fn spooled(&self, name: &str) -> Option<Digest> {
        let Self::Spool { members, .. } = self else {
            return None;
        };
        match members.get(&clean(name.as_bytes())) {
            Some(Member::Blob { digest, .. }) => Some(*digest),
            _ => None,
        }
    }

    /// Some of its names, for an error that says what was found instead.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Directory(dir) => {
                let entries = dir.entries().unwrap_or_default();
                entries
                    .into_iter()
                    .map(|e| e.name.to_string_lossy().into_owned())
                    .collect()
            }
            Self::Tar { members, .. } | Self::Spool { members, .. } => {
                let top = |name: &String| name.split('/').next().unwrap_or_default().to_owned();
                members.keys().map(top).collect()
            }
        };
        names.sort();
        names.dedup();
        names
    }
}

/// Bytes of a file, read without moving its position.
struct Part {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = usize::try_from(self.end - self.at)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let read = self.file.read_at(&mut buffer[..len], self.at)?;
        if read == 0 && len > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the archive became shorter",
            ));
        }
        self.at += read as u64;
        Ok(read)
    }
}

/// Bytes that several readers share.
struct Shared(Arc<Vec<u8>>);

impl AsRef<[u8]> for Shared {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A name in an archive as it is compared: without `./`, doubled slashes and the like.
fn clean(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name);
    name.split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect::<Vec<_>>()
        .join("/")
}

/// What a symbolic link at `name` leads to, by names alone.
fn resolve(name: &str, target: &[u8]) -> String {
    let target = String::from_utf8_lossy(target).into_owned();
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn malformed(source: TarError) -> LoadProblem {
    LoadProblem::Archive { source }
}

/// Of an archive that is wrong from its first header on it is not said what is wrong with that.
fn no_archive(source: TarError) -> LoadProblem {
    match source {
        TarError::Read { .. } => malformed(source),
        _ => LoadProblem::NotTar,
    }
}

/// Finds the members of a tar without reading their data.
fn index(file: &mut File) -> Result<HashMap<String, Member>, LoadProblem> {
    let mut members = HashMap::new();
    let mut at = 0;
    loop {
        let failed = |source| {
            let name = None;
            malformed(TarError::Read { name, at, source })
        };
        let len = file.metadata().map_err(failed)?.len();
        file.seek(SeekFrom::Start(at)).map_err(failed)?;
        let mut reader = Reader::new(BufReader::with_capacity(4 * BLOCK, &mut *file), HEADERS);
        let next = reader
            .next()
            .map_err(if at == 0 { no_archive } else { malformed });
        let Some(entry) = next? else {
            return Ok(members);
        };
        let offset = at + reader.position();
        let size = entry.data_len();
        let name = clean(&entry.name);
        let end = offset.checked_add(size).filter(|end| *end <= len);
        let Some(end) = end else {
            return Err(malformed(TarError::Truncated {
                name: Some(name),
                at: len,
            }));
        };
        at = end.next_multiple_of(BLOCK as u64);
        let member = match entry.kind {
            Kind::File if entry.segments.is_some() => return Err(LoadProblem::Sparse { name }),
            Kind::File => Member::At { offset, size },
            Kind::Symlink => Member::Link(resolve(&name, &entry.link)),
            Kind::HardLink => Member::Link(clean(&entry.link)),
            _ => continue,
        };
        insert(&mut members, name, member)?;
    }
}

fn insert(members: &mut HashMap<String, Member>, name: String, member: Member) -> Result<(), LoadProblem> {
    members.insert(name, member);
    match members.len() > MAX_FILES {
        true => Err(LoadProblem::TooMany { max: MAX_FILES }),
        false => Ok(()),
    }
}

/// Reads a passing tar to its end.
fn spool(from: impl BufRead, store: &Store, lease: &Lease) -> Result<HashMap<String, Member>, LoadProblem> {
    let mut members = HashMap::new();
    let mut memory = 0;
    let mut reader = Reader::new(from, HEADERS);
    let mut failed: fn(TarError) -> LoadProblem = no_archive;
    while let Some(entry) = reader.next().map_err(failed)? {
        failed = malformed;
        reader.raw().clear();
        let name = clean(&entry.name);
        let member = match entry.kind {
            Kind::File if entry.segments.is_some() => return Err(LoadProblem::Sparse { name }),
            Kind::File if entry.size <= SMALL && memory + entry.size <= MEMORY => {
                memory += entry.size;
                let mut bytes = Vec::new();
                copy(&mut reader, |piece| {
                    bytes.extend_from_slice(piece);
                    Ok(())
                })?;
                Member::Bytes(Arc::new(bytes))
            }
            Kind::File => keep(&mut reader, &name, entry.size, store, lease)?,
            Kind::Symlink => Member::Link(resolve(&name, &entry.link)),
            Kind::HardLink => Member::Link(clean(&entry.link)),
            _ => continue,
        };
        insert(&mut members, name, member)?;
    }
    // To the very end, or whoever writes the stream is killed by a pipe that closed.
    while reader.trailer().map_err(malformed)? {
        reader.raw().clear();
    }
    Ok(members)
}

fn copy(
    reader: &mut Reader<impl BufRead>,
    mut to: impl FnMut(&[u8]) -> Result<(), LoadProblem>,
) -> Result<(), LoadProblem> {
    loop {
        let piece = reader.data().map_err(malformed)?;
        if piece.is_empty() {
            return Ok(());
        }
        to(piece)?;
        let len = piece.len();
        reader.consume(len);
    }
}

/// Puts a large passing file into the store.
fn keep(
    reader: &mut Reader<impl BufRead>,
    name: &str,
    size: u64,
    store: &Store,
    lease: &Lease,
) -> Result<Member, LoadProblem> {
    let failed = |source: IngestError| LoadProblem::install(name, source);
    let named = name
        .strip_prefix("blobs/sha256/")
        .and_then(|hex| Digest::from_hex(hex).ok());
    if let Some(digest) = named {
        let held = store.hold_blob(lease, &digest).map_err(|e| failed(e.into()))?;
        if held == Some(size) {
            // Its data is passed over by the next entry.
            return Ok(Member::Blob { digest, size });
        }
    }
    let expected = named.map(|digest| Descriptor {
        media_type: String::new(),
        digest,
        size,
    });
    let mut ingest = store
        .ingest_once(lease, &format!("archive {name}"), expected.as_ref())
        .map_err(failed)?;
    copy(reader, |piece| {
        let written = ingest.write_all(piece);
        written.map_err(|error| failed(ingest.write_fault(error).into()))
    })?;
    let digest = store.arrived(ingest, lease).map_err(|error| match error {
        IngestError::Mismatch { found, .. } => LoadProblem::Digest {
            name: name.to_owned(),
            got: found,
        },
        other => failed(other),
    })?;
    Ok(Member::Blob { digest, size })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::sample::Index;

    /// A tar with files and a link.
    fn tar() -> Vec<u8> {
        let mut out = Vec::new();
        let long = "long/".repeat(40) + "name";
        for (name, kind) in [
            ("a/b", Kind::File),
            ("c", Kind::Symlink),
            (long.as_str(), Kind::File),
        ] {
            let mut entry = crate::tar::Entry::new(name, kind);
            entry.link = b"a/b".to_vec();
            entry.size = if kind == Kind::File { 700 } else { 0 };
            crate::tar::writer::write_header(&entry, &mut out);
            out.resize(out.len() + if kind == Kind::File { 1024 } else { 0 }, b'x');
        }
        out.resize(out.len() + 2 * BLOCK, 0);
        out
    }

    fn index_of(bytes: &[u8]) -> Result<HashMap<String, Member>, LoadProblem> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        index(&mut file)
    }

    #[test]
    fn members_are_found() {
        let members = index_of(&tar()).unwrap();
        assert_eq!(members.len(), 3);
        assert!(matches!(
            members["a/b"],
            Member::At {
                offset: 512,
                size: 700
            }
        ));
        assert!(matches!(&members["c"], Member::Link(to) if to == "a/b"));
    }

    #[test]
    fn what_is_no_tar_is_told_from_a_damaged_one() {
        for bytes in [&b"garbage"[..], &[b'x'; 3 * BLOCK]] {
            assert!(matches!(index_of(bytes), Err(LoadProblem::NotTar)));
        }
        let mut damaged = tar();
        damaged[512 + 1024] = b'!';
        assert!(matches!(index_of(&damaged), Err(LoadProblem::Archive { .. })));
    }

    /// Changes a byte of a header, and the checksum with it, or that would hide all else.
    fn spoil(bytes: &mut [u8], at: usize, value: u8) {
        bytes[at] = value;
        let block = &mut bytes[at / BLOCK * BLOCK..][..BLOCK];
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }

    proptest! {
        /// Whatever is done to an archive: an error, or members that lie in it.
        #[test]
        fn damage_is_survived(changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6), cut: Index) {
            let mut bytes = tar();
            for (at, value) in changes {
                let at = at.index(bytes.len());
                spoil(&mut bytes, at, value);
            }
            bytes.truncate(cut.index(2 * bytes.len()));
            for member in index_of(&bytes).unwrap_or_default().values() {
                if let Member::At { offset, size } = member {
                    prop_assert!(offset + size <= bytes.len() as u64);
                }
            }
        }
    }

    #[test]
    fn names_are_compared_not_opened() {
        assert_eq!(clean(b"./a//b/./c"), "a/b/c");
        assert_eq!(clean(b"/etc/passwd"), "etc/passwd");
        assert_eq!(resolve("one/layer.tar", b"../two/layer.tar"), "two/layer.tar");
        assert_eq!(resolve("one/layer.tar", b"../../../../etc/passwd"), "etc/passwd");
        assert_eq!(resolve("top", b"/x"), "x");
    }
}
