//! Serves one [`overlay::live::Overlay`] through `/dev/fuse`.
//!
//! What it is: the kernel's protocol, and nothing of the overlay's rules. A request is decoded, the overlay is called,
//! its answer is encoded. The wire layer is our own, from the kernel's header: what the overlay needs of it (kill-priv
//! flags, backing files, statx, answers without a reply to OPEN) fits in a few hundred lines.
//!
//! - [`abi`]: numbers and flags of the protocol, requests from bytes, replies to bytes.
//! - [`session`]: the device, the mount, what INIT agrees on, and rings where requests come through io_uring.
//! - [`serve`]: workers that read requests and answer them.
//! - [`options`], [`layers`], [`process`]: from the words of a mount to a process that serves it.
//!
//! What it never does: decide what a merged directory shows, print, start a process.
//!
//! One request's way: a worker's read of its descriptor of `/dev/fuse` → [`abi::Request::decode`] → `serve::dispatch` →
//! `Overlay` → `abi::reply` → one write (through io_uring: `serve::ring`, and one
//! call for an answer and the next request). Reads and writes of files in the writable layer do not come here at all: the
//! kernel passes them through to the file itself (`serve::backing`).
//!
//! Start reading at [`serve`].

pub mod abi;
pub mod layers;
mod namespace;
pub mod options;
pub mod process;
pub mod serve;
pub mod session;

pub use serve::{Config, End, Server, Transport};
pub use session::{MountOptions, Session, SessionError};
