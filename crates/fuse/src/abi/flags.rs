//! Sets of flags that requests and replies carry.

use bitflags::bitflags;

bitflags! {
    /// What both sides can do, agreed on in INIT. Bits 32 and up travel in a second field (`FUSE_INIT_EXT`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct InitFlags: u64 {
        /// Several reads of one file may be under way at once.
        const ASYNC_READ = 1 << 0;
        /// `O_TRUNC` is passed to OPEN and CREATE instead of becoming a SETATTR.
        const ATOMIC_O_TRUNC = 1 << 3;
        /// Writes may be larger than a page.
        const BIG_WRITES = 1 << 5;
        /// The kernel leaves the umask to the server, who knows of default ACLs.
        const DONT_MASK = 1 << 6;
        /// Cached data is dropped when a file's time or size changed behind the kernel's back.
        const AUTO_INVAL_DATA = 1 << 12;
        /// Listings may bring attributes along.
        const DO_READDIRPLUS = 1 << 13;
        /// The kernel chooses between READDIR and READDIRPLUS.
        const READDIRPLUS_AUTO = 1 << 14;
        /// Direct I/O may be submitted asynchronously.
        const ASYNC_DIO = 1 << 15;
        /// Writes are gathered in the page cache.
        const WRITEBACK_CACHE = 1 << 16;
        /// ENOSYS to OPEN means that files need no open.
        const NO_OPEN_SUPPORT = 1 << 17;
        /// Lookups and listings of one directory may run at once.
        const PARALLEL_DIROPS = 1 << 18;
        /// The kernel checks and caches POSIX ACLs.
        const POSIX_ACL = 1 << 20;
        /// A read of the device answers ECONNABORTED after an abort.
        const ABORT_ERROR = 1 << 21;
        /// The reply says how many pages a request may have.
        const MAX_PAGES = 1 << 22;
        /// The kernel keeps what READLINK answered.
        const CACHE_SYMLINKS = 1 << 23;
        /// ENOSYS to OPENDIR means that directories need no open.
        const NO_OPENDIR_SUPPORT = 1 << 24;
        /// Cached data is dropped only when told.
        const EXPLICIT_INVAL_DATA = 1 << 25;
        /// The server clears set-id bits where a write, truncation or change of owner must.
        const HANDLE_KILLPRIV_V2 = 1 << 28;
        /// SETXATTR has its longer form.
        const SETXATTR_EXT = 1 << 29;
        /// Flags beyond 32 bits are understood.
        const INIT_EXT = 1 << 30;
        /// What makes something brings the parent's group along if the caller is in it.
        const CREATE_SUPP_GROUP = 1 << 34;
        /// Open files may be tied to a file of another file system, which then serves reads and writes.
        const PASSTHROUGH = 1 << 37;
        /// Handles of nodes are not used for NFS export: no LOOKUP of `.` is ever needed.
        const NO_EXPORT_SUPPORT = 1 << 38;
        /// Mounts of this file system may be id-mapped.
        const ALLOW_IDMAP = 1 << 40;
        /// Requests may travel through io_uring.
        const OVER_IO_URING = 1 << 41;
    }

    /// What the kernel shall do with an open file (`FOPEN_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct OpenReply: u32 {
        /// No page cache for this file.
        const DIRECT_IO = 1 << 0;
        /// What the page cache holds of it stays.
        const KEEP_CACHE = 1 << 1;
        /// The listing may be cached.
        const CACHE_DIR = 1 << 3;
        /// No FLUSH at close.
        const NOFLUSH = 1 << 5;
        /// Reads and writes go to the backing file.
        const PASSTHROUGH = 1 << 7;
    }

    /// Which fields of a SETATTR count (`FATTR_*`).
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct SetAttrValid: u32 {
        /// Permission bits.
        const MODE = 1 << 0;
        /// Owner.
        const UID = 1 << 1;
        /// Group.
        const GID = 1 << 2;
        /// Length.
        const SIZE = 1 << 3;
        /// Time of last access.
        const ATIME = 1 << 4;
        /// Time of last change of data.
        const MTIME = 1 << 5;
        /// The handle.
        const FH = 1 << 6;
        /// Time of last access is now.
        const ATIME_NOW = 1 << 7;
        /// Time of last change of data is now.
        const MTIME_NOW = 1 << 8;
        /// Set-id bits go.
        const KILL_SUIDGID = 1 << 11;
    }
}
