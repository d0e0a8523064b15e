//! [`Board`]: what the threads that install one image tell each other: which blobs arrive and which are there,
//! which layers are unpacked, and the first failure, which ends them all.
//!
//! Lock order: the board's lock is the innermost. Under it nothing is asked of the store, a source or the disk.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use store::{Digest, Follow};

/// The operation has failed, elsewhere or here. Why stands on the board.
#[derive(Debug)]
pub(crate) struct Halted;

/// How far a blob is.
pub(crate) struct Blob {
    /// How often it was begun: what was read of an earlier attempt is void.
    pub(crate) attempt: u32,
    /// Where it is read while it arrives; `None` when it was in the store before.
    pub(crate) arriving: Option<Follow>,
    /// It is whole.
    pub(crate) verified: bool,
}

/// Where a layer is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Laid {
    /// The number of its directory.
    pub(crate) n: u64,
    /// Whether it serves for every equal layer of the image, whatever lies below it.
    pub(crate) shareable: bool,
}

/// Everything that is told.
pub(crate) struct State<E> {
    pub(crate) blobs: HashMap<Digest, Blob>,
    /// By place in the image, the base first; `None` while it is not complete.
    pub(crate) layers: Vec<Option<Laid>>,
    /// The first failure; without an error where a thread died.
    failed: Option<Option<E>>,
    /// Everything is brought and unpacked, or nothing more will be.
    ended: bool,
}

/// See the module.
pub(crate) struct Board<E> {
    state: Mutex<State<E>>,
    changed: Condvar,
}

impl<E> Board<E> {
    /// Nothing has arrived. `layers` are those that are there already.
    pub(crate) fn new(layers: Vec<Option<Laid>>) -> Self {
        Self {
            state: Mutex::new(State {
                blobs: HashMap::new(),
                layers,
                failed: None,
                ended: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells something.
    pub(crate) fn tell<T>(&self, change: impl FnOnce(&mut State<E>) -> T) -> T {
        let value = change(&mut self.lock());
        self.changed.notify_all();
        value
    }

    /// Waits until `look` finds what it looks for, or the operation has failed.
    pub(crate) fn wait<T>(&self, look: impl Fn(&State<E>) -> Option<T>) -> Result<T, Halted> {
        let mut state = self.lock();
        loop {
            if state.failed.is_some() {
                return Err(Halted);
            }
            if let Some(found) = look(&state) {
                return Ok(found);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// All threads but those that [`Board::pause`] have ended.
    pub(crate) fn end(&self) {
        self.tell(|state| state.ended = true);
    }

    /// Waits so long; `false` when the operation has ended before that.
    pub(crate) fn pause(&self, time: Duration) -> bool {
        let going_on = |state: &mut State<E>| state.failed.is_none() && !state.ended;
        let waited = self.changed.wait_timeout_while(self.lock(), time, going_on);
        waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Whether the operation has failed.
    pub(crate) fn halted(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// Ends the operation. `false` when it had failed before: then this failure is not told.
    pub(crate) fn fail(&self, error: Option<E>) -> bool {
        self.tell(|state| {
            let first = state.failed.is_none();
            if first {
                state.failed = Some(error);
            }
            first
        })
    }

    /// The first failure, when all threads have ended.
    pub(crate) fn take_failure(&self) -> Option<E> {
        // One without an error was a panic, which goes on when its thread is joined.
        self.lock().failed.as_mut().and_then(Option::take)
    }
}

/// Tells a failure when a thread dies: others would wait for it for ever.
pub(crate) struct FailOnPanic<'b, E>(pub(crate) &'b Board<E>);

impl<E> Drop for FailOnPanic<'_, E> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(None);
        }
    }
}
