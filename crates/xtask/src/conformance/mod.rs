//! `cargo xtask conformance`: what others test file systems with, run on an overlay: `pjdfstest` and `fsx` (installed
//! from crates.io into the target directory), stress-ng's file-system stressors and `fio --verify` (from Debian).
//!
//! Everything runs on the kernel's overlay first. What fails there may fail on ours, and nothing else may.

mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use testkit::contract::{self, Drivers, Scene};

use crate::{build, packages};
use tools::Count;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only the tools whose name contains this: pjdfstest, fsx, stress-ng, fio
    #[arg(value_name = "NAME")]
    only: Option<String>,
    /// Whose overlay is tested; the kernel's is run first in any case
    #[arg(long, value_enum, default_value_t = Which::Fuse)]
    driver: Which,
    /// How long each stressor of stress-ng runs, in seconds
    #[arg(long, default_value_t = 2)]
    seconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    Kernel,
    Fuse,
}

/// Where the tools lie, and what they are told.
struct Kit {
    bin: PathBuf,
    seconds: u32,
}

type Tool = fn(&Kit, &Path) -> Result<Count>;

const TOOLS: &[(&str, Tool)] = &[
    ("pjdfstest", tools::pjdfstest),
    ("fsx", tools::fsx),
    ("stress-ng", tools::stress_ng),
    ("fio", tools::fio),
];

pub(crate) fn main(args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("overlays are mounted here, which needs root");
    }
    let chosen: Vec<_> = TOOLS
        .iter()
        .filter(|(name, _)| args.only.as_deref().is_none_or(|only| name.contains(only)))
        .collect();
    if chosen.is_empty() {
        let names: Vec<_> = TOOLS.iter().map(|(name, _)| *name).collect();
        bail!("no such tool; there are: {}", names.join(", "));
    }
    packages::install_missing()?;
    let kit = Kit {
        bin: install()?,
        seconds: args.seconds,
    };
    let mut drivers = vec![("kernel", Drivers::kernel_alone())];
    if args.driver == Which::Fuse {
        drivers.push(("fuse", Drivers::fuse(program()?)));
    }
    let mut allowed: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut bad = Vec::new();
    for (driver, drivers) in &drivers {
        for (name, tool) in &chosen {
            let count = contract::apart(name, || run(*tool, &kit, drivers))
                .with_context(|| format!("{name} on {driver}"))?;
            println!(
                "{driver:6} {name:10} {:5} passed {:4} failed {:4} not applicable",
                count.passed.len(),
                count.failed.len(),
                count.skipped
            );
            if *driver == "kernel" {
                for failed in &count.failed {
                    println!("  fails on the kernel's overlay: {failed}");
                }
                allowed.insert(name, count.failed);
            } else {
                for failed in count.failed.difference(&allowed[name]) {
                    println!("  fails here alone: {failed}");
                    bad.push(format!("{name}: {failed}"));
                }
            }
        }
    }
    if !bad.is_empty() {
        bail!(
            "{} cases pass on the kernel's overlay and fail on ours",
            bad.len()
        );
    }
    Ok(())
}

/// One tool on an overlay of its own, whose lower layer holds a few files so that the directory is a merged one.
fn run(tool: Tool, kit: &Kit, drivers: &Drivers) -> Result<Count> {
    let scene = Scene::new(drivers)
        .lower(|t| {
            t.dir("here", 0o777)
                .mode("here", 0o777)
                .file("here/lower", vec![7; 1 << 20])
        })
        .option("redirect_dir=on")
        .option("index=on")
        .mount();
    tool(kit, &scene.at("here"))
}

/// Puts `pjdfstest` and `fsx` into the target directory, once.
fn install() -> Result<PathBuf> {
    let root = build::target_dir().join("conformance");
    let bin = root.join("bin");
    let missing: Vec<_> = [("pjdfstest", "0.2.2"), ("fsx", "0.3.2")]
        .into_iter()
        .filter(|(name, _)| !bin.join(name).exists())
        .map(|(name, version)| format!("{name}@{version}"))
        .collect();
    if missing.is_empty() {
        return Ok(bin);
    }
    println!("installing from crates.io: {}", missing.join(" "));
    let status = build::cargo()
        .args(["install", "--quiet", "--locked", "--root"])
        .arg(&root)
        .args(missing)
        .status()
        .context("cargo install")?;
    if !status.success() {
        bail!("the tools do not install");
    }
    Ok(bin)
}

fn program() -> Result<PathBuf> {
    let status = build::cargo()
        .args(["build", "--release", "--quiet", "-p", "strata"])
        .status()
        .context("cargo build")?;
    if !status.success() {
        bail!("the program does not build");
    }
    Ok(build::target_dir().join("release/strata"))
}

/// A tool's whole output, both streams, and whether it succeeded.
fn output(command: &mut Command) -> Result<(bool, String)> {
    let output = command
        .output()
        .with_context(|| format!("{:?}", command.get_program()))?;
    let text = [output.stdout, output.stderr].concat();
    Ok((
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    ))
}
