//! The tar format, as layers use it: a streaming [`Reader`] that keeps every byte it is given accountable, and the
//! [`writer`] for layers of our own.
//!
//! Own code, because the content record (`docs/format/record.md`) needs the exact bytes of everything that is not
//! file data, and because what a name or a size *is* must be decided in one place: where readers disagree, one can
//! be shown a different image than another. In such cases this one follows Go's `archive/tar`, which docker,
//! podman and containerd all read layers with.
//!
//! Known: v7, ustar, star, old GNU, GNU long names and links, PAX extended and global headers, GNU sparse files in
//! the old form and in PAX 0.0, 0.1 and 1.0, base-256 numbers, extended attributes of star and libarchive.

mod header;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
mod tests;
pub mod writer;

pub(crate) use reader::shown;
pub use reader::{Reader, TarError};

/// Size of a block, in bytes: everything in an archive is padded to it.
pub const BLOCK: usize = 512;

/// What kind of thing an entry makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A regular file with data.
    File,
    /// A further name of an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// A point in time: seconds since 1970, and nanoseconds (0..1,000,000,000) to add to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// The rest, in nanoseconds.
    pub nanos: u32,
}

/// A run of data in a sparse file, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where in the file it begins.
    pub offset: u64,
    /// How long it is.
    pub len: u64,
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name, as the archive has it: not yet checked or cleaned.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Target of a hard or symbolic link, as the archive has it.
    pub link: Vec<u8>,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of the last change of the data.
    pub mtime: Time,
    /// Time of the last access, where the archive tells it.
    pub atime: Option<Time>,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes, by name; of several with one name the archive's last.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file in bytes, holes included. 0 for what is no file.
    pub size: u64,
    /// Where the data of a sparse file goes, in order and not overlapping; `None` for a file that is all data.
    pub segments: Option<Vec<Segment>>,
}

impl Entry {
    /// An entry with nothing but a name and a kind: mode 0, owner 0:0, time 0.
    pub fn new(name: impl Into<Vec<u8>>, kind: Kind) -> Entry {
        Entry {
            name: name.into(),
            kind,
            link: Vec::new(),
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: Time::default(),
            atime: None,
            device: (0, 0),
            xattrs: Vec::new(),
            size: 0,
            segments: None,
        }
    }

    /// How many bytes of data the archive holds for it.
    pub fn data_len(&self) -> u64 {
        match &self.segments {
            Some(segments) => segments.iter().map(|segment| segment.len).sum(),
            None => self.size,
        }
    }
}
