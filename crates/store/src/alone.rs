//! [`Alone`]: of those that answer containerd, one serves a store.

use std::time::Duration;

use rustix::fs::FlockOperation;
use sys::Dir;
use sys::fd::lock_within;

use crate::layout::LEASES;
use crate::{OpenError, Store};

/// How long one that is just ending is waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Nobody else serves the store as long as this value lives, or its process does.
#[derive(Debug)]
pub struct Alone(
    /// The directory of leases, locked: it is there always, also on a disk that has room for no file.
    #[expect(dead_code, reason = "the kernel drops the lock with it")]
    Dir,
);

impl Store {
    /// Keeps others from serving this store to a containerd: what only one of two containerds knows is garbage to the other,
    /// and the mounts that a server makes are looked after by it alone. Whoever else uses the store is not kept from anything.
    ///
    /// # Errors
    /// [`OpenError::Served`]: another process does.
    pub fn serve_alone(&self) -> Result<Alone, OpenError> {
        let fault = |error| self.layout.fault("locking", LEASES, error);
        // Not the one that is kept open: the lock would live as long as that.
        let dir = self.layout.root.open_dir(LEASES).map_err(fault)?;
        match lock_within(&dir, FlockOperation::NonBlockingLockExclusive, PATIENCE).map_err(fault)? {
            true => Ok(Alone(dir)),
            false => Err(OpenError::Served(self.layout.path.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_serves_and_the_next_when_it_has_ended() {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let other = Store::open(temp.path()).unwrap();
        let first = store.serve_alone().unwrap();
        assert!(matches!(other.serve_alone(), Err(OpenError::Served(_))));
        // Everything else goes on.
        other.lease("test").unwrap();
        drop(first);
        other.serve_alone().unwrap();
    }
}
