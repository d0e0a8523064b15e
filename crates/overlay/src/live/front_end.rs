//! What a call that takes long asks of the front end that made it.

use std::fmt::Debug;
use std::sync::MutexGuard;

use super::node::{FileBody, FileState, Node, lock};
use super::{NodeId, Overlay, Result};

/// A front end, asked from within a call of its own, by the thread that made the call.
pub trait FrontEnd: Debug + Send + std::marker::Sync {
    /// The call takes long from here on: others who ask must not have to wait for this thread.
    fn long_begins(&self);

    /// It does no longer.
    fn long_ends(&self);

    /// The attributes of a directory changed in a way that who made the call does not expect: something in it, or it
    /// itself, was copied up.
    fn touched(&self, directory: NodeId);

    /// Whether nobody waits for the answer any more. The call then ends with `EINTR` and leaves all as it was.
    fn given_up(&self) -> bool;
}

/// A call takes long while this is there.
pub(super) struct Long<'a>(Option<&'a dyn FrontEnd>);

impl Drop for Long<'_> {
    fn drop(&mut self) {
        if let Some(front_end) = self.0 {
            front_end.long_ends();
        }
    }
}

impl Overlay {
    fn front_end(&self) -> Option<&dyn FrontEnd> {
        self.options.front_end.as_deref()
    }

    pub(super) fn long(&self) -> Long<'_> {
        let front_end = self.front_end();
        if let Some(front_end) = front_end {
            front_end.long_begins();
        }
        Long(front_end)
    }

    pub(super) fn touched(&self, directory: &Node) {
        if let Some(front_end) = self.front_end() {
            front_end.touched(directory.id);
        }
    }

    pub(super) fn given_up(&self) -> bool {
        self.front_end().is_some_and(FrontEnd::given_up)
    }

    /// The state of a file, once nobody copies it up.
    pub(super) fn settled<'a>(&self, body: &'a FileBody) -> Result<MutexGuard<'a, FileState>> {
        loop {
            let state = lock(&body.state);
            let Some(gate) = state.copying.clone() else {
                return Ok(state);
            };
            drop(state);
            let _long = self.long();
            gate.wait(|| self.given_up())?;
        }
    }
}
