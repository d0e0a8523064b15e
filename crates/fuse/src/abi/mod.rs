//! The protocol between the kernel and a file system in user space: numbers, flags, requests and replies.
//!
//! Source: the kernel's `include/uapi/linux/fuse.h`, protocol 7.31 to 7.45. A request is a header of 40 bytes, the
//! fixed part of its operation, then names and data; a reply is a header of 16 bytes (length, negative errno, the
//! request's number) and a body that only a success has.
//!
//! - `wire`: taking numbers and names out of bytes.
//! - [`request`]: from bytes to [`Request`].
//! - [`reply`]: from values to bytes.

mod flags;
pub mod reply;
pub mod request;
mod wire;

pub use flags::{InitFlags, OpenReply, SetAttrValid};
pub use request::{Operation, Request};
pub use wire::DecodeError;

/// Major version of the protocol; a kernel that speaks another is refused.
pub const MAJOR: u32 = 7;
/// The newest minor version whose parts are known here; the lower of the kernel's and this one is spoken.
pub const MINOR: u32 = 45;
/// The oldest that is served: 7.31, Linux 5.4.
pub const OLDEST_MINOR: u32 = 31;

/// Bytes of a request's header.
pub const IN_HEADER: usize = 40;
/// Bytes of the fixed part of a WRITE, which stands between the header and the data.
pub const WRITE_IN: usize = 40;
/// Bytes of a reply's header.
pub const OUT_HEADER: usize = 16;

/// Where things lie in `fuse_uring_req_header`, and in the memory of a request that came through io_uring.
pub mod ring {
    /// The request's fixed part (`op_in`); the header, of request or reply, lies at 0.
    pub const OPERATION: usize = 128;
    /// Bytes that the fixed part has at most.
    pub const OPERATION_MOST: usize = 128;
    /// `commit_id` of `fuse_uring_ent_in_out`.
    pub const COMMIT: usize = 264;
    /// `payload_sz` of `fuse_uring_ent_in_out`.
    pub const PAYLOAD_SIZE: usize = 272;
}

/// Numbers of the operations (`enum fuse_opcode`).
pub mod opcode {
    #![allow(missing_docs)]
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const RENAME: u32 = 12;
    pub const LINK: u32 = 13;
    pub const OPEN: u32 = 14;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const RELEASE: u32 = 18;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const FLUSH: u32 = 25;
    pub const INIT: u32 = 26;
    pub const OPENDIR: u32 = 27;
    pub const READDIR: u32 = 28;
    pub const RELEASEDIR: u32 = 29;
    pub const FSYNCDIR: u32 = 30;
    pub const ACCESS: u32 = 34;
    pub const CREATE: u32 = 35;
    pub const INTERRUPT: u32 = 36;
    pub const DESTROY: u32 = 38;
    pub const IOCTL: u32 = 39;
    pub const BATCH_FORGET: u32 = 42;
    pub const FALLOCATE: u32 = 43;
    pub const READDIRPLUS: u32 = 44;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
    pub const COPY_FILE_RANGE: u32 = 47;
    pub const SYNCFS: u32 = 50;
    pub const TMPFILE: u32 = 51;
    pub const STATX: u32 = 52;
    pub const COPY_FILE_RANGE_64: u32 = 53;
}
