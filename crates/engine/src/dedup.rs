//! `dedup`: equal files of different layers onto the same blocks, where the file system can (xfs, btrfs).
//!
//! Which files are equal is known from the layers' records; that they are, the kernel sees for itself before it shares
//! anything. Content and attributes of the layers stay as they are, whatever happens meanwhile.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use image::progress::{Event, Progress};
use image::record::{self, RecordError};
use serde::Serialize;
use store::{Clones, Fault};

use crate::Engine;

/// Smaller files are left alone: most lie in the inode, or in one block.
const LEAST: u64 = 4096;

/// What was shared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Deduped {
    /// Files that share blocks with another now, and did not before.
    pub files: u64,
    /// Bytes on disk that this gave back.
    pub bytes: u64,
    /// Bytes on disk saved in the whole store, those of earlier times among them.
    pub saved: u64,
}

/// Why nothing could be shared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DedupError {
    /// Files of this file system have their blocks for themselves.
    #[error("the file system of {} shares no blocks between files", .0.display())]
    Unsupported(PathBuf),
    /// A layer's record.
    #[error("layer {layer}: {source}")]
    Record {
        /// Its diff ID.
        layer: String,
        /// What is wrong.
        source: RecordError,
    },
    /// A file of a layer.
    #[error("sharing {}: {source}", path.display())]
    Share {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

type Content = (u128, u64);

impl Engine {
    /// Puts equal files of all layers onto the same blocks.
    ///
    /// # Errors
    /// See [`DedupError`]; what was shared until then stays so.
    pub fn dedup(&self, progress: &dyn Progress) -> Result<Deduped, DedupError> {
        if !self.store.shares_blocks()? {
            return Err(DedupError::Unsupported(self.store.root().to_owned()));
        }
        let layers = self.store.layers()?;
        let mut times: HashMap<Content, u32> = HashMap::new();
        for layer in &layers {
            self.contents(layer, |content, _| *times.entry(content).or_default() += 1)?;
        }
        times.retain(|_, times| *times > 1);
        let known: HashSet<(Content, u64)> = self
            .store
            .clones()?
            .into_iter()
            .map(|one| (one.content, one.n))
            .collect();
        let mut first: HashMap<Content, (u64, PathBuf)> = HashMap::new();
        let mut clones: HashMap<(Content, u64), Clones> = HashMap::new();
        let mut told = Deduped::default();
        for (done, layer) in (0..).zip(&layers) {
            progress.event(&Event::Step {
                what: "sharing files of layers",
                done,
                of: Some(layers.len() as u64),
            });
            let mut equal = Vec::new();
            self.contents(layer, |content, path| {
                if times.contains_key(&content) {
                    equal.push((content, path));
                }
            })?;
            for (content, path) in equal {
                let Some((n, with)) = first.get(&content) else {
                    first.insert(content, (layer.n, path));
                    continue;
                };
                if known.contains(&(content, *n)) && known.contains(&(content, layer.n)) {
                    continue;
                }
                let Some(bytes) = self.share((*n, with), (layer.n, &path), content.1)? else {
                    continue;
                };
                told.files += 1;
                told.bytes += bytes;
                // The first of them counts once, however many share with it.
                clones.entry((content, *n)).or_insert_with(|| Clones {
                    content,
                    n: *n,
                    files: 1,
                    bytes,
                });
                let row = clones.entry((content, layer.n)).or_insert_with(|| Clones {
                    content,
                    n: layer.n,
                    files: 0,
                    bytes,
                });
                row.files += 1;
            }
        }
        let clones: Vec<Clones> = clones.into_values().collect();
        if !clones.is_empty() {
            self.store.put_clones(&clones)?;
        }
        told.saved = self.store.disk()?.cloned;
        Ok(told)
    }

    /// Calls `what` for each file of a layer whose content is worth sharing; a layer that is gone has none.
    fn contents(
        &self,
        layer: &store::Layer,
        mut what: impl FnMut(Content, PathBuf),
    ) -> Result<(), DedupError> {
        let Ok(record) = self.store.layer_record(layer.n) else {
            return Ok(());
        };
        let read = record::files(&record, &mut |file| {
            if file.size >= LEAST && file.segments.is_none() {
                what((file.digest, file.size), file.path.clone());
            }
        });
        read.map_err(|source| DedupError::Record {
            layer: layer.diff_id.to_string(),
            source,
        })
    }

    /// Shares the blocks of two files; the bytes on disk of one. `None` where one is gone, or they are not equal, which is
    /// for `fsck` to tell.
    fn share(
        &self,
        from: (u64, &PathBuf),
        to: (u64, &PathBuf),
        size: u64,
    ) -> Result<Option<u64>, DedupError> {
        let open = |(n, path): (u64, &PathBuf)| -> Option<File> {
            let dir = self.store.layer_dir(n).ok()?;
            record::open_quietly(&dir, path).ok()
        };
        let (Some(source), Some(target)) = (open(from), open(to)) else {
            return Ok(None);
        };
        match sys::dedupe::share(source.as_fd(), target.as_fd(), size) {
            Ok(true) => Ok(target.metadata().ok().map(|found| found.blocks() * 512)),
            Ok(false) => Ok(None),
            Err(source) => Err(DedupError::Share {
                path: self.store.layer_path(to.0).join(to.1),
                source,
            }),
        }
    }
}
