//! `pull`: an image from a registry into the store.

use store::{Descriptor, Digest, Fault, Ingest, Store};

use crate::bring::BlobSource;
use crate::config::{ConfigError, ImageConfig};
use crate::install::{InstallError, Installed, Parts, Place, install, plan};
use crate::manifest::{Document, Layer, MAX_CONFIG, MAX_MANIFEST, Manifest};
use crate::platform::{Platform, Wanted};
use crate::progress::{Event, Progress};
use crate::reference::Reference;
use crate::registry::{Client, RegistryError};
use crate::unpack::Limits;
use crate::whole::Whole;

/// Indexes may point to indexes, but not for ever.
const MAX_DEPTH: usize = 4;

/// Why an image could not be pulled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// The registry did not give it.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// There is no build for the platform.
    #[error("image {name} is not built for {wanted}{}", offered(.offers))]
    NoPlatform {
        /// The image.
        name: String,
        /// What was wanted.
        wanted: String,
        /// What there is.
        offers: Vec<String>,
    },
    /// The only build is for another platform.
    #[error("image {name} is built for {built}, not for {wanted}")]
    OtherPlatform {
        /// The image.
        name: String,
        /// What it is built for.
        built: Platform,
        /// What was wanted.
        wanted: String,
    },
    /// Indexes within indexes.
    #[error("image {name} hides behind more than {MAX_DEPTH} indexes")]
    Depth {
        /// The image.
        name: String,
    },
    /// The configuration cannot be used.
    #[error("image {name} cannot be used: {source}")]
    Config {
        /// The image.
        name: String,
        /// What is wrong.
        source: ConfigError,
    },
    /// It could not be brought into the store.
    #[error("image {name}: {source}")]
    Install {
        /// The image.
        name: String,
        /// What went wrong.
        source: Box<InstallError>,
    },
}

impl PullError {
    pub(crate) fn install(name: String, source: impl Into<InstallError>) -> Self {
        Self::Install {
            name,
            source: Box::new(source.into()),
        }
    }
}

pub(crate) fn offered(offers: &[String]) -> String {
    match offers {
        [] => String::from("; it does not say for what it is"),
        offers => format!(", only for {}", offers.join(", ")),
    }
}

/// How an image is pulled.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// For which platform.
    pub platform: Wanted,
    /// Fetches and keeps what an index has for other platforms too, not unpacked.
    pub all_platforms: bool,
    /// Most layers fetched at once.
    pub parallel: usize,
    /// What a layer may do to us.
    pub limits: Limits,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: Wanted::Host,
            all_platforms: false,
            parallel: 4,
            limits: Limits::default(),
        }
    }
}

/// What a pull brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Installed,
    /// Nothing was new: the name led to this very image before.
    pub unchanged: bool,
}

/// Pulls an image. What is there already, whole or in layers, is not fetched again; the name leads to the new
/// image only when all of it is on disk for good.
///
/// # Errors
/// [`PullError`]; what arrived is kept for a day, so that the next pull goes on with it.
pub fn pull(
    store: &Store,
    client: &Client,
    ns: &str,
    reference: &Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let name = reference.canonical();
    let fault = |e: Fault| PullError::install(reference.familiar(), e);
    let before = store.find_image(ns, &name).map_err(fault)?;
    let lease = store.lease(&format!("pull {name}")).map_err(fault)?;
    let pull = Pull {
        store,
        client,
        reference,
        options,
        lease: &lease,
        progress,
    };

    // A name that is there is asked for its digest first: registries count the fetches of manifests.
    let known = match (reference.digest(), &before) {
        (Some(digest), _) => Some(*digest),
        (None, Some(_)) => client.resolve(reference, progress)?,
        (None, None) => None,
    };
    let (target, document) = pull.document(None, known)?;
    let whole = match options.all_platforms {
        true => pull.gather(&target)?,
        false => Whole::default(),
    };
    let (manifest, document) = pull.choose(target.clone(), document)?;
    let config = pull.config(&document)?;
    let parts = Parts {
        target: target.clone(),
        manifest: manifest.clone(),
        config: document.config,
        parsed: config,
        layers: document.layers,
    };
    let (shown, layers) = (reference.familiar(), parts.layers.len());
    progress.event(&Event::Resolved {
        name: &shown,
        manifest: &manifest.digest,
        layers,
    });
    let plan = plan(store, &lease, parts, true, progress).map_err(|e| pull.install(e))?;
    let others = whole.bring((store, &lease), &plan, &pull, options.parallel, progress)?;
    let complete = plan.layers.iter().all(|layer| layer.found.is_some());
    let unchanged = complete
        && before.is_some_and(|b| b.target.digest == target.digest && b.manifest.digest == manifest.digest);
    let place = Place {
        ns,
        names: std::slice::from_ref(&name),
        others: &others,
        parallel: options.parallel,
        limits: &options.limits,
    };
    let image = install(store, &lease, place, plan, &pull, progress)?;
    store.note_pulled(ns, &name).map_err(fault)?;
    store.release(lease).map_err(fault)?;
    Ok(Pulled { image, unchanged })
}

struct Pull<'a> {
    store: &'a Store,
    client: &'a Client,
    reference: &'a Reference,
    options: &'a PullOptions,
    lease: &'a store::Lease,
    progress: &'a dyn Progress,
}

impl Pull<'_> {
    fn name(&self) -> String {
        self.reference.familiar()
    }

    fn install(&self, error: impl Into<InstallError>) -> PullError {
        PullError::install(self.name(), error)
    }

    /// A manifest or index: from the store if its digest is known and it is there, else from the registry. It is
    /// in the store and held afterwards.
    fn document(
        &self,
        expected: Option<&Descriptor>,
        known: Option<Digest>,
    ) -> Result<(Descriptor, Document), PullError> {
        let digest = expected.map(|e| e.digest).or(known);
        if let Some(digest) = digest
            && self.store.hold_blob(self.lease, &digest).map_err(|e| self.install(e))?.is_some()
            // What is damaged in the store is fetched anew.
            && let Ok(bytes) = self.store.read_blob(&digest, MAX_MANIFEST)
            && let Ok(document) = Document::parse(&bytes, expected.map(|e| e.media_type.as_str()))
        {
            let media_type = document.media_type().to_owned();
            return Ok((
                Descriptor {
                    media_type,
                    digest,
                    size: bytes.len() as u64,
                },
                document,
            ));
        }
        let fetched = self.client.manifest(self.reference, expected, self.progress)?;
        self.keep(&fetched.bytes)?;
        Ok((fetched.descriptor, fetched.document))
    }

    fn keep(&self, bytes: &[u8]) -> Result<(), PullError> {
        self.store
            .put_blob(self.lease, bytes)
            .map(drop)
            .map_err(|e| self.install(e))
    }

    /// All documents that an index leads to, kept in the store, and what they list.
    fn gather(&self, target: &Descriptor) -> Result<Whole, PullError> {
        // The first of them was just fetched, and is read again here.
        self.store.settle(self.lease).map_err(|e| self.install(e))?;
        Whole::gather(target, &mut |document| {
            let held = self.store.hold_blob(self.lease, &document.digest);
            if held.map_err(|e| self.install(e))?.is_some()
                && let Ok(bytes) = self.store.read_blob(&document.digest, MAX_MANIFEST)
            {
                return Ok(bytes);
            }
            let (bytes, _) =
                self.client
                    .raw_manifest(self.reference, Some(&document.digest), self.progress)?;
            self.keep(&bytes)?;
            Ok(bytes)
        })
    }

    /// From an index to the manifest for the platform.
    fn choose(
        &self,
        mut descriptor: Descriptor,
        mut document: Document,
    ) -> Result<(Descriptor, Manifest), PullError> {
        for _ in 0..MAX_DEPTH {
            let index = match document {
                Document::Manifest(manifest) => return Ok((descriptor, manifest)),
                Document::Index(index) => index,
            };
            let entry = index
                .choose(&self.options.platform)
                .map_err(|offers| PullError::NoPlatform {
                    name: self.name(),
                    wanted: self.options.platform.to_string(),
                    offers,
                })?;
            (descriptor, document) = self.document(Some(&entry.descriptor), None)?;
        }
        Err(PullError::Depth { name: self.name() })
    }

    fn config(&self, manifest: &Manifest) -> Result<ImageConfig, PullError> {
        let blob = &manifest.config;
        let held = self
            .store
            .hold_blob(self.lease, &blob.digest)
            .map_err(|e| self.install(e))?;
        let kept = held.and_then(|_| self.store.read_blob(&blob.digest, MAX_CONFIG).ok());
        let bytes = match kept {
            Some(bytes) => bytes,
            None => {
                let bytes = self.client.blob_bytes(self.reference, blob, self.progress)?;
                self.keep(&bytes)?;
                bytes
            }
        };
        let config =
            ImageConfig::parse(&bytes, manifest.layers.len()).map_err(|source| PullError::Config {
                name: self.name(),
                source,
            })?;
        check_platform(&config, &self.options.platform).map_err(|built| PullError::OtherPlatform {
            name: self.name(),
            built,
            wanted: self.options.platform.to_string(),
        })?;
        Ok(config)
    }
}

/// Whether a configuration may be taken; `Err` with what it is built for. One that does not say is taken.
pub(crate) fn check_platform(config: &ImageConfig, wanted: &Wanted) -> Result<(), Platform> {
    match config.platform() {
        Some(built) if !wanted.allows(&built) => Err(built),
        _ => Ok(()),
    }
}

impl BlobSource for Pull<'_> {
    type Error = PullError;

    fn bring(&self, layer: &Layer, to: &mut Ingest) -> Result<(), PullError> {
        let (blob, offset) = (&layer.blob, to.offset());
        let brought = self
            .client
            .blob(self.reference, blob, &layer.urls, offset, to, self.progress);
        brought.map_err(|error| match error {
            RegistryError::Write { source, .. } => self.failed(to.write_fault(source).into()),
            other => other.into(),
        })
    }

    fn failed(&self, error: InstallError) -> PullError {
        self.install(error)
    }

    fn distrust(&self, layer: &Layer) -> bool {
        self.client.distrust(self.reference, &layer.blob.digest)
    }

    fn abort(&self) {
        self.client.abort();
    }
}
