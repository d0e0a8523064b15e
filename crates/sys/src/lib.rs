//! System calls, descriptors, and every `unsafe` block of strata.
//!
//! What it is: the thin, typed layer between strata and the kernel. [`Dir`] is the heart of it: a directory
//! descriptor beneath which names are resolved and never escape. Beside it stand the mount API ([`mount`]),
//! attributes ([`xattr`], [`attributes`]) and the calls that `rustix` does not wrap.
//!
//! What it never does: know what a layer, a container or an image is; print; read the environment.
//!
//! Other crates may call `rustix` directly for calls on descriptors they hold. Names that come from a layer, an
//! archive or a user go through [`Dir`].
//!
//! Start reading at [`dir`].

pub mod activation;
pub mod attributes;
pub mod bpf;
pub mod caps;
pub mod creds;
pub mod dedupe;
pub mod dir;
pub mod exe;
pub mod fd;
pub mod fuse;
pub mod fuse_ring;
pub mod handle;
pub mod ids;
pub mod init;
pub mod inode_flags;
pub mod map;
pub mod memory;
pub mod mount;
pub mod net;
pub mod process;
pub mod pty;
pub mod quota;
pub mod record_lock;
pub mod route;
pub mod seccomp;
pub mod signal;
pub mod socket;
pub mod umask;
pub mod within;
pub mod writeback;
pub mod xattr;

pub use dir::{Dir, Entry};
