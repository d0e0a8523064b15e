//! The kernel is the specification: random stacks of layers, looked up by [`overlay::Stack`] and by the kernel's
//! own overlay mount, must come out the same. Needs root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use mount::Mount;
use overlay::stack::{Found, Stack};
use overlay::{Format, Opaque, Prefix, WhiteoutKind, whiteout};
use sys::Dir;

/// A small generator of numbers, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A mount that ends with its value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(layers: &[PathBuf], at: &Path, extra: &[&str]) -> Mounted {
        let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        mount::attach(&Mount::overlay(&layers, None, extra), at).expect("mounting an overlay needs root");
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = mount::detach(&self.0);
    }
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn fill(random: &mut Random, dir: &Dir, depth: u32, tag: &str, redirects: bool, format: Format) {
    for name in NAMES {
        match random.below(8) {
            0 | 1 => {
                let file = dir.open_file(
                    name,
                    rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY,
                    rustix::fs::Mode::from_raw_mode(0o644),
                );
                rustix::io::write(file.unwrap(), tag.as_bytes()).unwrap();
            }
            2..=4 if depth > 0 => {
                let mode = 0o700 + random.below(0o100) as u32;
                dir.mkdir(name, rustix::fs::Mode::from_raw_mode(mode)).unwrap();
                let child = dir.open_dir(name).unwrap();
                if random.one_in(5) {
                    Opaque::Yes.write(child.as_fd(), format.prefix).unwrap();
                } else if redirects && random.one_in(4) {
                    let pick = |random: &mut Random| NAMES[random.below(4) as usize];
                    let value = match random.below(3) {
                        0 => pick(random).to_owned(),
                        1 => format!("/{}", pick(random)),
                        _ => format!("/{}/{}", pick(random), pick(random)),
                    };
                    format
                        .prefix
                        .set(child.as_fd(), overlay::xattr::REDIRECT, value.as_bytes())
                        .unwrap();
                }
                fill(random, &child, depth - 1, tag, redirects, format);
            }
            5 => {
                let kind = match random.one_in(2) && depth < 3 {
                    true => WhiteoutKind::Attribute,
                    false => format.whiteouts,
                };
                let format = Format {
                    whiteouts: kind,
                    ..format
                };
                whiteout::make(dir, OsStr::new(name), format).unwrap();
            }
            6 if random.one_in(2) => dir.symlink(tag, name).unwrap(),
            _ => {}
        }
    }
}

/// One line for everything that is seen of an entry.
fn seen_by_kernel(root: &Path, at: &Path, all: &mut BTreeMap<PathBuf, String>) {
    for entry in fs::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                all.insert(path.strip_prefix(root).unwrap().to_owned(), "refused".into());
                continue;
            }
            // A directory of one layer alone is listed by the file system below, whiteouts and all.
            Err(_) => continue,
        };
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            seen_by_kernel(root, &path, all);
            format!("dir {:o}", meta.permissions().mode())
        } else if kind.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else if kind.is_char_device() {
            format!("device {}", meta.rdev())
        } else {
            format!("file {:?}", fs::read_to_string(&path).unwrap())
        };
        all.insert(path.strip_prefix(root).unwrap().to_owned(), what);
    }
}

fn seen_by_us(
    stack: &Stack<&Dir>,
    layers: &[PathBuf],
    at: &Path,
    found: &Found,
    all: &mut BTreeMap<PathBuf, String>,
) {
    let Found::Dir(merged) = found else { return };
    let open = stack.open(merged).unwrap();
    for name in stack.names(&open).unwrap() {
        let path = at.join(&name);
        let child = match stack.child(&open, &name) {
            Ok(Some(child)) => child,
            Ok(None) => continue,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied);
                all.insert(path, "refused".into());
                continue;
            }
        };
        let real = layers[child.place().layer].join(&child.place().path);
        let what = match &child {
            Found::Dir(merged) => format!("dir {:o}", merged.stat.st_mode),
            Found::File { stat, .. } if stat.st_mode & 0o170000 == 0o120000 => {
                format!("link {:?}", fs::read_link(&real).unwrap())
            }
            Found::File { .. } => format!("file {:?}", fs::read_to_string(&real).unwrap()),
        };
        seen_by_us(stack, layers, &path, &child, all);
        let looked_up = stack.lookup(&path).unwrap().expect("what is listed is found");
        assert_eq!(looked_up.place(), child.place());
        all.insert(path, what);
    }
}

fn compare(seeds: std::ops::Range<u64>, redirects: bool, format: Format, extra: &[&str]) {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test mounts overlays and needs root"
    );
    for seed in seeds {
        let mut random = Random(seed);
        let temp = tempfile::tempdir().unwrap();
        let count = 2 + random.below(4) as usize;
        let mut layers = Vec::new();
        for layer in 0..count {
            let path = temp.path().join(format!("layer{layer}"));
            fs::create_dir(&path).unwrap();
            let dir = Dir::open_ambient(&path).unwrap();
            fill(&mut random, &dir, 3, &format!("layer {layer}"), redirects, format);
            layers.push(path);
        }
        // An empty layer at the bottom: the kernel does not look for attribute whiteouts in the last one.
        let bottom = temp.path().join("bottom");
        fs::create_dir(&bottom).unwrap();
        layers.push(bottom);
        let merged = temp.path().join("merged");
        fs::create_dir(&merged).unwrap();

        let mut kernel = BTreeMap::new();
        {
            let mounted = Mounted::new(&layers, &merged, extra);
            seen_by_kernel(&mounted.0, &mounted.0, &mut kernel);
        }
        let dirs: Vec<Dir> = layers
            .iter()
            .map(|path| Dir::open_ambient(path).unwrap())
            .collect();
        let stack = Stack::new(&dirs, format.prefix);
        let mut ours = BTreeMap::new();
        let root = Found::Dir(stack.root().unwrap().unwrap());
        seen_by_us(&stack, &layers, Path::new(""), &root, &mut ours);
        assert_eq!(kernel, ours, "seed {seed}");
    }
}

#[test]
fn whiteouts_and_opaque_directories() {
    compare(0..30, false, Format::TRUSTED, &[]);
}

#[test]
fn redirects() {
    compare(1000..1050, true, Format::TRUSTED, &[]);
}

#[test]
fn the_user_prefix() {
    compare(2000..2020, true, Format::USER, &["userxattr"]);
}

#[test]
fn attributes_of_the_overlay_are_shown_unescaped() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for name in ["top", "bottom", "merged", "top/d", "bottom/d"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("bottom/d/kept"), "").unwrap();
    let dir = Dir::open_ambient(path("top")).unwrap();
    for name in [
        "trusted.overlay.opaque",
        "trusted.overlay.overlay.redirect",
        "user.overlay.opaque",
    ] {
        let stored = Prefix::Trusted.to_layer(OsStr::new(name)).into_owned();
        dir.set_xattr("d", stored, b"y").unwrap();
    }
    let mounted = Mounted::new(&[path("top"), path("bottom")], &path("merged"), &[]);
    let view = Dir::open_ambient(&mounted.0).unwrap();
    assert!(mounted.0.join("d/kept").exists(), "an escaped mark means nothing");
    let mut names = view.list_xattrs("d").unwrap();
    names.sort();
    assert_eq!(
        names,
        [
            "trusted.overlay.opaque",
            "trusted.overlay.overlay.redirect",
            "user.overlay.opaque"
        ]
    );
    assert_eq!(
        view.get_xattr("d", "trusted.overlay.opaque").unwrap().as_deref(),
        Some(&b"y"[..])
    );
}

#[test]
fn data_of_a_metadata_only_file_is_found_below() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for name in ["top", "middle", "bottom", "merged", "top/d", "bottom/d"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("bottom/d/data"), "the data").unwrap();
    fs::write(path("top/d/name"), "").unwrap();
    fs::File::options()
        .write(true)
        .open(path("top/d/name"))
        .unwrap()
        .set_len(8)
        .unwrap();
    let top = Dir::open_ambient(path("top/d")).unwrap();
    top.set_xattr("name", "trusted.overlay.metacopy", b"").unwrap();
    top.set_xattr("name", "trusted.overlay.redirect", b"/d/data")
        .unwrap();
    let layers = ["top", "middle", "bottom"].map(path);

    let mounted = Mounted::new(&layers, &path("merged"), &["metacopy=on"]);
    assert_eq!(fs::read_to_string(mounted.0.join("d/name")).unwrap(), "the data");

    let dirs = layers.map(|layer| Dir::open_ambient(layer).unwrap());
    let stack = Stack::new(&dirs, Prefix::Trusted);
    let Some(Found::Dir(parent)) = stack.lookup(Path::new("d")).unwrap() else {
        panic!("a directory")
    };
    let found = stack.lookup(Path::new("d/name")).unwrap().unwrap();
    assert_eq!(found.stat().st_size, 8);
    let data = stack
        .data_place(&parent, OsStr::new("name"), found.place())
        .unwrap();
    assert_eq!((data.layer, data.path.as_path()), (2, Path::new("d/data")));
}

#[test]
fn an_opaque_mark_on_a_layers_root_means_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for name in ["top", "bottom", "merged"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("bottom/kept"), "").unwrap();
    let layers = ["top", "bottom"].map(path);
    let dirs = layers.clone().map(|layer| Dir::open_ambient(layer).unwrap());
    Opaque::Yes.write(dirs[0].as_fd(), Prefix::Trusted).unwrap();
    let mounted = Mounted::new(&layers, &path("merged"), &[]);
    assert!(mounted.0.join("kept").exists());
    let stack = Stack::new(&dirs, Prefix::Trusted);
    assert!(stack.lookup(Path::new("kept")).unwrap().is_some());
}
