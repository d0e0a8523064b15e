//! From what was written to a blob: verified when it has arrived, a row once it is on disk.
//!
//! Blobs that arrive beside each other become durable together. Each is verified at once ([`Store::arrived`]) and then
//! waits in its lease, under the name and the lock of its ingest, for the next sync: that of [`Store::settle`], or of
//! the layers that were unpacked meanwhile ([`Store::commit_layers`]).

use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::db::{Durability, Query, int};
use crate::error::Fault;
use crate::lease::hold_blob;
use crate::open::now;
use crate::own::Claim;
use crate::{Digest, Ingest, IngestError, LOCK_TIMEOUT, Lease, Store};

/// Most blobs that wait, each with a descriptor for its lock.
const MOST: usize = 64;

/// A blob that is whole, verified, and not yet visible.
pub(crate) struct Arrived {
    ingest: Ingest,
    digest: Digest,
}

/// Blobs that lie under their names, not visible yet, but ours until this is dropped.
pub(crate) struct Placed(Vec<Arrived>);

impl Arrived {
    /// Checks what was written against what was announced; what is something else is thrown away.
    fn verify(store: &Store, mut ingest: Ingest) -> Result<Arrived, IngestError> {
        let digest = ingest.hasher.clone().finish();
        if let Some(expected) = &ingest.expected
            && (expected.digest, expected.size) != (digest, ingest.offset)
        {
            let dir = store.layout.ingest()?;
            dir.unlink(&ingest.name)
                .map_err(|e| ingest.fault("removing", e))?;
            return Err(IngestError::Mismatch {
                reference: std::mem::take(&mut ingest.reference),
                expected: expected.digest,
                found: digest,
                size: ingest.offset,
                resumed: ingest.resumed,
            });
        }
        ingest.end();
        Ok(Arrived { ingest, digest })
    }

    pub(crate) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(crate) fn size(&self) -> u64 {
        self.ingest.offset
    }

    /// Gives the file, whose data is on disk, its name, and takes the place of what lies there: of that nobody knows
    /// whether it is sound still. It stays locked by the ingest until its row is there.
    fn place(&mut self, store: &Store) -> Result<(), IngestError> {
        let (dir, blobs) = (store.layout.ingest()?, store.layout.blobs()?);
        let deadline = Instant::now() + LOCK_TIMEOUT;
        let hex = self.digest.hex();
        let fault = |error| store.blob_fault("publishing", &self.digest, error);
        loop {
            match dir.rename_noreplace(&self.ingest.name, blobs, &hex) {
                Ok(()) => break,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(fault(error).into()),
            }
            match Claim::take(blobs, &hex).map_err(fault)? {
                Some(_claim) => {
                    dir.exchange(&self.ingest.name, blobs, &hex).map_err(fault)?;
                    let removed = dir.unlink(&self.ingest.name);
                    removed.map_err(|e| self.ingest.fault("removing", e))?;
                    break;
                }
                None if Instant::now() > deadline => {
                    return Err(IngestError::Busy(std::mem::take(&mut self.ingest.reference)));
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        // The name may be another's from now on.
        self.ingest.once = false;
        let mode = Permissions::from_mode(0o444);
        Ok(self.ingest.file.set_permissions(mode).map_err(fault)?)
    }
}

impl Placed {
    /// Makes them visible, held by the lease.
    pub(crate) fn insert(&self, q: &Query<'_>, lease: &Lease) -> Result<(), Fault> {
        for blob in &self.0 {
            q.run(
                "INSERT INTO blobs (digest, size, created) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (blob.digest, int(blob.size()), now()),
            )?;
            hold_blob(q, lease, &blob.digest)?;
        }
        Ok(())
    }
}

impl Store {
    /// Verifies what was written. Held by the lease it is whole from now on, but no blob before the next
    /// [`Store::settle`] or [`Store::commit_layers`]: dropped with the lease before that, it is where the next ingest
    /// with its reference begins.
    pub fn arrived(&self, ingest: Ingest, lease: &Lease) -> Result<Digest, IngestError> {
        let arrived = Arrived::verify(self, ingest)?;
        let digest = arrived.digest;
        lease.wait(arrived);
        if lease.waiting() >= MOST {
            self.settle(lease)?;
        }
        Ok(digest)
    }

    /// Everything written to the store's file system so far is on disk when this returns, and what had arrived under the
    /// lease are blobs, durably.
    pub fn settle(&self, lease: &Lease) -> Result<(), IngestError> {
        // Taken before the sync, which is to hold for all of them.
        let arrived = lease.take_arrived();
        self.sync_disk()?;
        if arrived.is_empty() {
            return Ok(());
        }
        self.publish(arrived, lease)
    }

    /// Makes what was written a blob by itself: verified, durable, held by the lease.
    pub fn commit_blob(&self, ingest: Ingest, lease: &Lease) -> Result<Digest, IngestError> {
        let arrived = Arrived::verify(self, ingest)?;
        let digest = arrived.digest;
        let synced = arrived.ingest.file.sync_data();
        synced.map_err(|e| arrived.ingest.fault("syncing", e))?;
        self.publish(vec![arrived], lease)?;
        Ok(digest)
    }

    /// Makes blobs of what is on disk, durably.
    fn publish(&self, arrived: Vec<Arrived>, lease: &Lease) -> Result<(), IngestError> {
        let placed = self.place(arrived)?;
        self.db
            .write(Durability::Full, |q| placed.insert(q, lease))
            .map_err(IngestError::Fault)
    }

    /// Brings a small blob that is in memory, a manifest or a config, and tells its digest: see [`Store::arrived`]. What
    /// is damaged in the store is replaced.
    pub fn put_blob(&self, lease: &Lease, content: &[u8]) -> Result<Digest, IngestError> {
        let digest = Digest::of(content);
        if lease.has_arrived(&digest)
            || (self.hold_blob(lease, &digest)?.is_some()
                && self.read_blob(&digest, content.len() as u64).is_ok())
        {
            return Ok(digest);
        }
        let mut ingest = self.ingest_once(lease, &format!("bytes {digest}"), None)?;
        ingest
            .write_all(content)
            .map_err(|e| ingest.fault("writing", e))?;
        self.arrived(ingest, lease)
    }

    /// Gives blobs, whose data is on disk, their names, durably.
    pub(crate) fn place(&self, mut arrived: Vec<Arrived>) -> Result<Placed, IngestError> {
        // All in one order: two that place the same blobs never wait for each other.
        arrived.sort_by_key(|arrived| arrived.digest);
        for arrived in &mut arrived {
            arrived.place(self)?;
        }
        if let Some(blob) = arrived.first() {
            let synced = self.layout.blobs()?.sync();
            synced.map_err(|e| self.blob_fault("publishing", &blob.digest, e))?;
        }
        Ok(Placed(arrived))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::BlobError;

    fn store() -> (tempfile::TempDir, Store, Lease) {
        let temp = tempfile::tempdir().unwrap();
        let store = Store::open(temp.path()).unwrap();
        let lease = store.lease("test").unwrap();
        (temp, store, lease)
    }

    /// Puts other content into a blob's file.
    fn spoil(store: &Store, digest: &Digest, content: &[u8]) {
        let path = store.layout.at(crate::layout::BLOBS).join(digest.hex());
        let _ = std::fs::remove_file(&path);
        File::create(&path).unwrap().write_all(content).unwrap();
    }

    #[test]
    fn what_has_arrived_is_whole_at_once_and_a_blob_when_it_is_settled() {
        let (_temp, store, lease) = store();
        let whole = store.put_blob(&lease, b"whole").unwrap();
        assert_eq!(store.put_blob(&lease, b"whole").unwrap(), whole);
        let other = store.put_blob(&lease, b"other").unwrap();
        assert_eq!(store.hold_blob(&lease, &whole).unwrap(), Some(5));
        assert_eq!(store.blob_size(&whole).unwrap(), None);
        assert!(matches!(store.read_blob(&whole, 99), Err(BlobError::NotFound(_))));
        // It is nobody else's to take.
        store.collect_older_than(Duration::ZERO).unwrap();
        store.settle(&lease).unwrap();
        for (digest, content) in [(whole, b"whole"), (other, b"other")] {
            assert_eq!(store.read_blob(&digest, 99).unwrap(), content);
            assert_eq!(store.hold_blob(&lease, &digest).unwrap(), Some(5));
        }
        assert_eq!(store.layout.ingest().unwrap().entries().unwrap(), []);
    }

    #[test]
    fn what_waits_when_the_lease_goes_is_gone_on_with() {
        let (_temp, store, lease) = store();
        let mut ingest = store.ingest(&lease, "name", None).unwrap();
        ingest.write_all(b"whole").unwrap();
        store.arrived(ingest, &lease).unwrap();
        store.put_blob(&lease, b"of nobody").unwrap();
        let again = store.lease("again").unwrap();
        assert!(matches!(
            store.ingest(&again, "name", None),
            Err(IngestError::Busy(_))
        ));
        drop(lease);
        let ingest = store.ingest(&again, "name", None).unwrap();
        assert_eq!(ingest.offset(), 5);
        let digest = store.commit_blob(ingest, &again).unwrap();
        assert_eq!(store.read_blob(&digest, 99).unwrap(), b"whole");
        assert_eq!(store.layout.ingest().unwrap().entries().unwrap(), []);
    }

    #[test]
    fn many_take_no_more_descriptors_than_some() {
        let (_temp, store, lease) = store();
        for number in 0..3 * MOST {
            store.put_blob(&lease, number.to_string().as_bytes()).unwrap();
            assert!(lease.waiting() < MOST);
        }
        let first = Digest::of("0");
        assert_eq!(store.read_blob(&first, 99).unwrap(), b"0");
    }

    #[test]
    fn a_file_that_a_crash_left_without_row_is_adopted_or_replaced() {
        let (_temp, store, lease) = store();
        for left in [&b"whole"[..], b"who"] {
            let lease = store.lease("one try").unwrap();
            let digest = Digest::of("whole");
            store
                .db
                .batch("DELETE FROM lease_blobs; DELETE FROM blobs")
                .unwrap();
            spoil(&store, &digest, left);
            assert_eq!(store.put_blob(&lease, b"whole").unwrap(), digest);
            store.settle(&lease).unwrap();
            assert_eq!(store.read_blob(&digest, 99).unwrap(), b"whole");
        }
        drop(lease);
    }

    #[test]
    fn a_damaged_blob_is_noticed_and_replaced_by_what_comes_anew() {
        let (_temp, store, lease) = store();
        let digest = store.put_blob(&lease, b"content").unwrap();
        store.settle(&lease).unwrap();
        for again in [0, 1] {
            spoil(&store, &digest, b"C0ntent");
            assert!(matches!(
                store.read_blob(&digest, 99),
                Err(BlobError::Damaged { .. })
            ));
            assert!(!store.blob_is_sound(&digest).unwrap());
            let lease = store.lease("again").unwrap();
            match again {
                0 => {
                    store.put_blob(&lease, b"content").unwrap();
                    store.settle(&lease).unwrap();
                }
                _ => {
                    let mut ingest = store.ingest(&lease, "content", None).unwrap();
                    ingest.write_all(b"content").unwrap();
                    store.commit_blob(ingest, &lease).unwrap();
                }
            }
            assert!(store.blob_is_sound(&digest).unwrap());
            assert_eq!(store.read_blob(&digest, 99).unwrap(), b"content");
            assert_eq!(store.layout.ingest().unwrap().entries().unwrap(), []);
        }
    }
}
