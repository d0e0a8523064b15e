//! What is told while an image arrives, and of other long work: bars on a terminal, plain lines elsewhere, nothing with `--quiet`. Needs root.

mod common;

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::screen::on_terminal;
use common::{Compression, Image, Layer, Strata, empty};
use rustix::fs::{CWD, FileType, Mode};
use testkit::scripted::{Reply, Server};

/// Bytes that do not shrink, so that a layer's blob is as large as the layer.
fn noise() -> Vec<u8> {
    let mut bytes = vec![0; 300_000];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

/// A registry with an image of two layers; the lower one's second half comes when `go` is true.
fn registry(go: &Arc<AtomicBool>) -> (Server, String) {
    let image = Image::new("x")
        .layer_as(Layer::busybox().file("noise", 0o644, noise()), Compression::Gzip)
        .layer_as(Layer::new().file("top", 0o644, noise()), Compression::Gzip);
    let (built, go) = (image.build(), go.clone());
    let server = Server::start(move |request| {
        let last = request.path.rsplit('/').next().unwrap_or_default();
        match (request.path.as_str(), built.blobs.get(last)) {
            ("/v2/", _) => Reply::ok("{}"),
            (_, Some(blob)) if last == built.layer(0) => Reply::ok(&**blob).hold(blob.len() / 2, &go),
            (_, Some(blob)) if last != built.digest() => Reply::ok(&**blob),
            _ => Reply::ok(built.manifest_bytes())
                .header("content-type", "application/vnd.oci.image.manifest.v1+json"),
        }
    });
    let name = format!("{}/some/image:1", server.host());
    (server, name)
}

fn ready() -> Arc<AtomicBool> {
    Arc::new(AtomicBool::new(true))
}

/// Control sequences and parts of bars.
fn is_drawn(text: &str) -> bool {
    text.contains(['\x1b', '█', '▒', '░', '\r'])
}

#[test]
fn bars_of_what_is_fetched_and_what_is_unpacked() {
    let strata = empty();
    let go = Arc::new(AtomicBool::new(false));
    let (_server, name) = registry(&go);
    let mut screen = on_terminal(&strata, &["pull", &name], 30, 100);
    // One layer waits for its second half, the first being unpacked already; the other waits for nobody.
    screen.until("fetching");
    screen.until("█");
    screen.until("done");
    assert!(
        screen.text.contains("2 layers") && screen.text.contains("\x1b["),
        "{:?}",
        screen.text
    );
    go.store(true, Ordering::SeqCst);
    screen.until("sha256:");
    assert_eq!(screen.code(), Some(0));
    // The same again: nothing moves.
    let mut screen = on_terminal(&strata, &["pull", &name], 30, 100);
    screen.until("already here");
    screen.until("sha256:");
    assert_eq!(screen.code(), Some(0));
    assert!(!screen.text.contains("fetching"), "{:?}", screen.text);
}

#[test]
fn a_bar_of_what_is_read() {
    let strata = empty();
    let path = strata.dir().join("root.tar");
    rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let mut screen = on_terminal(&strata, &["import", path.to_str().unwrap(), "imported"], 30, 100);
    let tar = Layer::new().file("noise", 0o644, noise()).finish();
    let mut pipe = File::options().write(true).open(&path).unwrap();
    let (first, second) = tar.split_at(tar.len() / 2);
    pipe.write_all(first).unwrap();
    screen.until("reading ");
    pipe.write_all(second).unwrap();
    drop(pipe);
    screen.until("done");
    assert_eq!(screen.code(), Some(0));
    assert!(!screen.text.contains("fetch"), "{:?}", screen.text);
}

#[test]
fn a_bar_of_what_is_exported_and_copied() {
    let strata = common::busybox();
    let script = "head -c 8000000 /dev/zero > /zero";
    strata.ok(["run", "--name", "made", "busybox", "sh", "-c", script]);
    let path = strata.dir().join("made.tar");
    let words = ["export", "-o", path.to_str().unwrap(), "made"];
    let mut screen = on_terminal(&strata, &words, 30, 100);
    screen.until("reading ");
    assert_eq!(screen.code(), Some(0));
    assert!(path.metadata().unwrap().len() > 8_000_000);
    let to = strata.dir().join("zero");
    let mut screen = on_terminal(&strata, &["cp", "made:/zero", to.to_str().unwrap()], 30, 100);
    screen.until("reading ");
    assert_eq!(screen.code(), Some(0));
    assert_eq!(to.metadata().unwrap().len(), 8_000_000);
    // Where there is no terminal they say nothing, as ever.
    for words in [words, ["cp", "-q", to.to_str().unwrap(), "made:/again"]] {
        let ended = strata.end(words);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    }
}

#[test]
fn how_far_a_check_and_a_comparison_are() {
    let strata = common::busybox();
    for (words, told) in [
        (
            &["fsck", "--deep"][..],
            &["checking blobs", "checking layers"][..],
        ),
        (&["diff", "busybox"], &["comparing directories"]),
    ] {
        let mut screen = on_terminal(&strata, words, 30, 100);
        for told in told {
            screen.until(told);
        }
        assert_eq!(screen.code(), Some(0));
        let ended = strata.end(words);
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "no terminal");
    }
}

#[test]
fn how_far_a_removal_is() {
    let strata = common::busybox();
    strata.ok(["run", "--name", "ended", "busybox", "true"]);
    for (words, told) in [
        (&["prune", "--force", "blobs"][..], &["checking layers"][..]),
        (
            &["prune", "--force", "--all"],
            &["removing containers", "removing layers and blobs"],
        ),
    ] {
        let mut screen = on_terminal(&strata, words, 30, 100);
        for told in told {
            screen.until(told);
        }
        screen.until("Freed");
        assert_eq!(screen.code(), Some(0));
    }
    let ended = strata.end(["prune", "--force"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""), "no terminal");
}

#[test]
fn plain_lines_where_there_is_no_terminal() {
    let strata = empty();
    let (_server, name) = registry(&ready());
    let ended = strata.end(["pull", &name]);
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(
        ended.out.starts_with("sha256:") && ended.out.lines().count() == 1,
        "{ended:?}"
    );
    assert!(!is_drawn(&ended.err), "{ended:?}");
    let lines: Vec<&str> = ended.err.lines().collect();
    assert!(lines[0].ends_with("2 layers"), "{lines:?}");
    for what in ["B to fetch", "fetched", "unpacked"] {
        let told = lines.iter().filter(|line| line.ends_with(what)).count();
        assert_eq!(told, 2, "{what}: {lines:?}");
    }
    assert_eq!(lines.len(), 7, "{lines:?}");
}

#[test]
fn nothing_when_quiet() {
    let ended = |strata: &Strata, args: &[&str]| {
        let mut screen = on_terminal(strata, args, 30, 100);
        assert_eq!(screen.code(), Some(0));
        screen.rest()
    };
    let (_server, name) = registry(&ready());
    let strata = empty();
    let told = ended(&strata, &["pull", "-q", &name]);
    assert!(
        told.starts_with("sha256:") && told.ends_with("\r\n") && told.len() == 73,
        "{told:?}"
    );
    let strata = empty();
    assert_eq!(
        ended(&strata, &["run", "-q", "--rm", &name, "echo", "only"]),
        "only\r\n"
    );
    let archive = strata.dir().join("image.tar");
    Image::new("docker.io/library/loaded:1")
        .layer(Layer::new().file("noise", 0o644, noise()))
        .write_oci_archive(&archive);
    let told = ended(&strata, &["load", "-q", "-i", archive.to_str().unwrap()]);
    assert_eq!(told, "Loaded image: loaded:1\r\n");
    let root = strata.dir().join("root.tar");
    std::fs::write(&root, Layer::new().file("noise", 0o644, noise()).finish()).unwrap();
    let told = ended(&strata, &["import", "-q", root.to_str().unwrap()]);
    assert!(told.starts_with("sha256:") && told.len() == 73, "{told:?}");
}
