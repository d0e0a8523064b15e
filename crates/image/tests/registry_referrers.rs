//! What refers to an image: by the registry's list, page by page, or by the tag that stands in for it.

mod common;

use common::client::{client, name};
use image::progress::Silent;
use serde_json::{Value, json};
use store::Digest;
use testkit::scripted::{Reply, Server};

fn listed(artifact: &str, text: &str) -> Value {
    json!({
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": Digest::of(text).to_string(), "size": 7,
        "artifactType": artifact, "annotations": { "a": text },
    })
}

fn page(entries: &[Value]) -> Reply {
    let index = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries,
    });
    Reply::ok(index.to_string()).header("content-type", "application/vnd.oci.image.index.v1+json")
}

fn types(server: &Server, wanted: Option<&str>) -> Vec<String> {
    let subject = Digest::of("subject");
    let found = client()
        .referrers(&name(&server.host()), &subject, wanted, &Silent)
        .unwrap();
    found.into_iter().map(|referrer| referrer.artifact_type).collect()
}

#[test]
fn page_by_page() {
    let server = Server::start(|request| match request.path.as_str() {
        path if !path.starts_with("/v2/a/b/referrers/") => Reply::new(404),
        path if path.contains("page=2") => page(&[listed("sbom", "2")]),
        _ => page(&[listed("signature", "1"), json!({ "digest": "nonsense" })])
            .header("link", format!("<{}?page=2>; rel=\"next\"", request.path)),
    });
    assert_eq!(types(&server, None), ["signature", "sbom"]);
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn of_one_type() {
    // One that does not choose itself.
    let server = Server::start(|_| page(&[listed("signature", "1"), listed("sbom", "2")]));
    assert_eq!(types(&server, Some("sbom")), ["sbom"]);
    assert!(server.requests()[0].path.ends_with("?artifactType=sbom"));
}

#[test]
fn by_the_tag_where_there_is_no_list() {
    let tag = format!("/v2/a/b/manifests/sha256-{}", Digest::of("subject").hex());
    let server = Server::start(move |request| match request.path == tag {
        true => page(&[listed("signature", "1"), listed("sbom", "2")]),
        false => Reply::new(404),
    });
    assert_eq!(types(&server, None), ["signature", "sbom"]);
    assert_eq!(types(&server, Some("sbom")), ["sbom"]);
    let server = Server::start(|_| Reply::new(404));
    assert_eq!(types(&server, None), [""; 0]);
    let server = Server::start(|_| Reply::ok("nonsense"));
    assert!(
        client()
            .referrers(&name(&server.host()), &Digest::of("subject"), None, &Silent)
            .is_err()
    );
}
