//! The content record of a layer: with the layer's directory it gives the tar back, bit for bit.
//!
//! [`Writer`] is fed while a layer is unpacked; [`rebuild`] reads it back. The format is in
//! `docs/format/record.md`.

mod read;
mod rebuild;
mod size;
mod writer;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use sys::Dir;

use crate::tar::Segment;

pub use rebuild::{check, files, glance, headers, rebuild};
pub use size::size;
pub use writer::Writer;

/// The version that is written, and the only one that is read.
pub const VERSION: u32 = 1;

const MAGIC: &[u8; 16] = b"strata layer rec";
const SKIPPABLE: u32 = 0x184D_2A50;
const HEAD: usize = 8 + 32;
const TAIL: usize = 8 + 16;
/// The longest raw item or run that is written; a reader needs no more memory than this.
const PIECE: usize = 64 * 1024;
/// The longest path that is read, in bytes; longer than what is ever unpacked.
const MAX_PATH: u64 = 64 * 1024;

const END: u8 = 0;
const RAW: u8 = 1;
const FILE: u8 = 2;
const DISPLACED: u8 = 3;

/// The data of one entry, as it lies in the layer's directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileData {
    /// Path in the layer's directory.
    pub path: PathBuf,
    /// Size of the file in bytes, holes included.
    pub size: u64,
    /// Blocks of 512 bytes it took when it was written.
    pub blocks: u64,
    /// The runs of a sparse file that the archive holds; `None` for all of it.
    pub segments: Option<Vec<Segment>>,
    /// XXH3-128 of the data.
    pub digest: u128,
}

impl FileData {
    fn runs(&self) -> Vec<Segment> {
        let whole = || {
            vec![Segment {
                offset: 0,
                len: self.size,
            }]
        };
        self.segments.clone().unwrap_or_else(whole)
    }
}

/// Why a tar cannot be rebuilt from its record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The record cannot be read.
    #[error("reading the layer's record failed")]
    Read(#[source] io::Error),
    /// The record makes no sense.
    #[error("the layer's record is damaged: {0}")]
    Damaged(&'static str),
    /// The record was written by a newer strata.
    #[error("the layer's record has version {version} with flags {incompatible:#x}; a newer strata wrote it")]
    Newer {
        /// Its version.
        version: u32,
        /// Flags that a reader must know.
        incompatible: u32,
    },
    /// A file of the layer cannot be read.
    #[error("{}: reading the layer's file failed", path.display())]
    File {
        /// Path in the layer.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A file of the layer is not what was unpacked.
    #[error("{}: the layer's file was changed", path.display())]
    Changed {
        /// Path in the layer.
        path: PathBuf,
    },
    /// The output cannot be written.
    #[error("writing the rebuilt layer failed")]
    Write(#[source] io::Error),
}

/// The next run of data at or after `at`, as begin and end; `None` when there is none.
pub(crate) fn next_run(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::SeekFrom;
    let begin = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(begin) => begin,
        Err(rustix::io::Errno::NXIO) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(begin))?;
    Ok(Some((begin, end)))
}

/// Opens a file of a layer for reading, without a trace: its time of access stays. Should it be no regular file,
/// opening it has no effect and does not wait.
pub fn open_quietly(layer: &Dir, path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    match layer.open_file(path, flags | OFlags::NOATIME, Mode::empty()) {
        // Only the owner may ask for that.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            layer.open_file(path, flags, Mode::empty())
        }
        other => other,
    }
}
