//! Archives that are broken or mean harm: one clear line, exit code 125, nothing half-visible, nothing written outside
//! the store. Needs root.

mod common;

use std::fs;
use std::path::Path;

use common::{Compression, Image, Layer, Strata, empty, refused};
use serde_json::{Value, json};
use testkit::image::{blob_name, write_tar};
use testkit::layer::EntryType;

/// Nothing of a load that failed can be seen, and a good image can be loaded after it.
#[track_caller]
fn left_nothing(strata: &Strata) {
    assert_eq!(strata.ok(["images", "-q"]), "");
    let layers: Vec<_> = fs::read_dir(strata.root().join("snapshots"))
        .into_iter()
        .flatten()
        .flatten()
        .collect();
    assert!(layers.is_empty(), "{layers:?}");
    strata.load(&Image::busybox());
    assert_eq!(strata.ok(["run", "--rm", "busybox", "echo", "well"]), "well\n");
}

fn load(strata: &Strata, path: &Path) -> common::Ended {
    strata.end(["load".as_ref(), "-q".as_ref(), "-i".as_ref(), path.as_os_str()])
}

/// Loads an image of one layer beside which a file lies that must stay as it is.
#[track_caller]
fn layer_is_refused(layer: Layer, words: &[&str]) {
    let strata = empty();
    let outside = strata.dir().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let archive = strata.dir().join("bad.tar");
    Image::new("docker.io/library/bad:1")
        .layer(layer)
        .write_oci_archive(&archive);
    refused(&load(&strata, &archive), words);
    assert_eq!(fs::read_to_string(&outside).unwrap(), "untouched");
    left_nothing(&strata);
}

/// Loads a layer that is harmless, however it looks: the outside stays as it is, and so does the machine.
#[track_caller]
fn layer_stays_inside(layer: Layer, harmful: &str) {
    let strata = empty();
    let archive = strata.dir().join("sly.tar");
    Image::new("docker.io/library/sly:1")
        .layer(layer)
        .write_oci_archive(&archive);
    let ended = load(&strata, &archive);
    assert!(ended.code == 0 || ended.code == 125, "{ended:?}");
    assert!(!Path::new(harmful).exists(), "written outside: {harmful}");
    assert!(!strata.dir().join("outside").exists());
}

#[test]
fn names_that_climb_out() {
    layer_is_refused(Layer::new().file("../outside", 0o644, "x"), &["../outside"]);
    layer_is_refused(
        Layer::new().file("a/../../../outside", 0o644, "x"),
        &["a/../../../outside"],
    );
    layer_is_refused(
        Layer::new().file("../../../../../../../../tmp/strata-climbed", 0o644, "x"),
        &["strata-climbed"],
    );
}

#[test]
fn absolute_names_lie_beneath_the_layer() {
    layer_stays_inside(
        Layer::new().file("/tmp/strata-absolute", 0o644, "x"),
        "/tmp/strata-absolute",
    );
}

#[test]
fn links_that_lead_out_are_not_followed() {
    let through = Layer::new()
        .symlink("way", "/tmp")
        .file("way/strata-through", 0o644, "x");
    layer_stays_inside(through, "/tmp/strata-through");
    let climbing =
        Layer::new()
            .symlink("way", "../../../../../../tmp")
            .file("way/strata-climbing", 0o644, "x");
    layer_stays_inside(climbing, "/tmp/strata-climbing");
    let final_link = Layer::new()
        .symlink("file", "/tmp/strata-final")
        .file("file", 0o644, "x");
    layer_stays_inside(final_link, "/tmp/strata-final");
}

#[test]
fn hard_links_to_the_outside() {
    layer_is_refused(
        Layer::new().hard_link("passwd", "../../../../../../../etc/passwd"),
        &["etc/passwd"],
    );
    layer_is_refused(
        Layer::new().hard_link("passwd", "no/such/file"),
        &["no/such/file"],
    );
    let through = Layer::new()
        .symlink("way", "/etc")
        .hard_link("passwd", "way/passwd");
    let strata = empty();
    let archive = strata.dir().join("sly.tar");
    Image::new("docker.io/library/sly:1")
        .layer(through)
        .write_oci_archive(&archive);
    refused(&load(&strata, &archive), &["way/passwd"]);
}

#[test]
fn no_layer_smuggles_in_what_only_the_overlay_writes() {
    // A 0/0 device is a whiteout, and these attributes are the overlay's own: a layer may not speak for it.
    let smuggled = Layer::new()
        .char_device("bin/sh", 0, 0)
        .pax("SCHILY.xattr.trusted.overlay.opaque", b"y")
        .dir("etc", 0o755)
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/root")
        .dir("home", 0o755);
    let strata = empty();
    let archive = strata.dir().join("sly.tar");
    Image::busybox()
        .layer(smuggled)
        .name("docker.io/library/sly:1")
        .write_oci_archive(&archive);
    let ended = load(&strata, &archive);
    if ended.code == 125 {
        refused(&ended, &["sly"]);
        return;
    }
    assert_eq!(
        strata
            .ok(["run", "--rm", "sly:1", "cat", "/etc/group"])
            .lines()
            .next(),
        Some("root:x:0:")
    );
}

#[test]
fn a_file_where_a_directory_is_needed() {
    let layer = Layer::new().file("a", 0o644, "x").file("a/b", 0o644, "y");
    let strata = empty();
    let archive = strata.dir().join("odd.tar");
    Image::new("docker.io/library/odd:1")
        .layer(layer)
        .write_oci_archive(&archive);
    let ended = load(&strata, &archive);
    assert!(
        ended.code == 0 || (ended.code == 125 && ended.err.contains("a/b")),
        "{ended:?}"
    );
}

/// The files of an archive, to be spoilt one by one.
fn files() -> Vec<(String, Vec<u8>)> {
    Image::busybox().layout()
}

fn spoilt(spoil: impl FnOnce(&mut Vec<(String, Vec<u8>)>), words: &[&str]) {
    let strata = empty();
    let mut files = files();
    spoil(&mut files);
    let archive = strata.dir().join("bad.tar");
    write_tar(&archive, files);
    refused(&load(&strata, &archive), words);
    left_nothing(&strata);
}

fn named<'a>(files: &'a mut [(String, Vec<u8>)], name: &str) -> &'a mut Vec<u8> {
    &mut files.iter_mut().find(|(found, _)| found == name).unwrap().1
}

/// Names of the blobs: the layer, the configuration and the manifest.
fn blobs() -> [String; 3] {
    let built = Image::busybox().build();
    let manifest = &built.manifest;
    [&manifest["layers"][0], &manifest["config"], &built.descriptor].map(|described| {
        described["digest"]
            .as_str()
            .unwrap()
            .replace("sha256:", "blobs/sha256/")
    })
}

#[test]
fn blobs_that_are_not_what_they_are_called() {
    let [layer, config, manifest] = blobs();
    for name in [&layer, &config, &manifest] {
        let digest = name.rsplit('/').next().unwrap();
        spoilt(
            |files| *named(files, name).last_mut().unwrap() ^= 1,
            &[&digest[..12]],
        );
        spoilt(|files| files.retain(|(found, _)| found != name), &[&digest[..12]]);
    }
}

#[test]
fn a_layer_cut_short() {
    let [layer, ..] = blobs();
    let digest = layer.rsplit('/').next().unwrap()[..12].to_owned();
    spoilt(|files| named(files, &layer).truncate(1000), &[&digest]);
    // The blob itself is cut, and everything above it agrees with that.
    spoilt_layer(|blob| blob.truncate(blob.len() / 2), &[]);
    spoilt_layer(|blob| blob.clear(), &[]);
}

/// Spoils the layer, and makes the manifest agree with what it became.
fn spoilt_layer(spoil: impl FnOnce(&mut Vec<u8>), words: &[&str]) {
    let [layer, _, manifest] = blobs();
    spoilt(
        |files| {
            let mut blob = named(files, &layer).clone();
            spoil(&mut blob);
            let described = testkit::image::descriptor("application/vnd.oci.image.layer.v1.tar+gzip", &blob);
            replace(files, &layer, blob);
            rewrite_manifest(files, &manifest, |manifest| {
                manifest["layers"] = json!([described])
            });
        },
        words,
    );
}

fn replace(files: &mut Vec<(String, Vec<u8>)>, name: &str, blob: Vec<u8>) {
    files.retain(|(found, _)| found != name);
    files.insert(1, (blob_name(&blob), blob));
}

/// Changes the manifest, and the index with it.
fn rewrite_manifest(files: &mut Vec<(String, Vec<u8>)>, name: &str, change: impl FnOnce(&mut Value)) {
    let mut manifest: Value = serde_json::from_slice(named(files, name)).unwrap();
    change(&mut manifest);
    let bytes = manifest.to_string().into_bytes();
    let mut index: Value = serde_json::from_slice(named(files, "index.json")).unwrap();
    let described = testkit::image::descriptor("application/vnd.oci.image.manifest.v1+json", &bytes);
    for field in ["digest", "size"] {
        index["manifests"][0][field] = described[field].clone();
    }
    *named(files, "index.json") = index.to_string().into_bytes();
    replace(files, name, bytes);
}

#[test]
fn a_layer_that_is_not_what_the_image_says() {
    // The blob is right, and the diff ID in the configuration is another's.
    let [_, config, manifest] = blobs();
    spoilt(
        |files| {
            let mut value: Value = serde_json::from_slice(named(files, &config)).unwrap();
            value["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "ab".repeat(32)));
            let bytes = value.to_string().into_bytes();
            let described = testkit::image::descriptor("application/vnd.oci.image.config.v1+json", &bytes);
            replace(files, &config, bytes);
            rewrite_manifest(files, &manifest, |manifest| manifest["config"] = described);
        },
        &["abababababab"],
    );
    // Fewer diff IDs than layers.
    spoilt(
        |files| {
            let mut value: Value = serde_json::from_slice(named(files, &config)).unwrap();
            value["rootfs"]["diff_ids"] = json!([]);
            let bytes = value.to_string().into_bytes();
            let described = testkit::image::descriptor("application/vnd.oci.image.config.v1+json", &bytes);
            replace(files, &config, bytes);
            rewrite_manifest(files, &manifest, |manifest| manifest["config"] = described);
        },
        &[],
    );
}

#[test]
fn what_is_no_json() {
    for (at, wrong) in [(2, "no json"), (1, "[1, 2"), (2, "{}"), (1, "\"text\"")] {
        let name = blobs()[at].clone();
        let [_, config, manifest] = blobs();
        spoilt(
            |files| {
                let bytes = wrong.as_bytes().to_vec();
                if name == config {
                    let described =
                        testkit::image::descriptor("application/vnd.oci.image.config.v1+json", &bytes);
                    replace(files, &config, bytes);
                    rewrite_manifest(files, &manifest, |manifest| manifest["config"] = described);
                } else {
                    let described =
                        testkit::image::descriptor("application/vnd.oci.image.manifest.v1+json", &bytes);
                    replace(files, &manifest, bytes);
                    *named(files, "index.json") = json!({ "schemaVersion": 2, "manifests": [described] })
                        .to_string()
                        .into();
                }
            },
            &[],
        );
    }
    spoilt(
        |files| *named(files, "index.json") = b"{".to_vec(),
        &["index.json"],
    );
    spoilt(|files| files.retain(|(name, _)| name != "index.json"), &[]);
}

#[test]
fn what_is_no_archive() {
    let strata = empty();
    let path = strata.dir().join("file");
    for bytes in [&b""[..], b"hello", &[0; 2048], &[0x1f, 0x8b, 8, 0, 1, 2]] {
        fs::write(&path, bytes).unwrap();
        refused(&load(&strata, &path), &["file"]);
    }
    refused(
        &load(&strata, Path::new("/no/such/archive")),
        &["/no/such/archive"],
    );
    refused(&load(&strata, strata.dir()), &[]);
    fs::write(&path, "hello, but longer than a header of a tar is\n".repeat(20)).unwrap();
    let imported = strata.end(["import".as_ref(), "-q".as_ref(), path.as_os_str(), "x".as_ref()]);
    refused(&imported, &["file"]);
    assert!(
        imported.err.contains("no tar of a root file system"),
        "{imported:?}"
    );
    left_nothing(&strata);
}

#[test]
fn an_image_for_another_machine() {
    let strata = empty();
    let archive = strata.dir().join("other.tar");
    Image::busybox().architecture("s390x").write_oci_archive(&archive);
    refused(&load(&strata, &archive), &["linux/s390x"]);
    left_nothing(&strata);
}

#[test]
fn a_file_larger_than_the_disk() {
    // Two terabytes in a few bytes of tar: sparse in the header, refused or made sparse, never written out.
    let layer = Layer::new().entry(EntryType::Regular, "huge", |header| header.set_size(2 << 40));
    let strata = empty();
    let archive = strata.dir().join("bad.tar");
    Image::new("docker.io/library/bad:1")
        .layer(layer)
        .write_oci_archive(&archive);
    refused(&load(&strata, &archive), &[]);
    left_nothing(&strata);
}

/// An image whose layer is `head`, then `piece` so many times: large, and small on disk, since what is compressed may be
/// put together of pieces that are.
fn repeated(path: &Path, head: Vec<u8>, piece: &[u8], times: usize) {
    let mut blob = Compression::Zstd.compress(&head);
    blob.extend(Compression::Zstd.compress(piece).repeat(times));
    let mut files = files();
    let [layer, _, manifest] = blobs();
    let media_type = "application/vnd.oci.image.layer.v1.tar+zstd";
    let described = testkit::image::descriptor(media_type, &blob);
    replace(&mut files, &layer, blob);
    // The configuration says what it was: whatever is in it, it is given up before its end.
    rewrite_manifest(&mut files, &manifest, |manifest| {
        manifest["layers"] = json!([described])
    });
    write_tar(path, files);
}

#[test]
fn a_layer_of_a_million_entries() {
    let strata = empty();
    fs::write(
        strata.dir().join("config.toml"),
        "[limits]\nlayer_entries = 5000\n",
    )
    .unwrap();
    let archive = strata.dir().join("many.tar");
    // A directory and a link in it, a thousand times each, five hundred times.
    let mut piece = Vec::new();
    for n in 0..1000 {
        let pair = Layer::new()
            .dir(format!("d{n}"), 0o755)
            .symlink(format!("d{n}/way"), "x")
            .finish();
        piece.extend_from_slice(&pair[..2 * 512]);
    }
    repeated(&archive, Vec::new(), &piece, 500);
    assert!(fs::metadata(&archive).unwrap().len() < 4 << 20);
    refused(&load(&strata, &archive), &["many.tar", "more than 5000 entries"]);
    left_nothing(&strata);
}

#[test]
fn a_decompression_bomb() {
    let strata = empty();
    fs::write(
        strata.dir().join("config.toml"),
        "[limits]\nlayer_bytes = 16777216\n",
    )
    .unwrap();
    // A file of a tebibyte; a gibibyte of it is there.
    let layer = Layer::new().entry(EntryType::Regular, "bomb", |header| header.set_size(1 << 40));
    let head = layer.finish()[..512].to_vec();
    let archive = strata.dir().join("bomb.tar");
    repeated(&archive, head.clone(), &vec![0; 1 << 20], 1024);
    assert!(fs::metadata(&archive).unwrap().len() < 4 << 20);
    refused(
        &load(&strata, &archive),
        &["bomb.tar", "\"bomb\"", "more than 16777216 bytes"],
    );
    left_nothing(&strata);
    // The same as a root file system.
    let root = strata.dir().join("bomb.tar.zst");
    let mut packed = Compression::Zstd.compress(&head);
    packed.extend(Compression::Zstd.compress(&vec![0; 1 << 20]).repeat(1024));
    fs::write(&root, packed).unwrap();
    let ended = strata.end(["import".as_ref(), "-q".as_ref(), root.as_os_str()]);
    refused(&ended, &["bomb.tar.zst", "more than 16777216 bytes"]);
}

#[test]
fn a_bomb_is_stopped_where_nothing_is_set() {
    // A gigabyte comes before the end: it goes to memory here.
    let strata = Strata::beneath(Path::new("/dev/shm"), env!("CARGO_BIN_EXE_strata"));
    let layer = Layer::new().entry(EntryType::Regular, "bomb", |header| header.set_size(200 << 30));
    let archive = strata.dir().join("bomb.tar");
    repeated(&archive, layer.finish()[..512].to_vec(), &vec![0; 16 << 20], 100);
    let ended = load(&strata, &archive);
    refused(
        &ended,
        &[
            "bomb.tar",
            "inflates to more than 200 times its size, and to more than 1 GiB",
        ],
    );
    let hint = "raise inflate_ratio under [limits]";
    assert!(ended.err.contains(hint), "{ended:#?}");
    let config = "default_network = \"none\"\n[limits]\ninflate_ratio = 1000000\nlayer_bytes = 1000000\n";
    fs::write(strata.dir().join("config.toml"), config).unwrap();
    let ended = load(&strata, &archive);
    refused(&ended, &["more than 1000000 bytes"]);
    let hint = "raise layer_bytes under [limits]";
    assert!(ended.err.contains(hint), "{ended:#?}");
    fs::write(strata.dir().join("config.toml"), "default_network = \"none\"\n").unwrap();
    left_nothing(&strata);
}
