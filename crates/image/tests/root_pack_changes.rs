//! What a container changed, packed as a layer: over the same layers it shows what the container did. Needs root.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use image::pack::{MergedAs, PackError, pack, pack_changes, pack_merged};
use mount::Mount;
use overlay::Prefix;
use support::container::{Container, act};
use support::random::{Shape, layers};
use support::*;
use testkit::random::Random;

/// How overlays are written whose upper directory alone does not tell everything.
const ALL: &[&str] = &["redirect_dir=on", "metacopy=on"];

fn packed(container: &Container) -> Vec<u8> {
    let mut out = Vec::new();
    let keep = |_: &Path| false;
    pack_changes(
        Prefix::Trusted,
        &container.upper(),
        &container.lowers(),
        &keep,
        &mut out,
    )
    .unwrap_or_else(|error| panic!("{}", chain(&error)));
    out
}

fn merged(container: &Container) -> Vec<u8> {
    let layers: Vec<_> = std::iter::once(container.upper())
        .chain(container.lowers())
        .collect();
    let mut out = Vec::new();
    pack_merged(Prefix::Trusted, &layers, MergedAs::Layer, &mut out)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    out
}

/// What a layer shows over others, topmost first, and over a directory in which nothing is.
fn seen_over(layer: &Layer, below: &[&Layer]) -> BTreeMap<PathBuf, String> {
    let (target, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut paths = vec![layer.path()];
    paths.extend(below.iter().map(|layer| layer.path()));
    paths.push(empty.path().to_owned());
    let lowers: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
    mount::attach(&Mount::overlay(&lowers, None, &[]), target.path()).unwrap();
    let seen = seen(target.path());
    mount::detach(target.path()).unwrap();
    seen
}

/// Both ways of packing a container give back what it shows, in the same bytes each time.
fn check(container: &Container, what: &str) {
    let shown = seen(&container.at(""));
    let archive = packed(container);
    assert!(packed(container) == archive, "{what}: packed again, it differs");
    let below: Vec<&Layer> = container.layers.iter().rev().collect();
    let layer = try_layer(&archive, &below).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    assert!(!layer.unpacked.depends_on_below, "{what}");
    assert_eq!(seen_over(&layer, &below), shown, "{what}");

    let layer =
        try_layer(&merged(container), &[]).unwrap_or_else(|error| panic!("{what}: {}", chain(&error)));
    assert_eq!(seen_over(&layer, &[]), shown, "{what}, merged");
}

fn base() -> Layer {
    layer(
        Tar::new()
            .dir("etc", 0o755)
            .file("etc/passwd", "root")
            .file("etc/group", "root")
            .dir("usr", 0o755)
            .dir("usr/lib", 0o755)
            .dir("usr/lib/deep", 0o700)
            .file("usr/lib/deep/a", "a")
            .link("usr/lib/deep/b", "usr/lib/deep/a")
            .sparse("usr/lib/sparse", 1 << 20, &[(1 << 19, b"x")])
            .file_with("usr/lib/attributes", "b", |entry| {
                entry.xattrs = vec![(b"user.k".to_vec(), b"v".to_vec())];
            })
            .symlink("link", "etc"),
        &[],
    )
}

#[test]
fn renamed_directories_and_files_without_data() {
    let top = layer(Tar::new().file("usr/lib/top", "x").whiteout("etc/.wh.group"), &[]);
    let container = Container::new(vec![base(), top], ALL);
    fs::rename(container.at("usr/lib"), container.at("moved")).unwrap();
    fs::write(container.at("moved/new"), "new").unwrap();
    fs::remove_file(container.at("moved/top")).unwrap();
    fs::rename(container.at("moved/deep"), container.at("moved/deeper")).unwrap();
    // Attributes alone: the file is copied up without its data.
    fs::set_permissions(container.at("etc/passwd"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(container.at("moved/sparse"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(container.at("etc/passwd"), container.at("shadow")).unwrap();
    let error = pack(&container.upper(), std::io::sink()).unwrap_err();
    assert!(matches!(error, PackError::NeedsBelow { .. }), "{error}");
    check(&container, "moved");
    let archive = packed(&container);
    let text = String::from_utf8_lossy(&archive);
    assert!(text.contains("moved/.wh..wh..opq\0") && !text.contains("trusted.overlay"));
    assert!(
        archive.len() < 64 << 10,
        "holes stay holes: {} bytes",
        archive.len()
    );
}

#[test]
fn kinds_that_change_places() {
    let container = Container::new(vec![base()], &[]);
    fs::remove_dir_all(container.at("usr")).unwrap();
    fs::write(container.at("usr"), "now a file").unwrap();
    fs::remove_file(container.at("link")).unwrap();
    fs::create_dir(container.at("link")).unwrap();
    fs::remove_dir_all(container.at("etc")).unwrap();
    symlink("link", container.at("etc")).unwrap();
    check(&container, "kinds");
}

#[test]
fn only_what_changed_is_read() {
    let container = Container::new(vec![base()], &[]);
    fs::write(container.at("etc/passwd"), "other").unwrap();
    let archive = packed(&container);
    // Three headers (the root, etc, passwd), each with one for its times, and the file.
    assert!(archive.len() < 16 << 10, "{} bytes", archive.len());
    assert!(!String::from_utf8_lossy(&archive).contains("usr"));
}

#[test]
fn what_is_left_out_is_not_there() {
    let container = Container::new(vec![base()], &[]);
    fs::create_dir_all(container.at("proc/x")).unwrap();
    fs::write(container.at("etc/hosts"), "").unwrap();
    fs::write(container.at("kept"), "").unwrap();
    let leave_out = |path: &Path| path == Path::new("proc") || path == Path::new("etc/hosts");
    let mut out = Vec::new();
    pack_changes(
        Prefix::Trusted,
        &container.upper(),
        &container.lowers(),
        &leave_out,
        &mut out,
    )
    .unwrap();
    let text = String::from_utf8_lossy(&out);
    assert!(text.contains("kept") && !text.contains("proc") && !text.contains("hosts"));
}

#[test]
fn random_changes() {
    let shape = Shape {
        odd_names: false,
        ..Shape::ALL
    };
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let options: &[&str] = if seed % 3 == 0 { &[] } else { ALL };
        let container = Container::new(layers(&mut random, shape), options);
        for _ in 0..random.below(40) {
            act(&mut random, &container.at(""));
        }
        check(&container, &format!("seed {seed}"));
    }
}
