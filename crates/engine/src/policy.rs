//! What is done by itself after an image was brought: limits, and what is not kept.

use std::collections::HashSet;

use store::Fault;

use crate::Engine;
use crate::dedup::DedupError;
use crate::prune::{PruneImages, PruneOptions};

/// What the store keeps, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Blobs of layers stay when the layers are unpacked.
    pub keep_blobs: bool,
    /// Bytes on disk that images may take; beyond them those that no container was made from go, the least recently used
    /// first.
    pub keep_bytes: Option<u64>,
    /// Equal files of layers share blocks.
    pub dedup: bool,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            keep_blobs: true,
            keep_bytes: None,
            dedup: false,
        }
    }
}

/// Why a policy could not be followed. What was brought is there all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// Sharing blocks.
    #[error(transparent)]
    Dedup(#[from] DedupError),
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
    /// Something could not be removed.
    #[error("{0}")]
    Left(String),
}

impl Engine {
    /// Does what the policy asks for, once the images of the names `brought` are there: they are not removed again.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn keep_to_policy(&self, brought: &[String]) -> Result<(), PolicyError> {
        let policy = &self.setup.policy;
        let options = PruneOptions {
            blobs: !policy.keep_blobs,
            images: policy.keep_bytes.map(PruneImages::Above),
            spared: brought.iter().cloned().collect::<HashSet<_>>(),
            ..PruneOptions::default()
        };
        if options.blobs || options.images.is_some() {
            let pruned = self.prune(&options, &image::progress::Silent)?;
            if let Some(why) = pruned.failed.into_iter().next() {
                return Err(PolicyError::Left(why));
            }
        }
        if policy.dedup {
            self.dedup(&image::progress::Silent)?;
        }
        Ok(())
    }
}
