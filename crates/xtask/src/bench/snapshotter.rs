//! `cargo xtask bench snapshotter`: what containerd asks of a snapshotter, over gRPC, with ten, a thousand and ten
//! thousand snapshots: strata's, and containerd's own overlayfs.
//!
//! containerd's own is reached through containerd alone, which keeps names of its own above every snapshotter; so
//! strata is measured twice: at its socket, and through containerd as a client of containerd finds it. What is left of the
//! latter when a snapshotter does nothing is measured beside it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use testkit::Strata;
use testkit::containerd::{Containerd, Version};
use testkit::snapshots::{Remote, Served};
use testkit::snapshotter::Snapshotter;

use super::{Release, Sample, machine, table};
use crate::build;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each is done at each size
    #[arg(short, default_value_t = 40)]
    n: usize,
    /// Numbers of snapshots
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 10_000])]
    sizes: Vec<usize>,
    /// Only strata at its own socket, for a profile
    #[arg(long)]
    alone: bool,
}

/// What is measured, in the order in which it is done to one snapshot.
const WORKS: [&str; 6] = ["prepare", "mounts", "stat", "commit", "remove", "list"];

/// Listings in a round's place: ten thousand take long.
const LISTINGS: usize = 5;

struct Contestant {
    name: &'static str,
    remote: Remote,
    made: usize,
    works: [Sample; WORKS.len()],
}

/// What keeps a snapshot that no image and no container of containerd's names from its collector of garbage.
fn kept() -> BTreeMap<String, String> {
    BTreeMap::from([("containerd.io/gc.root".to_owned(), "bench".to_owned())])
}

impl Contestant {
    fn new(name: &'static str, socket: &Path, ns: &str, snapshotter: &str) -> Result<Contestant> {
        let remote = Remote::named(socket, ns, snapshotter);
        remote.prepare("base-work", None, &kept())?;
        remote.commit("base", "base-work", &kept(), None)?;
        Ok(Contestant {
            name,
            remote,
            made: 1,
            works: Default::default(),
        })
    }

    /// Makes snapshots until there are so many, by several clients at once.
    fn fill(&mut self, size: usize, socket: &Path, ns: &str, snapshotter: &str) -> Result<()> {
        let next = AtomicUsize::new(self.made);
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| -> Result<()> {
                        let remote = Remote::named(socket, ns, snapshotter);
                        loop {
                            let n = next.fetch_add(1, Ordering::Relaxed);
                            if n >= size {
                                return Ok(());
                            }
                            remote.prepare(&format!("filled-{n}"), Some("base"), &kept())?;
                        }
                    })
                })
                .collect();
            clients
                .into_iter()
                .try_for_each(|client| client.join().expect("no panic"))
        })?;
        self.made = size;
        let there = self.remote.list(&[]).map_err(|e| anyhow::anyhow!("{e}"))?.len();
        ensure!(there == size, "{}: {there} snapshots, not {size}", self.name);
        self.works = Default::default();
        Ok(())
    }

    fn round(&mut self, round: usize) -> Result<()> {
        let (key, name) = (format!("key-{round}"), format!("name-{round}"));
        let none = kept();
        let mut done = 0;
        let mut time = |works: &mut [Sample], began: Instant| {
            works[done].push(began.elapsed());
            done += 1;
        };
        let Contestant { remote, works, .. } = self;
        let began = Instant::now();
        remote.prepare(&key, Some("base"), &none)?;
        time(works, began);
        let began = Instant::now();
        remote.mounts(&key)?;
        time(works, began);
        let began = Instant::now();
        remote.stat(&key)?;
        time(works, began);
        let began = Instant::now();
        remote.commit(&name, &key, &none, None)?;
        time(works, began);
        let began = Instant::now();
        remote.remove(&name)?;
        time(works, began);
        if round < LISTINGS {
            let began = Instant::now();
            let there = remote.list(&[]).map_err(|e| anyhow::anyhow!("{e}"))?.len();
            time(works, began);
            ensure!(there == self.made, "{}: {there} snapshots", self.name);
        }
        Ok(())
    }
}

pub(crate) fn main(args: &Args) -> Result<()> {
    crate::newer::unpack()?;
    let release = Release::build()?;
    let place = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in("/var/tmp")?;
    let (direct, behind) = (
        Strata::beneath(place.path(), &release.strata),
        Strata::beneath(place.path(), &release.strata),
    );
    let (served, served_behind) = (Served::start(&direct, &[]), Served::start(&behind, &[]));
    let tests = build::target_dir().join("tmp");
    let prompt = place.path().join("prompt.sock");
    testkit::prompt::serve(&prompt);
    let snapshotters = [("strata", &*served_behind.socket), ("prompt", &*prompt)];
    let containerd = Containerd::beneath(place.path(), Version::Unpacked, &tests, &snapshotters);
    println!(
        "{}; {}",
        machine(),
        containerd
            .ok(&["version"])
            .lines()
            .nth(1)
            .unwrap_or_default()
            .trim()
    );
    let ns = containerd.namespace();
    let at = containerd.socket();
    let where_ = [
        ("strata", served.socket.clone(), ns.clone(), "strata"),
        ("strata in containerd", at.clone(), ns.clone(), "strata"),
        ("overlayfs in containerd", at.clone(), ns.clone(), "overlayfs"),
        ("nothing in containerd", at, ns, "prompt"),
    ];
    let where_ = match args.alone {
        true => &where_[..1],
        false => &where_[..],
    };
    let mut contestants = where_
        .iter()
        .map(|(name, socket, ns, snapshotter)| Contestant::new(name, socket, ns, snapshotter))
        .collect::<Result<Vec<_>>>()?;
    for size in &args.sizes {
        for (contestant, (_, socket, ns, snapshotter)) in contestants.iter_mut().zip(where_) {
            contestant.fill(*size, socket, ns, snapshotter)?;
        }
        for round in 0..args.n {
            for contestant in &mut contestants {
                contestant.round(round)?;
            }
        }
        println!("\n{size} snapshots; n = {}", args.n);
        for (work, name) in WORKS.iter().enumerate() {
            let rows: Vec<_> = contestants.iter().map(|c| (c.name, &c.works[work])).collect();
            let beside: Vec<_> = rows.get(2).map(|row| ("overlayfs", row.1)).into_iter().collect();
            println!("{name}\n{}", table(&rows, &beside));
        }
        let (all, own) = memory(served.pid())?;
        println!("memory of strata's server: {all:.1} MiB resident, {own:.1} of them its own");
    }
    Ok(())
}

/// What a process has in memory, and what of it is no file's, in MiB.
fn memory(pid: i32) -> Result<(f64, f64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let field = |name: &str| -> Result<f64> {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .context("no such line")?;
        let kib: f64 = line
            .trim_start_matches(':')
            .trim()
            .trim_end_matches(" kB")
            .parse()?;
        Ok(kib / 1024.0)
    };
    Ok((field("VmRSS")?, field("RssAnon")?))
}
