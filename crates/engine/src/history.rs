//! `history`: the build steps of an image, and what each brought.

use image::config::{ConfigError, ImageConfig};
use jiff::Timestamp;
use serde::Serialize;
use store::{BlobError, Fault};

use crate::Engine;
use crate::find::{FindImageError, familiar};

/// A build step, as the image's configuration tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Step {
    /// Digest of the layer's tar; none of a step that made no layer.
    pub diff_id: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The command, or whatever else the builder wrote.
    pub created_by: String,
    /// A remark.
    pub comment: String,
    /// Who made it.
    pub author: String,
    /// Bytes that its layer takes on disk.
    pub size: u64,
    /// Bytes of the layer's blob, as the registry has it; none of a step that made no layer.
    pub blob_size: Option<u64>,
}

/// Why a history could not be told.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HistoryError {
    /// No such image, or several.
    #[error(transparent)]
    Image(#[from] FindImageError),
    /// The configuration's blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// What stands in it.
    #[error("image {name}: {source}")]
    Config {
        /// The image.
        name: String,
        /// What is wrong with it.
        source: ConfigError,
    },
    /// The store.
    #[error(transparent)]
    Store(#[from] Fault),
}

impl Engine {
    /// The build steps of an image, the last first. A configuration that tells none, or not as many as there are
    /// layers, gives a step for each layer.
    ///
    /// # Errors
    /// See [`HistoryError`].
    pub fn history(&self, name: &str) -> Result<Vec<Step>, HistoryError> {
        let image = self.find_image(name)?;
        let text = self.store.read_blob(&image.config.digest, image.config.size)?;
        let layers = self.store.manifest_layers(&image.manifest.digest)?;
        let config = ImageConfig::parse(&text, layers.len()).map_err(|source| HistoryError::Config {
            name: familiar(&image.name),
            source,
        })?;
        let told = config.history.iter().filter(|step| !step.empty_layer).count() == layers.len();
        let mut layers = layers.into_iter();
        let mut steps = Vec::new();
        if told {
            for step in config.history {
                let layer = (!step.empty_layer).then(|| layers.next()).flatten();
                let mut made = self.step(layer)?;
                made.created = step.created.and_then(|text| text.parse().ok());
                (made.created_by, made.comment, made.author) = (step.created_by, step.comment, step.author);
                steps.push(made);
            }
        } else {
            for layer in layers {
                steps.push(self.step(Some(layer))?);
            }
        }
        steps.reverse();
        Ok(steps)
    }

    /// A step of which only the layer is known.
    fn step(&self, layer: Option<store::ImageLayer>) -> Result<Step, Fault> {
        let row = layer.as_ref().map(|layer| self.store.layer(layer.layer_n));
        let row = row.transpose()?.flatten();
        Ok(Step {
            diff_id: layer.as_ref().map(|layer| layer.diff_id.to_string()),
            created: None,
            created_by: String::new(),
            comment: String::new(),
            author: String::new(),
            size: row.map_or(0, |row| row.usage.bytes),
            blob_size: layer.map(|layer| layer.blob.size),
        })
    }
}
