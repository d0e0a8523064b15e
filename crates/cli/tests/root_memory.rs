//! No command takes more than 200 MB of memory, whatever the image: layers that need as much as there may be, as many at
//! once as there may be. Needs root.

mod common;

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::{Layer, Strata};
use serde_json::json;
use store::{Digest, Hasher};
use testkit::layer::EntryType;
use testkit::random::Random;
use testkit::registry::Registry;

/// Bytes that a command may have at its most.
const MOST: u64 = 200_000_000;

/// Most bytes of a block of zstd.
const BLOCK: usize = 128 << 10;

/// Writes a zstd stream that says it has a window of 2^`window` bytes, and whose blocks are stored as they are.
struct Wide<W> {
    out: W,
    waiting: Vec<u8>,
}

impl<W: Write> Wide<W> {
    fn new(mut out: W, window: u8) -> io::Result<Wide<W>> {
        // RFC 8878, 3.1.1: magic number, a descriptor that announces nothing, the window's.
        out.write_all(&[0x28, 0xb5, 0x2f, 0xfd, 0, (window - 10) << 3])?;
        let waiting = Vec::new();
        Ok(Wide { out, waiting })
    }

    fn block(&mut self, last: bool) -> io::Result<()> {
        let header = (self.waiting.len() as u32) << 3 | u32::from(last);
        self.out.write_all(&header.to_le_bytes()[..3])?;
        self.out.write_all(&self.waiting)?;
        self.waiting.clear();
        Ok(())
    }
}

impl<W: Write> Write for Wide<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = bytes.len().min(BLOCK - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..count]);
        if self.waiting.len() == BLOCK {
            self.block(false)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Writes a layer of one file of noise, piece by piece, since what this process has at its most counts for its children;
/// its diff ID.
fn layer(path: &Path, seed: u64, size: u64, window: u8) -> Digest {
    let mut random = Random::new(seed);
    let mut out = Wide::new(BufWriter::new(File::create(path).unwrap()), window).unwrap();
    let mut hasher = Hasher::new();
    let mut write = |bytes: &[u8]| {
        hasher.update(bytes);
        out.write_all(bytes).unwrap();
    };
    let named = Layer::new().entry(EntryType::Regular, format!("noise{seed}"), |header| {
        header.set_size(size)
    });
    write(&named.finish()[..512]);
    // Nothing looks further back than its window, and what is stored as it is is not looked for at all.
    let mut piece: Vec<u8> = (0..1 << 17).flat_map(|_| random.number().to_le_bytes()).collect();
    for n in 0..size >> 20 {
        piece[0] = n as u8;
        write(&piece);
    }
    write(&[0; 1024]);
    out.block(true).unwrap();
    out.flush().unwrap();
    hasher.finish()
}

/// Writes what `docker save` wrote of old, of layers of so many MiB with windows of so many bytes.
fn archive(dir: &Path, name: &str, layers: &[(u64, u8)]) {
    let parts = dir.join(name);
    fs::DirBuilder::new().create(&parts).unwrap();
    let names: Vec<String> = (0..layers.len()).map(|n| format!("layer{n}")).collect();
    let made = names.iter().zip(layers).enumerate();
    let diff_ids: Vec<String> = made
        .map(|(n, (file, (size, window)))| {
            layer(&parts.join(file), n as u64, size << 20, *window).to_string()
        })
        .collect();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({
        "os": "linux", "architecture": architecture, "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let list = json!([{ "Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": names }]);
    fs::write(parts.join("config.json"), config.to_string()).unwrap();
    fs::write(parts.join("manifest.json"), list.to_string()).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-cf")
        .arg(dir.join(format!("{name}.tar")))
        .arg("-C")
        .arg(&parts)
        .arg(".");
    assert!(tar.status().unwrap().success());
    fs::remove_dir_all(parts).unwrap();
}

/// Runs a command, which must succeed within its memory.
#[track_caller]
fn within(strata: &Strata, words: &[&str], stdin: Option<&Path>) {
    let mut command = strata.command(words);
    command.stdout(Stdio::null());
    if let Some(path) = stdin {
        command.stdin(File::open(path).unwrap());
    }
    let (status, peak) = sys::process::wait_with_peak(command.spawn().unwrap()).unwrap();
    assert!(status.success(), "{words:?}: {status}");
    println!("{words:?}: {} MB", peak / 1_000_000);
    assert!(peak <= MOST, "{words:?} took {peak} bytes");
}

#[test]
fn no_command_takes_more_than_there_may_be() {
    let strata = Strata::beneath(Path::new("/dev/shm"), env!("CARGO_BIN_EXE_strata"));
    let config = "default_network = \"none\"\n[limits]\nlayers_at_once = 8\n";
    fs::write(strata.dir().join("config.toml"), config).unwrap();
    // Two with the largest window that is taken, and eight with what each may have beside seven others.
    let mut layers = vec![(130, 27), (130, 27)];
    layers.extend([(5, 22); 8]);
    archive(strata.dir(), "wide", &layers);
    let (file, saved) = (strata.dir().join("wide.tar"), strata.dir().join("saved.tar"));
    let (file, saved) = (file.to_str().unwrap(), saved.to_str().unwrap());
    within(&strata, &["load", "-q", "-i", file], None);
    within(&strata, &["save", "-q", "-o", saved, "wide"], None);
    within(
        &strata,
        &["save", "-q", "--format", "docker-archive", "-o", saved, "wide"],
        None,
    );
    let registry = Registry::start();
    let name = registry.name("library/wide:latest");
    within(&strata, &["push", "-q", "wide", &name], None);
    within(&strata, &["rmi", "wide"], None);
    within(&strata, &["prune", "-a", "-f"], None);
    within(&strata, &["pull", "-q", &name], None);
    within(&strata, &["rmi", &name], None);
    within(&strata, &["load", "-q"], Some(Path::new(file)));
    fs::remove_file(file).unwrap();
    fs::remove_file(saved).unwrap();

    // What is compressed takes much as well.
    archive(strata.dir(), "packed", &[(9, 20), (9, 20)]);
    let file = strata.dir().join("packed.tar");
    within(&strata, &["load", "-q", "-i", file.to_str().unwrap()], None);
    within(&strata, &["prune", "blobs", "-f"], None);
    for (form, level) in [("zstd", "22"), ("zstd", "9"), ("gzip", "9")] {
        let name = registry.name(&format!("library/{form}{level}:latest"));
        let words = [
            "push",
            "-q",
            "--compression-format",
            form,
            "--compression-level",
            level,
            "packed",
            &name,
        ];
        within(&strata, &words, None);
    }
}
