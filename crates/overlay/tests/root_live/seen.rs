//! What is seen of a tree, by a path and by the live overlay, and the difference of two.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use overlay::live::{DirEntry, NodeId, Overlay, ROOT};
use rustix::fs::{FileType, OFlags};

/// Comes before a link count, which is no part of what is compared with the plain directory: a lower file's counts
/// names that the layers above hide, too.
pub(crate) const LINKS: &str = " links ";

/// Everything that is seen beneath a directory, one line an entry.
pub(crate) fn seen(root: &Path, at: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // A directory of one layer alone is listed by the file system below, whiteouts and all.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{path:?}: {error}"),
        };
        let kind = meta.file_type();
        let owner = format!("{:o} {} {}", meta.mode() & 0o7777, meta.uid(), meta.gid());
        let mut value = [0; 16];
        let attribute = match rustix::fs::lgetxattr(&path, "trusted.test", &mut value) {
            Ok(length) => format!("{:?}", &value[..length]),
            Err(_) => String::new(),
        };
        let what = if kind.is_dir() {
            seen(root, &path, all);
            format!("dir {owner} {attribute}")
        } else if kind.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_fifo() {
            format!("fifo {owner}")
        } else if kind.is_char_device() {
            "whiteout".to_owned()
        } else {
            let bytes = fs::read(&path).unwrap();
            format!("file {owner} {attribute} {bytes:?}{LINKS}{}", meta.nlink())
        };
        all.insert(path.strip_prefix(root).unwrap().to_owned(), what);
    }
}

/// The same of the live overlay.
pub(crate) fn shown(overlay: &Overlay, node: NodeId, at: &Path, all: &mut BTreeMap<PathBuf, String>) {
    let mut entries = Vec::new();
    let list = |entry: &DirEntry<'_>| {
        if entry.name != "." && entry.name != ".." {
            let found = overlay.lookup_listed(node, entry);
            entries.push((entry.name.to_owned(), entry.ino, entry.file_type, found));
        }
        true
    };
    overlay.list(node, 0, &mut { list }).unwrap();
    for (name, ino, file_type, found) in entries {
        let path = at.join(&name);
        let found = found.unwrap_or_else(|errno| panic!("listed but not found: {path:?}: {errno}"));
        let stat = found.attr;
        assert_eq!(stat.st_ino, ino, "{path:?}: d_ino");
        assert_eq!(
            FileType::from_raw_mode(stat.st_mode),
            file_type,
            "{path:?}: d_type"
        );
        let owner = format!("{:o} {} {}", stat.st_mode & 0o7777, stat.st_uid, stat.st_gid);
        let attribute = match overlay.getxattr(found.node, OsStr::new("trusted.test")) {
            Ok(value) => format!("{value:?}"),
            Err(_) => String::new(),
        };
        let what = match file_type {
            FileType::Directory => {
                shown(overlay, found.node, &path, all);
                format!("dir {owner} {attribute}")
            }
            FileType::Symlink => {
                let target = overlay.readlink(found.node).unwrap();
                format!("link {:?}", OsStr::from_bytes(&target))
            }
            FileType::Fifo => format!("fifo {owner}"),
            _ => {
                let open = overlay.open(found.node, OFlags::RDONLY, false).unwrap();
                let file = open.file(overlay).unwrap();
                let mut bytes = vec![0; stat.st_size as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                format!("file {owner} {attribute} {bytes:?}{LINKS}{}", stat.st_nlink)
            }
        };
        overlay.forget(found.node, 1);
        all.insert(path, what);
    }
}
pub(crate) fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    seen(dir, dir, &mut all);
    all
}

pub(crate) fn compare(seed: u64, log: &[String], overlay: &Overlay, plain: &Path) {
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    shown(overlay, ROOT, Path::new(""), &mut ours);
    seen(plain, plain, &mut theirs);
    for line in ours.values_mut().chain(theirs.values_mut()) {
        if let Some(end) = line.find(LINKS) {
            line.truncate(end);
        }
    }
    difference(seed, log, "ours", &ours, "plain", &theirs);
}

pub(crate) fn difference(
    seed: u64,
    log: &[String],
    who: &str,
    ours: &BTreeMap<PathBuf, String>,
    other: &str,
    plain: &BTreeMap<PathBuf, String>,
) {
    let mut wrong = Vec::new();
    for path in ours.keys().chain(plain.keys()) {
        if ours.get(path) != plain.get(path) {
            wrong.push(format!(
                "{path:?}: {who} {:?}, {other} {:?}",
                ours.get(path),
                plain.get(path)
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "seed {seed}:\n{}\n{}",
        log.join("\n"),
        wrong.join("\n")
    );
}
