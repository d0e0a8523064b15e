//! Images of an OCI image layout (OCI image-spec, `image-layout.md`), and which names they have there.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::sync::PoisonError;

use serde::Deserialize;
use store::{Descriptor, Digest, Hasher, Ingest};

use crate::archive::{Archive, Content};
use crate::bring::BlobSource;
use crate::config::ImageConfig;
use crate::install::{InstallError, Installed, Parts, Place, Plan, install, plan};
use crate::load::{Load, LoadProblem};
use crate::load_docker;
use crate::manifest::{Document, Entry, Index, Layer, MAX_CONFIG, MAX_MANIFEST};
use crate::media;
use crate::progress::Event;
use crate::pull::check_platform;
use crate::reference::{Reference, is_tag};
use crate::whole::Whole;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";
const MAX_DEPTH: usize = 4;
const PIECE: usize = 128 << 10;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Version {
    image_layout_version: String,
}

/// Loads every image of a layout.
pub(crate) fn load(load: &Load<'_>, index: &[u8]) -> Result<Vec<Installed>, LoadProblem> {
    if let Some(bytes) = load.archive.bytes("oci-layout", MAX_MANIFEST)? {
        let version: Option<Version> = serde_json::from_slice(&bytes).ok();
        if version.is_none_or(|v| !v.image_layout_version.starts_with("1.")) {
            let source = crate::manifest::ManifestError::Syntax {
                reason: "only version 1 is known".into(),
            };
            return Err(LoadProblem::Manifest {
                name: "oci-layout".into(),
                source,
            });
        }
    }
    let document = parse("index.json", index, media::OCI_INDEX)?;
    let Document::Index(index) = document else {
        let source = crate::manifest::ManifestError::Ambiguous {
            reason: "it is no index",
        };
        return Err(LoadProblem::Manifest {
            name: "index.json".into(),
            source,
        });
    };
    let mut loaded = Vec::new();
    for (names, descriptor) in images(load, index)? {
        loaded.push(one(load, names, descriptor)?);
    }
    Ok(loaded)
}

/// What is to be loaded, and under which names. Entries with one name are one image for several platforms.
fn images(load: &Load<'_>, index: Index) -> Result<Vec<(Vec<String>, Descriptor)>, LoadProblem> {
    let mut named: BTreeMap<String, Vec<Entry>> = BTreeMap::new();
    let mut nameless: Vec<Entry> = Vec::new();
    let mut out: Vec<(Vec<String>, Descriptor)> = Vec::new();
    let is_image = |e: &Entry| {
        let media_type = &e.descriptor.media_type;
        !e.is_attestation() && (media::is_manifest(media_type) || media::is_index(media_type))
    };
    for entry in index.entries.into_iter().filter(is_image) {
        match name(load, &entry)? {
            Some(name) => named.entry(name).or_default().push(entry),
            None if entry.platform.is_some() => nameless.push(entry),
            None => out.push((Vec::new(), entry.descriptor)),
        }
    }
    let mut add = |name: Option<String>, entries: Vec<Entry>| -> Result<(), LoadProblem> {
        let descriptor = match &entries[..] {
            [] => return Ok(()),
            // Whether the only one fits is seen in its configuration.
            [only] => only.descriptor.clone(),
            _ if load.options.all_platforms => {
                return Err(LoadProblem::SideBySide {
                    image: name.unwrap_or_else(|| "the image in it".into()),
                });
            }
            _ => {
                let group = Index {
                    media_type: media::OCI_INDEX.into(),
                    entries,
                };
                let chosen =
                    group
                        .choose(&load.options.platform)
                        .map_err(|offers| LoadProblem::NoPlatform {
                            image: name.clone().unwrap_or_else(|| "the image in it".into()),
                            wanted: load.options.platform.to_string(),
                            offers,
                        })?;
                chosen.descriptor.clone()
            }
        };
        match out.iter_mut().find(|(_, d)| d.digest == descriptor.digest) {
            Some((names, _)) => names.extend(name),
            None => out.push((name.into_iter().collect(), descriptor)),
        }
        Ok(())
    };
    add(None, nameless)?;
    for (name, entries) in named {
        add(Some(name), entries)?;
    }
    Ok(out)
}

/// The canonical name of an entry.
///
/// `org.opencontainers.image.ref.name` is a tag to some tools and a whole name to others: with a slash or a colon
/// it is a name; `latest` and what looks like a version is a tag, of what the file is called; any other word is a
/// name.
fn name(load: &Load<'_>, entry: &Entry) -> Result<Option<String>, LoadProblem> {
    let get = |key: &str| {
        entry
            .annotations
            .get(key)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
    };
    let full = match (get(CONTAINERD_NAME), get(REF_NAME)) {
        // Where another tag stands beside it, a tool that does not know the name has made another image.
        (Some(name), Some(tag)) if is_tag(tag) => match Reference::parse(name)? {
            name if name.tag().is_some_and(|known| known != tag) => name.with_tag(tag)?.canonical(),
            name => name.canonical(),
        },
        (Some(name), _) => name.to_owned(),
        (None, Some(tag)) if looks_like_tag(tag) => match &load.stem {
            Some(stem) => format!("{stem}:{tag}"),
            None => return Ok(None),
        },
        (None, Some(name)) => name.to_owned(),
        (None, None) => return Ok(None),
    };
    canonical(&full).map(Some)
}

fn looks_like_tag(word: &str) -> bool {
    let digits = word.strip_prefix('v').unwrap_or(word);
    is_tag(word) && (word == "latest" || digits.starts_with(|c: char| c.is_ascii_digit()))
}

/// A name in an archive as the store keeps it.
pub(crate) fn canonical(name: &str) -> Result<String, LoadProblem> {
    Ok(Reference::parse(name)?.canonical())
}

fn parse(name: &str, bytes: &[u8], announced: &str) -> Result<Document, LoadProblem> {
    Document::parse(bytes, Some(announced)).map_err(|source| LoadProblem::Manifest {
        name: name.to_owned(),
        source,
    })
}

/// Loads one image.
fn one(load: &Load<'_>, mut names: Vec<String>, target: Descriptor) -> Result<Installed, LoadProblem> {
    let image = names
        .first()
        .cloned()
        .unwrap_or_else(|| format!("the image {}", target.digest));
    let mut descriptor = target.clone();
    let mut bytes = blob(load, &image, &descriptor, MAX_MANIFEST)?;
    let mut manifest = None;
    for _ in 0..MAX_DEPTH {
        put(load, &image, &bytes)?;
        let index = match parse(&file_of(&descriptor.digest), &bytes, &descriptor.media_type)? {
            Document::Manifest(found) => {
                manifest = Some(found);
                break;
            }
            Document::Index(index) => index,
        };
        let entry = index
            .choose(&load.options.platform)
            .map_err(|offers| LoadProblem::NoPlatform {
                image: image.clone(),
                wanted: load.options.platform.to_string(),
                offers,
            })?;
        descriptor = entry.descriptor.clone();
        bytes = blob(load, &image, &descriptor, MAX_MANIFEST)?;
    }
    let Some(manifest) = manifest else {
        let source = crate::manifest::ManifestError::Ambiguous {
            reason: "its indexes lead round in circles",
        };
        return Err(LoadProblem::Manifest {
            name: file_of(&target.digest),
            source,
        });
    };
    let config = blob(load, &image, &manifest.config, MAX_CONFIG)?;
    put(load, &image, &config)?;
    // Docker writes both lists of images, and not always the names into both.
    if names.is_empty() {
        names = load_docker::names_of(load, &manifest.config.digest)?;
    }
    let files = manifest
        .layers
        .iter()
        .map(|l| (l.blob.digest, file_of(&l.blob.digest)))
        .collect();
    let whole = match load.options.all_platforms {
        true => gather(load, &image, &target)?,
        false => Whole::default(),
    };
    let parts = Parts {
        target,
        manifest: descriptor,
        parsed: configuration(load, &image, &config, manifest.layers.len())?,
        config: manifest.config,
        layers: manifest.layers,
    };
    finish(load, image, names, parts, (files, whole))
}

/// All documents that an index leads to, put into the store, and what they list.
fn gather(load: &Load<'_>, image: &str, target: &Descriptor) -> Result<Whole, LoadProblem> {
    Whole::gather(target, &mut |document| {
        let bytes = blob(load, image, document, MAX_MANIFEST)?;
        put(load, image, &bytes)?;
        Ok(bytes)
    })
}

/// Parses a configuration and checks its platform.
pub(crate) fn configuration(
    load: &Load<'_>,
    image: &str,
    bytes: &[u8],
    layers: usize,
) -> Result<ImageConfig, LoadProblem> {
    let config = ImageConfig::parse(bytes, layers).map_err(|source| LoadProblem::Config {
        image: image.to_owned(),
        source,
    })?;
    check_platform(&config, &load.options.platform).map_err(|built| LoadProblem::OtherPlatform {
        image: image.to_owned(),
        built,
        wanted: load.options.platform.to_string(),
    })?;
    Ok(config)
}

/// Installs an image whose layers are the archive's `files`, and keeps what `whole` leads to besides.
pub(crate) fn finish(
    load: &Load<'_>,
    image: String,
    names: Vec<String>,
    parts: Parts,
    (files, whole): (HashMap<Digest, String>, Whole),
) -> Result<Installed, LoadProblem> {
    let (store, progress) = (load.store, load.progress);
    let (manifest, layers) = (&parts.manifest.digest, parts.layers.len());
    progress.event(&Event::Resolved {
        name: &image,
        manifest,
        layers,
    });
    let source = FromArchive {
        archive: load.archive,
        image,
        files,
        load,
    };
    let plan = plan(store, load.lease, parts, true, progress).map_err(|e| source.failed(e.into()))?;
    source.verify(&plan)?;
    let held = (store, load.lease);
    let others = whole.bring(held, &plan, &source, load.options.parallel, progress)?;
    let place = Place {
        ns: load.ns,
        names: &names,
        others: &others,
        parallel: load.options.parallel,
        limits: &load.options.limits,
    };
    install(store, load.lease, place, plan, &source, progress)
}

/// Puts a document into the store.
pub(crate) fn put(load: &Load<'_>, image: &str, bytes: &[u8]) -> Result<(), LoadProblem> {
    let put = load.store.put_blob(load.lease, bytes);
    put.map(drop).map_err(|e| LoadProblem::install(image, e))
}

fn file_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// A small blob, verified: from the archive, or from the store where the archive has it not.
fn blob(load: &Load<'_>, image: &str, wanted: &Descriptor, max: u64) -> Result<Vec<u8>, LoadProblem> {
    let name = file_of(&wanted.digest);
    let bytes = match load.archive.bytes(&name, max)? {
        Some(bytes) => bytes,
        None => match load.store.read_blob(&wanted.digest, max) {
            Ok(bytes) => bytes,
            Err(_) => {
                return Err(LoadProblem::Missing {
                    image: image.to_owned(),
                    name,
                });
            }
        },
    };
    match Digest::of(&bytes) {
        got if got == wanted.digest => Ok(bytes),
        got => Err(LoadProblem::Digest { name, got }),
    }
}

/// Layers from an archive.
struct FromArchive<'a> {
    archive: &'a Archive<'a>,
    image: String,
    files: HashMap<Digest, String>,
    load: &'a Load<'a>,
}

impl FromArchive<'_> {
    fn name(&self, digest: &Digest) -> String {
        let known = self.files.get(digest).cloned();
        known.unwrap_or_else(|| file_of(digest))
    }

    /// Opens a layer's file, which must have the size that the manifest says.
    fn open(&self, name: &str, layer: &Layer) -> Result<Option<Content>, LoadProblem> {
        match self.archive.open(name)? {
            Some((_, size)) if size != layer.blob.size => Err(self.failed(InstallError::Size {
                blob: layer.blob.digest,
                expected: layer.blob.size,
                got: size,
            })),
            found => Ok(found.map(|(from, _)| from)),
        }
    }

    /// Reads the layers that are not brought, because they are in the store: an archive that holds something else under
    /// their digests is damaged all the same. One may be left out of it.
    fn verify(&self, plan: &Plan) -> Result<(), LoadProblem> {
        let mut verified = self.load.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let found = plan.layers.iter().filter(|layer| layer.found.is_some());
        let unread: Vec<&Layer> = found
            .map(|layer| &layer.layer)
            .filter(|layer| verified.insert(layer.blob.digest))
            .collect();
        let checked = store::beside(&unread, |layer| self.check(layer));
        checked.into_iter().collect()
    }

    fn check(&self, layer: &Layer) -> Result<(), LoadProblem> {
        let blob = layer.blob.digest;
        let name = self.name(&blob);
        let Some(mut from) = self.open(&name, layer)? else {
            return Ok(());
        };
        // What came in a stream was hashed when it passed.
        let got = match self.archive.spooled(&name) {
            Some(digest) => digest,
            None => {
                let (mut hasher, mut piece) = (Hasher::new(), vec![0; PIECE]);
                loop {
                    match from.read(&mut piece) {
                        Ok(0) => break hasher.finish(),
                        Ok(read) => hasher.update(&piece[..read]),
                        Err(source) => return Err(LoadProblem::Read { name, source }),
                    }
                }
            }
        };
        match got == blob {
            true => Ok(()),
            false => Err(self.failed(InstallError::Digest { blob, got })),
        }
    }
}

impl BlobSource for FromArchive<'_> {
    type Error = LoadProblem;

    fn bring(&self, layer: &Layer, to: &mut Ingest) -> Result<(), LoadProblem> {
        let digest = layer.blob.digest;
        let name = self.name(&digest);
        let Some(mut from) = self.open(&name, layer)? else {
            return Err(LoadProblem::Missing {
                image: self.image.clone(),
                name,
            });
        };
        let failed = |source| LoadProblem::Read {
            name: name.clone(),
            source,
        };
        to.leave_nothing();
        // An earlier pull may have left a beginning.
        let skip = to.offset();
        std::io::copy(&mut std::io::Read::take(&mut from, skip), &mut std::io::sink()).map_err(failed)?;
        let mut done = skip;
        let mut piece = vec![0; PIECE];
        loop {
            let read = from.read(&mut piece).map_err(failed)?;
            if read == 0 {
                return Ok(());
            }
            std::io::Write::write_all(to, &piece[..read])
                .map_err(|error| self.failed(to.write_fault(error).into()))?;
            done += read as u64;
            self.load.progress.event(&Event::Fetched {
                digest: &digest,
                bytes: done,
            });
        }
    }

    fn failed(&self, error: InstallError) -> LoadProblem {
        LoadProblem::install(&self.image, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_and_names() {
        for tag in ["latest", "1.36", "v2", "16.04", "2024-01-01", "3"] {
            assert!(looks_like_tag(tag), "{tag}");
        }
        for name in [
            "busybox",
            "vim",
            "docker.io/library/x:1",
            "x:1",
            "a/b",
            "latest/1",
        ] {
            assert!(!looks_like_tag(name), "{name}");
        }
    }
}
