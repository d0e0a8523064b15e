//! `squash`: an image of one layer that shows what all layers of another show.

use store::{Digest, Fault, Store};

use crate::capture::{CaptureError, capture};
use crate::compose::{compose, now};
use crate::config::History;
use crate::install::{InstallError, Installed, leased};
use crate::layer_tar::{self, LayerTarError};
use crate::manifest::Layer;
use crate::pack::{MergedAs, pack_merged};
use crate::progress::{Event, Progress, Silent};
use crate::reference::Reference;
use crate::stored::{Stored, StoredError};
use crate::unpack::{Form, Limits};

/// Why an image could not be squashed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SquashError {
    /// It cannot be read.
    #[error(transparent)]
    Image(#[from] StoredError),
    /// One of its layers is not what it was when it was unpacked: the new image would vouch for that.
    #[error(transparent)]
    Damaged(#[from] LayerTarError),
    /// Its layers could not be made one.
    #[error(transparent)]
    Layer(#[from] CaptureError),
    /// The new image could not be put into the store.
    #[error(transparent)]
    Install(#[from] InstallError),
}

impl From<Fault> for SquashError {
    fn from(fault: Fault) -> Self {
        SquashError::Install(fault.into())
    }
}

/// Makes an image of one layer of the one with this manifest. Its configuration stays but for the history, which tells
/// every step as one without a layer, and then the squashing.
///
/// # Errors
/// [`SquashError`]; nothing is left then.
pub fn squash(
    store: &Store,
    ns: &str,
    manifest: &Digest,
    name: Option<&Reference>,
    message: Option<&str>,
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Installed, SquashError> {
    let from = Stored::open(store, manifest)?;
    leased(store, "squash", SquashError::from, |lease| {
        let mut numbers: Vec<u64> = Vec::new();
        for layer in from.layers.iter().rev() {
            // A directory that occurs twice hides its lower occurrence.
            if !numbers.contains(&layer.layer_n) {
                store.hold_layer(lease, &layer.diff_id, &layer.chain_id)?;
                layer_tar::verify(store, layer)?;
                numbers.push(layer.layer_n);
            }
        }
        let layers = numbers.iter().map(|n| store.layer_dir(*n));
        let layers = layers.collect::<Result<Vec<_>, Fault>>()?;
        let prefix = Form::of(store).overlay.prefix;
        let pack = |out: &mut dyn std::io::Write| pack_merged(prefix, &layers, MergedAs::Layer, out);
        let captured = capture(store, lease, &[], limits, "layers", progress, pack)?;
        let blob = captured.descriptor();
        captured.commit(store, lease, None)?;

        let mut config = from.config.clone();
        let created = now();
        config.created = Some(created.clone());
        config.rootfs.kind = "layers".into();
        config.rootfs.diff_ids = vec![blob.digest.to_string()];
        for step in &mut config.history {
            step.empty_layer = true;
        }
        config.history.push(History {
            created: Some(created),
            created_by: format!("strata image squash {}", from.descriptor.digest),
            comment: message.unwrap_or_default().to_owned(),
            ..History::default()
        });
        let layer = Layer {
            blob,
            urls: Vec::new(),
        };
        // The layer is there already: nothing is to be told of it.
        let image = (config, vec![layer], false);
        let installed = compose(store, lease, ns, name, image, limits, &Silent)?;
        for name in &installed.names {
            progress.event(&Event::ImageDone {
                name,
                id: &installed.id,
            });
        }
        Ok(installed)
    })
}
