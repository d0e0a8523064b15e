//! Blobs: content by digest, whole and verified.

use std::fs::File;
use std::io::Read;

use rustix::fs::{Mode, OFlags};

use crate::db::{Query, unsigned};
use crate::error::Fault;
use crate::layout::BLOBS;
use crate::{Digest, Store};

/// Why a blob could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BlobError {
    /// It is not in the store.
    #[error("blob {0} is not in the store")]
    NotFound(Digest),
    /// The file's content is not what its name says.
    #[error("blob {digest} is damaged: its content has digest {found}")]
    Damaged {
        /// What it should be.
        digest: Digest,
        /// What it is.
        found: Digest,
    },
    /// It is larger than the caller takes.
    #[error("blob {digest} has {size} bytes, more than the {max} allowed here")]
    TooLarge {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// What the caller takes, in bytes.
        max: u64,
    },
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

pub(crate) fn size(q: &Query<'_>, digest: &Digest) -> Result<Option<u64>, Fault> {
    q.one("SELECT size FROM blobs WHERE digest = ?", (digest,), |row| {
        unsigned(row, 0)
    })
}

impl Store {
    /// Bytes of a blob; `None` if it is not in the store. Whoever then relies on it asks [`Store::hold_blob`].
    pub fn blob_size(&self, digest: &Digest) -> Result<Option<u64>, Fault> {
        self.db.read(|q| size(q, digest))
    }

    /// Opens a blob for reading. What is read is not verified again.
    pub fn open_blob(&self, digest: &Digest) -> Result<File, BlobError> {
        let blobs = self.layout.blobs()?;
        match blobs.open_file(digest.hex(), OFlags::RDONLY, Mode::empty()) {
            Ok(file) => Ok(file),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err(BlobError::NotFound(*digest)),
            Err(error) => Err(self.blob_fault("opening", digest, error).into()),
        }
    }

    /// The content of a blob of at most `max` bytes, verified.
    pub fn read_blob(&self, digest: &Digest, max: u64) -> Result<Vec<u8>, BlobError> {
        let file = self.open_blob(digest)?;
        let fault = |error| BlobError::Fault(self.blob_fault("reading", digest, error));
        let size = file.metadata().map_err(fault)?.len();
        if size > max {
            return Err(BlobError::TooLarge {
                digest: *digest,
                size,
                max,
            });
        }
        let mut content = Vec::with_capacity(usize::try_from(size).unwrap_or(0) + 1);
        file.take(max).read_to_end(&mut content).map_err(fault)?;
        match Digest::of(&content) {
            found if found == *digest => Ok(content),
            found => Err(BlobError::Damaged {
                digest: *digest,
                found,
            }),
        }
    }

    pub(crate) fn blob_fault(&self, what: &'static str, digest: &Digest, error: std::io::Error) -> Fault {
        self.layout
            .fault(what, format!("{BLOBS}/{}", digest.hex()), error)
    }
}
