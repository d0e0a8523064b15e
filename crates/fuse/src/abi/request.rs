//! From bytes to a request.
//!
//! [`Request::decode`] takes what one read of `/dev/fuse` gave. The kernel is trusted to mean well, not to be free of
//! faults: lengths are checked, a name is one name, and what does not fit is an error instead of a guess.

use std::ffi::OsStr;

use super::wire::{DecodeError, Reader};
use super::{IN_HEADER, SetAttrValid, opcode};

/// One request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Number that the reply repeats.
    pub unique: u64,
    /// Number of the operation, also where it is not known here.
    pub opcode: u32,
    /// The node it concerns.
    pub node: u64,
    /// File system user id of the caller.
    pub uid: u32,
    /// File system group id of the caller.
    pub gid: u32,
    /// Thread id of the caller; 0 for one that this process cannot see.
    pub pid: u32,
    /// Of what makes something: the group of the directory, if it is one of the caller's supplementary groups.
    pub group: Option<u32>,
    /// What is asked.
    pub operation: Operation<'a>,
}

/// A point in time as the protocol writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Seconds since 1970; negative ones arrive as large numbers.
    pub seconds: u64,
    /// Nanoseconds.
    pub nanoseconds: u32,
}

/// SETATTR.
#[derive(Debug, Clone, Copy)]
pub struct SetAttrIn {
    /// Which fields count.
    pub valid: SetAttrValid,
    /// Handle, with [`SetAttrValid::FH`].
    pub fh: u64,
    /// New length.
    pub size: u64,
    /// New time of last access.
    pub atime: Time,
    /// New time of last change of data.
    pub mtime: Time,
    /// New mode.
    pub mode: u32,
    /// New owner.
    pub uid: u32,
    /// New group.
    pub gid: u32,
}

/// INIT.
#[derive(Debug, Clone, Copy)]
pub struct InitIn {
    /// Major version that the kernel speaks.
    pub major: u32,
    /// Minor version that the kernel speaks.
    pub minor: u32,
    /// Bytes that the kernel reads ahead at most.
    pub max_readahead: u32,
    /// What the kernel can do ([`super::InitFlags`]).
    pub flags: u64,
}

/// COPY_FILE_RANGE in both forms.
#[derive(Debug, Clone, Copy)]
pub struct CopyIn {
    /// Handle that is read.
    pub fh_in: u64,
    /// Where reading begins.
    pub offset_in: u64,
    /// Node that is written.
    pub node_out: u64,
    /// Handle that is written.
    pub fh_out: u64,
    /// Where writing begins.
    pub offset_out: u64,
    /// Bytes to copy.
    pub length: u64,
    /// Whether the reply counts in 64 bits.
    pub wide: bool,
}

/// The nodes of a BATCH_FORGET with their counts.
#[derive(Debug, Clone, Copy)]
pub struct Forgets<'a>(&'a [u8]);

impl Iterator for Forgets<'_> {
    /// Node, and how many references go.
    type Item = (u64, u64);

    fn next(&mut self) -> Option<(u64, u64)> {
        let mut reader = Reader(self.0);
        let item = (reader.u64().ok()?, reader.u64().ok()?);
        self.0 = reader.0;
        Some(item)
    }
}

/// What a request asks.
#[derive(Debug, Clone, Copy)]
#[allow(
    missing_docs,
    reason = "fields have the words of the system calls they come from"
)]
pub enum Operation<'a> {
    Init(InitIn),
    Lookup {
        name: &'a OsStr,
    },
    Forget {
        count: u64,
    },
    BatchForget(Forgets<'a>),
    GetAttr {
        fh: Option<u64>,
    },
    StatX {
        fh: Option<u64>,
        mask: u32,
    },
    SetAttr(SetAttrIn),
    ReadLink,
    Symlink {
        name: &'a OsStr,
        target: &'a OsStr,
    },
    MkNod {
        name: &'a OsStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    MkDir {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a OsStr,
    },
    RmDir {
        name: &'a OsStr,
    },
    Rename {
        name: &'a OsStr,
        new_parent: u64,
        new_name: &'a OsStr,
        flags: u32,
    },
    /// The request's node is the directory of the new name.
    Link {
        target: u64,
        new_name: &'a OsStr,
    },
    /// `kill`: set-id bits go, because the file is truncated by one who may not keep them.
    Open {
        flags: u32,
        kill: bool,
    },
    Create {
        name: &'a OsStr,
        flags: u32,
        mode: u32,
        umask: u32,
        kill: bool,
    },
    TmpFile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read {
        fh: u64,
        offset: u64,
        size: u32,
    },
    /// `kill`: set-id bits go.
    Write {
        fh: u64,
        offset: u64,
        data: &'a [u8],
        kill: bool,
    },
    StatFs,
    Release {
        fh: u64,
    },
    FSync {
        fh: u64,
        data_only: bool,
    },
    Flush,
    SetXattr {
        name: &'a OsStr,
        value: &'a [u8],
        flags: u32,
        kill_sgid: bool,
    },
    /// `size` 0 asks for the length.
    GetXattr {
        name: &'a OsStr,
        size: u32,
    },
    /// `size` 0 asks for the length.
    ListXattr {
        size: u32,
    },
    RemoveXattr {
        name: &'a OsStr,
    },
    OpenDir,
    ReadDir {
        offset: u64,
        size: u32,
    },
    ReadDirPlus {
        offset: u64,
        size: u32,
    },
    ReleaseDir,
    FSyncDir,
    Access,
    /// `unique`: the request that nobody waits for any more.
    Interrupt {
        unique: u64,
    },
    Destroy,
    /// `room`: bytes that the answer may have.
    Ioctl {
        command: u32,
        data: &'a [u8],
        room: u32,
    },
    Fallocate {
        fh: u64,
        offset: u64,
        length: u64,
        mode: u32,
    },
    LSeek {
        fh: u64,
        offset: u64,
        whence: u32,
    },
    CopyFileRange(CopyIn),
    SyncFs,
    /// An operation that is not known here, or that nothing asked for.
    Other,
}

impl<'a> Request<'a> {
    /// Reads one request. `long_setxattr`: whether `SETXATTR_EXT` was agreed on.
    pub fn decode(bytes: &'a [u8], long_setxattr: bool) -> Result<Request<'a>, DecodeError> {
        let mut header = Reader(bytes.get(..IN_HEADER).ok_or(DecodeError::Short)?);
        let length = header.u32()? as usize;
        let opcode = header.u32()?;
        let unique = header.u64()?;
        let node = header.u64()?;
        let uid = header.u32()?;
        let gid = header.u32()?;
        let pid = header.u32()?;
        let extensions = usize::from(header.u16()?) * 8;
        // Extensions follow the names.
        let end = length.checked_sub(extensions).ok_or(DecodeError::Short)?;
        let body = bytes.get(IN_HEADER..end).ok_or(DecodeError::Short)?;
        let group = supplementary_group(bytes.get(end..length).ok_or(DecodeError::Short)?)?;
        let operation = operation(opcode, Reader(body), long_setxattr)?;
        Ok(Request {
            unique,
            opcode,
            node,
            uid,
            gid,
            pid,
            group,
            operation,
        })
    }

    /// Number of the request in `bytes`, for the answer to one that cannot be decoded.
    pub fn unique_of(bytes: &[u8]) -> Option<u64> {
        let mut reader = Reader(bytes.get(8..16)?);
        reader.u64().ok()
    }
}

fn operation<'a>(number: u32, mut r: Reader<'a>, long_setxattr: bool) -> Result<Operation<'a>, DecodeError> {
    Ok(match number {
        opcode::INIT => Operation::Init(init(r)?),
        opcode::LOOKUP => Operation::Lookup { name: r.name()? },
        opcode::FORGET => Operation::Forget { count: r.u64()? },
        opcode::BATCH_FORGET => {
            let count = r.u32()? as usize;
            r.skip(4)?;
            let bytes = count.checked_mul(16).ok_or(DecodeError::Short)?;
            Operation::BatchForget(Forgets(r.bytes(bytes)?))
        }
        opcode::GETATTR => Operation::GetAttr {
            fh: optional_handle(&mut r)?,
        },
        opcode::STATX => {
            let fh = optional_handle(&mut r)?;
            r.skip(4)?;
            Operation::StatX { fh, mask: r.u32()? }
        }
        opcode::SETATTR => Operation::SetAttr(setattr(r)?),
        opcode::READLINK => Operation::ReadLink,
        opcode::SYMLINK => Operation::Symlink {
            name: r.name()?,
            target: r.string()?,
        },
        opcode::MKNOD => {
            let (mode, rdev, umask) = (r.u32()?, r.u32()?, r.u32()?);
            r.skip(4)?;
            Operation::MkNod {
                name: r.name()?,
                mode,
                rdev,
                umask,
            }
        }
        opcode::MKDIR => {
            let (mode, umask) = (r.u32()?, r.u32()?);
            Operation::MkDir {
                name: r.name()?,
                mode,
                umask,
            }
        }
        opcode::UNLINK => Operation::Unlink { name: r.name()? },
        opcode::RMDIR => Operation::RmDir { name: r.name()? },
        opcode::RENAME => {
            let new_parent = r.u64()?;
            Operation::Rename {
                name: r.name()?,
                new_parent,
                new_name: r.name()?,
                flags: 0,
            }
        }
        opcode::RENAME2 => {
            let (new_parent, flags) = (r.u64()?, r.u32()?);
            r.skip(4)?;
            Operation::Rename {
                name: r.name()?,
                new_parent,
                new_name: r.name()?,
                flags,
            }
        }
        opcode::LINK => Operation::Link {
            target: r.u64()?,
            new_name: r.name()?,
        },
        opcode::OPEN => Operation::Open {
            flags: r.u32()?,
            kill: r.u32()? & OPEN_KILL_SUIDGID != 0,
        },
        opcode::CREATE => {
            let (flags, mode, umask, open_flags) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
            let kill = open_flags & OPEN_KILL_SUIDGID != 0;
            Operation::Create {
                name: r.name()?,
                flags,
                mode,
                umask,
                kill,
            }
        }
        // It carries a name that means nothing.
        opcode::TMPFILE => Operation::TmpFile {
            flags: r.u32()?,
            mode: r.u32()?,
            umask: r.u32()?,
        },
        opcode::READ => Operation::Read {
            fh: r.u64()?,
            offset: r.u64()?,
            size: r.u32()?,
        },
        opcode::WRITE => {
            let (fh, offset, size, flags) = (r.u64()?, r.u64()?, r.u32()?, r.u32()?);
            r.skip(16)?;
            let kill = flags & WRITE_KILL_SUIDGID != 0;
            Operation::Write {
                fh,
                offset,
                data: r.bytes(size as usize)?,
                kill,
            }
        }
        opcode::STATFS => Operation::StatFs,
        opcode::RELEASE => Operation::Release { fh: r.u64()? },
        opcode::FSYNC => Operation::FSync {
            fh: r.u64()?,
            data_only: r.u32()? & 1 != 0,
        },
        opcode::FLUSH => Operation::Flush,
        opcode::SETXATTR => {
            let (size, flags) = (r.u32()?, r.u32()?);
            let mut kill_sgid = false;
            if long_setxattr {
                kill_sgid = r.u32()? & SETXATTR_ACL_KILL_SGID != 0;
                r.skip(4)?;
            }
            Operation::SetXattr {
                name: r.string()?,
                value: r.bytes(size as usize)?,
                flags,
                kill_sgid,
            }
        }
        opcode::GETXATTR => {
            let size = r.u32()?;
            r.skip(4)?;
            Operation::GetXattr {
                name: r.string()?,
                size,
            }
        }
        opcode::LISTXATTR => Operation::ListXattr { size: r.u32()? },
        opcode::REMOVEXATTR => Operation::RemoveXattr { name: r.string()? },
        opcode::OPENDIR => Operation::OpenDir,
        opcode::READDIR | opcode::READDIRPLUS => {
            r.skip(8)?; // The handle: a listing has no state in one.
            let (offset, size) = (r.u64()?, r.u32()?);
            match number {
                opcode::READDIR => Operation::ReadDir { offset, size },
                _ => Operation::ReadDirPlus { offset, size },
            }
        }
        opcode::RELEASEDIR => Operation::ReleaseDir,
        opcode::FSYNCDIR => Operation::FSyncDir,
        opcode::ACCESS => Operation::Access,
        opcode::INTERRUPT => Operation::Interrupt { unique: r.u64()? },
        opcode::DESTROY => Operation::Destroy,
        opcode::IOCTL => {
            r.skip(12)?;
            let command = r.u32()?;
            r.skip(8)?;
            let (size, room) = (r.u32()?, r.u32()?);
            let data = r.bytes(size as usize)?;
            Operation::Ioctl { command, data, room }
        }
        opcode::FALLOCATE => {
            let (fh, offset, length, mode) = (r.u64()?, r.u64()?, r.u64()?, r.u32()?);
            Operation::Fallocate {
                fh,
                offset,
                length,
                mode,
            }
        }
        opcode::LSEEK => Operation::LSeek {
            fh: r.u64()?,
            offset: r.u64()?,
            whence: r.u32()?,
        },
        opcode::COPY_FILE_RANGE | opcode::COPY_FILE_RANGE_64 => Operation::CopyFileRange(CopyIn {
            fh_in: r.u64()?,
            offset_in: r.u64()?,
            node_out: r.u64()?,
            fh_out: r.u64()?,
            offset_out: r.u64()?,
            length: r.u64()?,
            wide: number == opcode::COPY_FILE_RANGE_64,
        }),
        opcode::SYNCFS => Operation::SyncFs,
        _ => Operation::Other,
    })
}

/// The first group of a `FUSE_EXT_GROUPS` among extensions, each of which begins with its size and its type.
fn supplementary_group(mut extensions: &[u8]) -> Result<Option<u32>, DecodeError> {
    const GROUPS: u32 = 32;
    while !extensions.is_empty() {
        let mut reader = Reader(extensions);
        let (size, kind) = (reader.u32()? as usize, reader.u32()?);
        if kind == GROUPS {
            let count = reader.u32()?;
            return if count == 0 {
                Ok(None)
            } else {
                reader.u32().map(Some)
            };
        }
        extensions = extensions.get(size.max(8)..).ok_or(DecodeError::Short)?;
    }
    Ok(None)
}

/// `FUSE_OPEN_KILL_SUIDGID`.
const OPEN_KILL_SUIDGID: u32 = 1;
/// `FUSE_WRITE_KILL_SUIDGID`.
const WRITE_KILL_SUIDGID: u32 = 1 << 2;
/// `FUSE_SETXATTR_ACL_KILL_SGID`.
const SETXATTR_ACL_KILL_SGID: u32 = 1;

/// The handle of GETATTR and STATX, which counts with the flag `FUSE_GETATTR_FH`.
fn optional_handle(r: &mut Reader<'_>) -> Result<Option<u64>, DecodeError> {
    let flags = r.u32()?;
    r.skip(4)?;
    let fh = r.u64()?;
    Ok((flags & 1 != 0).then_some(fh))
}

fn init(mut r: Reader<'_>) -> Result<InitIn, DecodeError> {
    let (major, minor, max_readahead, low) = (r.u32()?, r.u32()?, r.u32()?, r.u32()?);
    // Before 7.36 the request ends here.
    let high = if low & (1 << 30) != 0 { r.u32()? } else { 0 };
    let flags = u64::from(low) | u64::from(high) << 32;
    Ok(InitIn {
        major,
        minor,
        max_readahead,
        flags,
    })
}

fn setattr(mut r: Reader<'_>) -> Result<SetAttrIn, DecodeError> {
    let valid = SetAttrValid::from_bits_retain(r.u32()?);
    r.skip(4)?;
    let (fh, size) = (r.u64()?, r.u64()?);
    r.skip(8)?; // The owner of locks.
    let (atime, mtime) = (r.u64()?, r.u64()?);
    r.skip(8)?; // ctime cannot be set.
    let (atimensec, mtimensec) = (r.u32()?, r.u32()?);
    r.skip(4)?;
    let mode = r.u32()?;
    r.skip(4)?;
    let (uid, gid) = (r.u32()?, r.u32()?);
    Ok(SetAttrIn {
        valid,
        fh,
        size,
        atime: Time {
            seconds: atime,
            nanoseconds: atimensec,
        },
        mtime: Time {
            seconds: mtime,
            nanoseconds: mtimensec,
        },
        mode,
        uid,
        gid,
    })
}

#[cfg(test)]
mod tests;
