//! [`unpack`]: a layer's tar into a directory in overlay format, in one pass.
//!
//! The stream is read once: it is hashed (diff ID), parsed, and written straight to where it stays. No mount is
//! needed and nothing of the stream is kept. Three threads share the work (`pipeline`); the one that makes files
//! knows the layer's own directory and, read-only, the layers below, which it asks for when it needs them.
//!
//! - `name`: which names are taken, refused, or mean a whiteout.
//! - `dirs`: the layer's directories, and what is to be set on them.
//! - `layer`: an entry becomes a thing in the layer.
//! - `meta`: owner, mode, attributes, times.
//! - `form`: what of it whoever unpacks may not make.
//! - `below`: what is taken over from the layers below.
//! - `finish`: the directories, when everything is in them.
//!
//! Rules, where archives or unpackers differ:
//! - Names are cleaned by their text: a leading `/` is dropped, `a/../b` is `b`, and a name that leaves the layer is
//!   refused. A symbolic link *of this layer* on the way of a name is followed as if the layer were the whole file
//!   system, as docker, podman and containerd do; one of a layer below is not, it is hidden by a directory.
//! - Later entries replace earlier ones of the same name, whatever kind either is; two directories become one.
//! - A hard link gets nothing from its own header: it is the file it names. That may be one of a layer below, which
//!   is then copied up, as a link made in the merged view would do.
//! - A whiteout concerns the layers below only, whether it comes before or after what this layer has there.
//! - A directory that the layer does not list takes owner, mode, times and attributes from the layers below; where
//!   they have none, 0755 0:0 and the epoch.
//! - Attributes are stored, or the layer is refused; but for labels that only mean something on the machine that
//!   made the archive (`meta::HOST_ONLY`), and for what an ordinary user may not set (`form`).

mod below;
mod dirs;
mod finish;
mod form;
mod layer;
mod meta;
mod name;
mod pipeline;

use std::io::{self, Read, Write};
use std::sync::Arc;

use overlay::Format;
use store::{Digest, Usage};
use sys::Dir;

use crate::compression::is_inflated;
use crate::tar::TarError;

pub use form::Form;

/// What a layer may cost at most.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytes of the tar.
    pub bytes: u64,
    /// Entries in the tar.
    pub entries: u64,
    /// How much larger than packed all layers of an image may become together: see [`Ratio`](crate::compression::Ratio).
    pub ratio: u64,
    /// Bytes of extended headers, long names and sparse maps of one entry.
    pub header: usize,
    /// Bytes of a name.
    pub name: usize,
    /// Bytes of memory for what is remembered of a layer until its end: directories, hard links, replaced files.
    pub memory: usize,
    /// Layers of an image that are unpacked beside each other; where it is not said as many as there are processors, from
    /// two to eight, which share 48 MiB.
    pub at_once: Option<usize>,
}

impl Default for Limits {
    /// What no image has that is one, and what stops others early: 256 GiB, four million entries, 200 times its size (where
    /// files are, three times is usual; nothing but zeros is 1,000 in gzip, 30,000 in zstd), a mebibyte of headers (as in
    /// Go), names of 4,096 bytes (`PATH_MAX`), 120 mebibytes of memory, which are two million directories.
    fn default() -> Limits {
        Limits {
            bytes: 256 << 30,
            entries: 4_000_000,
            ratio: 200,
            header: 1 << 20,
            name: 4096,
            memory: 120 << 20,
            at_once: None,
        }
    }
}

/// What was unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// SHA-256 of the tar.
    pub diff_id: Digest,
    /// What the layer's directory takes on disk.
    pub usage: Usage,
    /// Whether the result depends on the layers below: on a directory taken over from them, a file copied up, or an
    /// opaque root.
    pub depends_on_below: bool,
    /// Whether the layer lists its root directory. If not, the root is 0755 0:0 with the epoch as its times, and
    /// says nothing.
    pub root_listed: bool,
}

/// Why a layer cannot be unpacked. Every variant names the entry it concerns.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// An entry that is not taken.
    #[error("{name:?}: {what}")]
    Refused {
        /// The entry.
        name: String,
        /// Why.
        what: String,
    },
    /// The system refused to make an entry.
    #[error("{name:?}: {doing} failed")]
    Make {
        /// The entry.
        name: String,
        /// What was being done.
        doing: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The layer exceeds a limit.
    #[error("{name:?}: the layer has more than {limit} {what}")]
    TooLarge {
        /// The entry with which it does.
        name: String,
        /// Of what.
        what: &'static str,
        /// How many are allowed.
        limit: u64,
    },
    /// The layer takes more memory than it was let have.
    #[error(
        "{name:?}: with it the layer has too many directories, hard links and replaced files for the memory it is given"
    )]
    Memory {
        /// The entry with which it does.
        name: String,
    },
    /// The content record cannot be written.
    #[error("writing the layer's record failed")]
    Record(#[source] io::Error),
    /// The threads cannot be started.
    #[error("starting the threads that unpack failed")]
    Threads(#[source] io::Error),
}

impl UnpackError {
    /// Whether the stream needs a larger window than it was let have.
    pub fn needs_window(&self) -> bool {
        matches!(self, UnpackError::Archive(TarError::Read { source, .. })
            if source.kind() == io::ErrorKind::OutOfMemory)
    }

    /// Which of the limits was met, as [`Limits`] calls it.
    pub fn limit(&self) -> Option<&'static str> {
        match self {
            UnpackError::TooLarge { what, .. } => Some(what),
            UnpackError::Archive(TarError::Read { source, .. }) if is_inflated(source) => Some("ratio"),
            _ => None,
        }
    }

    /// Whether the disk, the inodes or a quota are used up.
    pub fn is_full(&self) -> bool {
        match self {
            // An attribute that does not fit into a block is refused so, too (ext4).
            UnpackError::Make { doing, .. } if doing.contains("attribute") => false,
            UnpackError::Make { source, .. } | UnpackError::Record(source) => matches!(
                source.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            ),
            _ => false,
        }
    }
}

/// Tells the directories of the layers beneath, topmost first, when they are complete; it is asked once, by the first
/// entry that needs something of them, and may take as long as they do. They are only read, and must not change.
pub type Below<'a> = dyn Fn() -> io::Result<Vec<Arc<Dir>>> + Sync + 'a;

/// [`Below`] of layers that are complete, topmost first.
pub fn complete(layers: &[Dir]) -> impl Fn() -> io::Result<Vec<Arc<Dir>>> + Sync + '_ {
    || layers.iter().map(|dir| dir.try_clone().map(Arc::new)).collect()
}

/// Unpacks `tar`, a layer's inflated archive, into the empty directory `into`, as a layer of a privileged overlay
/// ([`Format::TRUSTED`]); see [`unpack_as`].
pub fn unpack(
    tar: impl Read,
    into: &Dir,
    below: &Below<'_>,
    record: impl Write + Send,
    limits: &Limits,
    progress: &dyn Fn(u64),
) -> Result<Unpacked, UnpackError> {
    unpack_as(Format::TRUSTED, tar, into, below, record, limits, progress)
}

/// Unpacks `tar` into the empty directory `into`, in the given form.
///
/// The content record (`docs/format/record.md`) goes to `record`. `progress` is called from this thread with the
/// number of bytes of `tar` read so far.
///
/// Nothing is made durable here, and after an error `into` holds what was made until then: that is for the caller to
/// sync, or to remove.
pub fn unpack_as(
    form: impl Into<Form>,
    tar: impl Read,
    into: &Dir,
    below: &Below<'_>,
    record: impl Write + Send,
    limits: &Limits,
    progress: &dyn Fn(u64),
) -> Result<Unpacked, UnpackError> {
    let form = form.into();
    let make_files = |stream| {
        // Modes are taken as they are. Where that is forbidden each file's is looked at and mended.
        let _ = sys::umask::clear_for_thread();
        layer::Unpacking::new(stream, into, form, below, record, limits, false)?.run()
    };
    let (made, diff_id) = pipeline::run(tar, progress, make_files).map_err(UnpackError::Threads)?;
    let made = made?;
    Ok(Unpacked {
        diff_id,
        usage: made.usage,
        depends_on_below: made.depends_on_below,
        root_listed: made.root_listed,
    })
}

/// Makes everything that [`unpack_as`] makes, of the size that it has, but for the data of files, which `tar` leaves out
/// ([`record::headers`](crate::record::headers)): what a layer is to look like, without reading or writing its content.
pub fn outline(
    form: impl Into<Form>,
    tar: impl Read,
    into: &Dir,
    below: &Below<'_>,
    limits: &Limits,
) -> Result<(), UnpackError> {
    let form = form.into();
    let make_files = |stream| {
        let _ = sys::umask::clear_for_thread();
        layer::Unpacking::new(stream, into, form, below, io::sink(), limits, true)?.run()
    };
    let (made, _) = pipeline::run(tar, &|_| {}, make_files).map_err(UnpackError::Threads)?;
    made.map(drop)
}

/// For `map_err`: an error of the system while doing something for an entry.
fn failed(name: &[u8], doing: impl Into<String>) -> impl FnOnce(io::Error) -> UnpackError {
    let name = crate::tar::shown(name);
    let doing = doing.into();
    move |source| UnpackError::Make { name, doing, source }
}

/// An entry that is not taken.
fn refused(name: &[u8], what: impl Into<String>) -> UnpackError {
    UnpackError::Refused {
        name: crate::tar::shown(name),
        what: what.into(),
    }
}
