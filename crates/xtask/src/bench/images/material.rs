//! What is unpacked: files of this machine's own `/usr`, as an image of one layer and as one of ten.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::build;

/// How much is taken of `/usr`: every so manyth file by a hash of its path, until there is so much.
const EVERY: u64 = 4;
/// Shares of the ten layers, in hundredths.
const TEN: [u64; 10] = [35, 15, 12, 10, 8, 7, 5, 4, 3, 1];
const ONE: [u64; 1] = [100];

/// An image, on disk in the forms that the contestants read.
pub(super) struct Material {
    /// `one layer`, `ten layers`.
    pub(super) name: &'static str,
    /// The name it has in every store.
    pub(super) tag: &'static str,
    /// An OCI layout.
    pub(super) layout: PathBuf,
    /// The same as a tar.
    pub(super) archive: PathBuf,
    /// The blobs of the layers, the base first.
    pub(super) blobs: Vec<PathBuf>,
    pub(super) compressed: u64,
    pub(super) told: Told,
}

/// What must be there afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Told {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// A sum over digests of names and contents of some of the files, in any order.
    sum: u64,
}

impl Material {
    /// Made once for a size, and kept in the target directory.
    pub(super) fn make(size: u64, ten: bool) -> Result<Material> {
        let (name, tag, shares) = match ten {
            false => ("one layer", "one", &ONE[..]),
            true => ("ten layers", "ten", &TEN[..]),
        };
        let dir = build::target_dir()
            .join("bench-images")
            .join(format!("{}-{tag}", size >> 20));
        let layout = dir.join("layout");
        let archive = dir.join("image.tar");
        if !archive.exists() {
            println!("making the image of {name} ({} MiB of /usr)", size >> 20);
            let _ = fs::remove_dir_all(&dir);
            fs::create_dir_all(layout.join("blobs/sha256"))?;
            let picked = pick(size)?;
            write_layout(&layout, tag, &picked, size, shares)?;
            let half = dir.join("half");
            super::run(
                std::process::Command::new("tar")
                    .arg("-C")
                    .arg(&layout)
                    .arg("-cf")
                    .arg(&half)
                    .args(["oci-layout", "index.json", "blobs"]),
            )?;
            fs::rename(half, &archive)?;
        }
        let manifest: Value = read(&layout.join("manifest-of-the-bench.json"))?;
        let blobs: Vec<PathBuf> = manifest["layers"]
            .as_array()
            .context("layers")?
            .iter()
            .filter_map(|layer| layer["digest"].as_str()?.strip_prefix("sha256:"))
            .map(|hex| layout.join("blobs/sha256").join(hex))
            .collect();
        let mut compressed = 0;
        for blob in &blobs {
            compressed += fs::metadata(blob)?.len();
        }
        let number = |key: &str| manifest["told"][key].as_u64().unwrap_or(0);
        Ok(Material {
            name,
            tag,
            layout,
            archive,
            blobs,
            compressed,
            told: Told {
                files: number("files"),
                bytes: number("bytes"),
                sum: number("sum"),
            },
        })
    }
}

fn read(path: &Path) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Files, sorted; no more than `size` bytes.
fn pick(size: u64) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    let mut todo = vec![PathBuf::from("/usr")];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir)?.flatten() {
            let kind = entry.file_type()?;
            if kind.is_dir() {
                todo.push(entry.path());
            } else if kind.is_file()
                && hash(entry.path().as_os_str().as_encoded_bytes()).is_multiple_of(EVERY)
            {
                all.push(entry.path());
            }
        }
    }
    all.sort_by_key(|path| hash(path.as_os_str().as_encoded_bytes()));
    let mut total = 0;
    all.retain(|path| {
        let len = fs::metadata(path).map_or(u64::MAX / 4, |found| found.len());
        // One file larger than a tenth would make the layers uneven.
        let fits = len < size / 10 && total + len <= size;
        total += if fits { len } else { 0 };
        fits
    });
    if total < size / 2 {
        bail!("/usr holds too little: {} MiB were found", total >> 20);
    }
    all.sort();
    Ok(all)
}

fn hash(bytes: &[u8]) -> u64 {
    let digest = Sha256::digest(bytes);
    u64::from_le_bytes(*digest.first_chunk().expect("it has 32 bytes"))
}

fn write_layout(layout: &Path, tag: &str, picked: &[PathBuf], size: u64, shares: &[u64]) -> Result<()> {
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    let mut told = Told::default();
    let mut left = picked.iter();
    for share in shares {
        let half = layout.join("half");
        let compressor = flate2::write::GzEncoder::new(
            Hashing::new(BufWriter::new(File::create(&half)?)),
            flate2::Compression::new(6),
        );
        let mut tar = Hashing::new(compressor);
        let last = layers.len() + 1 == shares.len();
        write_tar(
            &mut tar,
            &mut left,
            if last { u64::MAX } else { size * share / 100 },
            &mut told,
        )?;
        diff_ids.push(tar.digest());
        let mut blob = tar.to.finish()?;
        blob.to.flush()?;
        let hex = blob.digest();
        layers.push(json!({
            "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{hex}"), "size": fs::metadata(&half)?.len(),
        }));
        fs::rename(&half, layout.join("blobs/sha256").join(hex))?;
    }
    let document = |value: &Value| -> Result<Value> {
        let bytes = serde_json::to_vec(value)?;
        let hex = format!("{:x}", Hex(Sha256::digest(&bytes).into()));
        fs::write(layout.join("blobs/sha256").join(&hex), &bytes)?;
        Ok(json!({"digest": format!("sha256:{hex}"), "size": bytes.len()}))
    };
    let ids: Vec<String> = diff_ids.iter().map(|hex| format!("sha256:{hex}")).collect();
    let mut config = document(&json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ids},
    }))?;
    config["mediaType"] = json!("application/vnd.oci.image.config.v1+json");
    let whole = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": layers,
    });
    let mut manifest = document(&whole)?;
    manifest["mediaType"] = json!("application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), serde_json::to_vec(&index)?)?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let told = json!({"files": told.files, "bytes": told.bytes, "sum": told.sum});
    let kept = json!({"layers": layers, "told": told});
    fs::write(
        layout.join("manifest-of-the-bench.json"),
        serde_json::to_vec(&kept)?,
    )?;
    Ok(())
}

/// A tar of about `most` bytes of the files that are left; every directory is listed before what lies in it.
fn write_tar<'a>(
    to: &mut impl Write,
    left: &mut impl Iterator<Item = &'a PathBuf>,
    most: u64,
    told: &mut Told,
) -> Result<()> {
    let mut tar = tar::Builder::new(to);
    let mut listed = std::collections::HashSet::new();
    let mut written = 0;
    while written < most {
        let Some(path) = left.next() else { break };
        let name = path.strip_prefix("/")?;
        let ancestors: Vec<&Path> = name.ancestors().skip(1).collect();
        for dir in ancestors
            .into_iter()
            .rev()
            .filter(|dir| !dir.as_os_str().is_empty())
        {
            if listed.insert(dir.to_owned()) {
                entry(
                    &mut tar,
                    &Path::new("/").join(dir),
                    dir,
                    tar::EntryType::Directory,
                    &[],
                )?;
            }
        }
        let content = fs::read(path)?;
        entry(&mut tar, path, name, tar::EntryType::Regular, &content)?;
        told.add(name, &content);
        written += content.len() as u64;
    }
    tar.finish()?;
    Ok(())
}

fn entry(
    tar: &mut tar::Builder<impl Write>,
    from: &Path,
    name: &Path,
    kind: tar::EntryType,
    content: &[u8],
) -> Result<()> {
    let found = fs::metadata(from)?;
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(found.mode() & 0o777);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header.set_size(content.len() as u64);
    Ok(tar.append_data(&mut header, name, content)?)
}

impl Told {
    /// Counts a file; of some, name and content.
    fn add(&mut self, name: &Path, content: &[u8]) {
        self.files += 1;
        self.bytes += content.len() as u64;
        let name = name.file_name().unwrap_or_default().as_encoded_bytes();
        if hash(name).is_multiple_of(32) {
            self.sum = self.sum.wrapping_add(hash(&[name, content].concat()) >> 8);
        }
    }

    /// What lies beneath these directories, by walking them; a file with several names in them counts for each.
    pub(super) fn walk(dirs: &[PathBuf]) -> Result<Told> {
        let mut told = Told::default();
        let mut todo = dirs.to_vec();
        while let Some(dir) = todo.pop() {
            for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, entry.path());
                if kind.is_dir() {
                    todo.push(path);
                } else if kind.is_file() {
                    told.add(&path, &fs::read(&path)?);
                }
            }
        }
        Ok(told)
    }
}

struct Hex([u8; 32]);

impl std::fmt::LowerHex for Hex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hashes what is written.
struct Hashing<W> {
    to: W,
    hasher: Sha256,
}

impl<W> Hashing<W> {
    fn new(to: W) -> Hashing<W> {
        Hashing {
            to,
            hasher: Sha256::new(),
        }
    }

    fn digest(&self) -> String {
        format!("{:x}", Hex(self.hasher.clone().finalize().into()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let len = self.to.write(bytes)?;
        self.hasher.update(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
