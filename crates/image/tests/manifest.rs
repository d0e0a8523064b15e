//! Manifests and indexes, good and hostile.

use image::manifest::{Document, Index, MAX_ENTRIES, MAX_LAYERS, Manifest, ManifestError as E};
use image::media;
use image::platform::Wanted;
use serde_json::{Value, json};

fn digest(n: usize) -> String {
    format!("sha256:{n:064x}")
}

fn layer(n: usize, media_type: &str) -> Value {
    json!({"mediaType": media_type, "digest": digest(n), "size": 10})
}

fn image(layers: Vec<Value>) -> Value {
    json!({"schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
        "config": {"mediaType": media::OCI_CONFIG, "digest": digest(0), "size": 2}, "layers": layers})
}

fn parse(document: &Value) -> Result<Document, E> {
    Document::parse(&serde_json::to_vec(document).unwrap(), None)
}

fn manifest(document: &Value) -> Manifest {
    match parse(document).unwrap() {
        Document::Manifest(manifest) => manifest,
        Document::Index(_) => panic!("an index"),
    }
}

fn index(entries: Value) -> Index {
    match parse(&json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries})).unwrap() {
        Document::Index(index) => index,
        Document::Manifest(_) => panic!("a manifest"),
    }
}

#[test]
fn an_oci_manifest() {
    let m = manifest(&image(vec![
        layer(1, media::OCI_LAYER_GZIP),
        layer(2, media::OCI_LAYER_ZSTD),
    ]));
    assert_eq!(m.media_type, media::OCI_MANIFEST);
    assert_eq!(m.config.digest.to_string(), digest(0));
    assert_eq!(m.layers.len(), 2);
    assert_eq!(m.layers[1].blob.size, 10);
}

#[test]
fn the_kind_is_known_without_its_name() {
    let mut m = image(vec![]);
    m.as_object_mut().unwrap().remove("mediaType");
    assert_eq!(manifest(&m).media_type, media::OCI_MANIFEST, "by its fields");
    let bytes = serde_json::to_vec(&m).unwrap();
    let announced = format!("{}; charset=utf-8", media::DOCKER_MANIFEST);
    assert_eq!(
        Document::parse(&bytes, Some(&announced)).unwrap().media_type(),
        media::DOCKER_MANIFEST
    );
    assert!(
        Document::parse(&bytes, Some("text/plain")).is_ok(),
        "a registry of plain files"
    );
}

#[test]
fn foreign_layers_keep_their_urls() {
    let mut foreign = layer(1, "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
    foreign["urls"] = json!(["https://example.com/layer"]);
    assert_eq!(
        manifest(&image(vec![foreign])).layers[0].urls,
        ["https://example.com/layer"]
    );
    let mut plain = layer(1, media::OCI_LAYER);
    plain["urls"] = json!(["https://example.com/layer"]);
    assert!(
        manifest(&image(vec![plain])).layers[0].urls.is_empty(),
        "only foreign layers come from elsewhere"
    );
}

#[test]
fn refused_documents() {
    let with = |key: &str, value: Value| {
        let mut m = image(vec![]);
        m[key] = value;
        m
    };
    type Is = fn(&E) -> bool;
    let cases: Vec<(Value, Is)> = vec![
        (json!("text"), |e| matches!(e, E::Syntax { .. })),
        (json!({}), |e| matches!(e, E::Syntax { .. })),
        (json!({"schemaVersion": 2, "layers": []}), |e| {
            matches!(e, E::Syntax { .. })
        }),
        (json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX}), |e| {
            matches!(e, E::Syntax { .. })
        }),
        (json!({"schemaVersion": 1, "fsLayers": []}), |e| {
            matches!(e, E::Schema1)
        }),
        (
            with(
                "mediaType",
                json!("application/vnd.docker.distribution.manifest.v1+prettyjws"),
            ),
            |e| matches!(e, E::Schema1),
        ),
        (with("mediaType", json!("text/html")), |e| {
            matches!(e, E::MediaType { .. })
        }),
        (with("manifests", json!([])), |e| matches!(e, E::Ambiguous { .. })),
        (
            with(
                "config",
                json!({"mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": digest(1), "size": 1}),
            ),
            |e| matches!(e, E::Artifact { artifact } if artifact.contains("helm")),
        ),
        (image(vec![layer(1, "application/wasm")]), |e| {
            matches!(e, E::LayerType { .. })
        }),
        (
            image(vec![layer(1, &format!("{}+encrypted", media::OCI_LAYER_GZIP))]),
            |e| matches!(e, E::Encrypted { .. }),
        ),
        (
            image(vec![
                json!({"mediaType": media::OCI_LAYER, "digest": "sha256:../../x", "size": 1}),
            ]),
            |e| matches!(e, E::Digest { .. }),
        ),
        (
            image(vec![
                json!({"mediaType": media::OCI_LAYER, "digest": digest(1), "size": -1}),
            ]),
            |e| matches!(e, E::Size { size: -1, .. }),
        ),
        (
            image(vec![
                json!({"mediaType": media::OCI_LAYER, "digest": digest(1), "size": i64::MAX}),
            ]),
            |e| matches!(e, E::Size { .. }),
        ),
        (
            image(vec![
                json!({"mediaType": media::OCI_LAYER, "digest": digest(1), "size": 1.5}),
            ]),
            |e| matches!(e, E::Syntax { .. }),
        ),
        (
            with("config", json!({"digest": digest(1), "size": 1 << 30})),
            |e| matches!(e, E::Size { .. }),
        ),
        (
            image((0..=MAX_LAYERS).map(|n| layer(n, media::OCI_LAYER)).collect()),
            |e| matches!(e, E::Layers { .. }),
        ),
        (
            json!({"manifests": (0..=MAX_ENTRIES).map(|n| layer(n, media::OCI_MANIFEST)).collect::<Vec<_>>()}),
            |e| matches!(e, E::Entries { .. }),
        ),
    ];
    for (document, is) in cases {
        let error = parse(&document).expect_err(&document.to_string());
        assert!(is(&error), "{document}: {error:?}");
    }
    assert!(matches!(
        Document::parse(&vec![b' '; 5 << 20], None),
        Err(E::TooLarge { .. })
    ));
    assert!(matches!(
        Document::parse("[".repeat(1 << 20).as_bytes(), None),
        Err(E::Syntax { .. })
    ));
    let bytes = serde_json::to_vec(&image(vec![])).unwrap();
    assert!(matches!(
        Document::parse(&bytes, Some(media::OCI_INDEX)),
        Err(E::Ambiguous { .. })
    ));
}

#[test]
fn an_index_and_a_choice() {
    let entry = |n: usize, os: &str, arch: &str| {
        json!({"mediaType": media::OCI_MANIFEST, "digest": digest(n), "size": 9,
            "platform": {"os": os, "architecture": arch}})
    };
    let mut provenance = entry(9, "unknown", "unknown");
    provenance["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let index_of_two = index(json!([
        provenance,
        entry(1, "linux", "arm64"),
        entry(2, "linux", "s390x")
    ]));
    let choose = |want: &str| index_of_two.choose(&Wanted::Exactly(want.parse().unwrap()));
    assert_eq!(
        choose("linux/s390x").unwrap().descriptor.digest.to_string(),
        digest(2)
    );
    assert_eq!(
        choose("linux/riscv64").unwrap_err(),
        ["linux/arm64", "linux/s390x"]
    );

    let nameless = json!({"mediaType": media::OCI_MANIFEST, "digest": digest(1), "size": 9});
    assert!(
        index(json!([nameless])).choose(&Wanted::Host).is_ok(),
        "one without a platform is the one"
    );
    assert_eq!(
        index(json!([nameless, nameless]))
            .choose(&Wanted::Host)
            .unwrap_err(),
        Vec::<String>::new()
    );
    assert_eq!(
        index(json!([])).choose(&Wanted::Host).unwrap_err(),
        Vec::<String>::new()
    );
}
