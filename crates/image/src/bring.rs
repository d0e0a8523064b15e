//! [`Bring`]: missing blobs brought into the store, several at once, and read while they arrive.

use std::collections::HashSet;
use std::io::Read;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use store::{BlobError, Digest, Follow, Ingest, IngestError, Lease, Store};

use crate::board::{Blob, Board, FailOnPanic, Halted};
use crate::install::InstallError;
use crate::manifest::Layer;
use crate::progress::{Event, Progress};

/// How often a blob that another process is fetching is looked for.
const LOOK: Duration = Duration::from_millis(100);

/// How often what has come so far is put on disk: so long does another process wait at most for a blob that is there,
/// and so little is left to wait for in the end.
const SETTLE: Duration = Duration::from_millis(250);

/// Where blobs come from: a registry, an archive.
pub trait BlobSource: Sync {
    /// What can go wrong with the whole operation.
    type Error: Send;

    /// Writes a blob from [`Ingest::offset`] on. Its size and digest are verified by the caller.
    ///
    /// # Errors
    /// Whatever keeps the blob from coming; the whole operation fails with it.
    fn bring(&self, layer: &Layer, to: &mut Ingest) -> Result<(), Self::Error>;

    /// An error of the shared end as one of the operation's, with the image's name.
    fn failed(&self, error: InstallError) -> Self::Error;

    /// What came was not the blob. Whether there is another place to take it from, to which the next call turns.
    fn distrust(&self, _: &Layer) -> bool {
        false
    }

    /// The operation has failed: calls of [`BlobSource::bring`] under way shall end soon.
    fn abort(&self) {}
}

/// Brings blobs in the order of the layers, bottom first.
pub(crate) struct Bring<'a, S: BlobSource> {
    store: &'a Store,
    lease: &'a Lease,
    source: &'a S,
    progress: &'a dyn Progress,
    board: &'a Board<S::Error>,
    /// What nobody has begun yet, the first last.
    wanted: Mutex<Vec<&'a Layer>>,
}

/// A blob to be read, whether it is there or on its way.
pub(crate) struct Reading {
    pub(crate) from: Box<dyn Read + Send>,
    /// Counts only if [`Bring::settled`] answers the same.
    pub(crate) attempt: u32,
    /// It was in the store before this operation, and nobody has looked since whether it is sound still.
    pub(crate) kept: bool,
}

impl<'a, S: BlobSource> Bring<'a, S> {
    pub(crate) fn new(
        store: &'a Store,
        lease: &'a Lease,
        source: &'a S,
        mut wanted: Vec<&'a Layer>,
        board: &'a Board<S::Error>,
        progress: &'a dyn Progress,
    ) -> Self {
        let mut seen = HashSet::new();
        wanted.retain(|layer| seen.insert(layer.blob.digest));
        wanted.reverse();
        Self {
            store,
            lease,
            source,
            progress,
            board,
            wanted: Mutex::new(wanted),
        }
    }

    /// Opens a blob, once it has begun to arrive.
    pub(crate) fn open(&self, layer: &Layer) -> Result<Reading, Halted> {
        let digest = &layer.blob.digest;
        loop {
            let (attempt, arriving) = self.board.wait(|state| {
                let blob = state.blobs.get(digest)?;
                Some((blob.attempt, blob.arriving.clone()))
            })?;
            let kept = arriving.is_none() && !self.lease.has_arrived(digest);
            let from: Box<dyn Read + Send> = match arriving {
                Some(follow) => Box::new(follow),
                None => match self.store.open_blob(digest) {
                    Ok(file) => Box::new(file),
                    Err(BlobError::NotFound(_)) if self.renew(layer)? => continue,
                    Err(error) => return Err(self.fail(error.into())),
                },
            };
            return Ok(Reading { from, attempt, kept });
        }
    }

    /// Waits until a blob is whole, verified, and tells by which attempt.
    pub(crate) fn settled(&self, digest: &Digest) -> Result<u32, Halted> {
        self.board.wait(|state| {
            let blob = state.blobs.get(digest)?;
            blob.verified.then_some(blob.attempt)
        })
    }

    /// Ends the whole operation.
    pub(crate) fn fail(&self, error: InstallError) -> Halted {
        self.end(self.source.failed(error))
    }

    fn end(&self, error: S::Error) -> Halted {
        if self.board.fail(Some(error)) {
            self.source.abort();
        }
        Halted
    }

    /// Brings one blob after another, until there are no more or the operation has failed. For several threads.
    pub(crate) fn work(&self) {
        let _guard = FailOnPanic(self.board);
        loop {
            let next = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(layer) = next.filter(|_| !self.board.halted()) else {
                return;
            };
            if let Err(error) = self.bring(layer) {
                self.end(error);
                return;
            }
        }
    }

    /// Puts what has come so far on disk, from time to time, until the operation ends. For one thread.
    pub(crate) fn settle(&self) {
        let _guard = FailOnPanic(self.board);
        while self.board.pause(SETTLE) {
            if let Err(error) = self.store.settle(self.lease) {
                self.fail(error.into());
                return;
            }
        }
    }

    fn bring(&self, layer: &Layer) -> Result<(), S::Error> {
        let blob = &layer.blob;
        let told = |e: InstallError| self.source.failed(e);
        let mut attempt = 0;
        loop {
            if let Some(size) = self
                .store
                .hold_blob(self.lease, &blob.digest)
                .map_err(|e| told(e.into()))?
            {
                if size != blob.size {
                    let (blob, expected) = (blob.digest, layer.blob.size);
                    return Err(told(InstallError::Size {
                        blob,
                        expected,
                        got: size,
                    }));
                }
                self.progress.event(&Event::Fetched {
                    digest: &blob.digest,
                    bytes: size,
                });
                self.tell(layer, attempt, None, true);
                return Ok(());
            }
            if self.fetch(layer, &mut attempt)? {
                return Ok(());
            }
        }
    }

    /// Brings a blob anew that was in the store and is not sound any more. `false` where it is sound.
    pub(crate) fn renew(&self, layer: &Layer) -> Result<bool, Halted> {
        let digest = &layer.blob.digest;
        let sound = self.store.blob_is_sound(digest);
        if sound.map_err(|error| self.fail(error.into()))? {
            return Ok(false);
        }
        let mut attempt = self.settled(digest)?;
        while !self.fetch(layer, &mut attempt).map_err(|error| self.end(error))? {}
        Ok(true)
    }

    fn tell(&self, layer: &Layer, attempt: u32, arriving: Option<Follow>, verified: bool) {
        let blob = Blob {
            attempt,
            arriving,
            verified,
        };
        self.board
            .tell(|state| state.blobs.insert(layer.blob.digest, blob));
    }

    /// One attempt to bring a blob from the source; `false` where another is to follow.
    fn fetch(&self, layer: &Layer, attempt: &mut u32) -> Result<bool, S::Error> {
        let blob = &layer.blob;
        let told = |e: InstallError| self.source.failed(e);
        // One name for a blob, whatever image it is of: so two pulls do not fetch it twice.
        let mut ingest = match self
            .store
            .ingest(self.lease, &format!("blob {}", blob.digest), Some(blob))
        {
            Err(IngestError::Busy(_)) if !self.board.halted() => {
                std::thread::sleep(LOOK);
                return Ok(false);
            }
            other => other.map_err(|e| told(e.into()))?,
        };
        *attempt += 1;
        let arriving = ingest.follow().map_err(|e| told(e.into()))?;
        self.tell(layer, *attempt, Some(arriving.clone()), false);
        self.source.bring(layer, &mut ingest)?;
        match self.store.arrived(ingest, self.lease) {
            // What an earlier try left was damaged: once more, from the beginning.
            Err(IngestError::Mismatch { resumed: true, .. }) => Ok(false),
            Err(IngestError::Mismatch { .. }) if self.source.distrust(layer) => Ok(false),
            Err(IngestError::Mismatch { found, .. }) => Err(told(InstallError::Digest {
                blob: blob.digest,
                got: found,
            })),
            Err(error) => Err(told(error.into())),
            Ok(_) => {
                self.tell(layer, *attempt, Some(arriving), true);
                Ok(true)
            }
        }
    }
}
