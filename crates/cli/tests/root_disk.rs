//! A disk that cannot be written, or is full before an image is in the store: one line that names archive and store, a hint, and nothing of the
//! image left; with room again the same command succeeds. Needs root, for a small file system of its own.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use common::{Compression, Ended, Image, Layer, Strata, refused};
use rustix::mount::{MountFlags, mount_remount};
use testkit::Disk;

/// What of the machine the store may use.
const SMALL: &str = "size=6m,nr_inodes=200";
const LARGE: &str = "size=64m,nr_inodes=20000";

/// A store on a small file system in memory, and a directory for archives on another.
struct Small {
    // In the order in which they go.
    strata: Strata,
    disk: Disk,
    archives: tempfile::TempDir,
}

impl Small {
    fn new() -> Small {
        let disk = Disk::tmpfs(SMALL);
        Small {
            strata: Strata::beneath(&disk.path(), env!("CARGO_BIN_EXE_strata")),
            disk,
            archives: tempfile::tempdir().unwrap(),
        }
    }

    /// Of these words, and with room for what did not fit: the command fails, leaves nothing, and then succeeds.
    #[track_caller]
    fn fails_until_there_is_room(&self, archive: &Path, run: impl Fn(&Strata) -> Ended) {
        let strata = &self.strata;
        // What is made of a store at its first use stays.
        assert_eq!(strata.ok(["images", "-q"]), "");
        let used = || {
            rustix::fs::statvfs(self.disk.path().as_path())
                .map(|stat| stat.f_blocks - stat.f_bfree)
                .unwrap()
        };
        let before = used();
        let ended = run(strata);
        let root = strata.root();
        refused(
            &ended,
            &["no space left", archive.to_str().unwrap(), root.to_str().unwrap()],
        );
        assert!(ended.err.contains("hint: free some space"), "{ended:?}");
        assert_eq!(strata.ok(["images", "-q"]), "");
        for place in ["snapshots", "content/blobs/sha256", "content/ingest"] {
            let left: Vec<PathBuf> = fs::read_dir(root.join(place))
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "{left:?}");
        }
        // The log of the database has grown, and serves again.
        assert!(
            used() < before + 400 * 1024 / 4096,
            "{before} blocks were used, now {}",
            used()
        );
        mount_remount(self.disk.path().as_path(), MountFlags::empty(), LARGE).unwrap();
        let ended = run(strata);
        assert_eq!(ended.code, 0, "{ended:?}");
        assert_ne!(strata.ok(["images", "-q"]), "");
    }
}

/// Ten million bytes that shrink to nothing when they are packed, without being holes.
fn text() -> Vec<u8> {
    b"as long as it is wide ".repeat(500_000)
}

/// As many bytes that do not shrink.
fn noise() -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::with_capacity(10 << 20);
    while bytes.len() < 10 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&state.to_le_bytes()[3..]);
    }
    bytes
}

fn many_files() -> Layer {
    (0..1000).fold(Layer::new(), |layer, n| layer.file(format!("f{n}"), 0o644, ""))
}

/// A layer whose blob does not fit, one that does not fit when it is unpacked, one with too many files.
fn layers() -> [Layer; 3] {
    [
        Layer::new().file("noise", 0o644, noise()),
        Layer::new().file("text", 0o644, text()),
        many_files(),
    ]
}

fn words<'a>(words: &'a [&'a str], path: &'a Path) -> Vec<&'a OsStr> {
    words.iter().map(OsStr::new).chain([path.as_os_str()]).collect()
}

#[test]
fn load_from_a_file() {
    for layer in layers() {
        let small = Small::new();
        let archive = small.archives.path().join("image.tar");
        Image::new("docker.io/library/big:1")
            .layer(layer)
            .write_oci_archive(&archive);
        small.fails_until_there_is_room(&archive, |strata| {
            strata.end(words(&["load", "-q", "-i"], &archive))
        });
    }
}

#[test]
fn load_from_a_stream() {
    for layer in layers() {
        let small = Small::new();
        let archive = small.archives.path().join("image.tar");
        Image::new("docker.io/library/big:1")
            .layer(layer)
            .write_docker_archive(&archive);
        small.fails_until_there_is_room(Path::new("the stream"), |strata| {
            let mut command = strata.command(["load", "-q"]);
            Ended::from(command.stdin(File::open(&archive).unwrap()).output().unwrap())
        });
    }
}

#[test]
fn import() {
    for layer in layers() {
        let small = Small::new();
        let archive = small.archives.path().join("root.tar.gz");
        let packed = Compression::Gzip.compress(&layer.finish());
        File::create(&archive)
            .and_then(|mut file| file.write_all(&packed))
            .unwrap();
        small.fails_until_there_is_room(&archive, |strata| strata.end(words(&["import", "-q"], &archive)));
    }
}

#[test]
fn a_store_that_cannot_be_written() {
    let disk = Disk::tmpfs(LARGE);
    let strata = Strata::beneath(&disk.path(), env!("CARGO_BIN_EXE_strata"));
    strata.load(&Image::busybox());
    let archive = tempfile::NamedTempFile::new().unwrap();
    Image::busybox().write_oci_archive(archive.path());
    mount_remount(disk.path(), MountFlags::RDONLY, LARGE).unwrap();
    let (root, state) = (strata.root(), tempfile::tempdir().unwrap());
    let root = root.to_str().unwrap();
    for words in [
        words(&["load", "-q", "-i"], archive.path()),
        words(&["run", "--rm", "busybox"], Path::new("true")),
        words(&["rmi"], Path::new("busybox")),
        words(&["tag", "busybox"], Path::new("other")),
    ] {
        let mut command = strata.command(&words);
        command.env("STRATA_STATE", state.path());
        let ended = Ended::from(command.output().unwrap());
        refused(&ended, &[root]);
        assert!(ended.err.contains("--root"), "{words:?}: {ended:?}");
    }
    mount_remount(disk.path(), MountFlags::empty(), LARGE).unwrap();
    assert_eq!(strata.ok(["run", "--rm", "busybox", "echo", "again"]), "again\n");
}

#[test]
fn a_state_directory_without_room_for_a_container() {
    let strata = common::busybox();
    let mut failed = 0;
    for inodes in 3..14 {
        let disk = Disk::tmpfs(&format!("nr_inodes={inodes}"));
        let state = disk.path().join("s");
        let state = state.to_str().unwrap();
        let with_state = |words: &[&str]| strata.end([&["--state", state], words].concat());
        let ended = with_state(&[
            "run",
            "--rm",
            "--network",
            "none",
            "--name",
            "one",
            "busybox",
            "true",
        ]);
        if ended.code != 0 {
            failed += 1;
            refused(&ended, &["No space left"]);
            assert!(ended.err.contains("df -i"), "{inodes}: {ended:?}");
        }
        let listed = with_state(&["ps", "-aq"]);
        assert_eq!(
            (listed.code, listed.out.as_str()),
            (0, ""),
            "{inodes}: {ended:?} {listed:?}"
        );
        assert_eq!(strata.in_use(), (Vec::new(), Vec::new()), "{inodes}");
        assert_eq!(
            testkit::program::mounts_beneath(&disk.path().join("s")),
            Vec::<PathBuf>::new(),
            "{inodes}"
        );
    }
    assert!(failed > 3, "{failed} failed");
}
