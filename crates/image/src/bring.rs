//! [`Bring`]: missing blobs brought into the store, several at once, while layers are unpacked beside it.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store::{Digest, Ingest, IngestError, Lease, Store};

use crate::install::InstallError;
use crate::manifest::Layer;
use crate::progress::{Event, Progress};

/// How often a blob that another process is fetching is looked for.
const LOOK: Duration = Duration::from_millis(100);

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

    /// The operation has failed: calls of [`BlobSource::bring`] under way shall end soon.
    fn abort(&self) {}
}

/// Brings blobs in the order of the layers, bottom first.
pub(crate) struct Bring<'a, S: BlobSource> {
    store: &'a Store,
    lease: &'a Lease,
    source: &'a S,
    progress: &'a dyn Progress,
    wanted: Vec<&'a Layer>,
    state: Mutex<State<S::Error>>,
    changed: Condvar,
}

struct State<E> {
    /// The next of `wanted` that nobody has begun.
    next: usize,
    done: HashSet<Digest>,
    /// The first failure; `None` in it once it was taken.
    failed: Option<Option<E>>,
}

impl<'a, S: BlobSource> Bring<'a, S> {
    pub(crate) fn new(
        store: &'a Store,
        lease: &'a Lease,
        source: &'a S,
        mut wanted: Vec<&'a Layer>,
        progress: &'a dyn Progress,
    ) -> Self {
        let mut seen = HashSet::new();
        wanted.retain(|layer| seen.insert(layer.blob.digest));
        let state = Mutex::new(State {
            next: 0,
            done: HashSet::new(),
            failed: None,
        });
        Self {
            store,
            lease,
            source,
            progress,
            wanted,
            state,
            changed: Condvar::new(),
        }
    }

    /// Brings everything by `parallel` threads while `beside` runs in this one. The first failure of either ends
    /// both and is the one answered.
    pub(crate) fn run<T>(
        &self,
        parallel: usize,
        beside: impl FnOnce(&Self) -> Result<T, S::Error>,
    ) -> Result<T, S::Error> {
        std::thread::scope(|scope| {
            for _ in 0..parallel.max(1).min(self.wanted.len()) {
                scope.spawn(|| self.work());
            }
            let result = beside(self);
            if result.is_err() {
                self.fail(None);
            }
            result
        })
    }

    /// Waits until a blob is there.
    pub(crate) fn wait_for(&self, digest: &Digest) -> Result<(), S::Error> {
        let mut state = self.lock();
        loop {
            match state.failed.as_mut().map(Option::take) {
                Some(Some(error)) => return Err(error),
                // The only failure without an error before ours: a thread of `work` died.
                Some(None) => panic!("a thread that brings blobs panicked"),
                None => {}
            }
            if state.done.contains(digest) {
                return Ok(());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<S::Error>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, error: Option<S::Error>) {
        let mut state = self.lock();
        if state.failed.is_none() {
            state.failed = Some(error);
            self.source.abort();
        }
        self.changed.notify_all();
    }

    fn work(&self) {
        // Whoever waits for a blob would wait for ever.
        let _guard = FailOnPanic(self);
        loop {
            let layer = {
                let mut state = self.lock();
                let (None, Some(layer)) = (&state.failed, self.wanted.get(state.next)) else {
                    return;
                };
                state.next += 1;
                *layer
            };
            match self.bring(layer) {
                Ok(()) => {
                    self.lock().done.insert(layer.blob.digest);
                    self.changed.notify_all();
                }
                Err(error) => return self.fail(Some(error)),
            }
        }
    }

    fn bring(&self, layer: &Layer) -> Result<(), S::Error> {
        let blob = &layer.blob;
        let told = |e: InstallError| self.source.failed(e);
        let mut retried = false;
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
                return Ok(());
            }
            // One name for a blob, whatever image it is of: so two pulls do not fetch it twice.
            let mut ingest = match self
                .store
                .ingest(self.lease, &format!("blob {}", blob.digest), Some(blob))
            {
                Err(IngestError::Busy(_)) if self.lock().failed.is_none() => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                other => other.map_err(|e| told(e.into()))?,
            };
            self.source.bring(layer, &mut ingest)?;
            match self.store.commit_blob(ingest, self.lease) {
                // What an earlier try left was damaged: once more, from the beginning.
                Err(IngestError::Mismatch { resumed: true, .. }) if !retried => retried = true,
                Err(IngestError::Mismatch { found, .. }) => {
                    return Err(told(InstallError::Digest {
                        blob: blob.digest,
                        got: found,
                    }));
                }
                Err(error) => return Err(told(error.into())),
                Ok(_) => return Ok(()),
            }
        }
    }
}

struct FailOnPanic<'b, 'a, S: BlobSource>(&'b Bring<'a, S>);

impl<S: BlobSource> Drop for FailOnPanic<'_, '_, S> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(None);
        }
    }
}
