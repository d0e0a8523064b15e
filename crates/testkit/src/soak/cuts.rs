//! Power cuts: the drive under a store loses power at any moment of any command, and what is found on it afterwards must
//! be whole.
//!
//! The store lies on a [`Drive`](crate::drive::Drive), which knows what was flushed and what was not, on one of three file
//! systems. Mounting what a cut left replays its journal.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use store::Store;
use tempfile::TempDir;

use super::Tally;
use crate::disk::Kind;
use crate::drive::Kept;
use crate::random::Random;
use crate::registry::Registry;
use crate::{Disk, Ended, Image, Layer, Strata};

/// What was cut, and what was looked at afterwards.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cuts {
    /// Power cuts, by the command they came after, and those that came while it was at work.
    pub cuts: Tally,
    /// Commands that were killed before.
    pub killed: usize,
    /// Layers that gave back the tar of their diff ID.
    pub layers: usize,
    /// Blobs that had their digest.
    pub blobs: usize,
    /// Names that were there, or gone, as a command had reported before the cut.
    pub kept: usize,
    /// Stores that `fsck --deep` found sound, owners, modes, times and attributes of their layers included.
    pub sound: usize,
}

const IMAGES: u64 = 4;

/// Whether a name must be there; without an entry nobody knows.
type Expected = BTreeMap<String, bool>;

/// Commands that change a store, one after the other, and a power cut at a random moment of each.
pub fn cuts(program: impl Into<PathBuf>, seed: u64, how_long: Duration) -> Cuts {
    let mut random = Random::new(seed);
    let under = Disk::new("xfs", &["mkfs.xfs", "-q"], 2 << 30, "rw");
    let kind = Kind::ALL[(seed % 3) as usize];
    let disk = Disk::on_drive(&under.path(), kind, 320 << 20);
    let strata = Strata::beneath(&disk.path(), program);
    let archives = archives(&mut random);
    let registry = registry(archives.path());
    let place = strata
        .root()
        .strip_prefix(disk.path())
        .expect("it lies there")
        .to_owned();
    let mut expected = Expected::new();
    let mut longest = Duration::from_millis(100);
    let mut done = Cuts::default();
    let until = Instant::now() + how_long;
    while Instant::now() < until {
        let (words, concerns) = words(&mut random, archives.path(), &registry);
        let mut command = strata.command(&words);
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the program starts");
        let started = Instant::now();
        std::thread::sleep(random.duration(longest));
        // Some are killed before: what they left half done is there when power goes.
        let killed = random.below(5) == 0 && child.try_wait().expect("our own child").is_none();
        if killed {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
            done.killed += 1;
            std::thread::sleep(random.duration(Duration::from_millis(20)));
        }
        let ended = child.try_wait().expect("our own child");
        let mut known = expected.clone();
        match (&concerns, ended) {
            (Some(concerns), Some(status)) if status.success() => concerns.apply(&mut known),
            (Some(concerns), None) => concerns.doubt(&mut known),
            (Some(concerns), Some(_)) if killed => concerns.doubt(&mut known),
            _ => {}
        }
        let kept = Kept::choose(&mut random);
        let cut = disk.cut(kind, kept, &mut random);
        let ending = child.wait().expect("our own child");
        if ended.is_none() {
            done.cuts.struck(&words);
            longest = longest.max(started.elapsed()).min(Duration::from_secs(1));
        }
        match concerns {
            Some(concerns) if ending.success() => concerns.apply(&mut expected),
            Some(concerns) if killed => concerns.doubt(&mut expected),
            _ => {}
        }
        done.cuts.started(&words);
        let number = done.cuts.all().started;
        let what = format!("seed {seed}, cut {number} ({kind:?}, {kept:?}), {words:?}");
        After {
            strata: &strata,
            root: cut.path().join(&place),
            what,
        }
        .check(&known, &mut done, random.below(3) == 0);
    }
    done
}

/// Archives of images: a common layer, and one of many files of its own for each.
fn archives(random: &mut Random) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for number in 0..IMAGES {
        let mut layer = Layer::new().file("number", 0o644, number.to_string());
        for file in 0..30 {
            let content: Vec<u8> = (0..random.below(40_000)).map(|_| random.number() as u8).collect();
            layer = layer.file(format!("data/{file}"), 0o644, content);
        }
        let image = Image::busybox()
            .layer(layer)
            .name(&format!("docker.io/library/image{number}:latest"));
        image.write_oci_archive(&dir.path().join(format!("image{number}.tar")));
    }
    let root = Layer::busybox().file("imported", 0o640, vec![3; 70_000]).finish();
    fs::File::create(dir.path().join("import.tar"))
        .and_then(|mut file| io::Write::write_all(&mut file, &root))
        .expect("a temporary directory takes a file");
    dir
}

/// A registry on the loopback device with these images.
fn registry(archives: &Path) -> Registry {
    let registry = Registry::start();
    for number in 0..IMAGES {
        let archive = archives.join(format!("image{number}.tar"));
        registry.fill(
            &format!("oci-archive:{}", archive.display()),
            &format!("library/image{number}:latest"),
            &[],
        );
    }
    registry
}

/// What a command reports when it has succeeded.
enum Concerns {
    /// This name is there, or gone.
    Name(String, bool),
    /// Names may be gone: those of images that no container uses, which one that was killed may for a moment yet.
    Any,
}

impl Concerns {
    fn apply(&self, expected: &mut Expected) {
        match self {
            Concerns::Name(name, there) => drop(expected.insert(name.clone(), *there)),
            Concerns::Any => self.doubt(expected),
        }
    }

    /// Whether it was done is not known.
    fn doubt(&self, expected: &mut Expected) {
        match self {
            Concerns::Name(name, _) => drop(expected.remove(name)),
            Concerns::Any => expected.retain(|_, there| !*there),
        }
    }
}

/// A command, and what it reports.
fn words(random: &mut Random, archives: &Path, registry: &Registry) -> (Vec<String>, Option<Concerns>) {
    let text = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let full = |name: &str| format!("docker.io/library/{name}:latest");
    let is = |name: String, there| Some(Concerns::Name(name, there));
    let image = format!("image{}", random.below(IMAGES));
    let tagged = format!("tagged{}", random.below(IMAGES));
    let container = format!("c{}", random.below(3));
    let archive = |name: &str| archives.join(name).to_str().expect("a plain name").to_owned();
    match random.below(27) {
        0..4 => (
            text(&["load", "-q", "-i", &archive(&format!("{image}.tar"))]),
            is(full(&image), true),
        ),
        4..6 => (text(&["rmi", &image]), is(full(&image), false)),
        6 => (text(&["tag", &image, &tagged]), is(full(&tagged), true)),
        7 => (text(&["rmi", &tagged]), is(full(&tagged), false)),
        8..10 => {
            let name = registry.name(&format!("library/{image}:latest"));
            (text(&["pull", "-q", &name]), is(name, true))
        }
        10..12 => {
            let name = format!("imported{}", random.below(2));
            (
                text(&["import", "-q", &archive("import.tar"), &name]),
                is(full(&name), true),
            )
        }
        12 => (text(&["prune", "-a", "-f"]), Some(Concerns::Any)),
        13 => (text(&["prune", "blobs", "-f"]), None),
        14 => (text(&["dedup"]), None),
        15 => (text(&["fsck", "--repair", "--offline"]), None),
        16..19 => {
            let script = "echo $RANDOM >/x; rm -r /data; mkdir -p /data/new";
            (
                text(&["run", "--name", &container, &image, "sh", "-c", script]),
                None,
            )
        }
        19..22 => {
            let name = format!("committed{}", random.below(2));
            (text(&["commit", "-q", &container, &name]), is(full(&name), true))
        }
        22 => (text(&["rm", "-f", &container]), None),
        23 => (
            text(&["image", "squash", "-q", &image, "squashed"]),
            is(full("squashed"), true),
        ),
        24 => {
            let name = registry.name(&format!("library/pushed{}:latest", random.below(2)));
            (text(&["push", "-q", &image, &name]), None)
        }
        25 => (text(&["save", "-q", "-o", &archive("saved.tar"), &image]), None),
        _ => (
            text(&["run", "--rm", &image, "sh", "-c", "echo x >/x; rm /number"]),
            None,
        ),
    }
}

/// A store after a cut.
struct After<'a> {
    strata: &'a Strata,
    root: PathBuf,
    what: String,
}

impl After<'_> {
    fn check(&self, known: &Expected, done: &mut Cuts, deep: bool) {
        let what = &self.what;
        let store = Store::open(&self.root).unwrap_or_else(|error| panic!("{what}: {error}"));
        let images = store.images("default").expect(what);
        for (name, there) in known {
            let found = images.iter().any(|image| image.name == *name);
            assert_eq!(found, *there, "{what}: {name} was reported");
            done.kept += 1;
        }
        let layers = store.layers().expect(what);
        for layer in &layers {
            let fs = store.layer_dir(layer.n).expect(what);
            let record = store.layer_record(layer.n).expect(what);
            let diff_id = image::record::rebuild(&fs, &record, io::sink());
            let diff_id = diff_id.unwrap_or_else(|error| panic!("{what}: layer {}: {error}", layer.n));
            assert_eq!(diff_id, layer.diff_id, "{what}: layer {}", layer.n);
            done.layers += 1;
        }
        for image in &images {
            for layer in store.manifest_layers(&image.manifest.digest).expect(what) {
                let is_there = layers.iter().any(|known| known.n == layer.layer_n);
                assert!(is_there, "{what}: {} has no layer {}", image.name, layer.diff_id);
                // That it is there, if it was not dropped; its content is read with that of all others below.
                if store.blob_size(&layer.blob.digest).expect(what).is_some() {
                    store.open_blob(&layer.blob.digest).expect(what);
                }
            }
            for blob in [&image.target, &image.manifest, &image.config] {
                store.read_blob(&blob.digest, 1 << 20).expect(what);
            }
        }
        for (name, path) in self.entries("content/blobs/sha256") {
            let digest = Sha256::digest(fs::read(path).expect(what));
            let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, name, "{what}");
            done.blobs += 1;
        }
        drop(store);
        if deep {
            self.fsck();
            done.sound += 1;
        }
        self.mend(images.iter().map(|image| image.name.as_str()));
    }

    /// Nothing is wrong but what was half done, and that is mended.
    fn fsck(&self) {
        let what = &self.what;
        let ended = self.end(&["fsck", "--deep", "--format", "json"]);
        let told: serde_json::Value =
            serde_json::from_str(&ended.out).unwrap_or_else(|error| panic!("{what}: {error}: {ended:#?}"));
        let half_done = |found: &serde_json::Value| {
            let fleeting = found["Kind"] == "snapshot" || found["Kind"] == "container";
            fleeting || found["Kind"] == "orphan"
        };
        let findings = told["Findings"].as_array().expect(what);
        assert!(findings.iter().all(half_done), "{what}: {told:#}");
        assert_eq!(told["Compared"], true, "{what}");
        let ended = self.end(&["fsck", "--repair", "--offline"]);
        assert!(ended.code <= 1, "{what}: {ended:#?}");
        let ended = self.end(&["fsck"]);
        assert_eq!(ended.code, 0, "{what}: {ended:#?}");
    }

    /// What the cut left half done is mended by what people do next, and nothing stays.
    fn mend<'n>(&self, mut images: impl Iterator<Item = &'n str> + Clone) {
        let what = &self.what;
        if let Some(name) = images.next() {
            assert_eq!(self.ok(&["run", "--rm", name, "echo", "up"]), "up\n", "{what}");
        }
        for id in self.ok(&["ps", "-a", "-q", "--no-trunc"]).lines() {
            self.ok(&["rm", "-f", id]);
        }
        for id in self.ok(&["images", "-q", "--no-trunc"]).lines() {
            // By another of its names it may be gone already.
            let _ = self.end(&["rmi", "-f", id]);
        }
        assert_eq!(self.ok(&["images", "-q"]), "", "{what}");
        let store = Store::open(&self.root).expect(what);
        store.collect_older_than(Duration::ZERO).expect(what);
        drop(store);
        for dir in ["snapshots", "content/blobs/sha256", "content/ingest", "leases"] {
            let left: Vec<_> = self.entries(dir).map(|(name, _)| name).collect();
            assert!(left.is_empty(), "{what}: {dir} holds {left:?}");
        }
    }

    fn entries(&self, dir: &str) -> impl Iterator<Item = (String, PathBuf)> {
        let entries = fs::read_dir(self.root.join(dir)).into_iter().flatten().flatten();
        entries.map(|entry| (entry.file_name().to_string_lossy().into_owned(), entry.path()))
    }

    fn end(&self, words: &[&str]) -> Ended {
        let mut command = self.strata.command(words);
        command
            .env("STRATA_ROOT", &self.root)
            .env("STRATA_STATE", self.root.with_file_name("state after"));
        command.output().expect("the program starts").into()
    }

    #[track_caller]
    fn ok(&self, words: &[&str]) -> String {
        let ended = self.end(words);
        assert!(
            ended.code == 0,
            "{}: strata {} ended with {ended:#?}",
            self.what,
            words.join(" ")
        );
        ended.out
    }
}
