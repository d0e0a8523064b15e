//! What an overlay shows, as text: by our server's calls, by a mount of the kernel, and the layers themselves.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};

use overlay::live::{NodeId, Overlay, ROOT};
use rustix::fs::{FileType, OFlags, Stat};

/// One line for each entry.
pub(crate) type View = BTreeMap<PathBuf, String>;

/// Times after this one are those of the test itself.
const PREPARED_UNTIL: i64 = 1_500_000_000;

fn line(
    path: &Path,
    stat: &Stat,
    attributes: &[(String, Vec<u8>)],
    content: &[u8],
    known: &mut HashMap<u64, PathBuf>,
) -> String {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut text = format!(
        "{kind:?} {:o} {}:{}",
        stat.st_mode & 0o7777,
        stat.st_uid,
        stat.st_gid
    );
    // An entry that comes or goes changes a directory's time, and both drivers count directories' links as they like.
    if kind != FileType::Directory {
        let time = match stat.st_mtime {
            ..PREPARED_UNTIL => stat.st_mtime.to_string(),
            _ => "now".to_owned(),
        };
        let same = known.entry(stat.st_ino).or_insert_with(|| path.to_owned());
        text += &format!(" time {time} links {} same as {}", stat.st_nlink, same.display());
    }
    if kind == FileType::CharacterDevice {
        text += &format!(" device {:x}", stat.st_rdev);
    }
    for (name, value) in attributes {
        text += &format!(" {name}={}", value.escape_ascii());
    }
    match content.len() {
        0..=40 => text + &format!(" [{}]", content.escape_ascii()),
        length => {
            let sum = content.iter().fold(7u64, |sum, byte| {
                sum.wrapping_mul(31).wrapping_add(u64::from(*byte))
            });
            text + &format!(" [{length} bytes, {sum:x}]")
        }
    }
}

/// What the live overlay shows.
pub(crate) fn ours(overlay: &Overlay) -> View {
    let (mut view, mut known) = (View::new(), HashMap::new());
    ours_in(overlay, ROOT, Path::new(""), &mut view, &mut known);
    view
}

fn ours_in(overlay: &Overlay, node: NodeId, at: &Path, view: &mut View, known: &mut HashMap<u64, PathBuf>) {
    let mut names = Vec::new();
    overlay
        .list(node, 0, &mut |entry| {
            names.push(entry.name.to_owned());
            true
        })
        .expect("a directory is listed");
    names.sort();
    for name in names.iter().filter(|name| *name != "." && *name != "..") {
        let path = at.join(name);
        let found = match overlay.lookup(node, name) {
            Ok(found) => found,
            Err(errno) => {
                view.insert(path, format!("listed, and then: {errno}"));
                continue;
            }
        };
        let mut attributes: Vec<(String, Vec<u8>)> = Vec::new();
        let list = overlay
            .listxattr(found.node, true)
            .expect("attributes are listed");
        for name in list.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let value = overlay
                .getxattr(found.node, OsStr::from_bytes(name))
                .expect("it was listed");
            attributes.push((String::from_utf8_lossy(name).into_owned(), value));
        }
        attributes.sort();
        let content = match FileType::from_raw_mode(found.attr.st_mode) {
            FileType::Symlink => overlay.readlink(found.node).expect("a link has a target"),
            FileType::RegularFile => match overlay.open(found.node, OFlags::RDONLY, false) {
                Ok(open) => {
                    let file = open.file(overlay).expect("it is open");
                    // One byte more than it should have.
                    let mut content = vec![0; found.attr.st_size as usize + 1];
                    let length = file.read_at(&mut content, 0).expect("it can be read");
                    content.truncate(length);
                    content
                }
                Err(errno) => format!("cannot be opened: {errno}").into_bytes(),
            },
            _ => Vec::new(),
        };
        view.insert(
            path.clone(),
            line(&path, &found.attr, &attributes, &content, known),
        );
        if FileType::from_raw_mode(found.attr.st_mode) == FileType::Directory {
            ours_in(overlay, found.node, &path, view, known);
        }
        overlay.forget(found.node, 1);
    }
}

/// What a directory shows: a mount, or a layer.
pub(crate) fn plain(root: &Path) -> View {
    let (mut view, mut known) = (View::new(), HashMap::new());
    plain_in(root, root, &mut view, &mut known);
    view
}

fn plain_in(root: &Path, at: &Path, view: &mut View, known: &mut HashMap<u64, PathBuf>) {
    let entries = fs::read_dir(at).unwrap_or_else(|error| panic!("{at:?}: {error}"));
    let mut names: Vec<_> = entries
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    for name in names {
        let real = at.join(name);
        let path = real
            .strip_prefix(root)
            .expect("it is beneath the root")
            .to_owned();
        let stat = match rustix::fs::lstat(&real) {
            // The kernel lists a directory of one layer alone as it is, whiteouts and all.
            Err(rustix::io::Errno::NOENT) => continue,
            Err(errno) => {
                view.insert(path, format!("listed, and then: {errno}"));
                continue;
            }
            Ok(stat) => stat,
        };
        let mut attributes = Vec::new();
        let mut list = vec![0; 4096];
        let length = rustix::fs::llistxattr(&real, &mut list).expect("attributes are listed");
        for name in list[..length]
            .split(|byte| *byte == 0)
            .filter(|name| !name.is_empty())
        {
            let mut value = vec![0; 4096];
            let length = rustix::fs::lgetxattr(&real, name, &mut value).expect("it was listed");
            attributes.push((
                String::from_utf8_lossy(name).into_owned(),
                value[..length].to_vec(),
            ));
        }
        attributes.sort();
        let kind = fs::symlink_metadata(&real).expect("it was there").file_type();
        let content = if kind.is_symlink() {
            fs::read_link(&real)
                .expect("a link has a target")
                .as_os_str()
                .as_bytes()
                .to_vec()
        } else if kind.is_file() && !kind.is_fifo() {
            fs::read(&real).unwrap_or_else(|error| format!("cannot be read: {error}").into_bytes())
        } else {
            Vec::new()
        };
        view.insert(path.clone(), line(&path, &stat, &attributes, &content, known));
        if kind.is_dir() {
            plain_in(root, &real, view, known);
        }
    }
}

/// What one view has and the other has not, to be read.
pub(crate) fn difference(one: &View, other: &View) -> String {
    let mut text = String::new();
    for path in one
        .keys()
        .chain(other.keys().filter(|path| !one.contains_key(*path)))
    {
        let (a, b) = (one.get(path), other.get(path));
        if a != b {
            text += &format!(
                "  {}\n    {}\n    {}\n",
                path.display(),
                a.map_or("-", |a| a),
                b.map_or("-", |b| b)
            );
        }
    }
    text
}
