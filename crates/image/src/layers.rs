//! [`Layers`]: the layers of one image on their way into the store, several unpacked beside each other.
//!
//! Layers are begun bottom first, each as soon as its blob begins to arrive. One that needs something of those below
//! it (a directory that it does not list, a file that it links to) waits until they are complete; so the lowest of
//! those under way never waits for another, and nothing waits in a circle. A layer counts only once its blob is
//! verified, and becomes visible with all the others.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::{Arc, Mutex, PoisonError};

use store::{Digest, LayerMeta, Lease, NewLayer, Store};
use sys::Dir;

use crate::board::{Board, FailOnPanic, Halted, Laid};
use crate::bring::{BlobSource, Bring};
use crate::compression::{MAX_WINDOW, Ratio, decoder};
use crate::install::{InstallError, PlannedLayer};
use crate::progress::{Event, Progress};
use crate::unpack::{Form, Limits, UnpackError, unpack_as};

/// Bytes of a blob read at once.
const PIECE: usize = 128 << 10;

/// Most layers unpacked at once where nothing is said, however many processors there are. Each keeps two to three threads
/// busy, and takes its [`Share`] and 2 MB of buffers.
const MOST: usize = 8;

/// Bytes that windows of zstd, and what is remembered of layers ([`Limits::memory`]), take in all layers under way at once.
const SHARED: usize = 48 << 20;

/// What every layer may have of [`SHARED`]. One that needs more begins again when all below it are complete, and has either
/// as much window or as much memory as there may be: so there is one such at a time, and the memory is bounded whatever
/// the image.
#[derive(Debug, Clone, Copy)]
struct Share {
    /// Window of zstd, a base-2 logarithm of bytes: 8 MiB, which is what its highest levels take, or less beside many.
    window: u32,
    /// Bytes of [`Limits::memory`]: two thirds of them go to the window. Four MiB are fifty thousand directories.
    memory: usize,
}

impl Share {
    fn of(at_once: usize) -> Share {
        let all = SHARED / at_once.max(1);
        Share {
            window: (all * 2 / 3).clamp(1 << 20, 8 << 20).ilog2(),
            memory: (all / 3).clamp(1 << 20, 8 << 20),
        }
    }
}

/// How many layers are unpacked at once.
pub(crate) fn at_once(limits: &Limits) -> usize {
    let cores = || std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, MOST));
    limits.at_once.map_or_else(cores, |set| set.max(1))
}

/// A layer just unpacked, not yet visible.
struct Fresh {
    index: usize,
    new: NewLayer,
    meta: LayerMeta,
}

/// See the module.
pub(crate) struct Layers<'a, S: BlobSource> {
    pub(crate) store: &'a Store,
    pub(crate) lease: &'a Lease,
    pub(crate) limits: &'a Limits,
    pub(crate) progress: &'a dyn Progress,
    pub(crate) board: &'a Board<S::Error>,
    pub(crate) bring: &'a Bring<'a, S>,
    pub(crate) planned: &'a [PlannedLayer],
    ratio: Arc<Ratio>,
    work: Mutex<Work>,
}

/// What the threads that unpack share.
#[derive(Default)]
struct Work {
    /// The next layer that nobody has begun.
    next: usize,
    new: Vec<Fresh>,
    /// Open directories of layers, by number.
    open: HashMap<u64, Arc<Dir>>,
}

/// What is on the board before anything is brought: the layers that are there.
pub(crate) fn found(planned: &[PlannedLayer]) -> Vec<Option<Laid>> {
    // If it served wherever its content does, an equal one would have been found as well.
    let laid = |n| Laid { n, shareable: false };
    planned.iter().map(|layer| layer.found.map(laid)).collect()
}

impl<'a, S: BlobSource> Layers<'a, S> {
    pub(crate) fn new(
        store: &'a Store,
        lease: &'a Lease,
        limits: &'a Limits,
        progress: &'a dyn Progress,
        board: &'a Board<S::Error>,
        bring: &'a Bring<'a, S>,
        planned: &'a [PlannedLayer],
    ) -> Self {
        Self {
            store,
            lease,
            limits,
            progress,
            board,
            bring,
            planned,
            ratio: Ratio::new(limits.ratio),
            work: Mutex::default(),
        }
    }

    fn work_on<T>(&self, change: impl FnOnce(&mut Work) -> T) -> T {
        change(&mut self.work.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Unpacks one layer after another, until there are no more or the operation has failed. For several threads.
    pub(crate) fn work(&self) {
        let _guard = FailOnPanic(self.board);
        loop {
            let index = self.work_on(|work| {
                while self
                    .planned
                    .get(work.next)
                    .is_some_and(|layer| layer.found.is_some())
                {
                    work.next += 1;
                }
                work.next += 1;
                work.next - 1
            });
            let Some(layer) = self.planned.get(index) else {
                return;
            };
            let Ok(laid) = self.lay(index, layer) else {
                return;
            };
            self.board.tell(|state| state.layers[index] = Some(laid));
        }
    }

    fn lay(&self, index: usize, layer: &PlannedLayer) -> Result<Laid, Halted> {
        let equal = |other: &PlannedLayer| other.diff_id == layer.diff_id;
        if let Some(first) = self.planned[..index].iter().position(equal) {
            let laid = self.board.wait(|state| state.layers[first])?;
            if laid.shareable {
                return Ok(laid);
            }
        }
        let digest = &layer.layer.blob.digest;
        let share = Share::of(at_once(self.limits));
        let (small, large) = (self.limits.memory.min(share.memory), self.limits.memory);
        let mut window = share.window;
        let mut memory = if self.is_lowest(index) { large } else { small };
        loop {
            let reading = self.bring.open(&layer.layer)?;
            let outcome = self.unpack(index, layer, reading.from, (window, memory));
            match outcome {
                Err(error @ InstallError::Full { .. }) => return Err(self.bring.fail(error)),
                Err(InstallError::Unpack { source, .. }) if source.needs_window() && window < MAX_WINDOW => {
                    self.numbers_below(index)?;
                    (window, memory) = (MAX_WINDOW, small);
                    continue;
                }
                Err(InstallError::Unpack {
                    source: UnpackError::Memory { .. },
                    ..
                }) if memory < large && window == share.window => {
                    self.numbers_below(index)?;
                    memory = large;
                    continue;
                }
                _ => {}
            }
            // What the store has of a blob may have been damaged since it came; a layer may come of it all the same.
            if reading.kept && self.bring.renew(&layer.layer)? {
                continue;
            }
            // What is wrong with a layer, or right, counts only if its blob was the right one.
            if self.bring.settled(digest)? != reading.attempt {
                continue;
            }
            let fresh = outcome.map_err(|error| self.bring.fail(error))?;
            self.progress.event(&Event::LayerDone { digest });
            let laid = Laid {
                n: fresh.new.n(),
                shareable: !fresh.meta.depends_on_below,
            };
            self.work_on(|work| work.new.push(fresh));
            return Ok(laid);
        }
    }

    fn unpack(
        &self,
        index: usize,
        layer: &PlannedLayer,
        from: Box<dyn Read + Send>,
        (window, memory): (u32, usize),
    ) -> Result<Fresh, InstallError> {
        let digest = layer.layer.blob.digest;
        let counted = Counted {
            from,
            digest: &digest,
            bytes: 0,
            progress: self.progress,
        };
        let new = self.store.new_layer(self.lease)?;
        let record = new.record()?;
        let archive = decoder(BufReader::with_capacity(PIECE, counted))
            .with_max_window(window)
            .with_ratio(self.ratio.clone());
        let below = || self.below(index);
        let limits = Limits {
            memory,
            ..self.limits.clone()
        };
        let unpacked = unpack_as(
            Form::of(self.store),
            archive,
            new.fs(),
            &below,
            record,
            &limits,
            &|_| {},
        )
        .map_err(|source| match source.is_full() {
            true => InstallError::Full {
                store: self.store.root().to_owned(),
                layer: digest,
                source,
            },
            false => InstallError::Unpack {
                layer: digest,
                source,
            },
        })?;
        if unpacked.diff_id != layer.diff_id {
            let (expected, got) = (layer.diff_id, unpacked.diff_id);
            return Err(InstallError::DiffId {
                layer: digest,
                expected,
                got,
            });
        }
        let meta = LayerMeta {
            diff_id: layer.diff_id,
            chain_id: layer.chain_id,
            depends_on_below: unpacked.depends_on_below,
            root_listed: unpacked.root_listed,
            usage: unpacked.usage,
        };
        Ok(Fresh { index, new, meta })
    }

    /// Whether all layers below are complete: then no other is the lowest of those under way.
    fn is_lowest(&self, index: usize) -> bool {
        self.board
            .tell(|state| state.layers[..index].iter().all(Option::is_some))
    }

    /// Where the layers below are, topmost first, once they are complete.
    fn numbers_below(&self, index: usize) -> Result<Vec<u64>, Halted> {
        self.board.wait(|state| {
            let below = state.layers[..index].iter().rev();
            below.map(|laid| laid.map(|laid| laid.n)).collect()
        })
    }

    /// Their directories; each is opened once.
    fn below(&self, index: usize) -> io::Result<Vec<Arc<Dir>>> {
        let numbers = self
            .numbers_below(index)
            .map_err(|Halted| io::Error::other("the layers below are not complete"))?;
        self.work_on(|work| {
            let open = |n| match work.open.get(&n) {
                Some(dir) => Ok(dir.clone()),
                None => {
                    let dir = Arc::new(self.store.layer_dir(n).map_err(io::Error::other)?);
                    work.open.insert(n, dir.clone());
                    Ok(dir)
                }
            };
            numbers.into_iter().map(open).collect()
        })
    }

    /// Makes the new layers durable and visible; answers where each layer is, which is elsewhere for one that
    /// another process committed in the meantime.
    pub(crate) fn commit(self) -> Result<Vec<u64>, InstallError> {
        let mut work = self.work.into_inner().unwrap_or_else(PoisonError::into_inner);
        work.new.sort_by_key(|fresh| fresh.index);
        let ours: Vec<u64> = work.new.iter().map(|fresh| fresh.new.n()).collect();
        let new = work.new.into_iter().map(|fresh| (fresh.new, fresh.meta));
        let committed = self.store.commit_layers(self.lease, new.collect())?;
        let place = |n: u64| {
            ours.iter()
                .position(|our| *our == n)
                .and_then(|place| committed.get(place))
        };
        let laid = self.board.tell(|state| std::mem::take(&mut state.layers));
        Ok(laid
            .into_iter()
            .flatten()
            .map(|laid| place(laid.n).map_or(laid.n, |layer| layer.n))
            .collect())
    }
}

/// A blob that tells how far it was read.
struct Counted<'a> {
    from: Box<dyn Read + Send>,
    digest: &'a Digest,
    bytes: u64,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.bytes += read as u64;
        self.progress.event(&Event::Unpacked {
            digest: self.digest,
            bytes: self.bytes,
        });
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_together_take_no_more_the_more_there_are() {
        for at_once in 1..=MOST {
            let share = Share::of(at_once);
            assert!(
                at_once * ((1 << share.window) + share.memory) <= SHARED,
                "{at_once}: {share:?}"
            );
            assert!(share.window >= 22, "what zstd makes by itself is taken at once");
        }
        let limits = Limits::default();
        assert!((2..=MOST).contains(&at_once(&limits)));
        let limits = Limits {
            at_once: Some(20),
            ..limits
        };
        assert_eq!(at_once(&limits), 20);
        assert!(Share::of(20).window >= 20);
    }
}
