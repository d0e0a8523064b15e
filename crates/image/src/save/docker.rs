//! docker's archive of old: configurations, bare layer tars, and `manifest.json`.

use serde_json::json;

use super::{Save, SaveError, Saved, json as bytes_of};

impl Save<'_> {
    /// Writes images as one archive.
    pub(super) fn docker(&mut self, images: &[Saved]) -> Result<(), SaveError> {
        let mut list = Vec::new();
        for image in images {
            self.announce(image);
            let stored = &image.stored;
            let mut layers = Vec::new();
            for layer in &stored.layers {
                let name = format!("{}.tar", layer.diff_id.hex());
                self.tar(&name, layer)?;
                layers.push(name);
            }
            let config = format!("{}.json", stored.manifest.config.digest.hex());
            self.bytes(&config, &stored.config_bytes)?;
            list.push(json!({ "Config": config, "RepoTags": tags(image), "Layers": layers }));
        }
        self.bytes("manifest.json", &bytes_of(&list))
    }
}

/// The names that docker's list can say: those with a tag.
pub(super) fn tags(image: &Saved) -> Vec<String> {
    let tagged = image
        .names
        .iter()
        .filter(|name| name.tag().is_some() && name.digest().is_none());
    // In full: podman takes a short name for one of its own.
    tagged.map(|name| name.canonical()).collect()
}
