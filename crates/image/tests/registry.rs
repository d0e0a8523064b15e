//! The registry's client against a server that misbehaves on purpose, and against a real registry with a login
//! and TLS.

mod common;

use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::client::{client, content, descriptor, name, options, some_image, with_password};
use image::auth::{AuthFiles, Credentials};
use image::progress::{Event, Progress, Silent};
use image::reference::Reference;
use image::registry::{Client, ClientOptions, RegistryError as E};
use store::Descriptor;
use testkit::registry::{Kind, PASSWORD, Registry, USER};
use testkit::scripted::{Reply, Server};
use testkit::{Image, Layer};

/// Collects what is told.
#[derive(Default)]
struct Told(Mutex<Vec<String>>);

impl Progress for Told {
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

#[test]
fn a_manifest_and_a_blob() {
    let built = some_image();
    let server = Server::start({
        let built = built.clone();
        move |request| content(&built, request)
    });
    let (client, name) = (client(), name(&server.host()));
    let manifest = client.manifest(&name, None, &Silent).unwrap();
    assert_eq!(manifest.descriptor.digest.to_string(), built.digest());
    assert_eq!(manifest.bytes, built.manifest_bytes());
    assert_eq!(
        client.resolve(&name, &Silent).unwrap(),
        Some(manifest.descriptor.digest)
    );
    let by_digest = client
        .manifest(&name.at(&manifest.descriptor.digest), None, &Silent)
        .unwrap();
    assert_eq!(by_digest, manifest);
    let layer = &built.blobs[&built.layer(0)];
    assert_eq!(
        client.blob_bytes(&name, &descriptor(layer), &Silent).unwrap(),
        *layer
    );
    assert_eq!(
        client
            .blob_bytes(&name, &descriptor(b""), &Silent)
            .unwrap_err()
            .to_string()
            .lines()
            .count(),
        1
    );

    let missing = Reference::parse(&format!("{}/a/b:nope", server.host())).unwrap();
    let error = client.manifest(&missing, None, &Silent).unwrap_err();
    assert!(matches!(error, E::NotFound { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("a/b:nope") && text.contains("MANIFEST_UNKNOWN") && !text.contains('\x1b'),
        "{text}"
    );
    let probes = server.requests().iter().filter(|r| r.path == "/v2/").count();
    assert_eq!(
        probes, 0,
        "the TLS greeting is no request, and http needs no other"
    );
}

#[test]
fn a_token_is_fetched_once_and_goes_to_its_registry_alone() {
    let built = some_image();
    let layer = built.blobs[&built.layer(0)].clone();
    let elsewhere = Server::start({
        let layer = layer.clone();
        move |request| Reply::ranged(request, &layer)
    });
    let realm = Server::start(|request| {
        if request.header("authorization") != Some("Basic dXNlcjpwYXNzOndvcmQ=") {
            return Reply::new(401).body(r#"{"details":"incorrect username or password"}"#);
        }
        Reply::ok(r#"{"token":"the-token","expires_in":300}"#)
    });
    let server = Server::start({
        let (realm, elsewhere) = (realm.host(), elsewhere.host());
        move |request| {
            if request.header("authorization") != Some("Bearer the-token") {
                return Reply::new(401).header(
                    "www-authenticate",
                    format!(r#"Bearer realm="http://{realm}/token?x=y",service="the, service",scope="repository:a/b:pull""#),
                );
            }
            match request.path.contains("/blobs/") {
                true => Reply::new(307).header("location", format!("http://{elsewhere}/bucket?signed=1")),
                false => content(&built, request),
            }
        }
    });
    let name = name(&server.host());
    let client = with_password(USER, PASSWORD);
    client.manifest(&name, None, &Silent).unwrap();
    client.manifest(&name, None, &Silent).unwrap();
    assert_eq!(
        client.blob_bytes(&name, &descriptor(&layer), &Silent).unwrap(),
        layer
    );

    let asked = realm.requests();
    assert_eq!(asked.len(), 1);
    let path = &asked[0].path;
    assert!(
        path.starts_with("/token?x=y&") && path.contains("service=the%2C%20service"),
        "{path}"
    );
    assert!(
        path.contains("scope=repository:a/b:pull") && path.contains("account=user"),
        "{path}"
    );
    assert_eq!(elsewhere.requests().len(), 1);
    assert_eq!(
        elsewhere.requests()[0].header("authorization"),
        None,
        "a token left for another host"
    );

    let error = with_password(USER, "wrong")
        .manifest(&name, None, &Silent)
        .unwrap_err();
    let (text, advice) = (error.to_string(), error.advice().unwrap_or_default());
    assert!(
        matches!(error, E::Denied { .. }) && text.contains("incorrect") && advice.contains("strata login"),
        "{text}; {advice}"
    );
    assert!(!text.contains("wrong"), "the password is in the error: {text}");
}

#[test]
fn identity_tokens_are_posted() {
    let realm = Server::start(|request| {
        let form = String::from_utf8(request.body.clone()).unwrap();
        assert_eq!(request.method, "POST");
        assert!(
            form.contains("grant_type=refresh_token") && form.contains("refresh_token=id%2Btoken"),
            "{form}"
        );
        Reply::ok(r#"{"access_token":"short","expires_in":0}"#)
    });
    let built = some_image();
    let server = Server::start({
        let realm = realm.host();
        move |request| match request.header("authorization") {
            Some("Bearer short") => content(&built, request),
            _ => Reply::new(401).header(
                "www-authenticate",
                format!(r#"Bearer realm="http://{realm}/",service=s"#),
            ),
        }
    });
    let credentials = Some(Credentials::Identity("id+token".into()));
    let client = Client::new(ClientOptions {
        credentials,
        ..options()
    });
    client.manifest(&name(&server.host()), None, &Silent).unwrap();
}

#[test]
fn refusals_say_what_to_do() {
    let server = Server::start(|request| match request.path.split('/').nth(2) {
        Some("basic") => Reply::new(401).header("www-authenticate", "Basic realm=x"),
        Some("odd") => Reply::new(401).header("www-authenticate", "Negotiate"),
        Some("bare") => Reply::new(401),
        Some("denied") => Reply::new(403).body(r#"{"errors":[{"code":"DENIED","message":"no"}]}"#),
        Some("remote") => Reply::new(401).header(
            "www-authenticate",
            r#"Bearer realm="http://token.example/",service="s""#,
        ),
        _ => Reply::new(418),
    });
    let ask = |path: &str| {
        let name = Reference::parse(&format!("{}/{path}/x", server.host())).unwrap();
        client().manifest(&name, None, &Silent).unwrap_err()
    };
    let error = ask("basic");
    assert!(error.to_string().contains("without a login"), "{error}");
    let advice = error.advice().unwrap_or_default();
    assert!(advice.contains("strata login 127.0.0.1"), "{advice}");
    assert!(matches!(ask("odd"), E::Challenge { .. }));
    assert!(matches!(ask("bare"), E::Challenge { .. }));
    assert!(matches!(ask("denied"), E::Denied { .. }));
    assert!(
        matches!(ask("remote"), E::PlainHttp { .. }),
        "a token is asked for over plain http"
    );
    assert!(matches!(ask("tea"), E::Status { status: 418, .. }));
}

#[test]
fn too_many_requests_are_waited_out_as_told() {
    let (built, turns) = (some_image(), AtomicUsize::new(0));
    let server = Server::start(move |request| match turns.fetch_add(1, Ordering::SeqCst) {
        0 => Reply::new(429).header("retry-after", "1"),
        1 => Reply::new(503),
        _ => content(&built, request),
    });
    let (told, start) = (Told::default(), Instant::now());
    client().manifest(&name(&server.host()), None, &told).unwrap();
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(told.0.lock().unwrap().iter().any(|event| event.contains("429")));

    let server = Server::start(|_| Reply::new(429).header("retry-after", "3600"));
    let error = client()
        .manifest(&name(&server.host()), None, &Silent)
        .unwrap_err();
    assert!(
        matches!(error, E::TooManyRequests { after: Some(after), .. } if after.as_secs() == 3600),
        "{error:?}"
    );
    assert_eq!(server.requests().len(), 1, "an hour is not waited");

    let server = Server::start(|_| Reply::new(502));
    let error = client()
        .manifest(&name(&server.host()), None, &Silent)
        .unwrap_err();
    assert!(matches!(error, E::Status { status: 502, .. }), "{error:?}");
    assert_eq!(server.requests().len(), 3, "two retries");
}

#[test]
fn what_has_another_digest_is_refused() {
    let (built, other) = (
        some_image(),
        Image::new("x")
            .layer(Layer::new().file("other", 0o644, "x"))
            .build(),
    );
    let (expected, other_digest) = (built.digest(), other.digest());
    let server = Server::start({
        let (built, other) = (built.clone(), other.clone());
        move |request| match request.path.contains("manifests/tag") {
            // Another manifest than the header says.
            true => content(&other, request).header("docker-content-digest", built.digest()),
            false => Reply::ok(other.manifest_bytes()),
        }
    });
    let at = name(&server.host()).at(&expected.parse().unwrap());
    let error = client().manifest(&at, None, &Silent).unwrap_err();
    assert!(
        matches!(&error, E::Digest { expected: e, got, .. }
        if e.to_string() == expected && got.to_string() == other_digest),
        "{error:?}"
    );
    let blob = Descriptor {
        digest: expected.parse().unwrap(),
        ..descriptor(other.manifest_bytes())
    };
    assert!(matches!(
        client().blob_bytes(&at, &blob, &Silent),
        Err(E::Digest { .. })
    ));
}

#[test]
fn hostile_manifests() {
    let bodies: [(&str, Vec<u8>); 4] = [
        ("nojson", b"<html>".to_vec()),
        (
            "schema1",
            br#"{"schemaVersion":1,"name":"x","fsLayers":[]}"#.to_vec(),
        ),
        ("large", vec![b' '; 5 << 20]),
        ("empty", Vec::new()),
    ];
    let server = Server::start({
        let bodies = bodies.clone();
        move |request| {
            let body = bodies
                .iter()
                .find(|(name, _)| request.path.contains(name))
                .map(|(_, body)| body.clone());
            Reply::ok(body.unwrap_or_default()).header("content-type", "text/html")
        }
    });
    for (path, _) in bodies {
        let name = Reference::parse(&format!("{}/{path}:1", server.host())).unwrap();
        let error = client().manifest(&name, None, &Silent).unwrap_err();
        assert!(matches!(error, E::Manifest { .. }), "{path}: {error:?}");
        assert!(
            error.to_string().contains(path) && !error.to_string().contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn redirects_are_followed_within_reason() {
    let server = Server::start(|request| match request.path.rsplit('/').next() {
        Some("loop") => Reply::new(302).header("location", "loop"),
        Some("nowhere") => Reply::new(302),
        Some("file") => Reply::new(302).header("location", "file:///etc/passwd"),
        _ => Reply::new(302).header("location", "http://registry.example/x"),
    });
    let ask = |tag: &str| {
        let name = Reference::parse(&format!("{}/x:{tag}", server.host())).unwrap();
        client().manifest(&name, None, &Silent).unwrap_err()
    };
    assert!(matches!(ask("loop"), E::Redirect { .. }));
    assert!(matches!(ask("nowhere"), E::Redirect { .. }));
    assert!(matches!(ask("file"), E::Redirect { .. }));
    assert!(
        matches!(ask("plain"), E::PlainHttp { .. }),
        "over plain http to another machine"
    );
}

#[test]
fn nobody_there() {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = client()
        .manifest(&name(&format!("127.0.0.1:{port}")), None, &Silent)
        .unwrap_err();
    assert!(error.to_string().contains("nothing listens there"), "{error}");
    let error = client()
        .manifest(&name("host.invalid"), None, &Silent)
        .unwrap_err();
    assert!(matches!(error, E::Unreachable { .. }), "{error:?}");
}

#[test]
fn a_proxy_is_used_when_given() {
    let proxy = Server::start(|_| Reply::new(403));
    let mut options = options();
    options.http.plain_http = vec!["registry.invalid:5000".into()];
    options.http.proxies.https = Some(format!("http://{}", proxy.host()));
    let ask = |options: &ClientOptions| {
        Client::new(options.clone())
            .manifest(&name("registry.invalid:5000"), None, &Silent)
            .unwrap_err()
    };
    let error = ask(&options);
    assert!(error.to_string().contains("proxy refused"), "{error}");
    assert!(
        proxy
            .requests()
            .iter()
            .all(|r| r.method == "CONNECT" && r.path == "registry.invalid:5000")
    );
    assert!(!proxy.requests().is_empty());

    options.http.proxies.no_proxy = vec!["registry.invalid".into()];
    let before = proxy.requests().len();
    assert!(matches!(ask(&options), E::Unreachable { .. }));
    assert_eq!(proxy.requests().len(), before, "asked directly");

    options.http.proxies.no_proxy.clear();
    options.http.proxies.https = Some("::".into());
    assert!(
        ask(&options)
            .to_string()
            .contains("the proxy's address is not valid")
    );
}

#[test]
fn a_real_registry_with_login_and_tls() {
    let registry = Registry::start_as(Kind {
        login: true,
        tls: true,
        ..Kind::default()
    });
    let mut untrusted = options();
    untrusted.credentials = Some(Credentials::Password {
        username: USER.into(),
        password: PASSWORD.into(),
    });
    let name = Reference::parse(&registry.name("x:1")).unwrap();
    let error = Client::new(untrusted.clone())
        .manifest(&name, None, &Silent)
        .unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");

    let mut trusted = untrusted;
    trusted.http.ca_files = vec![registry.certificate()];
    let error = Client::new(trusted.clone())
        .manifest(&name, None, &Silent)
        .unwrap_err();
    assert!(matches!(error, E::NotFound { .. }), "{error:?}");

    trusted.credentials = None;
    trusted.auth = AuthFiles {
        read: vec![PathBuf::from("/nonexistent/config.json")],
        ..AuthFiles::default()
    };
    let error = Client::new(trusted.clone())
        .manifest(&name, None, &Silent)
        .unwrap_err();
    assert!(matches!(error, E::Denied { .. }), "{error:?}");

    trusted.http.ca_files = vec![PathBuf::from("/nonexistent/ca.pem")];
    let error = Client::new(trusted).manifest(&name, None, &Silent).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/ca.pem"), "{error}");
}
