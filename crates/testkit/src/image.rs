//! Images made of hand-made layers, and every form in which they come to `strata load`.

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
}

/// An image in the making.
#[derive(Debug, Clone)]
pub struct Image {
    name: String,
    layers: Vec<Vec<u8>>,
    config: Value,
    architecture: String,
    compression: Compression,
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
        self.layers.push(layer.finish());
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
        for (name, data) in self.layout() {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().expect("every name has a directory"))
                .expect("a temporary directory");
            fs::write(path, data).expect("a temporary directory takes a file");
        }
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
            .map(|layer| (format!("{}.tar", hex(layer)), layer.clone()))
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
        let mut files = vec![(
            "oci-layout".to_owned(),
            br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
        )];
        let suffix = match self.compression {
            Compression::None => "",
            Compression::Gzip => "+gzip",
            Compression::Zstd => "+zstd",
        };
        let mut layers = Vec::new();
        for layer in &self.layers {
            let blob = self.compressed(layer);
            layers.push(descriptor(
                &format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                &blob,
            ));
            files.push((blob_name(&blob), blob));
        }
        let config = self.config_json();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("application/vnd.oci.image.config.v1+json", &config),
            "layers": layers,
        })
        .to_string()
        .into_bytes();
        let mut target = descriptor("application/vnd.oci.image.manifest.v1+json", &manifest);
        let tag = self.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        target["annotations"] =
            json!({ "org.opencontainers.image.ref.name": tag, "io.containerd.image.name": self.name });
        target["platform"] = json!({ "os": "linux", "architecture": self.architecture });
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [target],
        });
        files.push((blob_name(&config), config));
        files.push((blob_name(&manifest), manifest));
        files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        files
    }

    /// Digests of the layers' tars, the base first.
    pub fn diff_ids(&self) -> Vec<String> {
        self.layers
            .iter()
            .map(|layer| format!("sha256:{}", hex(layer)))
            .collect()
    }

    fn config_json(&self) -> Vec<u8> {
        let history: Vec<_> = (0..self.layers.len())
            .map(|at| json!({ "created": "2023-11-14T22:13:20Z", "created_by": format!("RUN step {at}") }))
            .collect();
        let config = json!({
            "created": "2023-11-14T22:13:20Z",
            "architecture": self.architecture,
            "os": "linux",
            "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids() },
            "history": history,
        });
        config.to_string().into_bytes()
    }

    fn compressed(&self, tar: &[u8]) -> Vec<u8> {
        match self.compression {
            Compression::None => tar.to_vec(),
            Compression::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(tar).expect("memory takes it");
                encoder.finish().expect("memory takes it")
            }
            Compression::Zstd => zstd::encode_all(tar, 1).expect("memory takes it"),
        }
    }
}

/// A descriptor of OCI image-spec, descriptor.md.
pub fn descriptor(media_type: &str, blob: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", hex(blob)), "size": blob.len() })
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
