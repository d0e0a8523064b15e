//! `cargo xtask soak`: the random loops of `testkit::soak` and `testkit::differential` for as long as one likes. The tests
//! run a seeded while.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testkit::contract::Drivers;
use testkit::random::Random;
use testkit::{differential, soak};

use crate::{build, leftovers};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the loops whose name contains this: kills, crowd, races, networks, cuts, overlay, overlay-threads
    #[arg(value_name = "NAME")]
    only: Option<String>,
    /// How long in all
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Begin with this seed, which a failure named
    #[arg(long)]
    seed: Option<u64>,
}

/// What a loop does with the program, a seed and a time; it answers what it did, in words, and which commands.
type Loop = fn(&Path, u64, Duration) -> (String, soak::Tally);

const LOOPS: &[(&str, Loop)] = &[
    ("kills", |program, seed, time| {
        commands(soak::kills(program, seed, time))
    }),
    ("crowd", |program, seed, time| {
        commands(soak::crowd(program, seed, time))
    }),
    ("races", |program, seed, time| {
        commands(soak::races(program, seed, time))
    }),
    ("networks", |program, seed, time| {
        commands(soak::networks(program, seed, time))
    }),
    ("cuts", |program, seed, time| {
        let soak::Cuts {
            cuts,
            killed,
            layers,
            blobs,
            kept,
            sound,
        } = soak::cuts(program, seed, time);
        let soak::Struck { started, struck } = cuts.all();
        let told = format!(
            "{started} power cuts, {struck} of them while a command was at work, {killed} after one was killed; {layers} layers and {blobs} blobs whole, {kept} reports kept, {sound} stores sound"
        );
        (told, cuts)
    }),
    ("overlay", |program, seed, time| {
        let done = differential::run(&Drivers::fuse(program), seed, time);
        let told = format!(
            "{} operations agreed, {} of them succeeded",
            done.operations, done.succeeded
        );
        (told, soak::Tally::default())
    }),
    ("overlay-threads", |program, seed, time| {
        let operations = differential::crowd::run(&Drivers::fuse(program), seed, time);
        (format!("{operations} operations"), soak::Tally::default())
    }),
];

fn commands(done: soak::Done) -> (String, soak::Tally) {
    let soak::Done { commands, checks } = done;
    let soak::Struck { started, struck } = commands.all();
    let told = format!("{started} commands, {struck} killed, all well {checks} times");
    (told, commands)
}

/// One seed of one loop: short, so that many seeds are seen and a failure is soon seen again.
const ROUND: Duration = Duration::from_secs(30);

pub(crate) fn main(args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the soak starts containers, which needs root");
    }
    let loops: Vec<_> = LOOPS
        .iter()
        .filter(|(name, _)| args.only.as_deref().is_none_or(|only| name.contains(only)))
        .collect();
    if loops.is_empty() {
        let names: Vec<_> = LOOPS.iter().map(|(name, _)| *name).collect();
        bail!("no such loop; there are: {}", names.join(", "));
    }
    let status = build::cargo()
        .args(["build", "--release", "--quiet", "-p", "strata"])
        .status()
        .context("cargo")?;
    if !status.success() {
        bail!("the program does not build");
    }
    let program = build::target_dir().join("release/strata");
    leftovers::own_mounts()?;
    let until = Instant::now() + Duration::from_secs(args.minutes * 60);
    let mut seeds = Random::new(args.seed.unwrap_or_else(Random::seed));
    let mut seed = args.seed.unwrap_or_else(|| seeds.number());
    let mut sums = vec![soak::Tally::default(); loops.len()];
    let mut failed = Vec::new();
    while Instant::now() < until {
        for ((name, run), sum) in loops.iter().zip(&mut sums) {
            println!("{name}, seed {seed}");
            let left = until.saturating_duration_since(Instant::now());
            let round = || run(&program, seed, ROUND.min(left));
            // What is wrong has been told; other seeds may find more.
            match std::panic::catch_unwind(round) {
                Ok((told, commands)) => {
                    sum.add(&commands);
                    println!("  {told}");
                }
                Err(_) => failed.push(format!("{name} --seed {seed}")),
            }
        }
        seed = seeds.number();
    }
    for ((name, _), sum) in loops.iter().zip(&sums) {
        let soak::Struck { started, struck } = sum.all();
        if started > 0 {
            println!("{name}: {struck} struck of {started}: {sum}");
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
