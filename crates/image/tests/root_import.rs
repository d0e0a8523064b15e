//! Importing root file systems.

mod common;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use common::Home;
use image::config::ImageConfig;
use image::import::{ImportError, ImportOptions, Source, import};
use image::progress::Silent;
use image::reference::Reference;
use image::registry::{Client, ClientOptions};
use testkit::image::digest;
use testkit::scripted::{Reply, Server};
use testkit::{Compression, Layer};

fn root_fs() -> Vec<u8> {
    Layer::new()
        .dir("etc", 0o755)
        .file("etc/hostname", 0o644, "machine")
        .finish()
}

fn named(name: &str) -> ImportOptions {
    ImportOptions {
        name: Some(Reference::parse(name).unwrap()),
        ..ImportOptions::default()
    }
}

fn write(home: &Home, name: &str, bytes: &[u8]) -> PathBuf {
    let path = home.dir.path().join(name);
    File::create(&path).and_then(|mut f| f.write_all(bytes)).unwrap();
    path
}

fn config(home: &Home, name: &str) -> ImageConfig {
    let image = home.store.find_image("default", name).unwrap().unwrap();
    ImageConfig::parse(&home.store.read_blob(&image.id, 1 << 20).unwrap(), 1).unwrap()
}

#[test]
fn a_file_a_stream_and_an_address() {
    let home = Home::new();
    let tar = root_fs();
    for (pack, name) in [
        (Compression::None, "plain"),
        (Compression::Gzip, "gzip"),
        (Compression::Zstd, "zstd"),
    ] {
        let packed = pack.compress(&tar);
        let path = write(&home, name, &packed);
        let full = format!("docker.io/library/{name}:latest");
        let server = Server::start({
            let packed = packed.clone();
            move |request| match request.path.as_str() {
                "/moved" => Reply::new(302).header("location", "/rootfs.tar"),
                _ => Reply::ok(&*packed),
            }
        });
        let url = format!("http://{}/moved", server.host());
        let client = Client::new(ClientOptions::default());
        for source in [
            Source::Path(&path),
            Source::Stream(&mut File::open(&path).unwrap()),
            Source::Url(&client, &url),
        ] {
            let installed = import(&home.store, "default", source, &named(name), &Silent).unwrap();
            assert_eq!(installed.names, std::slice::from_ref(&full));
            assert_eq!(home.read(home.layers(&full)[0], "etc/hostname"), "machine");
        }
        let image = home.store.find_image("default", &full).unwrap().unwrap();
        let layers = home.store.manifest_layers(&image.manifest.digest).unwrap();
        assert_eq!(layers[0].diff_id.to_string(), digest(&tar));
        assert_eq!(
            layers[0].blob.digest.to_string(),
            digest(&packed),
            "the tar is kept as it was"
        );
        let suffix = ["", "+gzip", "+zstd"][pack as usize];
        assert!(
            layers[0].blob.media_type.ends_with(&format!("tar{suffix}")),
            "{}",
            layers[0].blob.media_type
        );
    }
    assert_eq!(home.store.layers().unwrap().len(), 1, "one content, one layer");
}

#[test]
fn the_configuration_is_as_told() {
    let home = Home::new();
    let path = write(&home, "x.tar", &root_fs());
    let options = ImportOptions {
        changes: [
            "CMD [\"/bin/sh\"]",
            "ENV A=b",
            "USER=1000",
            "WORKDIR /w",
            "LABEL k=v",
        ]
        .map(String::from)
        .into(),
        message: Some("a remark".into()),
        platform: Some("linux/arm64".parse().unwrap()),
        ..named("x")
    };
    import(&home.store, "default", Source::Path(&path), &options, &Silent).unwrap();
    let config = config(&home, "docker.io/library/x:latest");
    assert_eq!(config.config.cmd, ["/bin/sh"]);
    assert_eq!(config.config.env, ["A=b"]);
    assert_eq!(config.config.user, "1000");
    assert_eq!(config.config.working_dir, "/w");
    assert_eq!(config.history[0].comment, "a remark");
    assert_eq!(config.platform().unwrap().to_string(), "linux/arm64");
    assert!(
        home.store
            .find_image("default", "docker.io/library/x:latest")
            .unwrap()
            .unwrap()
            .created
            .is_some()
    );

    let nameless = import(
        &home.store,
        "default",
        Source::Path(&path),
        &ImportOptions::default(),
        &Silent,
    )
    .unwrap();
    assert_eq!(nameless.names, [nameless.id.to_string()]);
}

#[test]
fn what_inflates_without_end() {
    let home = Home::new();
    let path = write(&home, "bomb", &Compression::Zstd.compress(&vec![0; 64 << 20]));
    let mut options = named("bomb");
    options.limits.bytes = 1 << 20;
    let error = import(&home.store, "default", Source::Path(&path), &options, &Silent).unwrap_err();
    assert!(
        matches!(error, ImportError::TooLarge { limit: 1_048_576, .. }),
        "{error}"
    );
    // Nothing of it is left.
    let blobs = home.dir.path().join("store/content/blobs/sha256");
    assert_eq!(std::fs::read_dir(blobs).map_or(0, Iterator::count), 0);
}

#[test]
fn refused() {
    let home = Home::new();
    let try_path = |path: &Path, options: &ImportOptions| {
        let error = import(&home.store, "default", Source::Path(path), options, &Silent).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        error
    };
    let tar = write(&home, "x.tar", &root_fs());
    let bad = ImportOptions {
        changes: vec!["RUN x".into()],
        ..named("x")
    };
    assert!(matches!(try_path(&tar, &bad), ImportError::Change(_)));
    assert!(matches!(
        try_path(home.dir.path(), &named("x")),
        ImportError::Directory { .. }
    ));
    assert!(matches!(
        try_path(Path::new("/nonexistent"), &named("x")),
        ImportError::Open { .. }
    ));
    let gzip = Compression::Gzip.compress(&root_fs());
    let cut = write(&home, "cut", &gzip[..gzip.len() - 9]);
    assert!(matches!(try_path(&cut, &named("x")), ImportError::Read { .. }));
    let xz = try_path(&write(&home, "xz", b"\xfd7zXZ\0 and so on"), &named("x"));
    assert!(
        matches!(xz, ImportError::Read { .. }) && xz.to_string().contains("xz"),
        "{xz}"
    );
    assert!(matches!(
        try_path(&write(&home, "empty", b""), &named("x")),
        ImportError::Empty { .. }
    ));
    let text = try_path(&write(&home, "text", &b"no tar".repeat(500)), &named("x"));
    assert!(matches!(text, ImportError::Install { .. }), "{text:?}");

    let server = Server::start(|_| Reply::ok(vec![0; 4096]).cut(100));
    let client = Client::new(ClientOptions::default());
    for url in [format!("http://{}/x.tar", server.host()), "ftp://x/y".into()] {
        let error = import(
            &home.store,
            "default",
            Source::Url(&client, &url),
            &named("x"),
            &Silent,
        )
        .unwrap_err();
        assert!(
            matches!(error, ImportError::Read { .. } | ImportError::Download(_)),
            "{error:?}"
        );
    }
    home.assert_empty();
}
