//! Loading what other tools write.

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::archive::{from_path, from_stream, image};
use common::{Counts, Home};
use image::install::Installed;
use image::load::{LoadError, LoadOptions, LoadProblem, Source, load};
use image::platform::{Platform, Wanted};
use image::progress::Silent;
use serde_json::{Value, json};
use testkit::image::{digest, hex, layout, write_tar};
use testkit::registry::skopeo;
use testkit::{Built, Compression, Image, Layer};

fn check(home: &Home, name: &str) {
    let layers = home.layers(name);
    assert_eq!(home.read(layers[0], "base"), "one");
    assert_eq!(home.read(layers[1], "top"), "two");
}

fn platform() -> Platform {
    Platform::host()
}

/// Every way of loading a tar: the file, the file compressed, and both as a stream.
fn every_way(tar: &Path, test: impl Fn(&Home, Result<Vec<Installed>, LoadError>)) {
    let packed = tar.with_extension("tar.gz");
    let gzip = Compression::Gzip.compress(&fs::read(tar).unwrap());
    File::create(&packed)
        .and_then(|mut f| f.write_all(&gzip))
        .unwrap();
    for path in [tar, &packed] {
        for way in [from_path, from_stream] {
            let home = Home::new();
            let result = way(&home, path);
            test(&home, result);
        }
    }
}

#[test]
fn an_oci_archive_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("some.tar");
    image("docker.io/library/some:1").write_oci_archive(&tar);
    every_way(&tar, |home, loaded| {
        let loaded = loaded.unwrap();
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].names, ["docker.io/library/some:1"]);
        assert_eq!(loaded[0].id.to_string(), image("x").build().id);
        check(home, "docker.io/library/some:1");
    });
}

#[test]
fn a_docker_archive_every_way() {
    let dir = tempfile::tempdir().unwrap();
    let tar = dir.path().join("some.tar");
    image("docker.io/library/some:1").write_docker_archive(&tar);
    every_way(&tar, |home, loaded| {
        assert_eq!(
            loaded.unwrap()[0].id.to_string(),
            image("x").build().id,
            "the ID is docker's"
        );
        check(home, "docker.io/library/some:1");
    });
}

#[test]
fn a_layout_directory_and_what_is_shared() {
    let home = Home::new();
    let dir = home.dir.path().join("layout");
    image("quay.io/a/b:2").write_layout(&dir);
    let loaded = from_path(&home, &dir).unwrap();
    assert_eq!((loaded[0].layers, loaded[0].shared), (2, 0));
    check(&home, "quay.io/a/b:2");

    let tar = home.dir.path().join("other.tar");
    let more = image("quay.io/a/c:3").layer(Layer::new().file("more", 0o644, "three"));
    more.write_docker_archive(&tar);
    let counts = Counts::default();
    load(
        &home.store,
        "default",
        Source::Path(&tar),
        &LoadOptions::default(),
        &counts,
    )
    .unwrap();
    assert_eq!(counts.shared.into_inner(), 2);
    assert_eq!(counts.unpacked.into_inner(), 1);
    assert_eq!(home.layers("quay.io/a/c:3")[..2], home.layers("quay.io/a/b:2"));
}

#[test]
fn what_skopeo_writes() {
    let home = Home::new();
    let dir = home.dir.path();
    let from = dir.join("from");
    image("docker.io/library/x:1").write_layout(&from);
    let from = format!("oci:{}:1", from.display());
    let at = |name: &str| dir.join(name).display().to_string();
    for (to, path, name) in [
        (
            format!("oci-archive:{}:docker.io/library/full:1", at("a.tar")),
            "a.tar",
            "docker.io/library/full:1",
        ),
        (
            format!("oci-archive:{}:word", at("b.tar")),
            "b.tar",
            "docker.io/library/word:latest",
        ),
        (
            format!("oci-archive:{}:v2", at("stem.x.tar")),
            "stem.x.tar",
            "docker.io/library/stem:v2",
        ),
        (
            format!("oci:{}:latest", at("thing")),
            "thing",
            "docker.io/library/thing:latest",
        ),
    ] {
        skopeo(&["copy", "--quiet", &from, &to]);
        let loaded = from_path(&home, &dir.join(path)).unwrap();
        assert_eq!(loaded[0].names, [name]);
        check(&home, name);
    }
    skopeo(&["copy", "--quiet", &from, &format!("dir:{}", at("own"))]);
    let error = from_path(&home, &dir.join("own")).unwrap_err();
    assert!(error.to_string().contains("skopeo's dir:"), "{error}");
    let nameless = at("nameless.tar");
    skopeo(&["copy", "--quiet", &from, &format!("oci-archive:{nameless}")]);
    let loaded = from_path(&home, Path::new(&nameless)).unwrap();
    assert_eq!(
        loaded[0].names,
        [loaded[0].id.to_string()],
        "without a name it is found by its ID"
    );
    // Skopeo cannot make zstd a plain tar.
    let gzip = dir.join("gzip");
    Image::new("x:1")
        .layer(Layer::new().file("base", 0o644, "one"))
        .write_layout(&gzip);
    let archive = at("docker.tar");
    let from = format!("oci:{}:1", gzip.display());
    skopeo(&[
        "copy",
        "--quiet",
        &from,
        &format!("docker-archive:{archive}:repo/name:tag"),
    ]);
    for way in [from_path, from_stream] {
        let loaded = way(&home, Path::new(&archive)).unwrap();
        assert_eq!(loaded[0].names, ["docker.io/repo/name:tag"]);
        assert_eq!(
            home.read(home.layers("docker.io/repo/name:tag")[0], "base"),
            "one"
        );
    }
}

/// Runs a tool of podman's family on a storage of its own.
fn run(tool: &str, storage: &Path, arguments: &[&str]) -> String {
    let at = |name: &str| storage.join(name).display().to_string();
    let (root, runroot) = (at("root"), at("run"));
    let output = Command::new(tool)
        .args(["--root", &root, "--runroot", &runroot, "--storage-driver=vfs"])
        .args(arguments)
        .output()
        .unwrap_or_else(|e| panic!("{tool} cannot be run ({e}): install the package {tool}"));
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn what_buildah_and_podman_write() {
    let home = Home::new();
    let dir = home.dir.path();
    let storage = dir.join("storage");
    let file = dir.join("hello");
    File::create(&file)
        .and_then(|mut f| f.write_all(b"world"))
        .unwrap();
    let container = run("buildah", &storage, &["from", "scratch"]);
    run(
        "buildah",
        &storage,
        &[
            "add",
            "--quiet",
            &container,
            &file.display().to_string(),
            "/hello",
        ],
    );
    run(
        "buildah",
        &storage,
        &["config", "--env", "A=b", "--cmd", "[\"/x\"]", &container],
    );
    run(
        "buildah",
        &storage,
        &["commit", "--quiet", &container, "built:one"],
    );
    let path = |name: &str| -> PathBuf { dir.join(name) };
    let text = |name: &str| path(name).display().to_string();
    run(
        "buildah",
        &storage,
        &[
            "push",
            "--quiet",
            "built:one",
            &format!("oci-archive:{}:built:one", text("b.tar")),
        ],
    );
    run(
        "podman",
        &storage,
        &[
            "save",
            "--quiet",
            "--format=docker-archive",
            "-o",
            &text("d.tar"),
            "built:one",
        ],
    );
    run(
        "podman",
        &storage,
        &[
            "save",
            "--quiet",
            "--format=oci-archive",
            "-o",
            &text("o.tar"),
            "built:one",
        ],
    );
    run(
        "podman",
        &storage,
        &[
            "save",
            "--quiet",
            "--format=oci-dir",
            "-o",
            &text("dir"),
            "built:one",
        ],
    );
    let mut ids = Vec::new();
    for (file, name) in [
        ("b.tar", "docker.io/library/built:one"),
        ("d.tar", "localhost/built:one"),
        ("o.tar", "localhost/built:one"),
        ("dir", "localhost/built:one"),
    ] {
        let loaded = from_path(&home, &path(file)).unwrap();
        assert_eq!(loaded[0].names, [name], "{file}");
        assert_eq!(home.read(home.layers(name)[0], "hello"), "world");
        ids.push(loaded[0].id);
    }
    assert_eq!(
        home.store.layers().unwrap().len(),
        1,
        "one layer, whatever it came in"
    );
    run("podman", &storage, &["rmi", "--all", "--force"]);
}

#[test]
fn docker_s_newer_archive_has_both_lists() {
    let built = image("x").build();
    let docker = |config: String| -> Vec<u8> {
        json!([{"Config": config, "RepoTags": ["both:1", "both:2"], "Layers": []}])
            .to_string()
            .into_bytes()
    };
    let config = format!("blobs/sha256/{}", hex(&built.blobs[&built.id]));
    // Names in both: the layout's count, and are not doubled.
    let mut annotated = built.annotated("io.containerd.image.name", "docker.io/library/both:1");
    annotated["annotations"]["org.opencontainers.image.ref.name"] = json!("1");
    let home = Home::new();
    let tar = home.dir.path().join("both.tar");
    let mut files = layout(&[&built], &[annotated]);
    files.push(("manifest.json".into(), docker(config.clone())));
    write_tar(&tar, files);
    assert_eq!(
        from_path(&home, &tar).unwrap()[0].names,
        ["docker.io/library/both:1"]
    );
    // Names in docker's list alone.
    let mut files = layout(&[&built], std::slice::from_ref(&built.descriptor));
    files.push(("manifest.json".into(), docker(config)));
    write_tar(&tar, files);
    let loaded = from_stream(&home, &tar).unwrap();
    assert_eq!(
        loaded[0].names,
        ["docker.io/library/both:1", "docker.io/library/both:2"]
    );
}

#[test]
fn docker_s_oldest_archive_has_links_and_compressed_layers() {
    let (home, tars) = (Home::new(), image("x").build());
    let config = tars.blobs[&tars.id].clone();
    let same = Image::new("x")
        .layer(Layer::new().file("a", 0o644, "b"))
        .layer(Layer::new().file("a", 0o644, "b"));
    let same = same.build();
    let list = json!([
        {"Config": "one.json", "RepoTags": ["one"], "Layers": ["a/layer.tar", "b/layer.tar.gz"]},
        {"Config": "two.json", "RepoTags": null, "Layers": ["c/layer.tar", "d/layer.tar"]},
    ]);
    let tar = Layer::new()
        .dir("a", 0o755)
        .file("./a/layer.tar", 0o644, &tars.tars[0])
        .file("b/layer.tar.gz", 0o644, Compression::Gzip.compress(&tars.tars[1]))
        .file("c/layer.tar", 0o644, &same.tars[0])
        .symlink("d/layer.tar", "../c/layer.tar")
        .file("one.json", 0o644, config)
        .file("two.json", 0o644, &same.blobs[&same.id])
        .file("manifest.json", 0o644, list.to_string());
    let path = home.dir.path().join("old.tar");
    File::create(&path)
        .and_then(|mut f| f.write_all(&tar.finish()))
        .unwrap();
    for way in [from_path, from_stream] {
        let loaded = way(&home, &path).unwrap();
        assert_eq!(loaded.len(), 2);
        check(&home, "docker.io/library/one:latest");
        let layers = home.layers(&loaded[1].names[0]);
        assert_eq!(layers[0], layers[1]);
    }
}

#[test]
fn several_images_and_platforms_in_one_layout() {
    let home = Home::new();
    let (here, there) = (image("x").build(), image("x").architecture("s390x").build());
    let named = |built: &Built, name: &str, architecture: &str| -> Value {
        let mut descriptor = built.annotated("io.containerd.image.name", name);
        descriptor["platform"] = json!({"os": "linux", "architecture": architecture});
        descriptor
    };
    let host = platform().architecture;
    let mut provenance = here.annotated("vnd.docker.reference.type", "attestation-manifest");
    provenance["digest"] = json!(digest(b"not there"));
    let entries = [
        named(&there, "quay.io/multi:1", "s390x"),
        named(&here, "quay.io/multi:1", &host),
        named(&here, "quay.io/again:1", &host),
        provenance,
    ];
    let tar = home.dir.path().join("multi.tar");
    write_tar(&tar, layout(&[&here, &there], &entries));
    let loaded = from_path(&home, &tar).unwrap();
    assert_eq!(loaded.len(), 1, "one image with two names");
    assert_eq!(loaded[0].names, ["quay.io/again:1", "quay.io/multi:1"]);
    assert_eq!(loaded[0].platform, platform());

    let options = LoadOptions {
        platform: Wanted::Exactly("s390x".parse().unwrap()),
        ..LoadOptions::default()
    };
    let error = load(&home.store, "default", Source::Path(&tar), &options, &Silent).unwrap_err();
    assert!(
        matches!(&*error.problem, LoadProblem::OtherPlatform { image, .. } if image == "quay.io/again:1"),
        "{error:?}"
    );

    // Only for another machine.
    let tar = home.dir.path().join("foreign.tar");
    write_tar(
        &tar,
        layout(&[&there], &[named(&there, "quay.io/foreign:1", "s390x")]),
    );
    let error = from_path(&home, &tar).unwrap_err();
    assert!(error.to_string().contains("is built for linux/s390x"), "{error}");
    let loaded = load(&home.store, "default", Source::Path(&tar), &options, &Silent).unwrap();
    assert_eq!(loaded[0].names, ["quay.io/foreign:1"]);
}

#[test]
fn as_many_layers_as_the_kernel_stacks() {
    let home = Home::new();
    let add = |image: Image, n: usize| image.layer(Layer::new().file(format!("f{n}"), 0o644, n.to_string()));
    let most = (0..500).fold(Image::new("quay.io/most:1"), add);
    let path = home.dir.path().join("most.tar");
    most.clone()
        .compression(Compression::None)
        .write_oci_archive(&path);
    assert_eq!(from_path(&home, &path).unwrap()[0].layers, 500);
    let layers = home.layers("quay.io/most:1");
    assert_eq!(home.read(layers[499], "f499"), "499");

    for write in [Image::write_oci_archive, Image::write_docker_archive] {
        write(&add(most.clone(), 500), &path);
        let error = from_path(&home, &path).unwrap_err();
        assert!(error.to_string().contains("501 layers; at most 500"), "{error}");
    }
}
