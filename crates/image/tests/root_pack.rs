//! A layer packed and unpacked again is the same layer. Needs root.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use image::pack::{PackError, pack};
use image::tar::Kind;
use support::random::{Shape, archive};
use support::*;
use sys::Dir;
use testkit::random::Random;

fn packed(dir: &Dir) -> Vec<u8> {
    let mut out = Vec::new();
    pack(dir, &mut out).unwrap_or_else(|error| panic!("{}", chain(&error)));
    out
}

/// Packs and unpacks, and compares trees and archives.
fn round_trip(first: &Layer, what: &str) {
    let archive = packed(&first.dir());
    let second = try_layer(&archive, &[]).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    assert_eq!(first.seen(), second.seen(), "{what}");
    assert!(packed(&second.dir()) == archive, "{what}: the archive differs");
    assert!(
        second.unpacked.root_listed && !second.unpacked.depends_on_below,
        "{what}: everything is listed"
    );
}

#[test]
fn random_layers() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (tar, _) = archive(&mut random, Shape::ALL, &[]);
        let layer = try_layer(&tar, &[]).unwrap_or_else(|error| panic!("seed {seed}: {}", chain(&error)));
        round_trip(&layer, &format!("seed {seed}"));
    }
}

#[test]
fn holes_stay_holes() {
    let first = layer(
        Tar::new().sparse("s", 1 << 30, &[(1 << 20, b"x"), (1 << 29, b"y")]),
        &[],
    );
    let archive = packed(&first.dir());
    assert!(archive.len() < 32 * 1024, "{} bytes", archive.len());
    let second = try_layer(&archive, &[]).unwrap();
    let meta = fs::metadata(second.at("s")).unwrap();
    assert_eq!(meta.len(), 1 << 30);
    assert!(meta.blocks() <= 16);
    assert_eq!(fs::read(second.at("s")).unwrap()[1 << 29], b'y');
}

#[test]
fn a_deep_tree() {
    let deep = "d/".repeat(300);
    round_trip(
        &layer(Tar::new().file(format!("{deep}f"), "deep").file("x", ""), &[]),
        "deep",
    );
}

#[test]
fn the_overlays_own_marks_are_translated() {
    let layer = layer(
        Tar::new()
            .dir("o", 0o755)
            .whiteout("o/.wh..wh..opq")
            .whiteout(".wh.gone")
            .file("f", ""),
        &[],
    );
    let dir = layer.dir();
    for (name, attribute) in [("f", "origin"), ("o", "impure")] {
        dir.set_xattr(name, format!("trusted.overlay.{attribute}"), b"y")
            .unwrap();
    }
    let archive = packed(&dir);
    let text = String::from_utf8_lossy(&archive);
    for name in ["o/.wh..wh..opq\0", ".wh.gone\0"] {
        assert!(text.contains(name), "{name}");
    }
    assert!(!text.contains("trusted.overlay"));
}

#[test]
fn what_a_layer_cannot_say_is_refused() {
    let layer = layer(Tar::new().dir("d", 0o755).file("f", ""), &[]);
    let dir = layer.dir();
    let error = || pack(&dir, std::io::sink()).unwrap_err();
    fs::write(layer.at("d/.wh.x"), "").unwrap();
    assert!(matches!(error(), PackError::Name { path } if path == Path::new("d/.wh.x")));
    fs::remove_file(layer.at("d/.wh.x")).unwrap();
    dir.set_xattr("d", "trusted.overlay.redirect", b"x").unwrap();
    assert!(
        matches!(error(), PackError::NeedsBelow { path, attribute: "redirect" } if path == Path::new("d"))
    );
    dir.remove_xattr("d", "trusted.overlay.redirect").unwrap();
    dir.set_xattr("f", "trusted.overlay.metacopy", b"").unwrap();
    assert!(matches!(
        error(),
        PackError::NeedsBelow {
            attribute: "metacopy",
            ..
        }
    ));
}

#[test]
fn sockets_are_left_out() {
    let first = layer(
        Tar::new().entry(Kind::Directory, "./", |entry| entry.mode = 0o755),
        &[],
    );
    let _socket = std::os::unix::net::UnixListener::bind(first.at("socket")).unwrap();
    assert!(!String::from_utf8_lossy(&packed(&first.dir())).contains("socket"));
}
