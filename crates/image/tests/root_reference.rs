//! Layers of ours, merged by the kernel, against what GNU tar and umoci make of the same archives. Needs root.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use image::pack::pack_as;
use image::unpack::Limits;
use mount::Mount;
use overlay::{Format, Prefix};
use support::random::{Shape, archive};
use support::*;
use testkit::random::Random;

/// A mount that ends with its value.
struct Mounted(PathBuf);

impl Mounted {
    fn new(layers_top_first: &[&Layer], at: &Path) -> Mounted {
        Mounted::with(layers_top_first, at, &[])
    }

    fn with(layers_top_first: &[&Layer], at: &Path, options: &[&str]) -> Mounted {
        let paths: Vec<PathBuf> = layers_top_first.iter().map(|layer| layer.path()).collect();
        let lowers: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        fs::create_dir(at).unwrap();
        // A single lower directory is no overlay.
        let empty = at.with_extension("empty");
        fs::create_dir(&empty).unwrap();
        let lowers = [lowers.as_slice(), &[&empty]].concat();
        mount::attach(&Mount::overlay(&lowers, None, options), at).expect("mounting an overlay needs root");
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = mount::detach(&self.0);
    }
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Leaves times of directories out: where a directory is not listed, unpackers differ.
fn without_directory_times(seen: BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let strip = |(path, text): (PathBuf, String)| {
        let mut words: Vec<&str> = text.split(' ').collect();
        if words[0].starts_with('4') {
            words.remove(2);
        }
        let text = words.join(" ");
        (path, text)
    };
    seen.into_iter().map(strip).collect()
}

#[test]
fn gnu_tar_makes_the_same_of_one_archive() {
    let shape = Shape {
        whiteouts: false,
        duplicates: false,
        unlisted: false,
        root: true,
        ..Shape::ALL
    };
    for seed in 0..30 {
        let (tar, _) = archive(&mut Random::new(seed), shape, &[]);
        let layer = try_layer(&tar, &[]).unwrap_or_else(|error| panic!("seed {seed}: {}", chain(&error)));
        let temp = tempfile::tempdir().unwrap();
        let (file, root) = (temp.path().join("a.tar"), temp.path().join("root"));
        fs::write(&file, &tar).unwrap();
        fs::create_dir(&root).unwrap();
        let (file, to) = (file.to_str().unwrap(), root.to_str().unwrap());
        run(
            "tar",
            &[
                "-x",
                "-p",
                "--numeric-owner",
                "--same-owner",
                "--xattrs",
                "--xattrs-include=*",
                "--delay-directory-restore",
                "-f",
                file,
                "-C",
                to,
            ],
        );
        let merged = temp.path().join("merged");
        let mounted = Mounted::new(&[&layer], &merged);
        let (mut ours, mut theirs) = (seen(&mounted.0), seen(&root));
        if !layer.unpacked.root_listed {
            ours.remove(Path::new(""));
            theirs.remove(Path::new(""));
        }
        assert_eq!(ours, theirs, "seed {seed}");
    }
}

#[test]
fn umoci_makes_the_same_of_several_layers() {
    let shape = Shape {
        // Its version here loses attributes of what a later layer touches.
        xattrs: false,
        // And cannot write names that are no UTF-8.
        odd_names: false,
        root: false,
        setgid: false,
        // A file that becomes a directory in one layer hides what is below with umoci, which applies entry by entry;
        // docker, podman and containerd let it show, as we do.
        duplicates: false,
        ..Shape::ALL
    };
    for seed in 0..15 {
        let mut random = Random::new(seed);
        let temp = tempfile::tempdir().unwrap();
        let layout = temp.path().join("layout");
        let image = format!("{}:t", layout.display());
        run("umoci", &["init", "--layout", layout.to_str().unwrap()]);
        run("umoci", &["new", "--image", &image]);
        let mut layers: Vec<Layer> = Vec::new();
        let mut files = Vec::new();
        for index in 0..2 + random.below(3) {
            let (tar, have) = archive(&mut random, shape, &files);
            files.extend(have);
            let below: Vec<&Layer> = layers.iter().rev().collect();
            let layer =
                try_layer(&tar, &below).unwrap_or_else(|error| panic!("seed {seed}: {}", chain(&error)));
            layers.push(layer);
            let file = temp.path().join(format!("{index}.tar"));
            fs::write(&file, &tar).unwrap();
            run(
                "umoci",
                &["raw", "add-layer", "--image", &image, file.to_str().unwrap()],
            );
        }
        let root = temp.path().join("root");
        run(
            "umoci",
            &["raw", "unpack", "--image", &image, root.to_str().unwrap()],
        );
        let mounted = Mounted::new(
            &layers.iter().rev().collect::<Vec<_>>(),
            &temp.path().join("merged"),
        );
        let (mut ours, mut theirs) = (
            without_directory_times(seen(&mounted.0)),
            without_directory_times(seen(&root)),
        );
        ours.remove(Path::new(""));
        theirs.remove(Path::new(""));
        assert_eq!(ours, theirs, "seed {seed}");
    }
}

#[test]
fn the_format_for_unprivileged_mounts_shows_the_same() {
    let shape = Shape {
        privileged: false,
        ..Shape::ALL
    };
    for seed in 100..120 {
        let mut random = Random::new(seed);
        let temp = tempfile::tempdir().unwrap();
        let (mut trusted, mut user): (Vec<Layer>, Vec<Layer>) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            let (tar, _) = archive(&mut random, shape, &[]);
            for (format, layers) in [(Format::TRUSTED, &mut trusted), (Format::USER, &mut user)] {
                let below: Vec<&Layer> = layers.iter().rev().collect();
                let layer = try_layer_as(format, &tar, &below, &Limits::default());
                layers.push(layer.unwrap_or_else(|error| panic!("seed {seed}: {}", chain(&error))));
            }
        }
        for layer in &user {
            let devices = layer
                .seen()
                .into_values()
                .filter(|text| text == "whiteout")
                .count();
            assert_eq!(devices, 0, "no device is needed");
            let mut out = Vec::new();
            pack_as(Prefix::User, &layer.dir(), &mut out).unwrap();
            let again = try_layer_as(Format::USER, &out, &[], &Limits::default()).unwrap();
            // A mark for whiteouts may outlive the whiteout, and a whiteout's own time is nobody's business.
            let plain = |layer: &Layer| -> Vec<_> {
                let seen = layer
                    .seen()
                    .into_iter()
                    .filter(|(_, text)| !text.contains("overlay.whiteout"));
                seen.map(|(path, text)| (path, text.replace(" user.overlay.opaque=x", "")))
                    .collect()
            };
            assert_eq!(plain(layer), plain(&again), "seed {seed}");
        }
        let (one, two) = (temp.path().join("one"), temp.path().join("two"));
        let one = Mounted::new(&trusted.iter().rev().collect::<Vec<_>>(), &one);
        let two = Mounted::with(&user.iter().rev().collect::<Vec<_>>(), &two, &["userxattr"]);
        assert_eq!(seen(&one.0), seen(&two.0), "seed {seed}");
    }
}
