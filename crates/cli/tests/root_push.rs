//! `strata push` to a real registry on loopback, and what comes back from it. Needs root.

mod common;

use std::collections::HashMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::{Image, Layer, Strata, busybox, empty, refused};
use serde_json::Value;
use testkit::random::Random;
use testkit::registry::{Kind, PASSWORD, Registry, USER};
use testkit::scripted::{Reply, Server};

fn digest_of(strata: &Strata, name: &str) -> String {
    strata
        .ok(["images", "--format", "{{.Digest}}", name])
        .trim()
        .to_owned()
}

fn id_of(strata: &Strata, name: &str) -> String {
    strata.ok(["images", "-q", "--no-trunc", name]).trim().to_owned()
}

fn there(name: &str) -> String {
    let output = Command::new("skopeo")
        .args(["inspect", "--tls-verify=false", "--format", "{{.Digest}}"])
        .arg(format!("docker://{name}"))
        .output()
        .expect("skopeo cannot be run: install the package skopeo");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn pushed_and_pulled() {
    let strata = empty();
    let image = Image::busybox()
        .name("three:1")
        .layer(Layer::new().file("f", 0o644, "f".repeat(500_000)));
    strata.load(&image);
    let registry = Registry::start();
    let (first, second) = (registry.name("first:1"), registry.name("team/second:2"));
    let pushed = strata.end(["push", "three:1", &first]);
    assert_eq!(
        (pushed.code, pushed.out.trim()),
        (0, digest_of(&strata, "three:1").as_str()),
        "{pushed:#?}"
    );
    assert_eq!(pushed.err.matches(": pushed").count(), 2, "{}", pushed.err);
    assert_eq!(there(&first), digest_of(&strata, "three:1"));
    // Again: nothing is sent.
    let again = strata.end(["push", "three:1", &first]);
    assert_eq!(again.err.matches(": already there").count(), 2, "{}", again.err);
    // To another repository: the registry takes the layers from the first, whose image is known here.
    strata.ok(["tag", "three:1", &first]);
    strata.ok(["tag", "three:1", &second]);
    let file = strata.dir().join("digest");
    let mounted = strata.end(["push", "--digestfile", file.to_str().unwrap(), &second]);
    assert_eq!(
        mounted.err.matches(": already there").count(),
        2,
        "{}",
        mounted.err
    );
    assert_eq!(there(&second), std::fs::read_to_string(file).unwrap());
    // Elsewhere it is the same image.
    let other = empty();
    other.ok(["pull", "-q", &second]);
    assert_eq!(id_of(&other, &second), id_of(&strata, "three:1"));
    assert_eq!(
        other.ok(["run", "--rm", &second, "sh", "-c", "wc -c < /f"]),
        "500000\n"
    );
    // docker's way of saying where, and one that says nothing on the way.
    let quiet = strata.end([
        "push",
        "-q",
        "three:1",
        &format!("docker://{}", registry.name("third")),
    ]);
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""));
}

fn df(strata: &Strata) -> Value {
    serde_json::from_str(&strata.ok(["df", "--format", "json"])).unwrap()
}

#[test]
fn what_is_compressed_for_a_push_does_not_stay() {
    let strata = busybox();
    strata.ok([
        "run",
        "--name",
        "cc",
        "busybox",
        "sh",
        "-c",
        "echo committed > /f",
    ]);
    strata.ok(["commit", "cc", "made"]);
    let registry = Registry::start();
    let name = registry.name("made:1");
    strata.ok(["push", "-q", "made", &name]);
    // Where the manifest names the very bytes that are compressed, too.
    let other = empty();
    other.ok(["pull", "-q", &name]);
    other.ok(["prune", "-f", "blobs"]);
    let before = df(&other)["Blobs"]["Count"].clone();
    let again = other.end(["push", &name, &registry.name("elsewhere:1")]);
    assert_eq!(again.code, 0, "{again:#?}");
    assert!(!again.err.contains("compressed anew"), "{}", again.err);
    let after = df(&other);
    assert_eq!(
        (&after["Blobs"]["Count"], &after["LeftOver"]),
        (&before, &0.into()),
        "{after:#}"
    );
}

#[test]
fn a_layer_without_its_blob_is_compressed_anew() {
    let strata = busybox();
    strata.ok([
        "run",
        "--name",
        "cc",
        "busybox",
        "sh",
        "-c",
        "echo committed > /f",
    ]);
    strata.ok(["commit", "cc", "made"]);
    strata.ok(["rm", "cc"]);
    let registry = Registry::start();
    for form in ["gzip", "zstd"] {
        let name = registry.name(&format!("made:{form}"));
        let pushed = strata.end(["push", "--compression-format", form, "made", &name]);
        assert_eq!(pushed.code, 0, "{pushed:#?}");
        assert_ne!(pushed.out.trim(), digest_of(&strata, "made"));
        assert!(pushed.err.contains("compressed anew"), "{}", pushed.err);
        assert_eq!(there(&name), pushed.out.trim());
        let other = empty();
        other.ok(["pull", "-q", &name]);
        // The image is the same: its configuration and what is in the layers.
        assert_eq!(id_of(&other, &name), id_of(&strata, "made"));
        assert_eq!(other.ok(["run", "--rm", &name, "cat", "/f"]), "committed\n");
        // What was compressed for it does not stay.
        assert_eq!(df(&strata)["LeftOver"], 0);
        // The same bytes again: nothing is sent.
        let again = strata.end(["push", "--compression-format", form, "made", &name]);
        assert_eq!(again.out, pushed.out);
        assert_eq!(again.err.matches(": already there").count(), 2, "{}", again.err);
    }
}

#[test]
fn with_a_login_by_tls_and_refused() {
    let strata = busybox();
    let registry = Registry::start_as(Kind {
        login: true,
        tls: true,
        ..Kind::default()
    });
    let name = registry.name("private/busybox:1");
    let auth = strata.dir().join("auth.json");
    let run = |args: &[&str], input: &str| {
        use std::io::Write;
        let mut child = strata
            .command(args)
            .env("SSL_CERT_FILE", registry.certificate())
            .env("REGISTRY_AUTH_FILE", &auth)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        common::Ended::from(child.wait_with_output().unwrap())
    };
    refused(&run(&["push", "-q", "busybox", &name], ""), &["without a login"]);
    let login = run(
        &["login", "-u", USER, "--password-stdin", &registry.host()],
        PASSWORD,
    );
    assert_eq!(login.code, 0, "{login:#?}");
    let pushed = run(&["push", "-q", "busybox", &name], "");
    assert_eq!(
        (pushed.code, pushed.out.trim()),
        (0, digest_of(&strata, "busybox").as_str()),
        "{pushed:#?}"
    );

    refused(&strata.end(["push", "nosuch"]), &["nosuch"]);
    refused(
        &strata.end(["push", "-q", "busybox", "127.0.0.1:1/x"]),
        &["127.0.0.1:1"],
    );
    let digest = format!("127.0.0.1:1/x@sha256:{}", "0".repeat(64));
    refused(&strata.end(["push", "busybox", &digest]), &["sha256"]);
    refused(
        &strata.end(["push", "--compression-level", "10", "busybox"]),
        &["10"],
    );
}

/// A registry that takes everything, and lets the second piece of the large layer wait until it is told.
fn slow_registry(wait: Arc<AtomicBool>) -> Server {
    let uploads = Mutex::new(HashMap::<String, usize>::new());
    Server::start(move |request| {
        let on = |status: u16, id: &str, len: usize| {
            let range = format!("0-{}", len.max(1) - 1);
            let location = format!("/v2/big/blobs/uploads/{id}");
            Reply::new(status)
                .header("location", location)
                .header("range", range)
        };
        let last = request.path.split('?').next().unwrap_or_default();
        let id = last.rsplit('/').next().unwrap_or_default().to_owned();
        let lock = || uploads.lock().unwrap();
        match request.method.as_str() {
            "POST" => {
                let id = format!("u{}", lock().len());
                lock().insert(id.clone(), 0);
                on(202, &id, 0)
            }
            "GET" if request.path.contains("/uploads/") => on(204, &id, lock()[&id]),
            "PATCH" => {
                while lock()[&id] > 0 && wait.load(Ordering::SeqCst) {
                    std::thread::sleep(Duration::from_millis(10));
                }
                let mut uploads = lock();
                let len = uploads.get_mut(&id).unwrap();
                *len += request.body.len();
                on(202, &id, *len)
            }
            "PUT" => Reply::new(201),
            _ => Reply::new(404),
        }
    })
}

#[test]
fn a_push_that_was_killed_goes_on_inside_of_a_layer() {
    const PIECE: usize = 64 << 20;
    let strata = empty();
    let mut random = Random::new(4);
    let large: Vec<u8> = (0..(PIECE + (8 << 20)) / 8)
        .flat_map(|_| random.number().to_le_bytes())
        .collect();
    strata.load(
        &Image::busybox()
            .name("big:1")
            .layer(Layer::new().file("f", 0o644, large)),
    );
    let wait = Arc::new(AtomicBool::new(true));
    let server = slow_registry(wait.clone());
    let to = format!("{}/big:1", server.host());
    let of = |method: &str| {
        let requests = server.requests().into_iter();
        requests
            .filter(|request| request.method == method)
            .collect::<Vec<_>>()
    };
    let mut first = strata.command(["push", "-q", "big:1", &to]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while of("PATCH").len() < 2 {
        assert!(Instant::now() < deadline, "it sends no second piece");
        std::thread::sleep(Duration::from_millis(10));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    let begun = of("POST").len();
    wait.store(false, Ordering::SeqCst);
    strata.ok(["push", "-q", "big:1", &to]);
    let pieces: Vec<_> = of("PATCH")
        .iter()
        .map(|piece| piece.header("content-range").unwrap_or_default().to_owned())
        .collect();
    assert!(pieces[0].starts_with("0-"), "{pieces:?}");
    assert!(
        pieces[1..]
            .iter()
            .all(|piece| piece.starts_with(&PIECE.to_string())),
        "{pieces:?}"
    );
    // The other layer and the configuration are sent again, at most; nothing of the large one is begun again.
    let puts = of("PUT").into_iter().filter(|put| put.path.contains("/blobs/"));
    assert!(of("POST").len() - begun <= 2 && puts.count() >= 3);
    strata.ok(["rmi", "big:1"]);
    strata.ok(["prune", "-a", "-f"]);
    let left = std::fs::read_dir(strata.root().join("content/ingest"))
        .unwrap()
        .count();
    assert_eq!(left, 0);
}
