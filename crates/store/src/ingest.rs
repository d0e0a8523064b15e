//! [`Ingest`]: a blob on its way in.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use crate::error::Fault;
use crate::follow::{Follow, Tide};
use crate::layout::{INGEST, Layout};
use crate::own::{Claim, is_still, try_lock};
use crate::{Descriptor, Digest, Hasher, Lease, Store};

/// Why a blob could not be brought in.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IngestError {
    /// Another process, or thread, is bringing the same reference.
    #[error("{0} is being fetched by another process")]
    Busy(String),
    /// What arrived is not what was announced. What had arrived is thrown away.
    #[error("{reference}: expected {expected}, got {found} ({size} bytes)")]
    Mismatch {
        /// Reference of the download.
        reference: String,
        /// What was announced.
        expected: Digest,
        /// What arrived.
        found: Digest,
        /// How many bytes arrived.
        size: u64,
        /// Whether a part of it was left from an earlier try: then a new one may succeed.
        resumed: bool,
    },
    /// A layer is damaged in the store, and cannot be replaced at this moment.
    #[error("layer {layer} is damaged in the store, and container {container} is running on it")]
    InUse {
        /// Its diff ID.
        layer: Digest,
        /// Name of the container.
        container: String,
    },
    /// Disk or database.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// A blob being written. Dropped without [`Store::arrived`] or [`Store::commit_blob`], what was written stays for the next ingest with the
/// same reference, unless it came from [`Store::ingest_once`].
pub struct Ingest {
    layout: Arc<Layout>,
    pub(crate) reference: String,
    pub(crate) name: String,
    pub(crate) file: File,
    pub(crate) hasher: Hasher,
    pub(crate) offset: u64,
    pub(crate) resumed: bool,
    pub(crate) expected: Option<Descriptor>,
    /// Nobody can go on with it.
    pub(crate) once: bool,
    /// For those that read it meanwhile.
    tide: Arc<Tide>,
    /// Bytes of which the disk was told to begin writing them.
    begun: u64,
}

/// What the names of those begin with that nobody can go on with.
const ONCE: &str = "once-";

/// Bytes after which the disk is told to begin, so that little is left to wait for in the end.
const BEGIN: u64 = 8 << 20;

impl Drop for Ingest {
    fn drop(&mut self) {
        self.tide.end();
        // A committed one has left this name. The lock is ours until the file is closed, after this.
        if self.once
            && let Ok(dir) = self.layout.ingest()
        {
            let _ = dir.unlink(&self.name);
        }
    }
}

impl Ingest {
    /// Bytes written so far, those of earlier tries included: where a download goes on.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads it from the beginning, while more is written. Who follows sees bytes that nobody has verified yet.
    pub fn follow(&self) -> Result<Follow, Fault> {
        // A descriptor of its own: what shares ours would keep the lock.
        let file = self
            .layout
            .ingest()?
            .open_file(&self.name, OFlags::RDONLY, Mode::empty())
            .map_err(|e| self.fault("opening", e))?;
        Ok(Follow::new(file, self.tide.clone()))
    }

    /// Throws away what is there, for a source that cannot go on in the middle.
    pub fn restart(&mut self) -> Result<(), IngestError> {
        self.file
            .set_len(0)
            .and_then(|()| io::Seek::rewind(&mut self.file))
            .map_err(|e| self.fault("emptying", e))?;
        self.hasher = Hasher::new();
        self.offset = 0;
        self.begun = 0;
        self.resumed = false;
        self.tide.rise(0);
        Ok(())
    }

    /// Reads what an earlier try left.
    fn resume(&mut self) -> Result<(), IngestError> {
        let mut buffer = vec![0; 128 * 1024];
        loop {
            let count = self
                .file
                .read(&mut buffer)
                .map_err(|e| self.fault("reading", e))?;
            if count == 0 {
                break;
            }
            self.hasher.update(&buffer[..count]);
            self.offset += count as u64;
        }
        self.resumed = self.offset > 0;
        self.tide.rise(self.offset);
        match &self.expected {
            Some(expected) if self.offset > expected.size => self.restart(),
            _ => Ok(()),
        }
    }

    /// No more will be written.
    pub(crate) fn end(&self) {
        self.tide.end();
    }

    /// From now on nothing of it stays unless it is committed, as with [`Store::ingest_once`]: for a source that is read
    /// from its beginning the next time.
    pub fn leave_nothing(&mut self) {
        self.once = true;
    }

    /// The fault behind an error of writing into it: the disk is full, say.
    pub fn write_fault(&self, error: io::Error) -> Fault {
        self.fault("writing", error)
    }

    pub(crate) fn fault(&self, what: &'static str, error: io::Error) -> Fault {
        self.layout.fault(what, format!("{INGEST}/{}", self.name), error)
    }
}

impl Write for Ingest {
    /// Writes and hashes. More than was announced is refused.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(expected) = &self.expected
            && bytes.len() as u64 > expected.size.saturating_sub(self.offset)
        {
            let text = format!(
                "{}: more than the announced {} bytes",
                self.reference, expected.size
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let count = self.file.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.offset += count as u64;
        self.tide.rise(self.offset);
        if self.offset - self.begun >= BEGIN {
            sys::writeback::begin_writeback(&self.file, self.begun, self.offset - self.begun);
            self.begun = self.offset;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Store {
    /// Begins to bring a blob, or goes on where an earlier try with the same `reference` stopped: see
    /// [`Ingest::offset`]. With `expected`, its size bounds what is written, and its digest is what
    /// [`Store::arrived`] insists on.
    pub fn ingest(
        &self,
        _lease: &Lease,
        reference: &str,
        expected: Option<&Descriptor>,
    ) -> Result<Ingest, IngestError> {
        let mut ingest = self.open_ingest(Digest::of(reference).hex(), reference, expected, false)?;
        ingest.resume()?;
        Ok(ingest)
    }

    fn open_ingest(
        &self,
        name: String,
        reference: &str,
        expected: Option<&Descriptor>,
        once: bool,
    ) -> Result<Ingest, IngestError> {
        let dir = self.layout.ingest()?;
        let open = || -> io::Result<Option<File>> {
            loop {
                let flags = OFlags::RDWR | OFlags::CREATE;
                let file = dir.open_file(&name, flags, Mode::RUSR | Mode::WUSR)?;
                match try_lock(&file)? {
                    true if is_still(dir, &name, &file)? => return Ok(Some(file)),
                    true => {}
                    // Somebody who looks for what was left has it, and takes it away.
                    false if once => std::thread::sleep(Duration::from_millis(1)),
                    false => return Ok(None),
                }
            }
        };
        let file = open()
            .map_err(|e| self.layout.fault("opening", format!("{INGEST}/{name}"), e))?
            .ok_or_else(|| IngestError::Busy(reference.to_owned()))?;
        Ok(Ingest {
            layout: self.layout.clone(),
            reference: reference.to_owned(),
            name,
            file,
            hasher: Hasher::new(),
            offset: 0,
            resumed: false,
            expected: expected.cloned(),
            once,
            tide: Arc::default(),
            begun: 0,
        })
    }

    /// As [`Store::ingest`], for a source that cannot be asked again, such as a stream: it begins at the beginning, and
    /// dropped before it is a blob it leaves nothing. `what` tells apart those of one lease. What others that were killed
    /// left of the kind is taken away first.
    pub fn ingest_once(
        &self,
        lease: &Lease,
        what: &str,
        expected: Option<&Descriptor>,
    ) -> Result<Ingest, IngestError> {
        self.clear_once()?;
        let reference = format!("{what} {}", lease.id());
        let name = format!("{ONCE}{}", Digest::of(&reference).hex());
        let mut ingest = self.open_ingest(name, &reference, expected, true)?;
        ingest.restart()?;
        Ok(ingest)
    }

    /// Takes away what nobody can go on with and nobody is writing.
    fn clear_once(&self) -> Result<(), Fault> {
        let dir = self.layout.ingest()?;
        let clear = || -> io::Result<()> {
            for entry in dir.entries()? {
                if let Some(name) = entry.name.to_str()
                    && name.starts_with(ONCE)
                    && let Some(left) = Claim::take(dir, name)?
                {
                    left.remove()?;
                }
            }
            Ok(())
        };
        clear().map_err(|error| self.layout.fault("clearing", INGEST, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlobError;

    fn descriptor(content: &[u8]) -> Descriptor {
        Descriptor {
            media_type: "x/y".into(),
            digest: Digest::of(content),
            size: content.len() as u64,
        }
    }

    #[test]
    fn what_cannot_be_gone_on_with_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let left = || store.layout.ingest().unwrap().entries().unwrap().len();
        let mut ingest = store.ingest_once(&lease, "stream", None).unwrap();
        ingest.write_all(b"half").unwrap();
        assert_eq!(left(), 1);
        // Another's that lives is left alone, and one that was killed is not.
        std::fs::write(store.layout.at(INGEST).join("once-killed"), "half").unwrap();
        let other = store.ingest_once(&lease, "other", None).unwrap();
        assert_eq!(left(), 2);
        drop(other);
        drop(ingest);
        assert_eq!(left(), 0);
        let mut ingest = store.ingest_once(&lease, "stream", None).unwrap();
        ingest.write_all(b"whole").unwrap();
        assert_eq!(ingest.offset(), 5);
        let digest = store.commit_blob(ingest, &lease).unwrap();
        assert_eq!(store.read_blob(&digest, 100).unwrap(), b"whole");
        assert_eq!(left(), 0);
    }

    #[test]
    fn a_blob_is_written_resumed_and_read() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let wanted = descriptor(b"hello, world");
        let mut ingest = store.ingest(&lease, "greeting", Some(&wanted)).unwrap();
        ingest.write_all(b"hello").unwrap();
        assert!(matches!(
            store.ingest(&lease, "greeting", None),
            Err(IngestError::Busy(_))
        ));
        drop(ingest);

        let store = store.reopen().unwrap();
        assert_eq!(store.blob_size(&wanted.digest).unwrap(), None);
        let mut ingest = store.ingest(&lease, "greeting", Some(&wanted)).unwrap();
        assert_eq!(ingest.offset(), 5);
        assert!(ingest.write_all(b", world and more").is_err());
        ingest.write_all(b", world").unwrap();
        assert_eq!(store.commit_blob(ingest, &lease).unwrap(), wanted.digest);

        assert_eq!(store.blob_size(&wanted.digest).unwrap(), Some(12));
        assert_eq!(store.read_blob(&wanted.digest, 12).unwrap(), b"hello, world");
        assert!(matches!(
            store.read_blob(&wanted.digest, 11),
            Err(BlobError::TooLarge { size: 12, .. })
        ));
        assert!(matches!(
            store.open_blob(&Digest::of("no")),
            Err(BlobError::NotFound(_))
        ));
        assert_eq!(store.layout.ingest().unwrap().entries().unwrap(), []);
    }

    #[test]
    fn what_arrives_is_read_meanwhile() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let wanted = descriptor(b"hello, world");
        let mut ingest = store.ingest(&lease, "greeting", Some(&wanted)).unwrap();
        ingest.write_all(b"hello").unwrap();
        drop(ingest);
        // What an earlier try left comes first.
        let mut ingest = store.ingest(&lease, "greeting", Some(&wanted)).unwrap();
        let mut follow = ingest.follow().unwrap();
        let mut begin = [0; 5];
        follow.read_exact(&mut begin).unwrap();
        assert_eq!(&begin, b"hello");
        let reading = std::thread::spawn(move || {
            let mut rest = String::new();
            follow.read_to_string(&mut rest).map(|_| rest)
        });
        ingest.write_all(b", world").unwrap();
        assert!(!reading.is_finished(), "it ends before anybody says so");
        let mut again = ingest.follow().unwrap();
        // The reader's descriptor keeps nobody from the blob.
        store.commit_blob(ingest, &lease).unwrap();
        assert_eq!(reading.join().unwrap().unwrap(), ", world");
        let mut whole = String::new();
        again.read_to_string(&mut whole).unwrap();
        assert_eq!(whole, "hello, world");

        let mut ingest = store.ingest(&lease, "other", Some(&wanted)).unwrap();
        ingest.write_all(b"hel").unwrap();
        let mut follow = ingest.follow().unwrap();
        drop(ingest);
        let mut rest = String::new();
        follow.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "hel");
    }

    #[test]
    fn what_is_not_as_announced_is_refused_and_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        let wanted = descriptor(b"right");
        let mut ingest = store.ingest(&lease, "r", Some(&wanted)).unwrap();
        ingest.write_all(b"wr").unwrap();
        drop(ingest);
        let mut ingest = store.ingest(&lease, "r", Some(&wanted)).unwrap();
        ingest.write_all(b"ong").unwrap();
        let error = store.commit_blob(ingest, &lease).unwrap_err();
        assert!(
            matches!(
                &error,
                IngestError::Mismatch {
                    resumed: true,
                    size: 5,
                    ..
                }
            ),
            "{error:?}"
        );
        assert_eq!(store.ingest(&lease, "r", Some(&wanted)).unwrap().offset(), 0);
        let short = store.ingest(&lease, "r", Some(&wanted)).unwrap();
        let error = store.commit_blob(short, &lease).unwrap_err();
        assert!(matches!(
            error,
            IngestError::Mismatch {
                resumed: false,
                size: 0,
                ..
            }
        ));
    }
}
