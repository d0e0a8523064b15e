//! `cargo xtask soak`: the random loops of `testkit::soak` for as long as one likes. The tests run a seeded while.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use testkit::random::Random;
use testkit::soak::{self, Done};

use crate::build;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long in all
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Only this loop
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Begin with this seed, which a failure named
    #[arg(long)]
    seed: Option<u64>,
}

type Loop = fn(std::path::PathBuf, u64, Duration) -> Done;

const LOOPS: &[(&str, Loop)] = &[("kills", soak::kills), ("crowd", soak::crowd)];

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
    let until = Instant::now() + Duration::from_secs(args.minutes * 60);
    let mut seeds = Random::new(args.seed.unwrap_or_else(Random::seed));
    let mut seed = args.seed.unwrap_or_else(|| seeds.number());
    while Instant::now() < until {
        for (name, run) in &loops {
            println!("{name}, seed {seed}");
            let done = run(
                program.clone(),
                seed,
                ROUND.min(until.saturating_duration_since(Instant::now())),
            );
            println!(
                "  {} commands, {} killed, all well {} times",
                done.commands, done.killed, done.checks
            );
        }
        seed = seeds.number();
    }
    Ok(())
}
