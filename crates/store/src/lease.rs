//! [`Lease`]: protects what an operation under way brought or found, until an image or container holds it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Mode, OFlags};

use crate::arrive::Arrived;
use crate::db::{Durability, Query};
use crate::error::Fault;
use crate::layout::LEASES;
use crate::open::now;
use crate::own::{is_still, try_lock};
use crate::{Digest, Layer, Store};

/// An operation under way. What is brought with it, or held by [`Store::hold_blob`] and [`Store::hold_layer`], is
/// not collected while it lives.
///
/// It lives as long as the lock on its file, which the kernel drops with the process. Dropped without
/// [`Store::release`], as when an operation fails, it leaves what it held to the next try: the collector takes
/// that after a grace period.
pub struct Lease {
    id: String,
    _lock: File,
    arrived: Mutex<Arrivals>,
}

/// What arrived under a lease.
#[derive(Default)]
struct Arrivals {
    /// What waits for the next sync.
    waiting: Vec<Arrived>,
    /// The sizes of all, of those that became blobs too.
    sizes: HashMap<Digest, u64>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.id).finish()
    }
}

impl Lease {
    /// Its name in the database, and of its file.
    pub fn id(&self) -> &str {
        &self.id
    }

    fn on_arrived<T>(&self, look: impl FnOnce(&mut Arrivals) -> T) -> T {
        look(&mut self.arrived.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets a blob wait for the next sync.
    pub(crate) fn wait(&self, blob: Arrived) {
        self.on_arrived(|arrived| {
            arrived.sizes.insert(*blob.digest(), blob.size());
            arrived.waiting.push(blob);
        });
    }

    /// How many blobs wait.
    pub(crate) fn waiting(&self) -> usize {
        self.on_arrived(|arrived| arrived.waiting.len())
    }

    /// Whether a blob has arrived under it: what that was is verified, and replaces what lies there.
    pub fn has_arrived(&self, digest: &Digest) -> bool {
        self.on_arrived(|arrived| arrived.sizes.contains_key(digest))
    }

    /// All blobs that wait, for whoever syncs now.
    pub(crate) fn take_arrived(&self) -> Vec<Arrived> {
        self.on_arrived(|arrived| std::mem::take(&mut arrived.waiting))
    }
}

impl Store {
    /// Begins a lease. `purpose` is for people, such as `pull docker.io/library/alpine:latest`.
    pub fn lease(&self, purpose: &str) -> Result<Lease, Fault> {
        let leases = self.layout.leases()?;
        let lease = loop {
            let id = format!("{:x}-{}", now(), std::process::id());
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            match leases.open_file(&id, flags, Mode::RUSR | Mode::WUSR) {
                Ok(lock) => {
                    let ours = || Ok(try_lock(&lock)? && is_still(leases, &id, &lock)?);
                    if ours().map_err(|e| self.layout.fault("locking", LEASES, e))? {
                        break Lease {
                            id,
                            _lock: lock,
                            arrived: Mutex::default(),
                        };
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(self.layout.fault("making a lease in", LEASES, error)),
            }
        };
        self.db.write(Durability::Relaxed, |q| {
            let row = (&lease.id, purpose, now());
            q.run("INSERT INTO leases (id, purpose, created) VALUES (?, ?, ?)", row)
        })?;
        Ok(lease)
    }

    /// Ends a lease whose operation is done: what it held is held by an image or container now, or by nobody.
    pub fn release(&self, lease: Lease) -> Result<(), Fault> {
        self.free(Durability::Relaxed, |q| {
            q.run("DELETE FROM leases WHERE id = ?", (&lease.id,))
        })?;
        let leases = self.layout.leases()?;
        leases
            .unlink(&lease.id)
            .map_err(|e| self.layout.fault("removing a lease in", LEASES, e))
    }

    /// The size of a blob that is in the store, held by the lease from now on, or has arrived under it; `None` if it is
    /// not there.
    pub fn hold_blob(&self, lease: &Lease, digest: &Digest) -> Result<Option<u64>, Fault> {
        let arrived = lease.on_arrived(|arrived| arrived.sizes.get(digest).copied());
        if arrived.is_some() {
            return Ok(arrived);
        }
        self.db.write(Durability::Relaxed, |q| {
            let size = crate::blob::size(q, digest)?;
            if size.is_some() {
                hold_blob(q, lease, digest)?;
            }
            Ok(size)
        })
    }

    /// As [`Store::find_layer`]; what is found is held by the lease from now on.
    pub fn hold_layer(
        &self,
        lease: &Lease,
        diff_id: &Digest,
        chain_id: &Digest,
    ) -> Result<Option<Layer>, Fault> {
        self.db.write(Durability::Relaxed, |q| {
            let layer = crate::layer::find(q, diff_id, chain_id)?;
            if let Some(layer) = &layer {
                hold_layer(q, lease, layer.n)?;
            }
            Ok(layer)
        })
    }
}

pub(crate) fn hold_blob(q: &Query<'_>, lease: &Lease, digest: &Digest) -> Result<(), Fault> {
    let sql = "INSERT INTO lease_blobs (lease, digest) VALUES (?, ?) ON CONFLICT DO NOTHING";
    q.run(sql, (&lease.id, digest)).map(drop)
}

pub(crate) fn hold_layer(q: &Query<'_>, lease: &Lease, n: u64) -> Result<(), Fault> {
    let sql = "INSERT INTO lease_layers (lease, n) VALUES (?, ?) ON CONFLICT DO NOTHING";
    q.run(sql, (&lease.id, crate::db::int(n))).map(drop)
}
