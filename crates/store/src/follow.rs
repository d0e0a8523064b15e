//! [`Follow`]: a blob read while it arrives.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// How far an ingest has come: told by the one that writes, waited for by those that follow.
#[derive(Debug, Default)]
pub(crate) struct Tide {
    state: Mutex<State>,
    risen: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
struct State {
    /// Bytes that can be read.
    there: u64,
    /// No more will come.
    ended: bool,
}

impl Tide {
    /// So many bytes can be read now.
    pub(crate) fn rise(&self, there: u64) {
        self.change(|state| state.there = there);
    }

    /// No more will come.
    pub(crate) fn end(&self) {
        self.change(|state| state.ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.risen.notify_all();
    }

    /// Waits until there is something beyond `at`, or the end; answers how many bytes there are.
    fn beyond(&self, at: u64) -> u64 {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |state: &mut State| state.there <= at && !state.ended;
        self.risen
            .wait_while(state, waiting)
            .unwrap_or_else(PoisonError::into_inner)
            .there
    }
}

/// Reads a blob from its beginning while it is written: [`crate::Ingest::follow`]. Where it ends, nothing more will
/// come; whether that is the whole blob, and the right one, is known only when it is committed.
#[derive(Debug)]
pub struct Follow {
    file: Arc<File>,
    tide: Arc<Tide>,
    at: u64,
    there: u64,
}

impl Follow {
    /// `file` is no descriptor of the writer's: that one holds the lock.
    pub(crate) fn new(file: File, tide: Arc<Tide>) -> Follow {
        Follow {
            file: Arc::new(file),
            tide,
            at: 0,
            there: 0,
        }
    }
}

impl Clone for Follow {
    /// Another one, that begins at the beginning too.
    fn clone(&self) -> Follow {
        Follow {
            file: self.file.clone(),
            tide: self.tide.clone(),
            at: 0,
            there: 0,
        }
    }
}

impl Read for Follow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.there {
            self.there = self.tide.beyond(self.at);
        }
        let left = usize::try_from(self.there.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        let len = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += len as u64;
        Ok(len)
    }
}
