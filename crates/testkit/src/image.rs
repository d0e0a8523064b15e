//! Images made of hand-made layers, and every form in which they come to `strata load`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, Header};

use crate::Layer;

/// How the layers of an archive are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// The bare tar.
    None,
    /// What nearly every image uses.
    Gzip,
    /// What newer builders can write.
    Zstd,
    /// The same with a window of 32 MiB, as `zstd --long=25` does.
    ZstdWide,
}

/// An image in the making.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    /// The tars, and how each is written where not as the others.
    layers: Vec<(Vec<u8>, Option<Compression>)>,
    config: Value,
    whole: BTreeMap<String, Value>,
    architecture: String,
    compression: Compression,
}

/// The blobs of an image: what a registry holds, and what tests spoil.
#[derive(Debug, Clone)]
pub struct Built {
    /// Every blob by its digest, manifest and configuration among them.
    pub blobs: BTreeMap<String, Vec<u8>>,
    /// The manifest.
    pub manifest: Value,
    /// Descriptor of the manifest.
    pub descriptor: Value,
    /// Digest of the configuration: the image's ID.
    pub id: String,
    /// The diff IDs, the base first.
    pub diff_ids: Vec<String>,
    /// The tars, the base first.
    pub tars: Vec<Vec<u8>>,
}

impl Built {
    /// Digest of the manifest.
    pub fn digest(&self) -> String {
        text(&self.descriptor["digest"])
    }

    /// Digest of a layer's blob.
    pub fn layer(&self, n: usize) -> String {
        text(&self.manifest["layers"][n]["digest"])
    }

    /// The manifest's bytes.
    pub fn manifest_bytes(&self) -> &[u8] {
        &self.blobs[&self.digest()]
    }

    /// The manifest's descriptor with an annotation.
    pub fn annotated(&self, key: &str, value: &str) -> Value {
        let mut descriptor = self.descriptor.clone();
        descriptor["annotations"][key] = json!(value);
        descriptor
    }

    /// Takes another manifest, changed by `edit`; the old one stays among the blobs.
    pub fn remade(mut self, edit: impl FnOnce(&mut Value)) -> Built {
        edit(&mut self.manifest);
        let bytes = self.manifest.to_string().into_bytes();
        self.descriptor = descriptor(MANIFEST, &bytes);
        self.blobs.insert(digest(&bytes), bytes);
        self
    }

    /// The blobs as files of an OCI image layout, without its index.
    pub fn blob_files(&self) -> Vec<(String, Vec<u8>)> {
        self.blobs
            .values()
            .map(|blob| (blob_name(blob), blob.clone()))
            .collect()
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

impl Image {
    /// An image without layers, with `name` as in `docker.io/library/busybox:latest`, for the architecture that
    /// the test runs on.
    pub fn new(name: &str) -> Image {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Image {
            name: name.to_owned(),
            layers: Vec::new(),
            config: json!({
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Cmd": ["sh"],
            }),
            whole: BTreeMap::new(),
            architecture: architecture.to_owned(),
            compression: Compression::Gzip,
        }
    }

    /// `docker.io/library/busybox:latest`, of the one layer [`Layer::busybox`].
    pub fn busybox() -> Image {
        Image::new("docker.io/library/busybox:latest").layer(Layer::busybox())
    }

    /// Puts a layer on top.
    pub fn layer(mut self, layer: Layer) -> Image {
        self.layers.push((layer.finish(), None));
        self
    }

    /// Puts a layer on top that is written in a way of its own.
    pub fn layer_as(mut self, layer: Layer, compression: Compression) -> Image {
        self.layers.push((layer.finish(), Some(compression)));
        self
    }

    /// Gives the image another name.
    pub fn name(mut self, name: &str) -> Image {
        self.name = name.to_owned();
        self
    }

    /// Sets a field of the configuration that containers get, such as `User` or `Entrypoint` (OCI image-spec,
    /// config.md).
    pub fn config(mut self, field: &str, value: Value) -> Image {
        self.config[field] = value;
        self
    }

    /// Sets a field of the whole configuration, such as `rootfs` or `history`, to what it would not be.
    pub fn whole(mut self, field: &str, value: Value) -> Image {
        self.whole.insert(field.to_owned(), value);
        self
    }

    /// Says that the image is for another architecture, in Go's words.
    pub fn architecture(mut self, architecture: &str) -> Image {
        architecture.clone_into(&mut self.architecture);
        self
    }

    /// How the layers are written; gzip where nothing is said.
    pub fn compression(mut self, compression: Compression) -> Image {
        self.compression = compression;
        self
    }

    /// Writes an OCI image layout into the new directory `dir`.
    pub fn write_layout(&self, dir: &Path) {
        write_files(dir, self.layout());
    }

    /// Writes an OCI archive: the layout as a tar.
    pub fn write_oci_archive(&self, file: &Path) {
        write_tar(file, self.layout());
    }

    /// Writes what `docker save` wrote before Docker 25, and podman still does: `manifest.json` with the layers as
    /// bare tars beside it.
    pub fn write_docker_archive(&self, file: &Path) {
        let config = self.config_json();
        let config_name = format!("{}.json", hex(&config));
        let mut files: Vec<(String, Vec<u8>)> = self
            .layers
            .iter()
            .map(|(layer, _)| (format!("{}.tar", hex(layer)), layer.clone()))
            .collect();
        let layers: Vec<_> = files.iter().map(|(name, _)| name.clone()).collect();
        let short = self
            .name
            .trim_start_matches("docker.io/library/")
            .trim_start_matches("docker.io/");
        let manifest = json!([{ "Config": config_name, "RepoTags": [short], "Layers": layers }]);
        files.push((config_name, config));
        files.push(("manifest.json".to_owned(), manifest.to_string().into_bytes()));
        write_tar(file, files);
    }

    /// The files of an OCI image layout by name, in the order in which an archive lists them.
    pub fn layout(&self) -> Vec<(String, Vec<u8>)> {
        let built = self.build();
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        let mut target = built.annotated("org.opencontainers.image.ref.name", tag);
        target["annotations"]["io.containerd.image.name"] = json!(self.name);
        target["platform"] = json!({ "os": "linux", "architecture": self.architecture });
        layout(&[&built], &[target])
    }

    /// The image's blobs.
    pub fn build(&self) -> Built {
        let mut blobs = BTreeMap::new();
        let mut put = |media_type: &str, blob: Vec<u8>| {
            let descriptor = descriptor(media_type, &blob);
            blobs.insert(digest(&blob), blob);
            descriptor
        };
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|(tar, compression)| {
                let compression = compression.unwrap_or(self.compression);
                let suffix = match compression {
                    Compression::None => "",
                    Compression::Gzip => "+gzip",
                    Compression::Zstd | Compression::ZstdWide => "+zstd",
                };
                put(
                    &format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                    compression.compress(tar),
                )
            })
            .collect();
        let config = put("application/vnd.oci.image.config.v1+json", self.config_json());
        let id = text(&config["digest"]);
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        let descriptor = put(MANIFEST, manifest.to_string().into_bytes());
        let tars = self.layers.iter().map(|(tar, _)| tar.clone()).collect();
        Built {
            blobs,
            manifest,
            descriptor,
            id,
            diff_ids: self.diff_ids(),
            tars,
        }
    }

    /// Digests of the layers' tars, the base first.
    pub fn diff_ids(&self) -> Vec<String> {
        self.layers.iter().map(|(layer, _)| digest(layer)).collect()
    }

    fn config_json(&self) -> Vec<u8> {
        let history: Vec<_> = (0..self.layers.len())
            .map(|at| json!({ "created": "2023-11-14T22:13:20Z", "created_by": format!("RUN step {at}") }))
            .collect();
        let mut config = json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids() },
            "history": history,
        });
        for (field, value) in &self.whole {
            config[field] = value.clone();
        }
        config.to_string().into_bytes()
    }
}

impl Compression {
    /// Compresses.
    pub fn compress(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Compression::None => bytes.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(bytes).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            Compression::Zstd => zstd::encode_all(bytes, 1).expect("memory takes it"),
            Compression::ZstdWide => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).expect("memory takes it");
                encoder.window_log(25).expect("it can be so wide");
                encoder.write_all(bytes).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
        }
    }
}

/// The files of an OCI image layout with these images' blobs and these entries of its index.
pub fn layout(images: &[&Built], entries: &[Value]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![(
        "oci-layout".to_owned(),
        br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
    )];
    files.extend(images.iter().flat_map(|image| image.blob_files()));
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    files.push(("index.json".to_owned(), index.to_string().into_bytes()));
    files
}

/// Writes files into a directory, which may exist.
pub fn write_files(dir: &Path, files: Vec<(String, Vec<u8>)>) {
    for (name, data) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("every name has a directory"))
            .expect("a temporary directory");
        fs::write(path, data).expect("a temporary directory takes a file");
    }
}

/// SHA-256 as `sha256:` and hexadecimal digits.
pub fn digest(data: &[u8]) -> String {
    format!("sha256:{}", hex(data))
}

/// A descriptor of OCI image-spec, descriptor.md.
pub fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(blob), "size": blob.len() })
}

/// Where a blob lies in an OCI image layout.
pub fn blob_name(blob: &[u8]) -> String {
    format!("blobs/sha256/{}", hex(blob))
}

/// SHA-256 in hexadecimal digits.
pub fn hex(data: &[u8]) -> String {
    Sha256::digest(data)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes a tar of plain files.
pub fn write_tar(to: &Path, files: Vec<(String, Vec<u8>)>) {
    let mut tar = Builder::new(File::create(to).expect("a temporary directory takes a file"));
    for (name, data) in files {
        let mut header = Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(data.len() as u64);
        tar.append_data(&mut header, name, data.as_slice())
            .expect("the archive takes an entry");
    }
    tar.into_inner()
        .and_then(|mut file| file.flush())
        .expect("the archive is complete");
}
