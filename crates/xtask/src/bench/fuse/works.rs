//! The works: each does one thing on a mount, measures it, and fails unless it was really done.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::tree::{Tree, run};

/// In what state a work finds the mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Used before: the same was done on it, uncounted.
    Hot,
    /// Just mounted, with an empty writable directory; what the layers hold is in memory.
    Fresh,
    /// Just mounted, and nothing is in memory.
    Cold,
}

/// What is wanted of strata's time, as a share of another's.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) of_kernel: Option<f64>,
    pub(super) of_peers: Option<f64>,
}

/// One work.
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) state: State,
    pub(super) read_only: bool,
    pub(super) wanted: Wanted,
    /// Does it in a mount, once for every number.
    pub(super) run: fn(&Kit<'_>, &Path, usize) -> Result<Duration>,
}

/// What works need.
pub(super) struct Kit<'a> {
    pub(super) tree: &'a Tree,
    pub(super) filework: &'a Path,
}

const fn work(name: &'static str, run: fn(&Kit<'_>, &Path, usize) -> Result<Duration>) -> Work {
    let wanted = Wanted {
        of_kernel: None,
        of_peers: None,
    };
    Work {
        name,
        state: State::Hot,
        read_only: false,
        wanted,
        run,
    }
}

impl Work {
    const fn on(mut self, state: State) -> Work {
        self.state = state;
        self
    }

    const fn read_only(mut self) -> Work {
        self.read_only = true;
        self
    }

    const fn kernel(mut self, ratio: f64) -> Work {
        self.wanted.of_kernel = Some(ratio);
        self
    }

    const fn peers(mut self, ratio: f64) -> Work {
        self.wanted.of_peers = Some(ratio);
        self
    }
}

/// All of them, in the order in which they are run.
pub(super) const ALL: &[Work] = &[
    work("walk, hot", walk).kernel(1.1),
    work("walk, fresh mount", walk)
        .on(State::Fresh)
        .kernel(1.25)
        .peers(0.25),
    work("walk, cold", walk).on(State::Cold),
    work("readdir, hot", list).kernel(0.5),
    work("stat, hot", stat).kernel(1.1),
    work("missing names, hot", missing),
    work("git status, hot", git_status).kernel(1.1),
    work("small files", read_one).kernel(2.0),
    work("small files, 2 clients", read_two).kernel(2.0),
    work("small files, read-only", read_one).read_only().kernel(1.0),
    work("small files, read-only, 2 clients", read_two)
        .read_only()
        .kernel(1.0),
    work("read 128k", sequential).kernel(1.25),
    work("read by mmap", map).kernel(1.25),
    work("write 4k", write_4k).kernel(1.25).peers(0.25),
    work("write 128k", write_128k).kernel(1.25).peers(0.25),
    work("tar x", unpack).on(State::Fresh).kernel(2.5).peers(1.0),
    work("rm -rf of lower files", remove)
        .on(State::Fresh)
        .kernel(2.0)
        .peers(0.1),
    work("copy-up", copy_up).on(State::Fresh).kernel(1.0),
    work("compile", compile),
];

impl Kit<'_> {
    /// Runs `filework`; how long it took inside, how many things it met, how many bytes.
    fn filework(&self, words: &[&str]) -> Result<(Duration, u64, u64)> {
        let text = run(Command::new(self.filework).args(words))?;
        let numbers: Vec<u64> = text
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let [nanoseconds, count, bytes] = numbers[..] else {
            anyhow::bail!("filework said {text:?}");
        };
        Ok((Duration::from_nanos(nanoseconds), count, bytes))
    }

    fn list(&self) -> &str {
        utf8(&self.tree.list)
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

fn timed(command: &mut Command) -> Result<(Duration, String)> {
    let started = Instant::now();
    let text = run(command)?;
    Ok((started.elapsed(), text))
}

fn walk(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let (took, entries, bytes) = kit.filework(&["walk", utf8(&at.join("tree"))])?;
    ensure!(
        (entries, bytes) == kit.tree.tree,
        "met {entries} entries and {bytes} bytes, not {:?}",
        kit.tree.tree
    );
    Ok(took)
}

fn list(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let (took, entries, _) = kit.filework(&["list", utf8(&at.join("tree"))])?;
    ensure!(entries == kit.tree.tree.0, "met {entries} entries");
    Ok(took)
}

fn stat(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let (took, count, bytes) = kit.filework(&["stat", utf8(at), kit.list()])?;
    ensure!(
        count == kit.tree.size.some as u64 && bytes == kit.tree.list_bytes,
        "{count} files, {bytes} bytes"
    );
    Ok(took)
}

fn missing(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    Ok(kit.filework(&["missing", utf8(at), kit.list()])?.0)
}

fn git_status(_: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let mut git = Command::new("git");
    git.arg("-C")
        .arg(at.join("repository"))
        .args(["-c", "safe.directory=*", "status", "--porcelain"]);
    let (took, text) = timed(&mut git)?;
    ensure!(text == "?? untracked\n", "git status said {text:?}");
    Ok(took)
}

fn read(kit: &Kit<'_>, at: &Path, clients: &str) -> Result<Duration> {
    let (took, count, bytes) = kit.filework(&["read", utf8(at), kit.list(), clients])?;
    ensure!(
        count == kit.tree.size.some as u64 && bytes == kit.tree.list_bytes,
        "{count} files, {bytes} bytes"
    );
    Ok(took)
}

fn read_one(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    read(kit, at, "1")
}

fn read_two(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    read(kit, at, "2")
}

fn sequential(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let (took, _, bytes) = kit.filework(&["sequential", utf8(&at.join("data")), "131072"])?;
    ensure!(bytes == kit.tree.size.data as u64, "read {bytes} bytes");
    Ok(took)
}

fn map(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let (took, sum, bytes) = kit.filework(&["map", utf8(&at.join("data"))])?;
    ensure!(
        bytes == kit.tree.size.data as u64 && sum == bytes / 4096,
        "{bytes} bytes, sum {sum}"
    );
    Ok(took)
}

fn write(kit: &Kit<'_>, at: &Path, number: usize, block: &str) -> Result<Duration> {
    let file = at.join(format!("written-{number}"));
    let size = kit.tree.size.data;
    let (took, _, _) = kit.filework(&["write", utf8(&file), &size.to_string(), block])?;
    let mut last = [0; 4];
    fs::File::open(&file)?.read_exact_at(&mut last, size as u64 - 4)?;
    ensure!(
        file.metadata()?.len() == size as u64 && last == [7; 4],
        "it was not written"
    );
    fs::remove_file(&file)?;
    Ok(took)
}

fn write_4k(kit: &Kit<'_>, at: &Path, number: usize) -> Result<Duration> {
    write(kit, at, number, "4096")
}

fn write_128k(kit: &Kit<'_>, at: &Path, number: usize) -> Result<Duration> {
    write(kit, at, number, "131072")
}

fn unpack(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let to = at.join("unpacked");
    fs::create_dir(&to)?;
    let (took, _) = timed(
        Command::new("tar")
            .arg("-xf")
            .arg(&kit.tree.archive)
            .arg("-C")
            .arg(&to),
    )?;
    let (_, entries, _) = kit.filework(&["walk", utf8(&to)])?;
    ensure!(
        entries > kit.tree.size.some as u64,
        "{entries} entries were unpacked"
    );
    Ok(took)
}

fn remove(_: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let dir = at.join("remove");
    let (took, _) = timed(Command::new("rm").arg("-rf").arg(&dir))?;
    ensure!(!dir.exists(), "it is still there");
    let names: Vec<_> = fs::read_dir(at)?.collect::<std::io::Result<Vec<_>>>()?;
    ensure!(
        names.iter().all(|name| name.file_name() != "remove"),
        "it is still listed"
    );
    Ok(took)
}

fn copy_up(kit: &Kit<'_>, at: &Path, _: usize) -> Result<Duration> {
    let file = at.join("copied");
    let (took, _, bytes) = kit.filework(&["change", utf8(&file)])?;
    let mut first = [0; 2];
    fs::File::open(&file)?.read_exact_at(&mut first, 0)?;
    ensure!(
        bytes == kit.tree.size.copied as u64 && &first == b"!\x01",
        "{bytes} bytes, {first:?}"
    );
    let copy = at.with_file_name("upper").join("copied");
    ensure!(copy.metadata()?.blocks() * 512 >= bytes, "the copy has holes");
    Ok(took)
}

fn compile(kit: &Kit<'_>, at: &Path, number: usize) -> Result<Duration> {
    let dir = at.join("program");
    let objects = dir.join(format!("objects-{number}"));
    fs::create_dir(&objects)?;
    let sources: Vec<PathBuf> = (0..kit.tree.size.sources)
        .map(|n| dir.join(format!("source{n}.c")))
        .collect();
    let program = objects.join("program");
    let started = Instant::now();
    run(Command::new("cc")
        .arg("-c")
        .args(&sources)
        .arg(dir.join("main.c"))
        .current_dir(&objects))?;
    let made = fs::read_dir(&objects)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    run(Command::new("cc").args(&made).arg("-o").arg(&program))?;
    let said = run(&mut Command::new(&program)).context("what was compiled")?;
    let took = started.elapsed();
    ensure!(said == "right\n", "what was compiled said {said:?}");
    fs::remove_dir_all(&objects)?;
    Ok(took)
}
