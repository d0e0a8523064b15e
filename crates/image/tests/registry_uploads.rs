//! Uploads that break off, are refused, or go to a registry that wants a login.

mod common;

use std::cell::RefCell;
use std::io::{Cursor, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::client::{client, descriptor, name, options, with_password};
use image::progress::Silent;
use image::registry::{Client, Kept, RegistryError as E, Uploaded};
use store::Digest;
use testkit::scripted::{Reply, Request, Server};

const PIECE: u64 = 1000;

/// Sends pieces of [`PIECE`] bytes.
fn in_pieces() -> Client {
    let mut options = options();
    options.http.upload_piece = PIECE;
    Client::new(options)
}

fn upload(client: &Client, server: &Server, blob: &[u8]) -> Result<Uploaded, E> {
    go_on(client, server, blob, &())
}

fn go_on(client: &Client, server: &Server, blob: &[u8], kept: &dyn Kept) -> Result<Uploaded, E> {
    let bytes = blob.to_vec();
    let open = |offset: u64| -> std::io::Result<Box<dyn Read>> {
        let mut from = Cursor::new(bytes.clone());
        from.set_position(offset);
        Ok(Box::new(from))
    };
    client.upload(&name(&server.host()), &descriptor(blob), &open, kept, &Silent)
}

/// A registry with room for one blob; `fault` may answer a request instead, by its number.
fn registry(
    fault: impl Fn(usize, &Request, &mut Vec<u8>) -> Option<Reply> + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Vec<u8>>>) {
    let kept: Arc<Mutex<Vec<u8>>> = Arc::default();
    let (inside, turns) = (kept.clone(), AtomicUsize::new(0));
    let server = Server::start(move |request| {
        let mut kept = inside.lock().unwrap();
        if let Some(reply) = fault(turns.fetch_add(1, Ordering::SeqCst), request, &mut kept) {
            return reply;
        }
        let range = |kept: &Vec<u8>| format!("0-{}", kept.len().max(1) - 1);
        let on = |status: u16, kept: &Vec<u8>| {
            Reply::new(status)
                .header("location", "/v2/a/b/blobs/uploads/one?state=x")
                .header("range", range(kept))
        };
        match request.method.as_str() {
            "POST" => {
                kept.clear();
                on(202, &kept)
            }
            "PATCH" => {
                kept.extend_from_slice(&request.body);
                on(202, &kept)
            }
            "GET" => on(204, &kept),
            "PUT" => {
                kept.extend_from_slice(&request.body);
                let digest = request.path.rsplit("digest=").next().unwrap();
                match Digest::of(&*kept).to_string() == digest {
                    true => Reply::new(201),
                    false => Reply::new(400).body(r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#),
                }
            }
            _ => Reply::new(404),
        }
    });
    (server, kept)
}

fn methods(server: &Server) -> Vec<String> {
    server
        .requests()
        .iter()
        .map(|request| request.method.clone())
        .collect()
}

#[test]
fn in_one_piece_and_in_several() {
    let blob: Vec<u8> = (0..900_u32).flat_map(|n| n.to_le_bytes()).collect();
    let (server, kept) = registry(|_, _, _| None);
    upload(&client(), &server, &blob).unwrap();
    assert!(*kept.lock().unwrap() == blob);
    assert_eq!(methods(&server), ["POST", "PUT"]);

    let (server, kept) = registry(|_, _, _| None);
    upload(&in_pieces(), &server, &blob).unwrap();
    assert!(*kept.lock().unwrap() == blob);
    assert_eq!(
        methods(&server),
        ["POST", "PATCH", "PATCH", "PATCH", "PATCH", "PUT"]
    );
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter_map(|request| request.header("content-range").map(str::to_owned))
        .collect();
    assert_eq!(ranges, ["0-999", "1000-1999", "2000-2999", "3000-3599"]);
}

#[test]
fn what_arrived_is_not_sent_again() {
    let blob: Vec<u8> = (0..900_u32).flat_map(|n| n.to_le_bytes()).collect();
    // The second piece breaks off in its middle.
    let (server, kept) = registry(|turn, request, kept| {
        (turn == 2).then(|| {
            kept.extend_from_slice(&request.body[..400]);
            Reply::new(503)
        })
    });
    upload(&in_pieces(), &server, &blob).unwrap();
    assert!(*kept.lock().unwrap() == blob);
    let requests = server.requests();
    let ranges: Vec<_> = requests
        .iter()
        .filter_map(|request| request.header("content-range"))
        .collect();
    assert_eq!(
        ranges,
        ["0-999", "1000-1999", "1400-2399", "2400-3399", "3400-3599"]
    );

    // One that has forgotten the upload gets it from the beginning.
    let (server, kept) = registry(|turn, _, _| match turn {
        2 => Some(Reply::new(500)),
        3 => Some(Reply::new(404)),
        _ => None,
    });
    upload(&in_pieces(), &server, &blob).unwrap();
    assert!(*kept.lock().unwrap() == blob);
    assert_eq!(
        methods(&server).iter().filter(|method| *method == "POST").count(),
        2
    );
}

/// What is kept from one run to the next.
#[derive(Default)]
struct Between(RefCell<Option<String>>);

impl Kept for Between {
    fn place(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    fn keep(&self, place: Option<&str>) {
        *self.0.borrow_mut() = place.map(str::to_owned);
    }
}

#[test]
fn the_next_run_goes_on_where_one_stopped() {
    let blob: Vec<u8> = (0..900_u32).flat_map(|n| n.to_le_bytes()).collect();
    // What the second run finds: the upload, one that is damaged, none.
    for found in ["whole", "damaged", "none"] {
        let (first, between) = (Arc::new(AtomicBool::new(true)), Between::default());
        let fails = first.clone();
        let (server, kept) = registry(move |_, request, kept| match fails.load(Ordering::SeqCst) {
            true => (kept.len() >= 2000).then(|| Reply::new(503)),
            false => (found == "none" && request.method == "GET").then(|| Reply::new(404)),
        });
        go_on(&in_pieces(), &server, &blob, &between).unwrap_err();
        assert!(
            between
                .place()
                .unwrap()
                .ends_with("/v2/a/b/blobs/uploads/one?state=x")
        );
        first.store(false, Ordering::SeqCst);
        if found == "damaged" {
            kept.lock().unwrap()[17] ^= 1;
        }
        let before = server.requests().len();
        go_on(&in_pieces(), &server, &blob, &between).unwrap();
        assert!(*kept.lock().unwrap() == blob);
        assert_eq!(between.place(), None);
        let anew = ["POST", "PATCH", "PATCH", "PATCH", "PATCH", "PUT"];
        let rest = ["GET", "PATCH", "PATCH", "PUT"];
        let expected = match found {
            "whole" => rest.to_vec(),
            "damaged" => [&rest[..], &anew].concat(),
            _ => [&["GET"][..], &anew].concat(),
        };
        assert_eq!(methods(&server)[before..], expected, "{found}");
    }
}

#[test]
fn retries_end() {
    let (server, _) = registry(|_, request, _| (request.method == "PUT").then(|| Reply::new(502)));
    let error = upload(&client(), &server, b"blob").unwrap_err();
    assert!(matches!(&error, E::Upload { .. }), "{error}");
    assert!(error.to_string().contains("502"), "{error}");
    // Two retries: three uploads were begun.
    assert_eq!(
        methods(&server).iter().filter(|method| *method == "POST").count(),
        3
    );

    // What will not change is not tried again.
    let (server, _) = registry(|turn, _, _| {
        (turn > 0)
            .then(|| Reply::new(400).body(r#"{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"no"}]}"#))
    });
    let error = upload(&client(), &server, b"blob").unwrap_err();
    assert!(error.to_string().contains("BLOB_UPLOAD_INVALID: no"), "{error}");
    assert_eq!(methods(&server), ["POST", "PUT"]);
}

#[test]
fn a_pause_that_is_asked_for_is_made() {
    for (at, small) in [("POST", true), ("PUT", true), ("PATCH", false)] {
        let (first, begun) = (AtomicBool::new(true), Instant::now());
        let (server, kept) = registry(move |_, request, _| {
            (request.method == at && first.swap(false, Ordering::SeqCst))
                .then(|| Reply::new(429).header("retry-after", "1"))
        });
        let client = if small { client() } else { in_pieces() };
        upload(&client, &server, &[7; 1500]).unwrap();
        assert!(*kept.lock().unwrap() == [7; 1500]);
        assert!(begun.elapsed() >= Duration::from_secs(1), "{at}");
    }
    let (first, begun) = (AtomicBool::new(true), Instant::now());
    let server = Server::start(move |_| match first.swap(false, Ordering::SeqCst) {
        true => Reply::new(429).header("retry-after", "1"),
        false => Reply::new(201),
    });
    let document = ("application/vnd.oci.image.manifest.v1+json", &b"{}"[..]);
    let put = |server: &Server| client().put_manifest(&name(&server.host()), document, true, &Silent);
    put(&server).unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));

    // An hour is not waited.
    let server = Server::start(|_| Reply::new(429).header("retry-after", "3600"));
    let error = put(&server).unwrap_err();
    assert!(
        matches!(error, E::TooManyRequests { after: Some(_), .. }),
        "{error}"
    );
    let error = upload(&client(), &server, b"blob").unwrap_err();
    assert!(
        matches!(error, E::TooManyRequests { after: Some(_), .. }),
        "{error}"
    );
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn what_the_registry_has_elsewhere_it_takes_from_there() {
    let whole = |path: &str| format!("/v2/a/b/blobs/uploads/?mount={}", Digest::of(path));
    for client in [client(), in_pieces()] {
        let blob = "elsewhere".repeat(500);
        let (server, kept) = registry(|_, request, _| (request.method == "POST").then(|| Reply::new(201)));
        assert_eq!(
            upload(&client, &server, blob.as_bytes()).unwrap(),
            Uploaded::Mounted
        );
        assert_eq!(methods(&server), ["POST"]);
        assert_eq!(server.requests()[0].path, whole(&blob));
        assert!(kept.lock().unwrap().is_empty());
    }
    // One that wants to be told from where is asked as of old.
    let (server, _) = registry(|_, request, _| request.path.contains("mount").then(|| Reply::new(400)));
    assert_eq!(upload(&client(), &server, b"blob").unwrap(), Uploaded::Sent);
    assert_eq!(methods(&server), ["POST", "POST", "PUT"]);
}

#[test]
fn a_login_for_pushing_is_asked_for_by_its_scope() {
    let (server, kept) = registry(|_, request, _| {
        if request.path.starts_with("/token") {
            return Some(Reply::ok(r#"{"token":"t0ken"}"#));
        }
        let host = request.header("host").unwrap();
        (request.header("authorization") != Some("Bearer t0ken")).then(|| {
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            Reply::new(401).header("www-authenticate", challenge)
        })
    });
    upload(&with_password("user", "secret"), &server, b"blob").unwrap();
    assert_eq!(*kept.lock().unwrap(), b"blob");
    let requests = server.requests();
    let token = requests
        .iter()
        .find(|request| request.path.starts_with("/token"))
        .unwrap();
    assert!(
        token.path.contains("scope=repository:a/b:pull%2Cpush"),
        "{}",
        token.path
    );
    assert_eq!(server.count("/token"), 1, "one token for all of it");

    let (server, _) = registry(|_, _, _| Some(Reply::new(403)));
    let error = upload(&client(), &server, b"blob").unwrap_err();
    assert!(matches!(error, E::Denied { .. }), "{error}");
}

#[test]
fn what_cannot_be_read_is_no_fault_of_the_registry_s() {
    let (server, _) = registry(|_, _, _| None);
    let short = |_: u64| -> std::io::Result<Box<dyn Read>> { Ok(Box::new(Cursor::new(b"bl".to_vec()))) };
    let to = name(&server.host());
    let error = client()
        .upload(&to, &descriptor(b"blob"), &short, &(), &Silent)
        .unwrap_err();
    assert!(matches!(error, E::Read { .. }), "{error}");
}
