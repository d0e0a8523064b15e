//! Manifests and indexes: the documents that say which blobs make an image.
//!
//! OCI image manifests and indexes, and Docker's schema 2 manifests and lists, which have the same fields under
//! other media types. Everything here comes from strangers: sizes, counts and types are checked before anything
//! is fetched because of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use store::{Descriptor, Digest};

use crate::config::nullable;
use crate::media;
use crate::platform::{Platform, Wanted};

/// Largest manifest or index in bytes (what the distribution registry accepts).
pub const MAX_MANIFEST: u64 = 4 << 20;
/// Largest image configuration in bytes.
pub const MAX_CONFIG: u64 = 8 << 20;
/// Most layers of one image: the kernel's overlay takes no more.
pub const MAX_LAYERS: usize = 500;
/// Most manifests in one index.
pub const MAX_ENTRIES: usize = 4096;

/// What is wrong with a manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// Not JSON, or not of the form that its kind has.
    #[error("it is no valid manifest: {reason}")]
    Syntax {
        /// The parser's words.
        reason: String,
    },
    /// Larger than [`MAX_MANIFEST`].
    #[error("it has {size} bytes; a manifest has at most {MAX_MANIFEST}")]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// Docker's schema 1.
    #[error("it is a Docker schema 1 manifest, a format given up in 2016")]
    Schema1,
    /// A media type that is no manifest.
    #[error("it has the media type {media_type:?}, which is no image manifest")]
    MediaType {
        /// The type it has.
        media_type: String,
    },
    /// A manifest and an index at once, or other than it was announced.
    #[error("it is ambiguous: {reason}")]
    Ambiguous {
        /// In which way.
        reason: &'static str,
    },
    /// Something that is stored like an image but is none: a chart, a signature, a build cache.
    #[error("it is no container image but an artifact of the type {artifact:?}")]
    Artifact {
        /// The type of its configuration, or its artifact type.
        artifact: String,
    },
    /// A layer of a type that is no file system.
    #[error("layer {digest} has the media type {media_type:?}, which is no file system layer")]
    LayerType {
        /// Which layer.
        digest: Digest,
        /// Its type.
        media_type: String,
    },
    /// An encrypted layer.
    #[error("layer {digest} is encrypted")]
    Encrypted {
        /// Which layer.
        digest: Digest,
    },
    /// A digest that is no SHA-256.
    #[error("{digest:?} is no SHA-256 digest")]
    Digest {
        /// What stands there.
        digest: String,
    },
    /// A negative or impossible size.
    #[error("{digest} is said to have {size} bytes, which cannot be")]
    Size {
        /// Of which blob.
        digest: Digest,
        /// The size that stands there.
        size: i64,
    },
    /// More than [`MAX_LAYERS`] layers.
    #[error("it has {count} layers; at most {MAX_LAYERS} can be stacked")]
    Layers {
        /// How many there are.
        count: usize,
    },
    /// More than [`MAX_ENTRIES`] entries.
    #[error("it lists {count} manifests; at most {MAX_ENTRIES} are read")]
    Entries {
        /// How many there are.
        count: usize,
    },
}

impl ManifestError {
    /// What may help where it is sound and yet of no use; `None` where it is damaged.
    pub fn advice(&self) -> Option<&'static str> {
        Some(match self {
            Self::Schema1 => "have it pushed again with a current tool",
            Self::Encrypted { .. } => "decrypt it first: skopeo copy --decryption-key",
            Self::Layers { .. } => "have it squashed: buildah commit --squash, or podman build --squash-all",
            Self::MediaType { .. } | Self::Artifact { .. } | Self::LayerType { .. } => {
                "containers run from images alone: see that the name is that of one"
            }
            _ => return None,
        })
    }
}

/// One layer as a manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// The compressed layer.
    pub blob: Descriptor,
    /// Where else it may be had, for a layer that registries may not distribute.
    pub urls: Vec<String>,
}

/// The manifest of one image for one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// [`media::OCI_MANIFEST`] or [`media::DOCKER_MANIFEST`].
    pub media_type: String,
    /// The image's configuration; its digest is the image's ID.
    pub config: Descriptor,
    /// Layers, bottom first.
    pub layers: Vec<Layer>,
    /// Annotations of the whole.
    pub annotations: BTreeMap<String, String>,
}

/// One entry of an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The manifest, or another index.
    pub descriptor: Descriptor,
    /// What it is built for, where the index says so.
    pub platform: Option<Platform>,
    /// Its annotations, the name among them.
    pub annotations: BTreeMap<String, String>,
}

impl Entry {
    /// An entry that is not an image but tells of one (build provenance and the like).
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|t| t == "attestation-manifest")
    }
}

/// A list of manifests, one for each platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// [`media::OCI_INDEX`] or [`media::DOCKER_LIST`].
    pub media_type: String,
    /// In the order of the index.
    pub entries: Vec<Entry>,
}

impl Index {
    /// The entry for the wanted platform, or `Err` with the platforms there are.
    pub fn choose(&self, wanted: &Wanted) -> Result<&Entry, Vec<String>> {
        let entries: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|e| !e.is_attestation())
            .filter(|e| {
                media::is_manifest(&e.descriptor.media_type) || media::is_index(&e.descriptor.media_type)
            })
            .collect();
        let offers: Vec<_> = entries.iter().map(|e| e.platform.clone()).collect();
        if let Some(found) = wanted.choose(&offers) {
            return Ok(entries[found]);
        }
        // An index without platforms and with one manifest leaves no choice; its configuration is checked later.
        if let [only] = entries[..]
            && only.platform.is_none()
        {
            return Ok(only);
        }
        let mut names: Vec<String> = offers.iter().flatten().map(Platform::to_string).collect();
        names.dedup();
        Err(names)
    }
}

/// A parsed manifest or index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// A list of them.
    Index(Index),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    #[serde(default, deserialize_with = "nullable")]
    schema_version: i64,
    #[serde(default, deserialize_with = "nullable")]
    media_type: String,
    #[serde(default, deserialize_with = "nullable")]
    artifact_type: String,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<serde::de::IgnoredAny>,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    #[serde(default, deserialize_with = "nullable")]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default, deserialize_with = "nullable")]
    urls: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    annotations: BTreeMap<String, String>,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default, deserialize_with = "nullable")]
    os: String,
    #[serde(default, deserialize_with = "nullable")]
    architecture: String,
    #[serde(default, deserialize_with = "nullable")]
    variant: String,
}

impl RawDescriptor {
    fn check(&self) -> Result<Descriptor, ManifestError> {
        let digest: Digest = self.digest.parse().map_err(|_| ManifestError::Digest {
            digest: self.digest.clone(),
        })?;
        // Half of the range is far beyond any disk and leaves sums of MAX_LAYERS of them in range.
        match u64::try_from(self.size).ok().filter(|size| *size < 1 << 50) {
            Some(size) => Ok(Descriptor {
                media_type: self.media_type.clone(),
                digest,
                size,
            }),
            None => Err(ManifestError::Size {
                digest,
                size: self.size,
            }),
        }
    }
}

impl Document {
    /// Reads a document. `announced` is the media type under which it came (of its descriptor or the response),
    /// used where the document does not name its own.
    ///
    /// # Errors
    /// [`ManifestError`], without a name: the caller knows which image it is.
    pub fn parse(bytes: &[u8], announced: Option<&str>) -> Result<Self, ManifestError> {
        if bytes.len() as u64 > MAX_MANIFEST {
            return Err(ManifestError::TooLarge {
                size: bytes.len() as u64,
            });
        }
        let raw: Raw = serde_json::from_slice(bytes).map_err(|e| ManifestError::Syntax {
            reason: crate::text::printable(&e.to_string()),
        })?;
        let announced = announced
            .map(|t| t.split(';').next().unwrap_or(t).trim())
            .unwrap_or("");
        if raw.schema_version == 1 || raw.fs_layers.is_some() || media::is_schema1(&raw.media_type) {
            return Err(ManifestError::Schema1);
        }
        // A document that is a manifest to one reader and an index to another can show each its own image
        // (CVE-2021-41190): whatever says both is refused.
        let is_index = match raw.media_type.as_str() {
            t if media::is_index(t) => true,
            t if media::is_manifest(t) => false,
            "" if media::is_index(announced) => true,
            "" if media::is_manifest(announced) => false,
            "" => raw.manifests.is_some(),
            t => {
                return Err(ManifestError::MediaType {
                    media_type: t.to_owned(),
                });
            }
        };
        let ambiguous = |reason| Err(ManifestError::Ambiguous { reason });
        if (is_index && media::is_manifest(announced)) || (!is_index && media::is_index(announced)) {
            return ambiguous("it says it is one of manifest and index, and came as the other");
        }
        if raw.manifests.is_some() && (raw.config.is_some() || raw.layers.is_some()) {
            return ambiguous("it has both layers and a list of manifests");
        }
        match is_index {
            true => index(raw, announced).map(Self::Index),
            false => manifest(raw, announced).map(Self::Manifest),
        }
    }

    /// Its own media type.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Manifest(m) => &m.media_type,
            Self::Index(i) => &i.media_type,
        }
    }
}

/// The document's own type, else the announced one, else OCI's.
fn settle(own: String, announced: &str, fits: fn(&str) -> bool, default: &str) -> String {
    match own.is_empty() {
        false => own,
        true if fits(announced) => announced.to_owned(),
        true => default.to_owned(),
    }
}

fn index(raw: Raw, announced: &str) -> Result<Index, ManifestError> {
    let Some(manifests) = raw.manifests else {
        return Err(ManifestError::Syntax {
            reason: "an index without \"manifests\"".into(),
        });
    };
    if manifests.len() > MAX_ENTRIES {
        return Err(ManifestError::Entries {
            count: manifests.len(),
        });
    }
    let entries = manifests
        .into_iter()
        .map(|m| {
            let platform = m
                .platform
                .as_ref()
                .filter(|p| !p.architecture.is_empty())
                .map(|p| {
                    let os = if p.os.is_empty() { "linux" } else { &p.os };
                    Platform::new(os, &p.architecture, &p.variant)
                });
            Ok(Entry {
                descriptor: m.check()?,
                platform,
                annotations: m.annotations,
            })
        })
        .collect::<Result<_, _>>()?;
    let media_type = settle(raw.media_type, announced, media::is_index, media::OCI_INDEX);
    Ok(Index { media_type, entries })
}

fn manifest(raw: Raw, announced: &str) -> Result<Manifest, ManifestError> {
    let (Some(config), Some(layers)) = (raw.config, raw.layers) else {
        return Err(ManifestError::Syntax {
            reason: "a manifest without \"config\" or \"layers\"".into(),
        });
    };
    if layers.len() > MAX_LAYERS {
        return Err(ManifestError::Layers { count: layers.len() });
    }
    match config.media_type.as_str() {
        // Registries of old sent configurations without a type of their own.
        "" | "application/octet-stream" | media::OCI_CONFIG | media::DOCKER_CONFIG => {}
        other => {
            let artifact = if raw.artifact_type.is_empty() {
                other
            } else {
                &raw.artifact_type
            };
            return Err(ManifestError::Artifact {
                artifact: artifact.to_owned(),
            });
        }
    }
    let config = config.check()?;
    if config.size > MAX_CONFIG {
        return Err(ManifestError::Size {
            size: config.size as i64,
            digest: config.digest,
        });
    }
    let layers = layers
        .into_iter()
        .map(|layer| {
            let blob = layer.check()?;
            match media::layer(&blob.media_type) {
                media::Layer::Known => Ok(Layer {
                    blob,
                    urls: Vec::new(),
                }),
                media::Layer::Foreign => Ok(Layer {
                    blob,
                    urls: layer.urls,
                }),
                media::Layer::Encrypted => Err(ManifestError::Encrypted { digest: blob.digest }),
                media::Layer::Unknown => Err(ManifestError::LayerType {
                    digest: blob.digest,
                    media_type: blob.media_type,
                }),
            }
        })
        .collect::<Result<_, _>>()?;
    let media_type = settle(raw.media_type, announced, media::is_manifest, media::OCI_MANIFEST);
    Ok(Manifest {
        media_type,
        config,
        layers,
        annotations: raw.annotations,
    })
}
