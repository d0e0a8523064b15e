//! One of the two directories that must agree: operations are applied to it, and what it answers is compared.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, SeekFrom, Stat, XattrFlags};
use rustix::io::Errno;
use sys::map::{Map, Sharing};

use super::op::{Op, SLOTS};
use crate::files as f;

/// A directory, and what is open beneath it.
#[derive(Debug)]
pub struct Side {
    root: PathBuf,
    slots: Vec<Option<(OwnedFd, OFlags)>>,
    times: Times,
}

/// Whether modification times are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// Those that an operation set.
    Compared,
    /// None: with `metacopy=on` the kernel's overlay forgets the time when it copies the data up after the metadata.
    Left,
}

/// What an operation answered, without what may differ between any two file systems.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It succeeded.
    Done,
    /// There was nothing in the slot.
    Empty,
    /// Bytes, by length and checksum.
    Bytes(usize, u64),
    /// A number of bytes.
    Count(usize),
    /// Names and kinds.
    Names(Vec<(OsString, u32)>),
    /// A link's target.
    Target(OsString),
    /// Attributes.
    Attributes(Attributes),
}

/// Attributes that two file systems must agree in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attributes {
    /// Format and permissions.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Size; 0 for a directory.
    pub size: i64,
    /// Number of names; 0 for a directory.
    pub links: u64,
    /// Number of a device.
    pub device: u64,
    /// Modification time if an operation set it; `None` when the clock did.
    pub modified: Option<(i64, i64)>,
}

impl Attributes {
    /// Those of a `Stat`.
    pub fn of(stat: &Stat, times: Times) -> Attributes {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let is_dir = kind == FileType::Directory;
        let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
        Attributes {
            mode: stat.st_mode,
            owner: (stat.st_uid, stat.st_gid),
            size: if is_dir { 0 } else { stat.st_size },
            links: if is_dir { 0 } else { stat.st_nlink },
            device: if is_device { stat.st_rdev } else { 0 },
            // No operation sets a time as late as now.
            // A fifo that is written to does not tell the overlay's real one.
            modified: (times == Times::Compared && kind != FileType::Fifo && stat.st_mtime < 1_000_000_000)
                .then(|| f::modified(stat)),
        }
    }
}

/// FNV-1a: short, and different for different contents.
pub fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn bytes(content: &[u8]) -> Outcome {
    Outcome::Bytes(content.len(), checksum(content))
}

fn names(listed: Vec<f::Listed>) -> Outcome {
    let mut names: Vec<_> = listed.into_iter().map(|entry| (entry.name, entry.kind)).collect();
    names.retain(|(name, _)| name != "." && name != "..");
    names.sort();
    Outcome::Names(names)
}

impl Side {
    /// The directory `root`, nothing open.
    pub fn new(root: PathBuf, times: Times) -> Side {
        Side {
            root,
            times,
            slots: (0..SLOTS).map(|_| None).collect(),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Closes everything.
    pub fn close_all(&mut self) {
        self.slots.iter_mut().for_each(|slot| *slot = None);
    }

    /// Attributes of a path, link not followed.
    pub fn attributes(&self, path: &Path) -> f::Answer<Attributes> {
        f::lstat(self.root.join(path)).map(|stat| Attributes::of(&stat, self.times))
    }

    /// Applies one operation.
    pub fn apply(&mut self, op: &Op) -> f::Answer<Outcome> {
        let at = |path: &PathBuf| self.root.join(path);
        let done = |answer: f::Answer<()>| answer.map(|()| Outcome::Done);
        match op {
            Op::ByUser(op) => f::as_user(1000, 1000, &[3000], || self.apply(op)),
            Op::Open(slot, path, flags, mode) => {
                let path = at(path);
                self.slots[*slot] = None;
                self.slots[*slot] = Some((f::open(path, *flags, *mode)?, *flags));
                Ok(Outcome::Done)
            }
            Op::OpenUnnamed(slot, path, mode) => {
                let path = at(path);
                self.slots[*slot] = None;
                let flags = OFlags::RDWR | OFlags::TMPFILE;
                self.slots[*slot] = Some((f::open(path, flags, *mode)?, flags));
                Ok(Outcome::Done)
            }
            Op::Close(slot) => {
                self.slots[*slot] = None;
                Ok(Outcome::Done)
            }
            Op::WriteFile(path, length, byte) => done(f::write(at(path), vec![*byte; *length])),
            Op::Append(path, length, byte) => {
                let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NONBLOCK;
                let file = f::open(at(path), flags, 0)?;
                rustix::io::write(&file, &vec![*byte; *length]).map(Outcome::Count)
            }
            Op::ReadFile(path) => read(&f::open(at(path), OFlags::RDONLY | OFlags::NONBLOCK, 0)?),
            Op::Truncate(path, size) => done(f::truncate(at(path), *size)),
            Op::MakeDir(path, mode) => done(f::mkdir(at(path), *mode)),
            Op::RemoveDir(path) => done(f::rmdir(at(path))),
            Op::Unlink(path) => done(f::unlink(at(path))),
            Op::Rename(one, other, flags) => done(f::rename_with(at(one), at(other), *flags)),
            Op::Link(one, other) => done(f::link(at(one), at(other))),
            Op::SymLink(target, path) => done(f::symlink(target, at(path))),
            Op::MakeNode(path, kind, mode) => done(f::mknod(at(path), *kind, *mode, (1, 3))),
            Op::Chmod(path, mode) => done(f::chmod(at(path), *mode)),
            Op::Chown(path, owner, group) => done(f::chown(at(path), *owner, *group)),
            Op::SetTime(path, seconds) => done(f::set_times(at(path), (*seconds, 5), (*seconds, 6))),
            Op::SetXattr(path, name, length, byte) => {
                done(f::set_xattr(at(path), name, vec![*byte; *length]))
            }
            Op::RemoveXattr(path, name) => done(f::remove_xattr(at(path), name)),
            Op::List(path) => f::list(at(path)).map(names),
            Op::ReadLink(path) => f::read_link(at(path)).map(Outcome::Target),
            Op::LinkSlot(slot, path) => match &self.slots[*slot] {
                // Another user may not: it takes the right to look through /proc.
                Some((file, _)) if rustix::process::geteuid().is_root() => done(f::link_open(file, at(path))),
                _ => Ok(Outcome::Empty),
            },
            _ => self.apply_to_slot(op),
        }
    }

    fn apply_to_slot(&mut self, op: &Op) -> f::Answer<Outcome> {
        let (Op::Read(slot, ..)
        | Op::Write(slot, ..)
        | Op::MapWrite(slot, ..)
        | Op::Resize(slot, _)
        | Op::Allocate(slot, ..)
        | Op::CopyRange(slot, ..)
        | Op::ChangeSlot(slot, ..)
        | Op::Sync(slot)
        | Op::LookSlot(slot)) = op
        else {
            unreachable!("every other operation names a path, or is none of a side's");
        };
        let Some((file, flags)) = &self.slots[*slot] else {
            return Ok(Outcome::Empty);
        };
        let stat = rustix::fs::fstat(file)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let writable = flags.intersects(OFlags::WRONLY | OFlags::RDWR);
        // Fifos and devices are not the file system's to read and write.
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(Outcome::Empty);
        }
        match op {
            Op::Read(_, place, length) => {
                let mut buffer = vec![0; *length];
                let read = rustix::io::pread(file, &mut buffer[..], *place)?;
                Ok(bytes(&buffer[..read]))
            }
            Op::Write(_, place, length, byte) => {
                rustix::io::pwrite(file, &vec![*byte; *length], *place).map(Outcome::Count)
            }
            Op::MapWrite(_, place, length, byte) => {
                let end = (stat.st_size as usize).min(place + length);
                if !flags.contains(OFlags::RDWR) || end <= *place {
                    return Ok(Outcome::Empty);
                }
                let mut map = Map::new(file.as_fd(), end, Sharing::Shared, true)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                map.write(*place, &vec![*byte; end - place]);
                Ok(Outcome::Count(end))
            }
            Op::Resize(_, size) => rustix::fs::ftruncate(file, *size).map(|()| Outcome::Done),
            Op::Allocate(_, mode, place, length) => {
                rustix::fs::fallocate(file, *mode, *place, *length).map(|()| Outcome::Done)
            }
            Op::CopyRange(_, from, to, into, length) => match &self.slots[*to] {
                Some((to, _)) => copy_range(file, *from, to, *into, *length),
                None => Ok(Outcome::Empty),
            },
            Op::ChangeSlot(_, mode, xattr) if writable => {
                rustix::fs::fchmod(file, Mode::from_raw_mode(*mode))?;
                if let Some(name) = xattr {
                    rustix::fs::fsetxattr(file, *name, b"by slot", XattrFlags::empty())?;
                }
                Ok(Outcome::Done)
            }
            Op::Sync(_) => rustix::fs::fsync(file).map(|()| Outcome::Done),
            Op::LookSlot(_) if kind == FileType::Directory => {
                rustix::fs::seek(file, SeekFrom::Start(0))?;
                f::list_open(file, 4096).map(names)
            }
            Op::LookSlot(_) if flags.contains(OFlags::WRONLY) => {
                Ok(Outcome::Attributes(Attributes::of(&stat, Times::Left)))
            }
            Op::LookSlot(_) => read(file),
            _ => Ok(Outcome::Empty),
        }
    }
}

fn read(file: &OwnedFd) -> f::Answer<Outcome> {
    let stat = rustix::fs::fstat(file)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory => f::read_all(file).map(|content| bytes(&content)),
        _ => Ok(Outcome::Empty),
    }
}

/// All of it: how much one call copies is the file system's choice.
fn copy_range(from: &OwnedFd, mut at: u64, to: &OwnedFd, mut into: u64, length: usize) -> f::Answer<Outcome> {
    let mut copied = 0;
    while copied < length {
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut into), length - copied) {
            Ok(0) => break,
            Ok(more) => copied += more,
            Err(_) if copied > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(Outcome::Count(copied))
}
