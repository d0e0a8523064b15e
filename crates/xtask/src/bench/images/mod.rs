//! `cargo xtask bench unpack` and `bench pull`: an image from one file, and from one registry, into the store of each
//! contestant.
//!
//! Each begins with an empty store on an ext4 just made, since taking files away from one that was used makes the
//! next unpacking slower. Afterwards the files are counted and some of them compared, outside of the time.

mod containerd;
mod contestants;
mod material;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use testkit::disk::Disk;
use testkit::registry::Registry;

use super::Release;
use contestants::{Contestant, Cost, From};
use material::{Material, Told};

/// Bytes of the disk of each unpacking; the file behind it is sparse.
const DISK: u64 = 8 << 30;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each unpacks each image
    #[arg(short, default_value_t = 2)]
    n: usize,
    /// An eighth of the data, once
    #[arg(long)]
    quick: bool,
    /// Only contestants whose name contains this; may be repeated
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only the image of one layer, or of ten
    #[arg(long, value_parser = ["one", "ten"])]
    image: Option<String>,
    /// Where the files of the disks lie: by default in memory, so that programs are measured and not a disk
    #[arg(long, value_name = "DIRECTORY", default_value = "/dev/shm")]
    disk: PathBuf,
}

pub(crate) fn unpack(args: &Args) -> Result<()> {
    main(args, false)
}

pub(crate) fn pull(args: &Args) -> Result<()> {
    main(args, true)
}

fn main(args: &Args, pull: bool) -> Result<()> {
    let release = Release::build()?;
    let (mut contestants, absent) = Contestant::all(&release);
    let wanted =
        |name: &str| args.only.is_empty() || args.only.iter().any(|only| name.contains(only.as_str()));
    contestants.retain(|contestant| wanted(&contestant.name()));
    let (size, rounds) = if args.quick {
        (137 << 20, 1)
    } else {
        (1100 << 20, args.n)
    };
    let images = ["one", "ten"]
        .iter()
        .filter(|name| args.image.as_ref().is_none_or(|image| image == *name))
        .map(|name| Material::make(size, *name == "ten"))
        .collect::<Result<Vec<_>>>()?;
    let registry = pull.then(Registry::start);
    println!("{}", super::machine());
    println!("disks: ext4 by loop device, files in {}", args.disk.display());
    for line in absent {
        println!("absent: {line}");
    }
    for image in &images {
        // Everything is in memory before the first reads it.
        for path in image.blobs.iter().chain([&image.archive]) {
            std::io::copy(&mut std::fs::File::open(path)?, &mut std::io::sink())?;
        }
        if let Some(registry) = &registry {
            registry.fill_from_layout(&image.layout, image.tag, &format!("{}:latest", image.tag));
        }
        let host = registry.as_ref().map(Registry::host);
        let from = host.as_deref().map_or(From::File, From::Registry);
        println!(
            "\n{}{}: {} files, {} MiB, compressed {} MiB; medians of {rounds}, interleaved",
            if pull {
                "from a registry, "
            } else {
                "from a file, "
            },
            image.name,
            image.told.files,
            image.told.bytes >> 20,
            image.compressed >> 20
        );
        let mut costs = vec![Vec::new(); contestants.len()];
        for round in 0..rounds {
            for turn in 0..contestants.len() {
                let number = (turn + round) % contestants.len();
                let cost = once(&contestants[number], image, from, args)
                    .with_context(|| contestants[number].name())?;
                costs[number].push(cost);
            }
        }
        show(&contestants, &costs);
    }
    Ok(())
}

/// One unpacking, checked.
fn once(contestant: &Contestant, image: &Material, from: From<'_>, args: &Args) -> Result<Cost> {
    // Nothing is written by the kernel later on, beside what the contestants write.
    let make = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    let disk = Disk::new_in(&args.disk, "ext4", &make, DISK, "rw");
    let unpacked = contestant.unpack(image, from, &disk.path());
    let there = unpacked
        .as_ref()
        .map(|(_, places)| Told::walk(places))
        .unwrap_or(Ok(Told::default()));
    unmount_beneath(&disk.path())?;
    let ((cost, _), there) = (unpacked?, there?);
    if there != image.told {
        bail!("it unpacked {there:?} instead of {:?}", image.told);
    }
    Ok(cost)
}

/// podman and skopeo leave a mount of their store on itself.
fn unmount_beneath(disk: &Path) -> Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo")?;
    let places = table.lines().filter_map(|line| line.split(' ').nth(4));
    let beneath = places.filter(|place| Path::new(place).parent().is_some_and(|dir| dir.starts_with(disk)));
    for place in beneath.collect::<Vec<_>>().into_iter().rev() {
        sys::mount::detach_at(place).with_context(|| format!("unmounting {place}"))?;
    }
    Ok(())
}

fn show(contestants: &[Contestant], costs: &[Vec<Cost>]) {
    let median = |costs: &[Cost], of: &dyn Fn(&Cost) -> f64| {
        let mut all: Vec<f64> = costs.iter().map(of).collect();
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    };
    let wall = |cost: &Cost| cost.wall.as_secs_f64();
    let walls: Vec<f64> = costs.iter().map(|costs| median(costs, &wall)).collect();
    let of = |wanted: &dyn Fn(&Contestant) -> bool| {
        let those = contestants
            .iter()
            .zip(&walls)
            .filter(|(contestant, _)| wanted(contestant));
        those.map(|(_, wall)| *wall).fold(f64::NAN, f64::min)
    };
    let floor = of(&|c| matches!(c, Contestant::Floor { sync: false, .. }));
    let synced = of(&|c| matches!(c, Contestant::Floor { sync: true, .. }));
    let strata = of(&|c| matches!(c, Contestant::Strata(_)));
    let peers = of(&Contestant::is_peer);
    println!(
        "{:20} {:>7} {:>7} {:>7} {:>8} {:>9} {:>8} {:>9}",
        "", "wall s", "min s", "CPU s", "peak MiB", "× floor", "× synced", "× strata"
    );
    for ((contestant, costs), wall) in contestants.iter().zip(costs).zip(&walls) {
        let least = costs
            .iter()
            .map(|cost| cost.wall.as_secs_f64())
            .fold(f64::INFINITY, f64::min);
        let cpu = median(costs, &|cost| cost.cpu.as_secs_f64());
        let memory = median(costs, &|cost| cost.memory as f64 / 1024.0);
        println!(
            "{:20} {wall:7.2} {least:7.2} {cpu:7.2} {memory:8.0} {:9.2} {:8.2} {:9.2}",
            contestant.name(),
            wall / floor,
            wall / synced,
            wall / strata
        );
    }
    // Without peers there is none to be faster than.
    if peers.is_finite() {
        println!(
            "wanted: 5 times faster than the fastest peer   is {:.2}",
            peers / strata
        );
    }
    println!(
        "wanted: within 1.5 times of the floor          is {:.2}",
        strata / floor
    );
    println!(
        "        of the floor that syncs too            is {:.2}",
        strata / synced
    );
}

fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
