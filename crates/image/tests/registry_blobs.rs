//! Downloads that break off, stall, or bring other bytes than announced.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use common::client::{client, descriptor, name, options, with_password};
use image::progress::Silent;
use image::registry::{Client, ClientOptions, Ranges, RegistryError as E};
use testkit::scripted::{Reply, Request, Server};

/// A server that answers every blob request with `reply`.
fn blob_server(
    blob: Vec<u8>,
    reply: impl Fn(usize, &Request, &[u8]) -> Reply + Send + Sync + 'static,
) -> Server {
    let turns = AtomicUsize::new(0);
    Server::start(move |request| reply(turns.fetch_add(1, Ordering::SeqCst), request, &blob))
}

#[test]
fn broken_downloads_go_on_where_they_broke_off() {
    let blob: Vec<u8> = (0..200_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let fetch = |server: &Server, offset: u64, to: &mut Vec<u8>| {
        client().blob(
            &name(&server.host()),
            &descriptor(&blob),
            &[],
            offset,
            to,
            &Silent,
        )
    };
    let starts = |server: &Server| -> Vec<Option<usize>> {
        server.requests().iter().map(Request::range_start).collect()
    };

    let server = blob_server(blob.clone(), |turn, request, blob| match turn {
        0 => Reply::ranged(request, blob).cut(300_000),
        1 => Reply::ranged(request, blob).stall(200_000),
        _ => Reply::ranged(request, blob),
    });
    let mut got = Vec::new();
    fetch(&server, 0, &mut got).unwrap();
    assert!(got == blob);
    assert_eq!(starts(&server), [None, Some(300_000), Some(500_000)]);

    // A server that knows no ranges sends the whole again.
    let server = blob_server(blob.clone(), |turn, _, blob| match turn {
        0 => Reply::ok(blob).cut(300_000),
        _ => Reply::ok(blob),
    });
    let mut got = Vec::new();
    fetch(&server, 0, &mut got).unwrap();
    assert!(got == blob);

    // One that sends other ranges than asked for is not believed.
    let server = blob_server(blob.clone(), |_, _, blob| {
        Reply::new(206)
            .header("content-range", format!("bytes 0-9/{}", blob.len()))
            .body(&blob[..10])
    });
    assert!(matches!(
        fetch(&server, 5, &mut Vec::new()),
        Err(E::Unreachable { .. })
    ));

    // Progress keeps the count of retries low: ten breaks, two retries allowed.
    let server = blob_server(blob.clone(), |_, request, blob| {
        Reply::ranged(request, blob).cut(80_000)
    });
    let mut got = Vec::new();
    fetch(&server, 0, &mut got).unwrap();
    assert!(got == blob);

    // Nor does one that brings nothing hold it up; what is told says so.
    let server = blob_server(blob.clone(), |_, request, blob| {
        Reply::ranged(request, blob).stall(10)
    });
    let error = fetch(&server, 0, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("nothing came for 0.3 s"), "{error}");

    // None at all ends it.
    let server = blob_server(blob.clone(), |_, request, blob| {
        Reply::ranged(request, blob).cut(10)
    });
    let error = fetch(&server, 0, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, E::Unreachable { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 3);
}

#[test]
fn sizes_that_lie_end_the_download() {
    let blob = vec![7; 100_000];
    let fetch = |server: &Server| {
        let mut got = Vec::new();
        let result = client().blob(
            &name(&server.host()),
            &descriptor(&blob),
            &[],
            0,
            &mut got,
            &Silent,
        );
        (result.unwrap_err(), got.len())
    };
    let longer = blob_server(blob.clone(), |_, _, blob| Reply::ok([blob, blob].concat()));
    assert!(matches!(
        fetch(&longer),
        (
            E::Size {
                expected: 100_000,
                got: 200_000,
                ..
            },
            0
        )
    ));
    let endless = blob_server(blob.clone(), |_, _, blob| {
        Reply::ok(blob.repeat(50)).unannounced()
    });
    assert!(matches!(fetch(&endless), (E::Size { .. }, ..=100_000)));
    let shorter = blob_server(blob.clone(), |_, _, blob| Reply::ok(&blob[1..]));
    assert!(matches!(fetch(&shorter), (E::Size { .. }, 0)));
    let other_total = blob_server(blob.clone(), |_, _, _| {
        Reply::new(206).header("content-range", "bytes 0-9/10")
    });
    assert!(matches!(fetch(&other_total), (E::Size { got: 10, .. }, 0)));
}

#[test]
fn foreign_layers_come_from_their_urls_without_credentials() {
    let blob = b"foreign".to_vec();
    let elsewhere = Server::start({
        let blob = blob.clone();
        move |request| match request.path.as_str() {
            "/layer" => Reply::ok(&*blob),
            _ => Reply::new(404),
        }
    });
    let server = Server::start(|request| match request.header("authorization") {
        None => Reply::new(401).header("www-authenticate", "Basic realm=x"),
        Some(_) => Reply::new(404),
    });
    let urls = [
        format!("http://{}/gone", elsewhere.host()),
        format!("http://{}/layer", elsewhere.host()),
    ];
    let mut got = Vec::new();
    let client = with_password("u", "p");
    client
        .blob(
            &name(&server.host()),
            &descriptor(&blob),
            &urls,
            0,
            &mut got,
            &Silent,
        )
        .unwrap();
    assert_eq!(got, blob);
    assert!(
        elsewhere
            .requests()
            .iter()
            .all(|r| r.header("authorization").is_none())
    );
}

#[test]
fn an_abort_ends_a_stalled_download_at_once() {
    let server = blob_server(vec![1; 1000], |_, _, blob| Reply::ok(blob).stall(10));
    let mut slow = options();
    slow.http.stall_timeout = Duration::from_secs(60);
    let client = Arc::new(Client::new(slow));
    let worker = std::thread::spawn({
        let (client, name) = (client.clone(), name(&server.host()));
        move || client.blob(&name, &descriptor(&[1; 1000]), &[], 0, &mut Vec::new(), &Silent)
    });
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    client.abort();
    assert!(matches!(worker.join().unwrap(), Err(E::Aborted { .. })));
    assert!(start.elapsed() < Duration::from_secs(10));
}

/// Ranges of a thousand bytes, as soon as a connection brought little.
fn slowly() -> ClientOptions {
    let mut options = options();
    options.http.ranges = Ranges {
        missing: 10_000,
        after: Duration::ZERO,
        enough: u64::MAX,
        part: 1000,
        connections: 4,
    };
    options
}

#[test]
fn what_comes_slowly_is_fetched_by_several_connections() {
    let blob: Vec<u8> = (0..30_000_u32).flat_map(|n| n.to_le_bytes()).collect();
    let fetch = |server: &Server| {
        let mut got = Vec::new();
        Client::new(slowly())
            .blob(
                &name(&server.host()),
                &descriptor(&blob),
                &[],
                0,
                &mut got,
                &Silent,
            )
            .unwrap();
        assert!(got == blob);
        let asked = server.requests().into_iter();
        asked
            .map(|request| request.header("range").map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let slow = |request: &Request, blob: &[u8]| {
        let reply = Reply::ranged(request, blob).header("accept-ranges", "bytes");
        // The first connection brings some and then nothing.
        match request.header("range") {
            None => reply.stall(5000),
            Some(_) => reply,
        }
    };

    // Nothing is answered until four ask.
    let barrier = Arc::new(Barrier::new(4));
    let together = barrier.clone();
    let server = blob_server(blob.clone(), move |turn, request, blob| {
        if (1..5).contains(&turn) {
            together.wait();
        }
        slow(request, blob)
    });
    let asked = fetch(&server);
    assert_eq!(asked[0], None);
    let mut begins: Vec<usize> = asked[1..]
        .iter()
        .map(|range| {
            let range = range.as_deref().unwrap().strip_prefix("bytes=").unwrap();
            let (begin, end) = range.split_once('-').unwrap();
            let begin: usize = begin.parse().unwrap();
            assert_eq!(end, ((begin + 1000).min(blob.len()) - 1).to_string());
            begin
        })
        .collect();
    begins.sort_unstable();
    assert!(begins[0] <= 5000, "{begins:?}");
    let expected: Vec<usize> = (begins[0]..blob.len()).step_by(1000).collect();
    assert_eq!(begins, expected);

    // One that is refused: the rest comes as ever, and in ranges again if that is slow.
    let server = blob_server(blob.clone(), move |turn, request, blob| match turn {
        5 => Reply::new(404),
        _ => slow(request, blob),
    });
    let asked = fetch(&server);
    assert!(
        asked.iter().flatten().any(|range| range.ends_with('-')),
        "{asked:?}"
    );

    // One that sends the whole whatever is asked for.
    let server = blob_server(blob.clone(), move |turn, request, blob| match turn {
        0 => slow(request, blob),
        _ => Reply::ok(blob),
    });
    fetch(&server);

    // One that does not say that it has ranges is not asked for any.
    let server = blob_server(blob.clone(), |_, _, blob| Reply::ok(blob));
    assert_eq!(fetch(&server), [None]);
}

#[test]
fn one_blob_at_a_time_is_fetched_by_several_connections() {
    let blobs = [vec![1; 60_000], vec![2; 60_000]];
    let (begun, go) = (AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let whole = |request: &Request| request.header("range").is_none();
    let server = Server::start({
        let (blobs, go) = (blobs.clone(), go.clone());
        move |request| {
            let of = |blob: &&Vec<u8>| request.path.ends_with(&descriptor(blob).digest.to_string());
            let reply = Reply::ranged(request, blobs.iter().find(of).unwrap());
            let reply = reply.header("accept-ranges", "bytes");
            if whole(request) {
                begun.fetch_add(1, Ordering::SeqCst);
                return reply.hold(45_000, &go);
            }
            // Both have had the time to see how slow they are.
            while begun.load(Ordering::SeqCst) < 2 {
                std::thread::sleep(Duration::from_millis(5));
            }
            std::thread::sleep(Duration::from_millis(300));
            reply
        }
    });
    let mut options = slowly();
    options.http.stall_timeout = Duration::from_secs(20);
    let client = Client::new(options);
    std::thread::scope(|scope| {
        for blob in &blobs {
            let (client, server, go) = (&client, &server, &go);
            scope.spawn(move || {
                let (to, mut got) = (name(&server.host()), Vec::new());
                let done = client.blob(&to, &descriptor(blob), &[], 0, &mut got, &Silent);
                go.store(true, Ordering::SeqCst);
                done.unwrap();
                assert!(got == *blob);
            });
        }
    });
    let in_ranges = |blob: &Vec<u8>| {
        let digest = descriptor(blob).digest.to_string();
        let asked = server.requests().into_iter();
        asked
            .filter(|request| request.path.ends_with(&digest) && !whole(request))
            .count()
    };
    let mut counts = blobs.each_ref().map(in_ranges);
    counts.sort_unstable();
    assert_eq!(counts, [0, 15]);
}
