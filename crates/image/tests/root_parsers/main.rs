//! What others wrote, changed at random: archives of layers, manifests, configurations, names, records, compressed streams,
//! lists of mirrors, what archives list, credentials, what a server wants of whom it does not know, its tokens and refusals.
//! A kept corpus and archives made of a seed are changed a little, and whatever comes of it is taken or refused. Nothing
//! panics, nothing outside of a layer's directory is touched, and what was taken means the same when it is read again.
//!
//! `STRATA_FUZZ_SECONDS=600 cargo test -p strata-image --release --test root_parsers` does so for as long as one likes, and
//! `STRATA_SEED` repeats it. What it finds is kept in the corpus, as a line of its own. Needs root.

#![allow(clippy::print_stdout, reason = "a seed that is not printed is of no use")]

#[path = "../support/mod.rs"]
mod support;

use std::fs::{self, File};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use image::auth::AuthFiles;
use image::compression::{Ratio, decoder};
use image::config::{Execution, ImageConfig};
use image::load::{LoadOptions, Source};
use image::manifest::Document;
use image::platform::Platform;
use image::progress::Silent;
use image::record;
use image::reference::Reference;
use image::registry::{addresses, explained, schemes, token_in};
use image::unpack::{Limits, outline};
use overlay::Format;
use store::Store;
use support::random::{Shape, archive};
use support::{Layer, none, try_layer, try_layer_within};
use sys::Dir;
use testkit::random::Random;

/// A line a document: its kind, then its text.
const CORPUS: &str = include_str!("corpus");

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let lines = CORPUS
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    let read = |line: &'static str| {
        let (kind, text) = line.split_once(' ').expect("a kind and a text");
        match kind.strip_suffix("-hex") {
            Some(kind) => (kind, unhex(text)),
            None => (kind, text.as_bytes().to_vec()),
        }
    };
    lines.map(read).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .chars()
        .map(|char| char.to_digit(16).expect("hex digits") as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Words that turn up where a text expects others.
const WORDS: [&[u8]; 14] = [
    b"../",
    b"/",
    b".wh.",
    b".wh..wh..opq",
    b"\0",
    b"\"",
    b"{}",
    b"[[[[",
    b"null",
    b"18446744073709551616",
    b"-1",
    b"sha256:",
    b"\xff\xfe",
    b":",
];

/// Changes bytes a little, and a few times. `head` bytes at a time for archives, whose headers have a size.
fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() as u64 + 1) as usize;
        let end = bytes.len().min(at + random.below(600) as usize);
        match random.below(8) {
            0 => bytes.truncate(at),
            1 => drop(bytes.splice(
                at..at,
                WORDS[random.below(WORDS.len() as u64) as usize].iter().copied(),
            )),
            2 => drop(bytes.splice(at..end, [])),
            3 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            4 => drop(bytes.splice(at.., other[at.min(other.len())..].iter().copied())),
            // A header of a tar, whole.
            5 if bytes.len() > 1024 => {
                let block = at / 512 * 512;
                let from = random.below(bytes.len() as u64 / 512) as usize * 512;
                if block + 512 <= bytes.len() && from + 512 <= bytes.len() {
                    bytes.copy_within(from..from + 512, block);
                }
            }
            _ if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            _ => {}
        }
    }
}

/// What is taken must mean the same when it is read again.
fn text(kind: &str, bytes: &[u8]) {
    let Ok(utf8) = std::str::from_utf8(bytes) else {
        // These take bytes.
        let _ = (Document::parse(bytes, None), ImageConfig::parse(bytes, 1));
        return;
    };
    match kind {
        "reference" => {
            if let Ok(read) = Reference::parse(utf8) {
                let canonical = read.canonical();
                let again = Reference::parse(&canonical).expect("a canonical name is a name");
                assert_eq!(again.canonical(), canonical);
                assert!(!canonical.contains(['\0', '\n', ' ']), "{canonical:?}");
                assert!(
                    read.path().split('/').all(|part| !part.starts_with('.')),
                    "{canonical:?}"
                );
                let familiar = Reference::parse(&read.familiar()).expect("a familiar name is a name");
                assert_eq!((familiar.domain(), familiar.path()), (read.domain(), read.path()));
            }
        }
        "document" => {
            for announced in [None, Some("application/vnd.oci.image.manifest.v1+json")] {
                if let Ok(Document::Index(index)) = Document::parse(bytes, announced) {
                    let _ = index.choose(&image::platform::Wanted::Host);
                }
            }
        }
        "config" => {
            for layers in [0, 1, usize::MAX] {
                if let Ok(config) = ImageConfig::parse(bytes, layers) {
                    assert_eq!(config.created_by().len(), layers);
                    assert_eq!(config.diff_ids().map(|ids| ids.len()), Ok(layers));
                    let _ = config.platform();
                    let written = serde_json::to_vec(&config).expect("what was read can be written");
                    assert_eq!(ImageConfig::parse(&written, layers).as_ref(), Ok(&config));
                }
            }
        }
        "platform" => {
            if let Ok(platform) = utf8.parse::<Platform>() {
                assert!(!platform.runs().is_empty());
            }
        }
        "hosts" => {
            if let Ok(hosts) = addresses(utf8, Path::new("/etc/hosts.toml"), "r.example:5000") {
                assert!(!hosts.is_empty(), "the registry itself is among them");
                for host in hosts {
                    // The same host again, where it stands by itself.
                    let alone = format!("override_path = true\nserver = {host:?}");
                    let again = addresses(&alone, Path::new("/h"), "x").expect("an address is one");
                    assert_eq!(again, [host.trim_end_matches('/')]);
                }
            }
        }
        "auth" => {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("auth.json");
            fs::write(&path, utf8).unwrap();
            // No helper is found in no directory.
            let files = AuthFiles {
                read: vec![path],
                ..AuthFiles::default()
            };
            if let Ok(found) = files.find("r.example:5000", "ns/app") {
                assert!(!format!("{found:?}").contains("secret"), "a password is shown");
            }
        }
        "challenge" => {
            for (scheme, _) in schemes(utf8) {
                assert_eq!(schemes(&scheme), [(scheme.clone(), 0)], "a scheme is one word");
            }
        }
        "token" => {
            if let Ok((token, life)) = token_in(bytes) {
                assert!(!token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()));
                assert_ne!(life, 0, "it would be asked for again and again");
            }
        }
        "refusal" => {
            let line = explained(bytes);
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(line.chars().count() <= 301, "{line}");
        }
        "change" => drop(image::change::apply(&mut Execution::default(), utf8)),
        other => panic!("no such kind: {other}"),
    }
}

/// An archive, small limits; [`try_layer_within`] sees that nothing outside is touched and that the record gives it back.
fn unpacked(bytes: &[u8], below: &[&Layer]) -> Option<Layer> {
    let mut limits = Limits::default();
    (limits.bytes, limits.entries) = (4 << 20, 500);
    try_layer_within(bytes, below, &limits).ok()
}

/// A record beside a layer that it may not be of.
fn recorded(layer: &Layer, bytes: &[u8]) {
    let path = layer.temp.path().join("changed");
    fs::File::create(&path)
        .and_then(|mut file| io::Write::write_all(&mut file, bytes))
        .unwrap();
    let record = || File::open(&path).unwrap();
    let dir = Dir::open_ambient(layer.path()).unwrap();
    let mut out = Limited(8 << 20);
    let rebuilt = record::rebuild(&dir, &record(), &mut out);
    // What it gives is the layer, or not whole.
    if let Ok(diff_id) = rebuilt
        && bytes == fs::read(layer.temp.path().join("record")).unwrap()
    {
        assert_eq!(diff_id, layer.unpacked.diff_id);
    }
    let _ = record::glance(&dir, &record());
    let mut headers = Vec::new();
    let _ = record::headers(&record(), &mut headers);
    let scratch = tempfile::tempdir().unwrap();
    let into = Dir::open_ambient(scratch.path()).unwrap();
    // Whatever becomes of it.
    let _ = outline(Format::TRUSTED, &headers[..], &into, &none, &Limits::default());
    fs::remove_file(&path).unwrap();
}

/// Takes so many bytes.
struct Limited(usize);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match bytes.len() <= self.0 {
            true => self.0 -= bytes.len(),
            false => return Err(io::ErrorKind::StorageFull.into()),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Never more than it may become, whatever the stream says.
fn inflated(bytes: &[u8]) {
    let mut stream = decoder(bytes).with_ratio(Ratio::new(10)).take(600 << 20);
    let _ = io::copy(&mut stream, &mut io::sink());
}

fn seconds(normal: u64) -> Duration {
    let asked = std::env::var("STRATA_FUZZ_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(asked.unwrap_or(normal))
}

fn seed() -> u64 {
    std::env::var("STRATA_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// Runs `one` with changed bytes until time is up; what makes it panic is printed for the corpus.
fn fuzz(
    kind: &str,
    seeds: &[Vec<u8>],
    random: &mut Random,
    how_long: Duration,
    one: impl Fn(&[u8]),
) -> usize {
    let until = Instant::now() + how_long;
    let mut done = 0;
    while Instant::now() < until {
        let pick = |random: &mut Random| &seeds[random.below(seeds.len() as u64) as usize];
        let mut bytes = pick(random).clone();
        let other = pick(random).clone();
        change(random, &mut bytes, &other);
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| one(&bytes))) {
            println!(
                "seed {}, after {done}: for the corpus: {kind}-hex {}",
                seed(),
                hex(&bytes)
            );
            std::panic::resume_unwind(panic);
        }
        done += 1;
    }
    done
}

#[test]
fn the_corpus_as_it_is() {
    for (kind, bytes) in corpus() {
        match kind {
            "layer" => drop(unpacked(&bytes, &[])),
            "stream" => inflated(&bytes),
            kind => text(kind, &bytes),
        }
    }
}

#[test]
fn texts() {
    let corpus = corpus();
    let mut random = Random::new(seed());
    for kind in [
        "reference",
        "document",
        "config",
        "platform",
        "change",
        "hosts",
        "auth",
        "challenge",
        "token",
        "refusal",
    ] {
        let of_kind = corpus.iter().filter(|(of, _)| *of == kind);
        let seeds: Vec<Vec<u8>> = of_kind.map(|(_, bytes)| bytes.clone()).collect();
        let done = fuzz(kind, &seeds, &mut random, seconds(10) / 10, |bytes| {
            text(kind, bytes)
        });
        assert!(done > 50, "{kind}: {done}");
    }
}

/// Archives and layouts list their images in files of their own; whatever these say, something is loaded whole, or nothing.
#[test]
fn what_archives_list() {
    let mut random = Random::new(seed());
    let temp = tempfile::tempdir().unwrap();
    let store = Store::open(&temp.path().join("store")).unwrap();
    let image =
        testkit::Image::new("docker.io/library/some:1").layer(testkit::Layer::new().file("a", 0o644, "b"));
    let (oci, docker) = (temp.path().join("oci"), temp.path().join("docker"));
    image.write_layout(&oci);
    image.write_docker_archive(&temp.path().join("docker.tar"));
    fs::create_dir(&docker).unwrap();
    let mut tar = std::process::Command::new("tar");
    tar.arg("-xf")
        .arg(temp.path().join("docker.tar"))
        .arg("-C")
        .arg(&docker);
    assert!(tar.status().unwrap().success());
    let load = |dir: &Path| {
        let (source, options) = (Source::Path(dir), LoadOptions::default());
        image::load::load(&store, "default", source, &options, &Silent)
    };
    for (dir, list) in [
        (&oci, "index.json"),
        (&oci, "oci-layout"),
        (&docker, "manifest.json"),
    ] {
        assert!(load(dir).is_ok(), "{}", dir.display());
        let whole = fs::read(dir.join(list)).unwrap();
        let seeds = vec![
            whole.clone(),
            br#"{"a":[{"b":null}],"c":"../../d:1@sha256:e"}"#.to_vec(),
        ];
        let done = fuzz(list, &seeds, &mut random, seconds(3) / 3, |bytes| {
            fs::write(dir.join(list), bytes).unwrap();
            match load(dir) {
                Ok(loaded) => assert!(!loaded.is_empty()),
                Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
            }
        });
        assert!(done > 5, "{list}: {done}");
        fs::write(dir.join(list), whole).unwrap();
    }
    assert!(store.check(true, &|_, _| {}).unwrap().is_empty());
}

#[test]
fn layers_and_their_records() {
    let mut random = Random::new(seed());
    let below = try_layer(&archive(&mut random, Shape::ALL, &[]).0, &[]);
    let below = below.unwrap_or_else(|error| panic!("{error}"));
    let archives: Vec<Vec<u8>> = (0..20).map(|_| archive(&mut random, Shape::ALL, &[]).0).collect();
    let done = fuzz("layer", &archives, &mut random, seconds(4), |bytes| {
        drop(unpacked(bytes, &[&below]))
    });
    assert!(done > 20, "{done}");

    let record = fs::read(below.temp.path().join("record")).unwrap();
    recorded(&below, &record);
    let done = fuzz("record", &[record], &mut random, seconds(2), |bytes| {
        recorded(&below, bytes)
    });
    assert!(done > 20, "{done}");
}

#[test]
fn compressed_streams() {
    let mut random = Random::new(seed());
    let plain = archive(&mut random, Shape::ALL, &[]).0;
    let seeds = vec![
        testkit::Compression::Gzip.compress(&plain),
        testkit::Compression::Zstd.compress(&plain),
        testkit::Compression::Gzip.compress(&vec![0; 1 << 20]),
        testkit::Compression::Zstd.compress(&vec![0; 1 << 20]),
    ];
    let done = fuzz("stream", &seeds, &mut random, seconds(2), inflated);
    assert!(done > 20, "{done}");
}

/// How deep documents may nest, and how much they may hold, is bounded: a refusal, not a full stack or memory.
#[test]
fn documents_without_end() {
    let deep = "[".repeat(1_000_000);
    let nested = format!("{{\"schemaVersion\":2,\"manifests\":{deep}");
    assert!(Document::parse(nested.as_bytes(), None).is_err());
    assert!(ImageConfig::parse(deep.as_bytes(), 0).is_err());
    let large = vec![b' '; image::manifest::MAX_MANIFEST as usize + 1];
    assert!(Document::parse(&large, None).is_err());
    let large = vec![b' '; image::manifest::MAX_CONFIG as usize + 1];
    assert!(ImageConfig::parse(&large, 0).is_err());
    assert!(Reference::parse(&"a/".repeat(100_000)).is_err());
}
