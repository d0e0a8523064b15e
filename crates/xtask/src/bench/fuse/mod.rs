//! `cargo xtask bench fuse`: the kernel's overlay, `fuse-overlayfs` and strata's own driver, on the same layers.
//!
//! Every work is done by all of them in turn, round by round, each time beginning with another, and fails unless it
//! was really done ([`works`]). Mounts are made in a mount namespace of this program's own, on a disk image without a
//! name: nothing stays, however it ends.

mod mounts;
mod switch;
mod tree;
mod works;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::{Release, Sample};
use crate::leftovers;
use mounts::{Contestant, Memory, Mounted, switches};
use tree::{Disk, LAYERS, Size, Tree};
use works::{Kit, State, Work};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds that are counted
    #[arg(short, default_value_t = 5)]
    n: usize,
    /// Less of everything, and three rounds at most
    #[arg(long)]
    quick: bool,
    /// Only works whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// strata over io_uring too: the kernel's switch for it is on for the moment of each such mount
    #[arg(long)]
    io_uring: bool,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let chosen: Vec<&Work> = works::ALL
        .iter()
        .filter(|work| args.only.is_empty() || args.only.iter().any(|only| work.name.contains(only.as_str())))
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = works::ALL.iter().map(|work| work.name).collect();
        bail!("no such work; there are: {}", names.join("; "));
    }
    let release = Release::build()?;
    let (contestants, absent) = Contestant::all(&release.strata, args.io_uring);
    leftovers::set_apart()?;
    let place = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in("/var/tmp")?;
    let disk = Disk::make(place.path())?;
    let size = if args.quick { Size::QUICK } else { Size::FULL };
    let rounds = if args.quick { args.n.min(3) } else { args.n };
    let tree = Tree::plant(&disk, size)?;
    let kit = Kit {
        tree: &tree,
        filework: &release.filework,
    };
    println!("{}", super::machine());
    println!(
        "{} entries in {LAYERS} layers on ext4; {} small files; {} MiB read and written, {} MiB copied up; medians of {rounds}, interleaved",
        tree.tree.0,
        size.some,
        size.data >> 20,
        size.copied >> 20
    );
    println!("fuse's enable_uring: {}", switch::read());
    for absence in absent {
        println!("{absence}");
    }
    servers(&contestants, &kit)?;
    let mut table = Table::new(&contestants);
    println!("\n{}", table.head());
    for work in chosen {
        let samples = measure(work, &contestants, &kit, rounds)?;
        println!("{}", table.row(work, &samples));
    }
    println!("\nmilliseconds; then the last one's time as a share of each other's; * misses what is wanted");
    if !table.missed.is_empty() {
        println!("missed: {}", table.missed.join("; "));
    }
    Ok(())
}

/// One sample for each contestant.
fn measure(work: &Work, contestants: &[Contestant], kit: &Kit<'_>, rounds: usize) -> Result<Vec<Sample>> {
    let places: Vec<PathBuf> = (0..contestants.len())
        .map(|number| kit.tree.room.join(format!("contestant-{number}")))
        .collect();
    let of = |number: usize| format!("{} on {}", work.name, contestants[number].name);
    let mount = |number: usize| {
        let mounted = contestants[number].mount(kit.tree, &places[number], work.read_only);
        mounted.with_context(|| of(number))
    };
    let mut samples = vec![Sample::default(); contestants.len()];
    let mut kept: BTreeMap<usize, Mounted> = BTreeMap::new();
    for round in 0..=rounds {
        for turn in 0..contestants.len() {
            let number = (turn + round) % contestants.len();
            let once;
            let mounted = if work.state == State::Hot {
                if round == 0 {
                    kept.insert(number, mount(number)?);
                }
                &kept[&number]
            } else {
                settle(kit)?;
                once = mount(number)?;
                &once
            };
            if work.state == State::Cold {
                fs::write("/proc/sys/vm/drop_caches", "3").context("dropping what is in memory")?;
            }
            let took = (work.run)(kit, &mounted.at, round).with_context(|| of(number))?;
            // The first round brings into memory what the others find there.
            if round > 0 {
                samples[number].push(took);
            }
        }
    }
    Ok(samples)
}

/// What one has written is not written to the disk in the time of the next.
fn settle(kit: &Kit<'_>) -> Result<()> {
    let room = fs::File::open(&kit.tree.room)?;
    Ok(rustix::fs::syncfs(&room)?)
}

/// What each server does, and how much memory it takes: idle, and for what the kernel knows.
fn servers(contestants: &[Contestant], kit: &Kit<'_>) -> Result<()> {
    let place = kit.tree.room.join("servers");
    for contestant in contestants {
        let mounted = contestant.mount(kit.tree, &place, false)?;
        let Some(pid) = mounted.pid() else { continue };
        let idle = Memory::of(pid)?;
        let switches = switches(pid, &mounted.at)?;
        let before = Memory::of(pid)?;
        let walk = works::ALL
            .iter()
            .find(|work| work.name == "walk, hot")
            .context("walk")?;
        (walk.run)(kit, &mounted.at, 0)?;
        let after = Memory::of(pid)?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        println!(
            "{}: {switches}; idle {:.1} MiB resident, {:.1} of it its own; {} bytes an inode",
            contestant.name,
            mib(idle.resident),
            mib(idle.own),
            after.own.saturating_sub(before.own) / kit.tree.tree.0.max(1)
        );
    }
    Ok(())
}

/// Times and ratios in columns.
struct Table {
    names: Vec<String>,
    missed: Vec<String>,
}

/// Width of a work's name, and of a column.
const NAME: usize = 34;
const COLUMN: usize = 10;

impl Table {
    fn new(contestants: &[Contestant]) -> Table {
        Table {
            names: contestants.iter().map(|one| one.name.clone()).collect(),
            missed: Vec::new(),
        }
    }

    fn head(&self) -> String {
        let mut text = format!("{:NAME$}", "");
        for name in &self.names {
            write!(text, "{name:>COLUMN$}").expect("a string takes it");
        }
        for name in &self.names[..self.names.len() - 1] {
            write!(text, "{:>COLUMN$}", format!("/{name}")).expect("a string takes it");
        }
        text + "  wanted"
    }

    fn row(&mut self, work: &Work, samples: &[Sample]) -> String {
        let medians: Vec<f64> = samples.iter().map(Sample::median).collect();
        let (ours, others) = medians.split_last().expect("what is judged is the last");
        let mut text = format!("{:NAME$}", work.name);
        for median in &medians {
            write!(text, "{median:COLUMN$.1}").expect("a string takes it");
        }
        let mut wanted = String::new();
        for (number, other) in others.iter().enumerate() {
            let ratio = ours / other;
            let limit = match self.names[number].as_str() {
                mounts::KERNEL => work.wanted.of_kernel,
                // Against ourselves over /dev/fuse nothing is wanted.
                mounts::STRATA => None,
                _ => work.wanted.of_peers,
            };
            let misses = limit.is_some_and(|limit| ratio > limit);
            write!(
                text,
                "{ratio:width$.2}{}",
                if misses { '*' } else { ' ' },
                width = COLUMN - 1
            )
            .expect("a string takes it");
            if let (true, Some(limit)) = (misses, limit) {
                self.missed.push(format!(
                    "{} {ratio:.2} > {limit} × {}",
                    work.name, self.names[number]
                ));
            }
        }
        if let Some(limit) = work.wanted.of_kernel {
            write!(wanted, "≤ {limit} × kernel").expect("a string takes it");
        }
        if let Some(limit) = work.wanted.of_peers {
            write!(wanted, ", ≤ {limit} × f-o").expect("a string takes it");
        }
        format!("{text}  {wanted}")
    }
}
