//! `commit`: what a container changed becomes a layer, and with the layers of its image a new image.

use std::path::Path;

use store::{Digest, Fault, Store};
use sys::Dir;

use crate::capture::{CaptureError, capture};
use crate::compose::{compose, now};
use crate::config::{Execution, History};
use crate::install::{InstallError, Installed, leased};
use crate::manifest::Layer;
use crate::pack::pack_changes;
use crate::progress::{Event, Progress, Silent};
use crate::reference::Reference;
use crate::stored::{Stored, StoredError};
use crate::unpack::{Form, Limits};

/// Why no image was made of a container.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// The image that it stands on cannot be read.
    #[error(transparent)]
    Base(#[from] StoredError),
    /// What it changed could not be made a layer.
    #[error(transparent)]
    Layer(#[from] CaptureError),
    /// The new image could not be put into the store.
    #[error(transparent)]
    Install(#[from] InstallError),
}

impl From<Fault> for CommitError {
    fn from(fault: Fault) -> Self {
        CommitError::Install(fault.into())
    }
}

/// The directories of a container.
pub struct Changed<'a> {
    /// Where it wrote. It should not change meanwhile: what does is in the layer as it was at some moment, each file
    /// for itself, and a file that becomes shorter while it is read is an error.
    pub upper: &'a Dir,
    /// The layers below, topmost first.
    pub lowers: &'a [Dir],
    /// Paths, relative to the root, that are not the container's own doing.
    pub leave_out: &'a (dyn Fn(&Path) -> bool + Sync),
}

/// What the image is to be.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// Its name; with none it is found by its ID.
    pub name: Option<Reference>,
    /// How its containers are run.
    pub execution: Execution,
    /// What the history says made the layer.
    pub created_by: String,
    /// Who made it.
    pub author: Option<String>,
    /// A remark for its history.
    pub message: Option<String>,
    /// What the layer may be at most.
    pub limits: Limits,
}

/// Makes an image of what a container changed over the image with the manifest `base`. The layer's archive is not kept:
/// the unpacked layer and its record give it back, bit for bit, to who saves or pushes the image.
///
/// # Errors
/// [`CommitError`]; nothing is left then.
pub fn commit(
    store: &Store,
    ns: &str,
    base: &Digest,
    changed: &Changed<'_>,
    options: &CommitOptions,
    progress: &dyn Progress,
) -> Result<Installed, CommitError> {
    let base = Stored::open(store, base)?;
    leased(store, "commit", CommitError::from, |lease| {
        let pack = |out: &mut dyn std::io::Write| {
            pack_changes(
                Form::of(store).overlay.prefix,
                changed.upper,
                changed.lowers,
                changed.leave_out,
                out,
            )
        };
        let limits = &options.limits;
        let captured = capture(store, lease, changed.lowers, limits, "changes", progress, pack)?;
        let blob = captured.descriptor();
        captured.commit(store, lease, base.chain_id().as_ref())?;

        let mut config = base.config.clone();
        let created = now();
        config.created = Some(created.clone());
        config.author.clone_from(&options.author);
        config.config = options.execution.clone();
        config.rootfs.kind = "layers".into();
        config.rootfs.diff_ids.push(blob.digest.to_string());
        config.history.push(History {
            created: Some(created),
            created_by: options.created_by.clone(),
            author: options.author.clone().unwrap_or_default(),
            comment: options.message.clone().unwrap_or_default(),
            empty_layer: false,
        });
        let mut layers = base.manifest.layers.clone();
        layers.push(Layer {
            blob,
            urls: Vec::new(),
        });
        let image = (config, layers, false);
        // All layers are there already: nothing is to be told of them.
        let installed = compose(store, lease, ns, options.name.as_ref(), image, limits, &Silent)?;
        for name in &installed.names {
            progress.event(&Event::ImageDone {
                name,
                id: &installed.id,
            });
        }
        Ok(installed)
    })
}
