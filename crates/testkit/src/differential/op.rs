//! Operations, chosen at random: a list of them can be made, printed and repeated without looking at any file system.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::fs::{FallocateFlags, FileType, OFlags, RenameFlags};

use crate::random::Random;

/// Descriptors that a session holds.
pub const SLOTS: usize = 6;

/// One operation. Paths are relative to the root of a side.
#[derive(Debug, Clone)]
pub enum Op {
    /// Opens into a slot; what was open there is closed.
    Open(usize, PathBuf, OFlags, u32),
    /// Opens a file without a name in a directory.
    OpenUnnamed(usize, PathBuf, u32),
    /// Gives the file in a slot a name.
    LinkSlot(usize, PathBuf),
    /// Closes.
    Close(usize),
    /// Reads from a slot at a place.
    Read(usize, u64, usize),
    /// Writes to a slot at a place: a length, and the byte that is repeated.
    Write(usize, u64, usize, u8),
    /// Writes through a shared map of the slot, as far as the file reaches.
    MapWrite(usize, usize, usize, u8),
    /// Sets the size of what is in a slot.
    Resize(usize, u64),
    /// `fallocate`.
    Allocate(usize, FallocateFlags, u64, u64),
    /// `copy_file_range` from slot to slot.
    CopyRange(usize, u64, usize, u64, usize),
    /// Sets mode and an attribute of what a slot holds, if it is open for writing.
    ChangeSlot(usize, u32, Option<&'static str>),
    /// Syncs.
    Sync(usize),
    /// Size, mode and content of what is in a slot; the names if it is a directory.
    LookSlot(usize),
    /// Makes or truncates a file and writes to it.
    WriteFile(PathBuf, usize, u8),
    /// Adds to the end.
    Append(PathBuf, usize, u8),
    /// The whole content.
    ReadFile(PathBuf),
    /// Sets the size by path.
    Truncate(PathBuf, u64),
    /// Makes a directory.
    MakeDir(PathBuf, u32),
    /// Removes a directory.
    RemoveDir(PathBuf),
    /// Removes a name.
    Unlink(PathBuf),
    /// Renames, with flags.
    Rename(PathBuf, PathBuf, RenameFlags),
    /// Makes a second name.
    Link(PathBuf, PathBuf),
    /// Makes a symbolic link.
    SymLink(PathBuf, PathBuf),
    /// Makes a fifo, a socket or a device.
    MakeNode(PathBuf, FileType, u32),
    /// Sets the mode.
    Chmod(PathBuf, u32),
    /// Sets owner and group.
    Chown(PathBuf, Option<u32>, Option<u32>),
    /// Sets the modification time, in seconds.
    SetTime(PathBuf, i64),
    /// Sets an attribute: a length and the byte that is repeated.
    SetXattr(PathBuf, &'static str, usize, u8),
    /// Removes an attribute.
    RemoveXattr(PathBuf, &'static str),
    /// Names and kinds in a directory.
    List(PathBuf),
    /// Target of a link.
    ReadLink(PathBuf),
    /// Everything is closed, and the other driver mounts the layers. Not drawn: a session puts it where it is due.
    Remount,
    /// Another operation, by a user without privilege.
    ByUser(Box<Op>),
}

/// Attribute names that are set.
pub const XATTRS: [&str; 4] = ["user.one", "user.two", "trusted.three", "trusted.overlay.opaque"];

/// Whether this kernel is of a version or later.
fn kernel_is(major: u32, minor: u32) -> bool {
    static VERSION: OnceLock<(u32, u32)> = OnceLock::new();
    let version = VERSION.get_or_init(|| {
        let uname = rustix::system::uname();
        let mut numbers = uname.release().to_str().unwrap_or_default().split('.');
        let mut number = || numbers.next().and_then(|number| number.parse().ok()).unwrap_or(0);
        (number(), number())
    });
    *version >= (major, minor)
}

/// The names that the kernel's overlay shows as they are: before Linux 6.7 it hides those that are escaped.
fn names() -> &'static [&'static str] {
    match kernel_is(6, 7) {
        true => &XATTRS,
        false => &XATTRS[..3],
    }
}

/// Short names, so that operations meet each other, and strange ones.
pub fn name(random: &mut Random) -> PathBuf {
    const SHORT: [&str; 4] = ["a", "b", "c", "d"];
    match random.below(50) {
        0 => "long".repeat(63).into(),
        1 => OsStr::from_bytes(b"\xff odd\n:,\\\x01").into(),
        2 => ".wh.a".into(),
        3 => "\u{1f5c2} \u{e9}".into(),
        _ => (*random.choose(&SHORT)).into(),
    }
}

/// A path of up to three names.
pub fn path(random: &mut Random) -> PathBuf {
    let length = *random.choose(&[1, 1, 1, 1, 2, 2, 2, 3]);
    (0..length).map(|_| name(random)).collect()
}

/// A list of operations.
pub fn list(random: &mut Random, length: usize) -> Vec<Op> {
    (0..length).map(|_| one(random)).collect()
}

fn one(random: &mut Random) -> Op {
    let by_user = random.below(8) == 0;
    let op = match random.below(100) {
        0..25 => on_slot(random),
        25..60 => on_names(random),
        60..80 => on_attributes(random),
        _ => on_content(random),
    };
    // The FUSE client takes set-id bits away before it asks for a mode of fallocate that may then be refused.
    let by_user = by_user && !matches!(op, Op::Allocate(..));
    if by_user { Op::ByUser(Box::new(op)) } else { op }
}

fn mode(random: &mut Random) -> u32 {
    match random.below(4) {
        // Set-gid without execution by the group stays on FUSE where a stranger's write takes it elsewhere.
        0 => match random.below(0o10000) as u32 {
            mode if mode & 0o2000 != 0 => mode | 0o010,
            mode => mode,
        },
        1 => 0o644,
        // Others may write: what a user without privilege does shall succeed at times.
        _ => 0o777,
    }
}

fn slot(random: &mut Random) -> usize {
    random.below(SLOTS as u64) as usize
}

fn byte(random: &mut Random) -> u8 {
    b'a' + random.below(26) as u8
}

/// Most are small; some are larger than what is read or written in one go.
fn length(random: &mut Random) -> usize {
    let most = *random.choose(&[100, 5000, 70_000, 200_000]);
    random.below(most) as usize
}

fn on_slot(random: &mut Random) -> Op {
    let which = slot(random);
    match random.below(24) {
        0..7 => {
            let access = *random.choose(&[OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR]);
            let mut flags = access | OFlags::NONBLOCK;
            for (flag, chance) in [
                (OFlags::CREATE, 2),
                (OFlags::TRUNC, 8),
                (OFlags::EXCL, 10),
                (OFlags::APPEND, 8),
                (OFlags::NOFOLLOW, 8),
                (OFlags::DIRECTORY, 12),
            ] {
                if random.below(chance) == 0 {
                    flags |= flag;
                }
            }
            if !flags.contains(OFlags::CREATE) {
                flags -= OFlags::EXCL;
            }
            // Linux refuses both together since 6.4 and did strange things before.
            if flags.contains(OFlags::CREATE) {
                flags -= OFlags::DIRECTORY;
            }
            Op::Open(which, path(random), flags, mode(random))
        }
        // The kernel's overlay has such files since Linux 6.3.
        7 if kernel_is(6, 3) => Op::OpenUnnamed(which, path(random), mode(random)),
        7 | 8 => Op::LinkSlot(which, path(random)),
        9 => Op::Close(which),
        10..12 => Op::Read(which, random.below(100_000), length(random)),
        12..16 => Op::Write(which, random.below(50_000), length(random), byte(random)),
        16 => Op::MapWrite(which, random.below(9000) as usize, length(random), byte(random)),
        17 => Op::Resize(which, random.below(200_000)),
        18 => {
            let flags = *random.choose(&[
                FallocateFlags::empty(),
                FallocateFlags::KEEP_SIZE,
                FallocateFlags::PUNCH_HOLE.union(FallocateFlags::KEEP_SIZE),
                FallocateFlags::ZERO_RANGE,
            ]);
            Op::Allocate(which, flags, random.below(100_000), 1 + random.below(50_000))
        }
        19 => Op::CopyRange(
            which,
            random.below(10_000),
            slot(random),
            random.below(100_000),
            length(random),
        ),
        20 => Op::ChangeSlot(
            which,
            mode(random),
            random.choose(&[None, Some(XATTRS[0])]).to_owned(),
        ),
        21 => Op::Sync(which),
        _ => Op::LookSlot(which),
    }
}

fn on_names(random: &mut Random) -> Op {
    let at = path(random);
    match random.below(20) {
        0..4 => Op::MakeDir(at, mode(random)),
        4..6 => Op::RemoveDir(at),
        6..9 => Op::Unlink(at),
        9..15 => {
            let flags = *random.choose(&[
                RenameFlags::empty(),
                RenameFlags::empty(),
                RenameFlags::NOREPLACE,
                RenameFlags::EXCHANGE,
            ]);
            Op::Rename(at, path(random), flags)
        }
        15..17 => Op::Link(at, path(random)),
        17 => Op::SymLink(path(random), at),
        18 => {
            let kinds = [
                FileType::Fifo,
                FileType::Socket,
                FileType::CharacterDevice,
                FileType::RegularFile,
            ];
            Op::MakeNode(at, *random.choose(&kinds), mode(random))
        }
        _ => Op::ReadLink(at),
    }
}

fn on_attributes(random: &mut Random) -> Op {
    let at = path(random);
    let id = |random: &mut Random| *random.choose(&[None, Some(0), Some(1000), Some(3000)]);
    match random.below(6) {
        0 | 1 => Op::Chmod(at, mode(random)),
        2 => match (id(random), id(random)) {
            // Neither: FUSE does not ask whether the user may, where a plain file system does at times.
            (None, None) => Op::Chown(at, Some(1000), None),
            (owner, group) => Op::Chown(at, owner, group),
        },
        3 => Op::SetTime(at, random.below(900_000_000) as i64),
        4 => Op::SetXattr(
            at,
            random.choose::<&'static str>(names()),
            random.below(60) as usize,
            byte(random),
        ),
        _ => Op::RemoveXattr(at, random.choose::<&'static str>(names())),
    }
}

fn on_content(random: &mut Random) -> Op {
    let at = path(random);
    match random.below(10) {
        0..4 => Op::WriteFile(at, length(random), byte(random)),
        4..6 => Op::Append(at, length(random), byte(random)),
        6 => Op::Truncate(at, random.below(100_000)),
        7 => Op::ReadFile(at),
        _ => Op::List(at),
    }
}

impl Op {
    /// Paths that it names.
    pub fn paths(&self) -> Vec<&PathBuf> {
        match self {
            Op::Open(_, path, ..)
            | Op::OpenUnnamed(_, path, _)
            | Op::LinkSlot(_, path)
            | Op::WriteFile(path, ..)
            | Op::Append(path, ..)
            | Op::ReadFile(path)
            | Op::Truncate(path, _)
            | Op::MakeDir(path, _)
            | Op::RemoveDir(path)
            | Op::Unlink(path)
            | Op::SymLink(_, path)
            | Op::MakeNode(path, ..)
            | Op::Chmod(path, _)
            | Op::Chown(path, ..)
            | Op::SetTime(path, _)
            | Op::SetXattr(path, ..)
            | Op::RemoveXattr(path, _)
            | Op::List(path)
            | Op::ReadLink(path) => vec![path],
            Op::Rename(one, other, _) | Op::Link(one, other) => vec![one, other],
            Op::ByUser(op) => op.paths(),
            _ => Vec::new(),
        }
    }
}
