//! A layer is unpacked while its blob arrives, layers beside each other; nothing of that is visible before all of it
//! is verified. Needs root.

mod common;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::Home;
use common::client::{client, content, name};
use image::install::InstallError;
use image::progress::{Event, Progress, Silent};
use image::pull::{PullError, PullOptions, Pulled, pull};
use testkit::scripted::{Reply, Request, Server};
use testkit::{Built, Compression, Image, Layer};

fn pull_all(home: &Home, server: &Server, progress: &dyn Progress) -> Result<Pulled, PullError> {
    let reference = name(&server.host());
    let options = PullOptions::default();
    pull(&home.store, &client(), "default", &reference, &options, progress)
}

fn noise(len: u32) -> Vec<u8> {
    (0..len)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

/// Waits until something is so.
fn wait_for(what: &str, so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !so() {
        assert!(Instant::now() < end, "{what} never happened");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Files of this name in layers, visible or not.
fn unpacked(home: &Home, file: &str) -> Vec<PathBuf> {
    let snapshots = home.dir.path().join("store/snapshots");
    let dirs = std::fs::read_dir(snapshots).into_iter().flatten().flatten();
    dirs.map(|dir| dir.path().join("fs").join(file))
        .filter(|path| path.exists())
        .collect()
}

/// Keeps which layers were done, in order.
#[derive(Default)]
struct Done(Mutex<Vec<String>>);

impl Progress for Done {
    fn event(&self, event: &Event<'_>) {
        if let Event::LayerDone { digest } = event {
            self.0.lock().unwrap().push(digest.to_string());
        }
    }
}

fn serve(built: &Built, answer: impl Fn(&Built, &Request) -> Reply + Send + Sync + 'static) -> Server {
    let built = built.clone();
    Server::start(move |request| answer(&built, request))
}

#[test]
fn a_layer_is_unpacked_while_its_blob_arrives() {
    for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
        let home = Home::new();
        let built = Image::new("x")
            .layer_as(
                Layer::new()
                    .file("first", 0o644, noise(600_000))
                    .file("second", 0o644, noise(600_000)),
                compression,
            )
            .build();
        let go_on = Arc::new(AtomicBool::new(false));
        let server = serve(&built, {
            let go_on = go_on.clone();
            move |built, request| {
                let reply = content(built, request);
                let half = built.blobs[&built.layer(0)].len() * 3 / 4;
                match request.path.contains(&built.layer(0)) {
                    true => reply.hold(half, &go_on),
                    false => reply,
                }
            }
        });
        std::thread::scope(|scope| {
            let pulling = scope.spawn(|| pull_all(&home, &server, &Silent));
            wait_for("a file of a blob that is not complete", || {
                !unpacked(&home, "first").is_empty()
            });
            assert_eq!(home.store.layers().unwrap(), []);
            assert_eq!(home.names(), [""; 0]);
            go_on.store(true, Ordering::SeqCst);
            pulling.join().unwrap().unwrap();
        });
        assert_eq!(server.count(&built.layer(0)), 1);
        assert_eq!(unpacked(&home, "second").len(), 1);
    }
}

#[test]
fn layers_wait_for_those_below_only_when_they_need_something_of_them() {
    let home = Home::new();
    let built = Image::new("x")
        .layer(Layer::new().dir("d", 0o711).file("d/base", 0o644, "base"))
        .layer(Layer::new().dir("e", 0o755).file("e/free", 0o644, "free"))
        // Of what it does not list it takes over what lies below.
        .layer(Layer::new().file("d/bound", 0o644, "bound"))
        .layer(Layer::new().hard_link("linked", "d/base"))
        .build();
    let go_on = Arc::new(AtomicBool::new(false));
    let server = serve(&built, {
        let go_on = go_on.clone();
        move |built, request| match request.path.contains(&built.layer(0)) {
            true => content(built, request).hold(20, &go_on),
            false => content(built, request),
        }
    });
    let done = Done::default();
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull_all(&home, &server, &done));
        wait_for("the layer that needs nothing", || {
            *done.0.lock().unwrap() == [built.layer(1)]
        });
        go_on.store(true, Ordering::SeqCst);
        pulling.join().unwrap().unwrap();
    });
    let layers = home.layers(&name(&server.host()).to_string());
    assert_eq!(home.read(layers[3], "d/base"), "base");
    assert_eq!(home.read(layers[3], "linked"), "base");
    let path = home
        .dir
        .path()
        .join(format!("store/snapshots/{}/fs/d", layers[2]));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(path).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o711);
}

#[test]
fn layers_that_need_much_memory_take_their_turns() {
    let home = Home::new();
    let mut image = Image::new("x");
    for n in 0..6 {
        let layer = Layer::new().file(format!("file-{n}"), 0o644, noise(400_000 + n));
        image = image.layer_as(layer, Compression::ZstdWide);
    }
    let server = serve(&image.build(), content);
    pull_all(&home, &server, &Silent).unwrap();
    for (n, layer) in home
        .layers(&name(&server.host()).to_string())
        .into_iter()
        .enumerate()
    {
        let path = home
            .dir
            .path()
            .join(format!("store/snapshots/{layer}/fs/file-{n}"));
        assert!(std::fs::read(path).unwrap() == noise(400_000 + n as u32));
    }
}

#[test]
fn a_layer_that_needs_much_memory_for_its_entries_begins_again_when_it_is_its_turn() {
    let home = Home::new();
    // A file that is replaced is remembered until the end by its path.
    let deep = [vec!["x".repeat(200); 19].join("/"), "f".into()].join("/");
    let much = (0..2400).fold(Layer::new().file("top", 0o644, "top"), |layer, n| {
        layer.file(&deep, 0o644, n.to_string())
    });
    let built = Image::new("x")
        .layer(Layer::new().file("base", 0o644, "base"))
        .layer(much)
        .build();
    let go_on = Arc::new(AtomicBool::new(false));
    let server = serve(&built, {
        let go_on = go_on.clone();
        move |built, request| match request.path.contains(&built.layer(0)) {
            true => content(built, request).hold(20, &go_on),
            false => content(built, request),
        }
    });
    std::thread::scope(|scope| {
        let pulling = scope.spawn(|| pull_all(&home, &server, &Silent));
        wait_for("the upper layer", || unpacked(&home, "top").len() == 1);
        go_on.store(true, Ordering::SeqCst);
        pulling.join().unwrap().unwrap();
    });
    let layers = home.layers(&name(&server.host()).to_string());
    assert_eq!(home.read(layers[1], &deep), "2399");
    assert_eq!(unpacked(&home, "top").len(), 1);
}

#[test]
fn equal_layers_of_one_image_are_unpacked_once() {
    let home = Home::new();
    let twice = || Layer::new().file("same", 0o644, "same");
    let built = Image::new("x")
        .layer(twice())
        .layer(Layer::new().file("other", 0o644, "other"))
        .layer(twice())
        .build();
    let server = serve(&built, content);
    pull_all(&home, &server, &Silent).unwrap();
    let layers = home.layers(&name(&server.host()).to_string());
    assert_eq!(layers[0], layers[2]);
    assert_eq!(unpacked(&home, "same").len(), 1);
}

#[test]
fn content_that_is_right_in_a_blob_that_is_wrong_leaves_nothing() {
    let home = Home::new();
    let built = Image::new("x")
        .layer(Layer::new().file("file", 0o644, noise(300_000)))
        .build();
    // The time in gzip's header: it inflates to the same.
    let server = serve(&built, |built, request| {
        match request.path.contains(&built.layer(0)) {
            true => {
                let mut bytes = built.blobs[&built.layer(0)].clone();
                bytes[4] ^= 1;
                Reply::ranged(request, &bytes)
            }
            false => content(built, request),
        }
    });
    let error = pull_all(&home, &server, &Silent).unwrap_err();
    let PullError::Install { source, .. } = error else {
        panic!("{error:?}")
    };
    assert!(matches!(*source, InstallError::Digest { .. }), "{source:?}");
    assert!(unpacked(&home, "file").is_empty());
    home.assert_empty();
}

#[test]
fn a_beginning_that_was_wrong_is_unpacked_again_from_the_right_one() {
    let home = Home::new();
    let built = Image::new("x")
        .layer(Layer::new().file("file", 0o644, noise(300_000)))
        .build();
    let blob = built.blobs[&built.layer(0)].clone();
    let lease = home.store.lease("an earlier pull").unwrap();
    let mut ingest = home
        .store
        .ingest(&lease, &format!("blob {}", built.layer(0)), None)
        .unwrap();
    let mut half = blob[..blob.len() / 2].to_vec();
    half[4] ^= 1;
    std::io::Write::write_all(&mut ingest, &half).unwrap();
    drop(ingest);
    let server = serve(&built, content);
    pull_all(&home, &server, &Silent).unwrap();
    assert_eq!(server.count(&built.layer(0)), 2);
    assert_eq!(unpacked(&home, "file").len(), 1);
}

#[test]
fn a_failure_of_one_layer_ends_the_others() {
    let home = Home::new();
    let never = Arc::new(AtomicBool::new(false));
    let built = Image::new("x")
        .layer(Layer::new().file("slow", 0o644, noise(300_000)))
        .layer(Layer::new().file("../outside", 0o644, "no"))
        .layer(Layer::new().hard_link("linked", "slow"))
        .build();
    let server = serve(&built, {
        let never = never.clone();
        move |built, request| match request.path.contains(&built.layer(0)) {
            true => content(built, request).hold(1000, &never),
            false => content(built, request),
        }
    });
    let started = Instant::now();
    let error = pull_all(&home, &server, &Silent).unwrap_err();
    never.store(true, Ordering::SeqCst);
    assert!(started.elapsed() < Duration::from_secs(15));
    assert!(error.to_string().contains("outside"), "{error}");
    assert_eq!(home.store.layers().unwrap(), []);
}
