//! Images of an archive as `docker save` wrote it before it wrote OCI layouts, and podman still does: a
//! `manifest.json` that lists for each image its configuration, its names, and its layers as tars.

use std::collections::HashMap;
use std::io::Read;

use serde::Deserialize;
use serde_json::json;
use store::{Descriptor, Digest, Hasher};

use crate::compression::Compression;
use crate::config::nullable;
use crate::install::{Installed, Parts};
use crate::load::{Load, LoadProblem};
use crate::load_oci::{canonical, configuration, finish, put};
use crate::manifest::{Document, Layer, MAX_CONFIG, MAX_LAYERS, MAX_MANIFEST, ManifestError};
use crate::media;
use crate::whole::Whole;

const FILE: &str = "manifest.json";

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Image {
    config: String,
    #[serde(default, deserialize_with = "nullable")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "nullable")]
    layers: Vec<String>,
}

fn list(load: &Load<'_>) -> Result<Vec<Image>, LoadProblem> {
    let Some(bytes) = load.archive.bytes(FILE, MAX_MANIFEST)? else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(&bytes).map_err(|error| {
        // skopeo's own form has a file of that name too, with the manifest of its one image.
        let reason = match Document::parse(&bytes, None) {
            Ok(_) => "it is a manifest itself (skopeo's dir: form?); make it an OCI layout first".to_owned(),
            Err(_) => crate::text::printable(&error.to_string()),
        };
        LoadProblem::DockerManifest { reason }
    })
}

/// The names that `manifest.json`, if there is one, gives to the image with this configuration.
pub(crate) fn names_of(load: &Load<'_>, config: &Digest) -> Result<Vec<String>, LoadProblem> {
    for image in list(load)? {
        if digest_in(&image.config) == Some(*config) {
            return image.repo_tags.iter().map(|name| canonical(name)).collect();
        }
    }
    Ok(Vec::new())
}

/// The digest that a file's name is, if it is one: `<hex>.json`, `blobs/sha256/<hex>`.
fn digest_in(name: &str) -> Option<Digest> {
    let last = name.rsplit('/').next().unwrap_or(name);
    Digest::from_hex(last.strip_suffix(".json").unwrap_or(last)).ok()
}

/// Loads every image of the archive.
pub(crate) fn load(load: &Load<'_>) -> Result<Vec<Installed>, LoadProblem> {
    list(load)?.iter().map(|image| one(load, image)).collect()
}

fn one(load: &Load<'_>, image: &Image) -> Result<Installed, LoadProblem> {
    let names: Vec<String> = image
        .repo_tags
        .iter()
        .map(|name| canonical(name))
        .collect::<Result<_, _>>()?;
    let shown = names
        .first()
        .cloned()
        .unwrap_or_else(|| format!("the image {:?}", image.config));
    let missing = |name: &str| LoadProblem::Missing {
        image: shown.clone(),
        name: name.to_owned(),
    };
    if image.layers.len() > MAX_LAYERS {
        let source = ManifestError::Layers {
            count: image.layers.len(),
        };
        return Err(LoadProblem::Manifest {
            name: FILE.into(),
            source,
        });
    }
    let bytes = load
        .archive
        .bytes(&image.config, MAX_CONFIG)?
        .ok_or_else(|| missing(&image.config))?;
    let id = Digest::of(&bytes);
    if digest_in(&image.config).is_some_and(|named| named != id) {
        return Err(LoadProblem::Digest {
            name: image.config.clone(),
            got: id,
        });
    }
    let parsed = configuration(load, &shown, &bytes, image.layers.len())?;
    let diff_ids = parsed.diff_ids().map_err(|source| LoadProblem::Config {
        image: shown.clone(),
        source,
    })?;
    let mut files = HashMap::new();
    let mut layers = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&diff_ids) {
        let blob = describe(load, name, diff_id)?.ok_or_else(|| missing(name))?;
        files.insert(blob.digest, name.clone());
        layers.push(Layer {
            blob,
            urls: Vec::new(),
        });
    }
    // The archive has no manifest: it gets the one that an OCI registry would have for it.
    let config = Descriptor {
        media_type: media::OCI_CONFIG.into(),
        digest: id,
        size: bytes.len() as u64,
    };
    let blobs: Vec<&Descriptor> = layers.iter().map(|l| &l.blob).collect();
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "config": config, "layers": blobs,
    })
    .to_string();
    put(load, &shown, &bytes)?;
    put(load, &shown, manifest.as_bytes())?;
    let manifest = Descriptor {
        media_type: media::OCI_MANIFEST.into(),
        digest: Digest::of(&manifest),
        size: manifest.len() as u64,
    };
    let parts = Parts {
        target: manifest.clone(),
        manifest,
        config,
        parsed,
        layers,
    };
    finish(load, shown, names, parts, (files, Whole::default()))
}

/// The descriptor of a layer's file; `None` when it is missing. A plain tar has the diff ID as its digest, which
/// is verified when it is read; a compressed one, which some builders write, must be read to know its digest.
fn describe(load: &Load<'_>, name: &str, diff_id: &Digest) -> Result<Option<Descriptor>, LoadProblem> {
    let Some((mut from, size)) = load.archive.open(name)? else {
        return Ok(None);
    };
    let failed = |source| LoadProblem::Read {
        name: name.to_owned(),
        source,
    };
    let mut start = Vec::new();
    from.by_ref().take(6).read_to_end(&mut start).map_err(failed)?;
    let media_type = match Compression::sniff(&start) {
        Ok(Compression::Gzip) => media::OCI_LAYER_GZIP,
        Ok(Compression::Zstd) => media::OCI_LAYER_ZSTD,
        // What is no tar either fails when it is unpacked, with the decoder's words.
        Ok(Compression::None) | Err(_) => media::OCI_LAYER,
    };
    let digest = match (media_type, load.archive.spooled(name)) {
        (_, Some(digest)) => digest,
        (media::OCI_LAYER, None) => *diff_id,
        _ => {
            let mut hasher = Hasher::new();
            hasher.update(&start);
            let mut piece = vec![0; 128 << 10];
            loop {
                match from.read(&mut piece).map_err(failed)? {
                    0 => break hasher.finish(),
                    read => hasher.update(&piece[..read]),
                }
            }
        }
    };
    Ok(Some(Descriptor {
        media_type: media_type.into(),
        digest,
        size,
    }))
}
