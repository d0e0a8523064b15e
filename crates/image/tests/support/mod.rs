//! What the tests of layers share: archives made entry by entry, layers in scratch directories, and a description of
//! a tree in which every difference shows.
#![allow(dead_code, unreachable_pub)] // Each test program uses a part of it.

pub mod container;
pub mod random;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::record;
use image::tar::writer::{END, data_padding, write_header};
use image::tar::{Entry, Kind, Segment, Time};
use image::unpack::{self, Below, Limits, UnpackError, Unpacked, unpack_as};
use image::verify;
use overlay::{Format, WhiteoutKind};
use store::{Digest, Usage};
use sys::Dir;

/// The time that entries have unless a test says otherwise.
pub const TIME: Time = Time {
    secs: 1_700_000_000,
    nanos: 123_456_789,
};

/// An archive in the making.
#[derive(Default, Clone)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn new() -> Tar {
        Tar::default()
    }

    /// Any entry with its data.
    pub fn put(mut self, entry: &Entry, data: &[u8]) -> Tar {
        assert_eq!(entry.data_len(), data.len() as u64);
        write_header(entry, &mut self.0);
        self.0.extend_from_slice(data);
        self.0.extend_from_slice(data_padding(data.len() as u64));
        self
    }

    /// An entry of root's, changed by `change`.
    pub fn entry(self, kind: Kind, name: impl AsRef<[u8]>, change: impl FnOnce(&mut Entry)) -> Tar {
        let entry = entry(kind, name, change);
        self.put(&entry, b"")
    }

    pub fn file(self, name: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Tar {
        self.file_with(name, data, |_| ())
    }

    pub fn file_with(
        self,
        name: impl AsRef<[u8]>,
        data: impl AsRef<[u8]>,
        change: impl FnOnce(&mut Entry),
    ) -> Tar {
        let data = data.as_ref();
        let entry = entry(Kind::File, name, |entry| {
            entry.size = data.len() as u64;
            change(entry);
        });
        self.put(&entry, data)
    }

    pub fn sparse(self, name: &str, size: u64, runs: &[(u64, &[u8])]) -> Tar {
        let entry = entry(Kind::File, name, |entry| {
            entry.size = size;
            let segment = |(offset, data): &(u64, &[u8])| Segment {
                offset: *offset,
                len: data.len() as u64,
            };
            entry.segments = Some(runs.iter().map(segment).collect());
        });
        let data: Vec<u8> = runs.iter().flat_map(|(_, data)| data.to_vec()).collect();
        self.put(&entry, &data)
    }

    pub fn dir(self, name: impl AsRef<[u8]>, mode: u32) -> Tar {
        let name = [name.as_ref(), b"/"].concat();
        self.entry(Kind::Directory, name, |entry| entry.mode = mode)
    }

    pub fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.entry(Kind::Symlink, name, |entry| entry.link = target.as_ref().to_vec())
    }

    pub fn link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Tar {
        self.entry(Kind::HardLink, name, |entry| {
            entry.link = target.as_ref().to_vec()
        })
    }

    pub fn device(self, name: &str, kind: Kind, major: u32, minor: u32) -> Tar {
        self.entry(kind, name, |entry| entry.device = (major, minor))
    }

    /// An empty file: a whiteout, when its name says so.
    pub fn whiteout(self, name: impl AsRef<[u8]>) -> Tar {
        self.file(name, "")
    }

    /// The archive, ended.
    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&END);
        self.0
    }
}

pub fn entry(kind: Kind, name: impl AsRef<[u8]>, change: impl FnOnce(&mut Entry)) -> Entry {
    let mut entry = Entry::new(name.as_ref(), kind);
    entry.mode = 0o644;
    entry.mtime = TIME;
    change(&mut entry);
    entry
}

/// A layer in a scratch directory: `fs` and `record`, and beside them something that must stay as it is.
pub struct Layer {
    pub temp: tempfile::TempDir,
    pub unpacked: Unpacked,
    pub archive: Vec<u8>,
}

impl Layer {
    pub fn path(&self) -> PathBuf {
        self.temp.path().join("fs")
    }

    pub fn at(&self, rel: impl AsRef<Path>) -> PathBuf {
        self.path().join(rel)
    }

    pub fn dir(&self) -> Dir {
        Dir::open_ambient(self.path()).unwrap()
    }

    pub fn seen(&self) -> BTreeMap<PathBuf, String> {
        seen(&self.path())
    }

    pub fn record(&self) -> File {
        File::open(self.temp.path().join("record")).unwrap()
    }
}

/// Unpacks an archive over `below` (topmost first), and holds the result to what every unpacking promises: the diff
/// ID is right, the usage is what a walk finds, the record gives the archive back, and nothing outside was touched.
pub fn try_layer(archive: &[u8], below: &[&Layer]) -> Result<Layer, UnpackError> {
    try_layer_within(archive, below, &Limits::default())
}

pub fn try_layer_within(archive: &[u8], below: &[&Layer], limits: &Limits) -> Result<Layer, UnpackError> {
    try_layer_as(Format::TRUSTED, archive, below, limits)
}

/// No layers below.
pub fn none() -> std::io::Result<Vec<Arc<Dir>>> {
    Ok(Vec::new())
}

pub fn try_layer_as(
    format: Format,
    archive: &[u8],
    below: &[&Layer],
    limits: &Limits,
) -> Result<Layer, UnpackError> {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test unpacks layers with owners and devices: it needs root"
    );
    let temp = tempfile::tempdir().unwrap();
    fs::create_dir(temp.path().join("fs")).unwrap();
    fs::write(temp.path().join("outside"), "untouched").unwrap();
    let into = Dir::open_ambient(temp.path().join("fs")).unwrap();
    let below = || Ok(below.iter().map(|layer| Arc::new(layer.dir())).collect());
    let record = File::create_new(temp.path().join("record")).unwrap();
    let result = unpack_as(format, archive, &into, &below, record, limits, &|_| ());
    assert_eq!(
        fs::read_to_string(temp.path().join("outside")).unwrap(),
        "untouched"
    );
    let mut beside: Vec<_> = fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    beside.sort();
    assert_eq!(beside, ["fs", "outside", "record"]);
    let layer = Layer {
        temp,
        unpacked: result?,
        archive: archive.to_vec(),
    };
    assert_eq!(layer.unpacked.diff_id, Digest::of(archive));
    assert_eq!(layer.unpacked.usage, Usage::of(&into).unwrap());
    let mut rebuilt = Vec::new();
    let digest = record::rebuild(&into, &layer.record(), &mut rebuilt).unwrap();
    assert!(rebuilt == archive, "the record does not give the archive back");
    assert_eq!(digest, layer.unpacked.diff_id);
    // No store has whiteouts that are files, with times of their own.
    if format.whiteouts == WhiteoutKind::Device {
        outlined(format, &layer, &into, &below, limits);
    }
    Ok(layer)
}

/// Without the data of files the same comes of it, but for that data.
fn outlined(format: Format, layer: &Layer, whole: &Dir, below: &Below<'_>, limits: &Limits) {
    let mut headers = Vec::new();
    record::headers(&layer.record(), &mut headers).unwrap();
    let temp = tempfile::tempdir().unwrap();
    let into = Dir::open_ambient(temp.path()).unwrap();
    unpack::outline(format, &headers[..], &into, below, limits).unwrap();
    assert_eq!(verify::compare(whole, &into, 10).unwrap(), []);
}

pub fn layer(tar: Tar, below: &[&Layer]) -> Layer {
    match try_layer(&tar.end(), below) {
        Ok(layer) => layer,
        Err(error) => panic!("{}", chain(&error)),
    }
}

/// An error with its causes, as a command would print it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

/// Everything in a tree, the root included (as ""): kind, mode, owner, time, attributes, content, and for hard
/// links the first of the names.
pub fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut names = BTreeMap::new();
    look(root, Path::new(""), &mut all, &mut names);
    // Only names that are seen count: a lower layer's file may have others that are hidden.
    for paths in names.values().filter(|paths| paths.len() > 1) {
        for path in paths {
            all.entry(path.clone())
                .and_modify(|text| *text += &format!(" linked {:?}", paths[0]));
        }
    }
    all
}

fn look(
    root: &Path,
    rel: &Path,
    all: &mut BTreeMap<PathBuf, String>,
    names: &mut BTreeMap<u64, Vec<PathBuf>>,
) {
    let path = root.join(rel);
    let meta = fs::symlink_metadata(&path).unwrap();
    let kind = meta.file_type();
    if kind.is_char_device() && meta.rdev() == 0 {
        // When it was made is nobody's business.
        all.insert(rel.to_owned(), "whiteout".into());
        return;
    }
    let mut text = format!(
        "{:o} {}:{} {}.{:09}",
        meta.mode(),
        meta.uid(),
        meta.gid(),
        meta.mtime(),
        meta.mtime_nsec()
    );
    for (name, value) in xattrs(&path) {
        text += &format!(" {name}={}", value.escape_ascii());
    }
    if kind.is_dir() {
        all.insert(rel.to_owned(), text);
        let mut children: Vec<_> = fs::read_dir(&path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        // The kernel lists a whiteout in a directory of one layer alone, and finds nothing there.
        children.retain(|child| path.join(child).symlink_metadata().is_ok());
        children.sort();
        for child in children {
            look(root, &rel.join(child), all, names);
        }
        return;
    }
    if kind.is_symlink() {
        text += &format!(" -> {:?}", fs::read_link(&path).unwrap());
    } else if kind.is_file() {
        text += &format!(
            " {} bytes {}",
            meta.len(),
            Digest::of(fs::read(&path).unwrap()).hex()
        );
    } else {
        text += &format!(" device {:x}", meta.rdev());
    }
    if meta.nlink() > 1 {
        names.entry(meta.ino()).or_default().push(rel.to_owned());
    }
    all.insert(rel.to_owned(), text);
}

pub fn xattrs(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let (dir, name) = match path.file_name() {
        Some(name) => (path.parent().unwrap(), name),
        None => (path, std::ffi::OsStr::from_bytes(b".")),
    };
    let dir = Dir::open_ambient(dir).unwrap();
    let names = dir.list_xattrs(name).unwrap();
    let value = |attribute: &std::ffi::OsString| dir.get_xattr(name, attribute).unwrap().unwrap();
    names
        .iter()
        .map(|name| (name.to_string_lossy().into_owned(), value(name)))
        .collect()
}
