//! What a container prints, kept in files that Kubernetes' tools (kubelet, crictl) read too.
//!
//! The format is that of the container runtime interface, a line of text an entry:
//!
//! ```text
//! 2016-10-06T00:17:09.669794202Z stdout F one whole line
//! 2016-10-06T00:17:09.669794202Z stderr P the beginning of a line that
//! 2016-10-06T00:17:09.669794203Z stderr F goes on here
//! ```
//!
//! Time, stream, and `F` where a line of the program ends with the entry, `P` where it goes on. The file that is being
//! written is `0.log`; one that has reached its size becomes `0.log.1`, what was that becomes `0.log.2`, and the oldest
//! goes. [`Writer`] is the supervisor's, [`Reader`] everybody's.

mod read;
mod write;

use std::ffi::OsStr;

use serde::{Deserialize, Serialize};

pub use read::{Entry, Reader};
pub use write::Writer;

/// The file that is being written.
pub const FILE: &str = "0.log";

/// Longest text of an entry: what is longer is divided, as kubelet's readers expect it.
const LONGEST: usize = 16 << 10;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of one file, beyond which the next is begun.
    pub size: u64,
    /// Number of files, at least one.
    pub files: u32,
}

impl Default for Limits {
    /// Kubelet's own: five files of 10 MiB.
    fn default() -> Limits {
        Limits {
            size: 10 << 20,
            files: 5,
        }
    }
}

/// Which of the two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Out,
    /// Standard error.
    Err,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Stream::Out => "stdout",
            Stream::Err => "stderr",
        }
    }
}

/// Name of the file that was begun `age` files ago.
fn name(age: u32) -> String {
    match age {
        0 => FILE.to_owned(),
        age => format!("{FILE}.{age}"),
    }
}

/// The reverse: how many files ago one of this name was begun.
fn age(name: &OsStr) -> Option<u32> {
    match name.to_str()?.strip_prefix(FILE)? {
        "" => Some(0),
        rest => rest.strip_prefix('.')?.parse().ok(),
    }
}
