//! [`compose`]: a new image of a configuration and layers, its documents written by us.

use serde_json::json;
use store::{BlobError, Descriptor, Ingest, Lease, Store};

use crate::bring::BlobSource;
use crate::config::ImageConfig;
use crate::install::{InstallError, Installed, Parts, Place, install, plan};
use crate::manifest::Layer;
use crate::media;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::unpack::Limits;

/// Puts an image into the store: its configuration, an OCI manifest of these layers, its name. The layers are unpacked
/// already, or their blobs are in the store; with `renew`, one that is damaged is unpacked again.
pub(crate) fn compose(
    store: &Store,
    lease: &Lease,
    ns: &str,
    name: Option<&Reference>,
    (config, layers, renew): (ImageConfig, Vec<Layer>, bool),
    limits: &Limits,
    progress: &dyn Progress,
) -> Result<Installed, InstallError> {
    let keep = |media_type: &str, bytes: &[u8]| -> Result<Descriptor, InstallError> {
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest: store.put_blob(lease, bytes)?,
            size: bytes.len() as u64,
        })
    };
    let document = keep(media::OCI_CONFIG, json!(config).to_string().as_bytes())?;
    let listed: Vec<_> = layers.iter().map(descriptor).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": document, "layers": listed,
    });
    let manifest = keep(media::OCI_MANIFEST, manifest.to_string().as_bytes())?;
    let parts = Parts {
        target: manifest.clone(),
        manifest,
        config: document,
        parsed: config,
        layers,
    };
    let plan = plan(store, lease, parts, renew, progress)?;
    let names: Vec<String> = name.iter().map(|name| name.canonical()).collect();
    let place = Place {
        ns,
        names: &names,
        others: &[],
        parallel: 1,
        limits,
    };
    install(store, lease, place, plan, &Here, progress)
}

/// A layer as an OCI manifest lists it.
fn descriptor(layer: &Layer) -> serde_json::Value {
    let mut listed = json!(layer.blob);
    listed["mediaType"] = media::as_oci(&layer.blob.media_type).into();
    if !layer.urls.is_empty() {
        listed["urls"] = json!(layer.urls);
    }
    listed
}

/// Everything is in the store already.
struct Here;

impl BlobSource for Here {
    type Error = InstallError;

    fn bring(&self, layer: &Layer, _: &mut Ingest) -> Result<(), InstallError> {
        Err(BlobError::NotFound(layer.blob.digest).into())
    }

    fn failed(&self, error: InstallError) -> InstallError {
        error
    }
}

/// The time as images tell it: RFC 3339, in whole seconds.
pub(crate) fn now() -> String {
    let now = jiff::Timestamp::now();
    jiff::Timestamp::from_second(now.as_second())
        .unwrap_or(now)
        .to_string()
}
