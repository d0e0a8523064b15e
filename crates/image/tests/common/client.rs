//! A client that gives up soon, and a server that has one image.

use std::time::Duration;

use image::auth::Credentials;
use image::reference::Reference;
use image::registry::{Client, ClientOptions, HttpOptions};
use store::{Descriptor, Digest};
use testkit::scripted::{Reply, Request};
use testkit::{Built, Image, Layer};

pub fn options() -> ClientOptions {
    let http = HttpOptions {
        backoff: Duration::from_millis(5),
        stall_timeout: Duration::from_millis(300),
        response_timeout: Duration::from_secs(2),
        retries: 2,
        ..HttpOptions::default()
    };
    ClientOptions {
        http,
        ..ClientOptions::default()
    }
}

pub fn with_password(username: &str, password: &str) -> Client {
    let credentials = Credentials::Password {
        username: username.into(),
        password: password.into(),
    };
    Client::new(ClientOptions {
        credentials: Some(credentials),
        ..options()
    })
}

pub fn client() -> Client {
    Client::new(options())
}

pub fn name(host: &str) -> Reference {
    Reference::parse(&format!("{host}/a/b:tag")).unwrap()
}

pub fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
    }
}

/// Answers with an image's blobs and its manifest under the tag `tag`.
pub fn content(built: &Built, request: &Request) -> Reply {
    let last = request.path.rsplit('/').next().unwrap_or_default();
    let key = if last == "tag" {
        built.digest()
    } else {
        last.to_owned()
    };
    match built.blobs.get(&key) {
        Some(bytes) => Reply::ranged(request, bytes)
            .header("content-type", built.descriptor["mediaType"].as_str().unwrap())
            .header("docker-content-digest", key),
        None => Reply::new(404)
            .body(r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"nothing\u001b[2J here"}]}"#),
    }
}

pub fn some_image() -> Built {
    Image::new("x")
        .layer(Layer::new().file("hello", 0o644, "world"))
        .build()
}
