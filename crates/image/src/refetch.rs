//! One blob of an image again from its registry, where what the store has of it is damaged.

use std::io::Write;

use store::{Descriptor, IngestError, Lease, Store};

use crate::install::InstallError;
use crate::progress::Silent;
use crate::pull::PullError;
use crate::reference::Reference;
use crate::registry::Client;

/// What a blob is in its image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A manifest or an index.
    Document,
    /// A configuration or a layer.
    Content,
}

/// Fetches a blob of the repository that `reference` names, and makes it the store's, verified and held by the lease.
/// What the store had of it must have been forgotten ([`Store::forget_blob`]).
///
/// # Errors
/// [`PullError`]
pub fn refetch(
    store: &Store,
    lease: &Lease,
    client: &Client,
    reference: &Reference,
    blob: &Descriptor,
    role: Role,
) -> Result<(), PullError> {
    let install = |error: InstallError| PullError::install(reference.familiar(), error);
    let ingest = store.ingest(lease, &format!("blob {}", blob.digest), Some(blob));
    let mut ingest = ingest.map_err(|error| install(error.into()))?;
    match role {
        Role::Document => {
            let fetched = client.manifest(&reference.at(&blob.digest), Some(blob), &Silent)?;
            let written = ingest.restart().and_then(|()| {
                let written = ingest.write_all(&fetched.bytes);
                written.map_err(|error| ingest.write_fault(error).into())
            });
            written.map_err(|error| install(error.into()))?;
        }
        Role::Content => {
            let offset = ingest.offset();
            client.blob(reference, blob, &[], offset, &mut ingest, &Silent)?;
        }
    }
    match store.commit_blob(ingest, lease) {
        Ok(_) => Ok(()),
        Err(IngestError::Mismatch { found, .. }) => Err(install(InstallError::Digest {
            blob: blob.digest,
            got: found,
        })),
        Err(error) => Err(install(error.into())),
    }
}
