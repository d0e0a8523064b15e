//! Pulling, from a real registry and from one that does as the test says.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Counts, Home};
use image::install::InstallError;
use image::platform::Wanted;
use image::progress::{Progress, Silent};
use image::pull::{PullError, PullOptions, Pulled, pull};
use image::reference::Reference;
use image::registry::{Client, ClientOptions, HttpOptions, RegistryError};
use serde_json::{Value, json};
use store::{Fault, Store};
use testkit::registry::{Registry, skopeo};
use testkit::scripted::{Reply, Request, Server};
use testkit::{Built, Compression, Disk, Image, Layer};

fn client() -> Client {
    let http = HttpOptions {
        backoff: Duration::from_millis(5),
        stall_timeout: Duration::from_millis(500),
        retries: 1,
        ..HttpOptions::default()
    };
    Client::new(ClientOptions {
        http,
        ..ClientOptions::default()
    })
}

fn pull_with(
    store: &Store,
    name: &str,
    platform: Option<&str>,
    progress: &dyn Progress,
) -> Result<Pulled, PullError> {
    let platform = platform.map_or(Wanted::Host, |p| Wanted::Exactly(p.parse().unwrap()));
    let options = PullOptions {
        platform,
        ..PullOptions::default()
    };
    pull(
        store,
        &client(),
        "default",
        &Reference::parse(name).unwrap(),
        &options,
        progress,
    )
}

fn layer(name: &str, text: &str) -> Layer {
    Layer::new().file(name, 0o644, text)
}

fn three_layers() -> Image {
    Image::new("x")
        .layer_as(layer("base", "one"), Compression::Gzip)
        .layer_as(layer("middle", "two"), Compression::Zstd)
        .layer_as(layer("top", "three"), Compression::None)
}

/// A registry of blobs and tags that can be changed while it runs.
#[derive(Clone, Default)]
struct Content(Arc<Mutex<(Blobs, Tags)>>);

type Blobs = BTreeMap<String, Vec<u8>>;
type Tags = BTreeMap<String, Value>;

impl Content {
    fn put(&self, built: &Built, tag: &str) -> &Self {
        self.blobs(&built.blobs).tag(tag, &built.descriptor)
    }

    fn blobs(&self, blobs: &Blobs) -> &Self {
        self.0.lock().unwrap().0.extend(blobs.clone());
        self
    }

    fn tag(&self, tag: &str, descriptor: &Value) -> &Self {
        self.0
            .lock()
            .unwrap()
            .1
            .insert(tag.to_owned(), descriptor.clone());
        self
    }

    /// An index of these manifests under a tag.
    fn index(&self, tag: &str, entries: &[Value]) -> &Self {
        let media_type = "application/vnd.oci.image.index.v1+json";
        let bytes = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
            .to_string()
            .into_bytes();
        let descriptor = testkit::image::descriptor(media_type, &bytes);
        self.blobs(&[(testkit::image::digest(&bytes), bytes)].into())
            .tag(tag, &descriptor)
    }

    fn damage(&self, digest: &str, edit: impl FnOnce(&mut Vec<u8>)) {
        edit(self.0.lock().unwrap().0.get_mut(digest).unwrap());
    }

    fn remove(&self, digest: &str) {
        self.0.lock().unwrap().0.remove(digest).unwrap();
    }

    fn answer(&self, request: &Request) -> Reply {
        let content = self.0.lock().unwrap();
        if request.path == "/v2/" {
            return Reply::ok("{}");
        }
        let last = request.path.rsplit('/').next().unwrap_or_default();
        let tagged = content.1.get(last);
        let digest = tagged.map_or(last.to_owned(), |t| t["digest"].as_str().unwrap().to_owned());
        let Some(bytes) = content.0.get(&digest) else {
            return Reply::new(404);
        };
        let reply = Reply::ranged(request, bytes).header("docker-content-digest", digest);
        // A manifest says itself what it is.
        let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
        match document["mediaType"].as_str() {
            Some(media_type) => reply.header("content-type", media_type),
            None => reply,
        }
    }

    fn serve(&self) -> Server {
        let content = self.clone();
        Server::start(move |request| content.answer(request))
    }
}

fn with_platform(built: &Built, os: &str, architecture: &str) -> Value {
    let mut descriptor = built.descriptor.clone();
    descriptor["platform"] = json!({"os": os, "architecture": architecture});
    descriptor
}

#[test]
fn from_a_real_registry() {
    let (home, registry) = (Home::new(), Registry::start());
    let layout = home.dir.path().join("layout");
    three_layers().name("docker.io/library/x:1").write_layout(&layout);
    registry.fill(&format!("oci:{}:1", layout.display()), "some/image:1", &[]);
    // Docker's own formats: schema 2, its media types, gzip throughout.
    let gzip = home.dir.path().join("gzip");
    let image = Image::new("docker.io/library/x:1")
        .layer(layer("base", "one"))
        .layer(layer("middle", "two"));
    image.layer(layer("top", "three")).write_layout(&gzip);
    registry.fill(
        &format!("oci:{}:1", gzip.display()),
        "some/docker:1",
        &["--format=v2s2"],
    );

    let progress = Counts::default();
    let name = registry.name("some/image:1");
    let pulled = pull_with(&home.store, &name, None, &progress).unwrap();
    assert!(!pulled.unchanged);
    assert_eq!((pulled.image.layers, pulled.image.shared), (3, 0));
    assert_eq!(progress.unpacked.load(Ordering::SeqCst), 3);
    assert_eq!(*progress.last.lock().unwrap(), name);
    let layers = home.layers(&name);
    assert_eq!(home.read(layers[0], "base"), "one");
    assert_eq!(home.read(layers[1], "middle"), "two");
    assert_eq!(home.read(layers[2], "top"), "three");
    let image = home.store.find_image("default", &name).unwrap().unwrap();
    assert_eq!(image.id.to_string(), three_layers().build().id);
    let steps: Vec<_> = home.store.manifest_layers(&image.manifest.digest).unwrap();
    assert_eq!(steps[2].created_by.as_deref(), Some("RUN step 2"));
    assert!(image.created.is_some());

    assert!(pull_with(&home.store, &name, None, &Silent).unwrap().unchanged);
    let by_digest = format!("{}@{}", registry.name("some/image"), image.target.digest);
    let pulled = pull_with(&home.store, &by_digest, None, &Silent).unwrap();
    assert_eq!(pulled.image.names, [by_digest]);

    let docker = pull_with(&home.store, &registry.name("some/docker:1"), None, &Silent).unwrap();
    assert_eq!(
        (docker.image.layers, docker.image.shared),
        (3, 3),
        "the same diff IDs in other wrapping"
    );
    assert_eq!(home.layers(&registry.name("some/docker:1")), layers);
    assert_eq!(home.store.layers().unwrap().len(), 3);
}

#[test]
fn a_list_of_docker_s_in_a_real_registry() {
    let (home, registry) = (Home::new(), Registry::start());
    let index = home.dir.path().join("index");
    let (ours, other) = (
        Image::new("x").layer(layer("here", "x")),
        Image::new("x").layer(layer("there", "y")),
    );
    let (ours, other) = (ours.build(), other.architecture("s390x").build());
    let content = Content::default();
    let entries = [
        with_platform(&other, "linux", "s390x"),
        with_platform(
            &ours,
            "linux",
            image::platform::Platform::host().architecture.as_str(),
        ),
    ];
    content.put(&ours, "a").put(&other, "b").index("list", &entries);
    let from = content.serve();
    let copy = |format: &str, rest: &str| {
        let (from, to) = (
            format!("docker://{}/x:list", from.host()),
            format!("docker://{}", registry.name(rest)),
        );
        skopeo(&[
            "copy",
            "--quiet",
            "--all",
            format,
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            &from,
            &to,
        ]);
    };
    copy("--format=v2s2", "docker:list");
    copy("--format=oci", "oci:list");
    for name in ["docker:list", "oci:list"] {
        let name = registry.name(name);
        let pulled = pull_with(&home.store, &name, None, &Silent).unwrap();
        assert_ne!(
            pulled.image.target,
            home.store
                .find_image("default", &name)
                .unwrap()
                .unwrap()
                .manifest
                .digest
        );
        assert_eq!(home.read(home.layers(&name)[0], "here"), "x");
        pull_with(&home.store, &name, Some("linux/s390x"), &Silent).unwrap();
        assert_eq!(home.read(home.layers(&name)[0], "there"), "y");
        let error = pull_with(&home.store, &name, Some("linux/riscv64"), &Silent).unwrap_err();
        assert!(
            matches!(&error, PullError::NoPlatform { offers, .. } if offers.len() == 2),
            "{error:?}"
        );
        assert!(error.to_string().contains("linux/s390x"), "{error}");
    }
    drop(index);
}

#[test]
fn what_is_there_is_neither_fetched_nor_unpacked() {
    let home = Home::new();
    let content = Content::default();
    let (first, second) = (
        three_layers(),
        three_layers()
            .layer(layer("more", "four"))
            .layer(layer("more", "four")),
    );
    content
        .put(&first.build(), "first")
        .put(&second.build(), "second");
    let server = content.serve();
    let name = |tag: &str| format!("{}/x:{tag}", server.host());
    pull_with(&home.store, &name("first"), None, &Silent).unwrap();
    let before = server.requests().len();
    assert_eq!(before, 1 + 1 + 3, "a manifest, a configuration, three layers");

    let progress = Counts::default();
    let pulled = pull_with(&home.store, &name("second"), None, &progress).unwrap();
    assert_eq!((pulled.image.layers, pulled.image.shared), (5, 3));
    assert_eq!(
        server.requests().len() - before,
        1 + 1 + 1,
        "a layer that is there twice is fetched once"
    );
    assert_eq!(progress.unpacked.load(Ordering::SeqCst), 1, "and unpacked once");
    let layers = home.layers(&name("second"));
    assert_eq!(layers[..3], home.layers(&name("first")));
    assert_eq!(layers[3], layers[4]);

    let before = server.requests().len();
    assert!(
        pull_with(&home.store, &name("second"), None, &Silent)
            .unwrap()
            .unchanged
    );
    let asked: Vec<_> = server.requests()[before..]
        .iter()
        .map(|r| r.method.clone())
        .collect();
    assert_eq!(asked, ["HEAD"], "an unchanged name costs one question");

    // The tag moves on.
    content.tag("second", &first.build().descriptor);
    let pulled = pull_with(&home.store, &name("second"), None, &Silent).unwrap();
    assert!(!pulled.unchanged);
    assert_eq!(pulled.image.replaced.len(), 1);

    // Another namespace shares the layers.
    let reference = Reference::parse(&name("first")).unwrap();
    let other = pull(
        &home.store,
        &client(),
        "k8s.io",
        &reference,
        &PullOptions::default(),
        &Silent,
    )
    .unwrap();
    assert_eq!(other.image.shared, 3);
    assert_eq!(home.store.images("default").unwrap().len(), 2);
}

#[test]
fn images_for_other_machines() {
    let home = Home::new();
    let content = Content::default();
    let foreign = Image::new("x").architecture("s390x").layer(layer("f", "x"));
    content.put(&foreign.build(), "foreign");
    let silent = three_layers()
        .whole("architecture", Value::Null)
        .whole("os", Value::Null);
    content.put(&silent.build(), "silent");
    let server = content.serve();
    let name = |tag: &str| format!("{}/x:{tag}", server.host());
    let error = pull_with(&home.store, &name("foreign"), None, &Silent).unwrap_err();
    assert!(matches!(error, PullError::OtherPlatform { .. }), "{error:?}");
    assert!(error.to_string().contains("is built for linux/s390x"), "{error}");
    home.assert_empty();
    let pulled = pull_with(&home.store, &name("foreign"), Some("linux/s390x"), &Silent).unwrap();
    assert_eq!(pulled.image.platform.to_string(), "linux/s390x");
    pull_with(&home.store, &name("silent"), None, &Silent).unwrap();
}

#[test]
fn damaged_and_forged_images() {
    let fail = |spoil: &dyn Fn(&Content, &Built)| -> PullError {
        let home = Home::new();
        let content = Content::default();
        let built = three_layers().build();
        content.put(&built, "tag");
        spoil(&content, &built);
        let server = content.serve();
        let error = pull_with(&home.store, &format!("{}/x:tag", server.host()), None, &Silent).unwrap_err();
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
        home.assert_empty();
        error
    };
    let installs = |error: PullError| match error {
        PullError::Install { source, .. } => *source,
        other => panic!("{other:?}"),
    };

    // The bytes are others than the digest says.
    let error = fail(&|content, built| content.damage(&built.layer(1), |bytes| bytes[20] ^= 1));
    assert!(matches!(installs(error), InstallError::Digest { .. }));
    // The configuration says other diff IDs than the layers have.
    let error = fail(&|content, _| {
        let mut ids = three_layers().diff_ids();
        ids.swap(0, 2);
        let forged = three_layers().whole("rootfs", json!({"type": "layers", "diff_ids": ids}));
        content.put(&forged.build(), "tag");
    });
    assert!(matches!(installs(error), InstallError::DiffId { .. }));
    // Fewer of them than layers.
    let error = fail(&|content, _| {
        let forged = three_layers().whole("rootfs", json!({"type": "layers", "diff_ids": []}));
        content.put(&forged.build(), "tag");
    });
    assert!(matches!(error, PullError::Config { .. }), "{error:?}");
    // A blob is missing.
    let error = fail(&|content, built| content.remove(&built.layer(2)));
    assert!(
        matches!(&error, PullError::Registry(RegistryError::NotFound { .. })),
        "{error:?}"
    );
    let error = fail(&|content, built| content.remove(&built.id));
    assert!(
        matches!(&error, PullError::Registry(RegistryError::NotFound { .. })),
        "{error:?}"
    );
    // Sizes that lie, both ways.
    for lie in [1, 1 << 30] {
        let error = fail(&|content, built| {
            let forged = built
                .clone()
                .remade(|manifest| manifest["layers"][0]["size"] = json!(lie));
            content.put(&forged, "tag");
        });
        assert!(
            matches!(&error, PullError::Registry(RegistryError::Size { .. })),
            "{error:?}"
        );
    }
    // A layer that is no tar, one that is cut short, one with a way out.
    let not_a_tar = |bytes: &[u8]| {
        let blob = bytes.to_vec();
        move |content: &Content, built: &Built| {
            let digest = testkit::image::digest(&blob);
            let forged = built.clone().remade(|manifest| {
                let layer = &mut manifest["layers"][0];
                (layer["digest"], layer["size"]) = (json!(digest), json!(blob.len()));
            });
            content
                .put(&forged, "tag")
                .blobs(&[(digest, blob.clone())].into());
        }
    };
    let gzip = Compression::Gzip.compress(&layer("base", "one").finish());
    for bytes in [
        b"not a tar".repeat(200),
        gzip[..gzip.len() - 10].to_vec(),
        b"\xfd7zXZ\0 and so on".to_vec(),
    ] {
        let error = installs(fail(&not_a_tar(&bytes)));
        assert!(matches!(error, InstallError::Unpack { .. }), "{error:?}");
    }
    // An index that leads to itself is found out by its depth.
    let error = fail(&|content, built| {
        let mut inner = with_platform(built, "linux", &image::platform::Platform::host().architecture);
        for n in 0..6 {
            content.index(&format!("n{n}"), std::slice::from_ref(&inner));
            inner = content.0.lock().unwrap().1[&format!("n{n}")].clone();
        }
        content.tag("tag", &inner);
    });
    assert!(matches!(error, PullError::Depth { .. }), "{error:?}");
}

#[test]
fn an_interrupted_pull_goes_on_where_it_stopped() {
    let home = Home::new();
    let content = Content::default();
    // Random enough that gzip leaves it large.
    let noise: Vec<u8> = (0..300_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let built = Image::new("x")
        .layer_as(Layer::new().file("noise", 0o644, &noise), Compression::None)
        .build();
    content.put(&built, "tag");
    let broken = Arc::new(AtomicBool::new(true));
    let server = Server::start({
        let (content, broken, layer) = (content.clone(), broken.clone(), built.layer(0));
        move |request| match broken.load(Ordering::SeqCst) && request.path.contains(&layer) {
            true if request.range_start().is_none() => content.answer(request).cut(100_000),
            true => Reply::new(404),
            false => content.answer(request),
        }
    });
    let name = format!("{}/x:tag", server.host());
    assert!(pull_with(&home.store, &name, None, &Silent).is_err());
    assert_eq!(home.names(), [""; 0]);
    broken.store(false, Ordering::SeqCst);
    pull_with(&home.store, &name, None, &Silent).unwrap();
    let last = server
        .requests()
        .into_iter()
        .rfind(|r| r.path.contains(&built.layer(0)))
        .unwrap();
    assert_eq!(last.range_start(), Some(100_000));
}

#[test]
fn a_disk_that_is_full_while_a_blob_arrives() {
    let disk = Disk::tmpfs("size=4m");
    let store = Store::open(&disk.path().join("store")).unwrap();
    // No compression can shrink it: every eight bytes are a number of their own.
    let mixed = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let noise: Vec<u8> = (0..1 << 20).flat_map(mixed).collect();
    let built = Image::new("x")
        .layer(Layer::new().file("noise", 0o644, noise))
        .build();
    let content = Content::default();
    let server = content.put(&built, "1").serve();
    let name = format!("{}/some/image:1", server.host());
    match pull_with(&store, &name, None, &Silent) {
        Err(PullError::Install { source, .. }) => match *source {
            // Whichever comes first: the blob is written, or its layer unpacked.
            InstallError::Fault(Fault::Full(path, _)) | InstallError::Full { store: path, .. } => {
                assert!(path.starts_with(disk.path()), "{path:?}");
            }
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
    assert!(store.images("default").unwrap().is_empty());
    drop(store);
}

#[test]
fn a_damaged_beginning_is_thrown_away() {
    let home = Home::new();
    let content = Content::default();
    let noise: Vec<u8> = (0..200_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    let built = Image::new("x")
        .layer_as(Layer::new().file("noise", 0o644, &noise), Compression::None)
        .build();
    content.put(&built, "tag");
    let server = content.serve();
    {
        let lease = home.store.lease("an earlier pull").unwrap();
        let digest = built.layer(0);
        let mut ingest = home
            .store
            .ingest(&lease, &format!("blob {digest}"), None)
            .unwrap();
        std::io::Write::write_all(&mut ingest, &[0; 5000]).unwrap();
    }
    pull_with(&home.store, &format!("{}/x:tag", server.host()), None, &Silent).unwrap();
    let starts: Vec<_> = server
        .requests()
        .iter()
        .filter(|r| r.path.contains("/blobs/"))
        .map(Request::range_start)
        .collect();
    assert!(
        starts.contains(&Some(5000)) && starts.iter().filter(|s| s.is_none()).count() == 2,
        "{starts:?}"
    );
}

#[test]
fn many_at_once_get_along() {
    let home = Home::new();
    let content = Content::default();
    for n in 0..4 {
        let image = three_layers().layer(layer("own", &n.to_string()));
        content.put(&image.build(), &format!("n{n}"));
    }
    let server = content.serve();
    std::thread::scope(|scope| {
        for n in 0..12 {
            let name = format!("{}/x:n{}", server.host(), n % 4);
            let store = home.store.reopen().unwrap();
            scope.spawn(move || pull_with(&store, &name, None, &Silent).unwrap());
        }
    });
    assert_eq!(home.names().len(), 4);
    assert_eq!(home.store.layers().unwrap().len(), 3 + 4);
    let base = home.layers(&format!("{}/x:n0", server.host()))[0];
    for n in 1..4 {
        assert_eq!(home.layers(&format!("{}/x:n{n}", server.host()))[0], base);
    }
}
