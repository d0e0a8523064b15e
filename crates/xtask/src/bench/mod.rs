//! `cargo xtask bench NAME`: how fast, measured against the peers in one run on one machine. One file per benchmark.
//!
//! Times of one machine mean little on another, so every benchmark prints ratios, runs everything that it compares
//! interleaved (round by round, so that whatever else the machine does falls on all alike), and checks that the
//! work was done.

mod fuse;
mod images;
mod lifecycle;
mod oci;
mod peers;
mod rootless;
mod snapshotter;
mod start;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::build;

#[derive(Subcommand)]
pub(crate) enum Bench {
    /// How long a container takes from nothing to gone, against podman, crun, runc and the floor
    Start(start::Args),
    /// What is done to containers while one, a hundred and a thousand run, and what each costs, against podman
    Lifecycle(lifecycle::Args),
    /// How long other engines wait for their OCI runtime, against crun and runc
    Oci(oci::Args),
    /// How fast the overlay in user space is, against the kernel's and fuse-overlayfs
    Fuse(fuse::Args),
    /// How fast an image is unpacked from one file, against podman, skopeo, umoci, containerd and the floor
    Unpack(images::Args),
    /// The same from a registry
    Pull(images::Args),
    /// What containerd asks of a snapshotter, with up to ten thousand snapshots, against its own overlayfs
    Snapshotter(snapshotter::Args),
}

pub(crate) fn main(bench: &Bench) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("benchmarks start containers and mount file systems, which needs root");
    }
    crate::packages::install_missing()?;
    match bench {
        Bench::Start(args) => start::main(args),
        Bench::Lifecycle(args) => lifecycle::main(args),
        Bench::Oci(args) => oci::main(args),
        Bench::Fuse(args) => fuse::main(args),
        Bench::Unpack(args) => images::unpack(args),
        Bench::Pull(args) => images::pull(args),
        Bench::Snapshotter(args) => snapshotter::main(args),
    }
}

/// Programs of the workspace, built as users get them.
struct Release {
    strata: PathBuf,
    floor: PathBuf,
    filework: PathBuf,
    floor_unpack: PathBuf,
}

impl Release {
    fn build() -> Result<Release> {
        let status = build::cargo()
            .args([
                "build",
                "--release",
                "--quiet",
                "-p",
                "strata",
                "-p",
                "xtask",
                "--bin",
                "strata",
                "--bin",
                "floor",
                "--bin",
                "filework",
                "--bin",
                "floor_unpack",
            ])
            .status()
            .context("cargo build")?;
        if !status.success() {
            bail!("the program does not build");
        }
        // Installed, as users have them: what a linker writes piece by piece lies in the page cache in single pages, and
        // a program that is executed from there starts slower.
        let installed = build::target_dir().join("bench");
        std::fs::create_dir_all(&installed)?;
        let install = |name: &str| -> Result<PathBuf> {
            let to = installed.join(name);
            // A new file: the old one may be running yet.
            let _ = std::fs::remove_file(&to);
            std::fs::copy(build::target_dir().join("release").join(name), &to).context("installing")?;
            Ok(to)
        };
        Ok(Release {
            strata: install("strata")?,
            floor: install("floor")?,
            filework: install("filework")?,
            floor_unpack: install("floor_unpack")?,
        })
    }
}

/// Times of one thing done many times.
#[derive(Debug, Clone, Default)]
struct Sample(Vec<Duration>);

impl Sample {
    fn push(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Milliseconds below which lies this share of the sample, `0.0` to `1.0`; 0.5 is the median.
    fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let at = (share * sorted.len().saturating_sub(1) as f64).round() as usize;
        sorted
            .get(at)
            .map_or(f64::NAN, |took| took.as_secs_f64() * 1000.0)
    }

    fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// One row per name: median, least and most in milliseconds, and how often the median of each reference fits in.
fn table(rows: &[(&str, &Sample)], references: &[(&str, &Sample)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>8}  {:>8}  {:>8}", "", "median", "min", "max");
    for (name, _) in references {
        write!(text, "  {:>9}", format!("× {name}")).expect("a string takes it");
    }
    text.push('\n');
    for (name, sample) in rows {
        let (least, most) = (sample.quantile(0.0), sample.quantile(1.0));
        write!(
            text,
            "{name:width$}  {:8.2}  {least:8.2}  {most:8.2}",
            sample.median()
        )
        .expect("a string takes it");
        for (_, reference) in references {
            write!(text, "  {:9.2}", sample.median() / reference.median()).expect("a string takes it");
        }
        text.push('\n');
    }
    text
}

/// What it was measured on: kernel, processors, versions of the peers.
fn machine() -> String {
    let first = |program: &str, args: &[&str]| {
        let output = std::process::Command::new(program).args(args).output();
        let text = output
            .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
            .unwrap_or_default();
        text.lines().next().unwrap_or("absent").to_owned()
    };
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "Linux {}, {processors} processors; {}, {}, {}",
        release.trim(),
        first("podman", &["--version"]),
        first("crun", &["--version"]),
        first("runc", &["--version"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles() {
        let sample = Sample([3, 1, 2, 5, 4].map(Duration::from_millis).to_vec());
        assert_eq!(
            [0.0, 0.5, 1.0].map(|share| sample.quantile(share)),
            [1.0, 3.0, 5.0]
        );
        assert!(Sample::default().median().is_nan());
    }
}
