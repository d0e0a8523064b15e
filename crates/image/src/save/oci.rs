//! An OCI image layout (OCI image-spec, `image-layout.md`), with docker's `manifest.json` beside its index.

use serde_json::{Value, json};
use store::{Descriptor, Digest};

use super::{Save, SaveError, Saved, json as bytes_of};
use crate::media;
use crate::progress::Event;
use crate::reference::DEFAULT_TAG;
use crate::whole::Whole;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

fn file_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Save<'_> {
    /// Writes images as one layout.
    pub(super) fn oci(&mut self, images: &[Saved]) -> Result<(), SaveError> {
        self.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut entries = Vec::new();
        let mut list = Vec::new();
        for image in images {
            self.announce(image);
            let (manifest, layers) = self.blobs(image)?;
            match &image.whole {
                Some((target, whole)) => {
                    self.all(whole)?;
                    entries.extend(listed(image, target));
                }
                None => entries.extend(listed(image, &manifest)),
            }
            list.push(json!({
                "Config": file_of(&image.stored.manifest.config.digest),
                "RepoTags": super::docker::tags(image),
                "Layers": layers.iter().map(file_of).collect::<Vec<_>>(),
            }));
        }
        let index = json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_INDEX,
            "manifests": entries,
        });
        self.bytes("index.json", &bytes_of(&index))?;
        self.bytes("manifest.json", &bytes_of(&list))
    }

    /// Writes everything that an index leads to, and the index.
    fn all(&mut self, whole: &Whole) -> Result<(), SaveError> {
        for blob in &whole.blobs {
            self.blob(&file_of(&blob.digest), blob)?;
        }
        for (document, bytes) in &whole.documents {
            self.bytes(&file_of(&document.digest), bytes)?;
        }
        Ok(())
    }

    /// Writes the blobs of one image: its manifest's descriptor, and the digests of its layers as they are saved.
    fn blobs(&mut self, image: &Saved) -> Result<(Descriptor, Vec<Digest>), SaveError> {
        let stored = &image.stored;
        let mut document: Value = serde_json::from_slice(&stored.bytes).unwrap_or_default();
        let mut changed = false;
        let mut digests = Vec::new();
        for (position, layer) in stored.layers.iter().enumerate() {
            if self.keeps(layer)? {
                self.blob(&file_of(&layer.blob.digest), &layer.blob)?;
                digests.push(layer.blob.digest);
                continue;
            }
            self.tar(&file_of(&layer.diff_id), layer)?;
            digests.push(layer.diff_id);
            if layer.blob.digest != layer.diff_id {
                changed = true;
                let listed = &mut document["layers"][position];
                listed["mediaType"] = media::uncompressed(&layer.blob.media_type).into();
                listed["digest"] = layer.diff_id.to_string().into();
                listed["size"] = self.tar_size(layer)?.into();
            }
        }
        self.bytes(&file_of(&stored.manifest.config.digest), &stored.config_bytes)?;
        let bytes = if changed {
            bytes_of(&document)
        } else {
            stored.bytes.clone()
        };
        let descriptor = Descriptor {
            media_type: stored.descriptor.media_type.clone(),
            digest: Digest::of(&bytes),
            size: bytes.len() as u64,
        };
        if changed {
            let text = format!(
                "compressed layers of it are not in the store and are saved uncompressed: its digest is {} there, not {}",
                descriptor.digest, stored.descriptor.digest
            );
            self.progress.event(&Event::Note { text: &text });
        }
        self.bytes(&file_of(&descriptor.digest), &bytes)?;
        Ok((descriptor, digests))
    }
}

/// The entries of an index: one for each name, with the annotations by which docker, containerd and skopeo find it.
fn listed(image: &Saved, manifest: &Descriptor) -> Vec<Value> {
    let mut entry = json!(manifest);
    if !media::is_index(&manifest.media_type) {
        entry["platform"] = image.platform.clone();
    }
    if image.names.is_empty() {
        return vec![entry];
    }
    let named = image.names.iter().map(|name| {
        let mut entry = entry.clone();
        entry["annotations"][CONTAINERD_NAME] = name.canonical().into();
        entry["annotations"][REF_NAME] = name.tag().unwrap_or(DEFAULT_TAG).into();
        entry
    });
    named.collect()
}
