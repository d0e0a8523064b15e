//! An index kept whole: every document that it leads to, and every blob of these, whatever they are for.
//!
//! What is not for this machine is kept as it is: nothing of it is unpacked, nor asked what it means.

use serde::Deserialize;
use store::{Descriptor, Digest, Lease, Store};

use crate::board::Board;
use crate::bring::{BlobSource, Bring};
use crate::config::nullable;
use crate::install::Plan;
use crate::manifest::{Layer, MAX_ENTRIES, MAX_MANIFEST};
use crate::media;
use crate::progress::{Event, Progress};

/// Indexes within indexes that are followed.
const MAX_DEPTH: usize = 4;

/// Everything that a document leads to.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    /// Manifests and indexes, each after those that it leads to.
    pub(crate) documents: Vec<(Descriptor, Vec<u8>)>,
    /// Configurations, layers and whatever else manifests list, each once.
    pub(crate) blobs: Vec<Descriptor>,
}

impl Whole {
    /// Gathers what `target` leads to. `read` gives a document's bytes, checked against its digest.
    pub(crate) fn gather<E>(
        target: &Descriptor,
        read: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
    ) -> Result<Whole, E> {
        let mut whole = Whole::default();
        whole.add(target, MAX_DEPTH, read)?;
        Ok(whole)
    }

    fn add<E>(
        &mut self,
        document: &Descriptor,
        depth: usize,
        read: &mut dyn FnMut(&Descriptor) -> Result<Vec<u8>, E>,
    ) -> Result<(), E> {
        if self
            .documents
            .iter()
            .any(|(known, _)| known.digest == document.digest)
        {
            return Ok(());
        }
        let bytes = read(document)?;
        let links: Links = serde_json::from_slice(&bytes).unwrap_or_default();
        for link in links.manifests.iter().flatten().take(MAX_ENTRIES) {
            if let Some(link) = link.descriptor().filter(|link| depth > 0 && is_document(link)) {
                self.add(&link, depth - 1, read)?;
            }
        }
        for link in links.config.iter().chain(links.layers.iter().flatten()) {
            // What registries may not distribute is elsewhere.
            if let Some(blob) = link.descriptor().filter(|_| link.urls.is_empty())
                && !self.blobs.iter().any(|known| known.digest == blob.digest)
            {
                self.blobs.push(blob);
            }
        }
        self.documents.push((document.clone(), bytes));
        Ok(())
    }

    /// Brings the blobs that are not those of the image to be unpacked, `parallel` at once; answers all that is kept
    /// besides. The documents are in the store, held by the lease.
    pub(crate) fn bring<S: BlobSource>(
        &self,
        (store, lease): (&Store, &Lease),
        plan: &Plan,
        source: &S,
        parallel: usize,
        progress: &dyn Progress,
    ) -> Result<Vec<Digest>, S::Error> {
        let own: Vec<Digest> = plan.parts.layers.iter().map(|layer| layer.blob.digest).collect();
        let others = self.blobs.iter().filter(|blob| !own.contains(&blob.digest));
        let others: Vec<Layer> = others
            .map(|blob| Layer {
                blob: blob.clone(),
                urls: Vec::new(),
            })
            .collect();
        for layer in &others {
            let (digest, size) = (&layer.blob.digest, layer.blob.size);
            let shared = false;
            progress.event(&Event::LayerFound { digest, size, shared });
        }
        let board = Board::new(Vec::new());
        let bring = Bring::new(store, lease, source, others.iter().collect(), &board, progress);
        std::thread::scope(|scope| {
            // Another process may wait for what is here, and we for what it has.
            scope.spawn(|| bring.settle());
            std::thread::scope(|scope| {
                for _ in 0..parallel.max(1).min(others.len()) {
                    scope.spawn(|| bring.work());
                }
            });
            board.end();
        });
        if let Some(error) = board.take_failure() {
            return Err(error);
        }
        let mut kept = self.digests();
        kept.retain(|digest| !own.contains(digest));
        Ok(kept)
    }

    /// The digests of all of it.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        let documents = self.documents.iter().map(|(document, _)| document.digest);
        documents
            .chain(self.blobs.iter().map(|blob| blob.digest))
            .collect()
    }
}

fn is_document(link: &Descriptor) -> bool {
    (media::is_manifest(&link.media_type) || media::is_index(&link.media_type)) && link.size <= MAX_MANIFEST
}

/// What any manifest or index leads to.
#[derive(Debug, Default, Deserialize)]
struct Links {
    manifests: Option<Vec<Link>>,
    config: Option<Link>,
    layers: Option<Vec<Link>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Link {
    #[serde(default, deserialize_with = "nullable")]
    media_type: String,
    #[serde(default, deserialize_with = "nullable")]
    digest: String,
    #[serde(default, deserialize_with = "nullable")]
    size: u64,
    #[serde(default, deserialize_with = "nullable")]
    urls: Vec<String>,
}

impl Link {
    /// `None` for a digest that is none.
    fn descriptor(&self) -> Option<Descriptor> {
        Some(Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest.parse().ok()?,
            size: self.size,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::*;

    #[test]
    fn children_first_and_everything_once() {
        let mut documents = HashMap::new();
        let mut put = |media_type: &str, value: serde_json::Value| {
            let bytes = value.to_string().into_bytes();
            let descriptor = Descriptor {
                media_type: media_type.to_owned(),
                digest: Digest::of(&bytes),
                size: bytes.len() as u64,
            };
            documents.insert(descriptor.digest, bytes);
            descriptor
        };
        let blob =
            |text: &str| json!({ "mediaType": "x/y", "digest": Digest::of(text).to_string(), "size": 3 });
        let one = put(
            media::OCI_MANIFEST,
            json!({ "config": blob("c1"), "layers": [blob("shared"), blob("l1")] }),
        );
        let two = put(
            media::OCI_MANIFEST,
            json!({ "config": blob("c2"), "layers": [blob("shared")] }),
        );
        let inner = put(media::OCI_INDEX, json!({ "manifests": [two] }));
        let index = put(
            media::OCI_INDEX,
            json!({ "manifests": [one, inner, one, blob("no manifest")] }),
        );
        let mut read = |wanted: &Descriptor| Ok::<_, ()>(documents[&wanted.digest].clone());
        let whole = Whole::gather(&index, &mut read).unwrap();
        let order: Vec<Digest> = whole
            .documents
            .iter()
            .map(|(document, _)| document.digest)
            .collect();
        assert_eq!(order, [one.digest, two.digest, inner.digest, index.digest]);
        assert_eq!(whole.blobs.len(), 4);
        assert_eq!(whole.digests().len(), 8);

        // What makes no sense leads nowhere.
        let mut read = |_: &Descriptor| Ok::<_, ()>(b"{\"manifests\":7}".to_vec());
        assert!(Whole::gather(&index, &mut read).unwrap().blobs.is_empty());
    }
}
