//! `cargo xtask bench lifecycle`: what is done to containers while one, a hundred and a thousand of them run, and what each
//! costs that does nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use testkit::{Image, Strata};

use super::peers::{Podman, WithoutCgroup2, timed};
use super::start::Tmpfs;
use super::{Release, Sample, machine};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each thing is done
    #[arg(short, default_value_t = 15)]
    n: usize,
    /// How many containers run meanwhile, one level after the other
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1000])]
    levels: Vec<usize>,
    /// Levels above are strata's alone: so many take podman a quarter of an hour
    #[arg(long, default_value_t = 100)]
    podman_to: usize,
}

/// What is done, in this order, to one container more than those that run.
const VERBS: [&str; 5] = ["start", "exec", "ps", "stop", "rm"];

/// Ends at SIGTERM, and does nothing until then.
const IDLE: &str = "trap 'exit 0' TERM; sleep 100000 & wait";

/// An engine: how its commands are made and run.
trait Engine {
    fn name(&self) -> &'static str;
    /// A command of these words.
    fn run(&self, words: &[&str]) -> Result<(Output, Duration)>;
    /// What `run` needs on this machine, and what the image is called.
    fn start(&self) -> Vec<&str>;
    /// The processes that look after containers.
    fn monitors(&self) -> Result<Vec<i32>>;
}

struct OfStrata<'a>(&'a Strata);

impl Engine for OfStrata<'_> {
    fn name(&self) -> &'static str {
        "strata"
    }

    fn run(&self, words: &[&str]) -> Result<(Output, Duration)> {
        Ok(timed(&mut self.0.command(words))?)
    }

    fn start(&self) -> Vec<&str> {
        vec!["busybox"]
    }

    fn monitors(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        for bundle in fs::read_dir(self.0.state().join("default"))? {
            let state = fs::read_to_string(bundle?.path().join("state.json"))?;
            let state: serde_json::Value = serde_json::from_str(&state)?;
            let pid = state["supervisor"]["pid"].as_i64().context("state.json")?;
            pids.push(i32::try_from(pid)?);
        }
        Ok(pids)
    }
}

struct OfPodman<'a>(&'a Podman, &'a WithoutCgroup2, PathBuf);

impl Engine for OfPodman<'_> {
    fn name(&self) -> &'static str {
        "podman"
    }

    fn run(&self, words: &[&str]) -> Result<(Output, Duration)> {
        self.1.timed(self.0.command(words))
    }

    fn start(&self) -> Vec<&str> {
        self.0.start_words()
    }

    fn monitors(&self) -> Result<Vec<i32>> {
        let store = self.2.display().to_string();
        let mut pids = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let of_it = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
            if of_it("comm").trim_end() == "conmon" && of_it("cmdline").contains(&store) {
                pids.extend(
                    entry
                        .file_name()
                        .to_str()
                        .and_then(|name| name.parse::<i32>().ok()),
                );
            }
        }
        Ok(pids)
    }
}

/// What one engine took at one level.
struct Measured {
    engine: &'static str,
    level: usize,
    samples: Vec<Sample>,
    /// Kibibytes and descriptors of the process that looks after a container, the median one's. Of the private ones a single
    /// process has its program's pages too, which several share; dirty are those that are never shared.
    private: u64,
    dirty: u64,
    files: usize,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let release = Release::build()?;
    let place = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in("/var/tmp")?;
    let image = Image::busybox();
    let strata = Strata::beneath(place.path(), &release.strata);
    let passing = [place.path().join("podman-run"), strata.state()];
    let _passing = Tmpfs::mount(passing.into_iter())?;
    strata.load(&image);
    let hidden = WithoutCgroup2::new()?;
    let podman = Podman::prepare(place.path(), &image, &hidden)?;
    println!("{}", machine());
    println!(
        "busybox that waits; each thing {} times, interleaved, the work checked",
        args.n
    );
    let engines: [Box<dyn Engine + '_>; 2] = [
        Box::new(OfStrata(&strata)),
        Box::new(OfPodman(&podman, &hidden, place.path().to_owned())),
    ];
    let done = levels(args, &engines);
    for engine in &engines {
        let _ = engine.run(&["rm", "-f", "-a"]);
    }
    show(&done?);
    Ok(())
}

fn levels(args: &Args, engines: &[Box<dyn Engine + '_>]) -> Result<Vec<Measured>> {
    let mut measured = Vec::new();
    let mut there = [0, 0];
    for &level in &args.levels {
        let taking: Vec<usize> = (0..engines.len())
            .filter(|at| *at == 0 || level <= args.podman_to)
            .collect();
        for &at in &taking {
            while there[at] < level {
                there[at] += 1;
                begin(&*engines[at], &format!("idle{}", there[at]))?;
            }
        }
        let mut samples = vec![vec![Sample::default(); VERBS.len()]; engines.len()];
        // The first round fills caches and is not counted.
        for round in 0..=args.n {
            for &at in &taking {
                let took = once(&*engines[at], level, &format!("extra{round}"))?;
                if round > 0 {
                    for (sample, took) in samples[at].iter_mut().zip(took) {
                        sample.push(took);
                    }
                }
            }
        }
        for &at in &taking {
            let (private, dirty, files) = monitors(&*engines[at], level)?;
            measured.push(Measured {
                engine: engines[at].name(),
                level,
                samples: samples[at].clone(),
                private,
                dirty,
                files,
            });
        }
    }
    Ok(measured)
}

fn begin(engine: &dyn Engine, name: &str) -> Result<Duration> {
    let words = ["run", "-d", "--network", "none", "--name", name];
    let words = [&words[..], &engine.start(), &["sh", "-c", IDLE]].concat();
    Ok(ran(engine, &words)?.1)
}

/// What a command printed and took; it must succeed.
fn ran(engine: &dyn Engine, words: &[&str]) -> Result<(String, Duration)> {
    let (output, took) = engine.run(words)?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} {}: {}: {said}", engine.name(), words.join(" "), output.status);
    }
    Ok((String::from_utf8_lossy(&output.stdout).into_owned(), took))
}

/// All of [`VERBS`] with one container more; what each took.
fn once(engine: &dyn Engine, level: usize, name: &str) -> Result<[Duration; VERBS.len()]> {
    let started = begin(engine, name)?;
    let (said, executed) = ran(engine, &["exec", name, "echo", name])?;
    if said.trim_end() != name {
        bail!("{} exec said {said:?}", engine.name());
    }
    let (listed, list) = ran(engine, &["ps", "-q"])?;
    if listed.lines().count() != level + 1 {
        bail!(
            "{} ps listed {} of {}",
            engine.name(),
            listed.lines().count(),
            level + 1
        );
    }
    let (_, stopped) = ran(engine, &["stop", "-t", "30", name])?;
    let (state, _) = ran(
        engine,
        &["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", name],
    )?;
    if state.trim_end() != "exited 0" {
        bail!("{} stopped it, and it is {state:?}", engine.name());
    }
    let (_, removed) = ran(engine, &["rm", name])?;
    Ok([started, executed, list, stopped, removed])
}

/// Private memory and that of it which was written to in KiB, and open descriptors, of the median of the processes that look after containers.
fn monitors(engine: &dyn Engine, level: usize) -> Result<(u64, u64, usize)> {
    let pids = engine.monitors()?;
    if pids.len() != level {
        bail!(
            "{}: {} processes look after {level} containers",
            engine.name(),
            pids.len()
        );
    }
    let (mut private, mut dirty, mut files) = (Vec::new(), Vec::new(), Vec::new());
    for pid in pids {
        let proc = Path::new("/proc").join(pid.to_string());
        let text = fs::read_to_string(proc.join("smaps_rollup"))?;
        let kibibytes = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse().ok()
        };
        let (clean, written) = kibibytes("Private_Clean:")
            .zip(kibibytes("Private_Dirty:"))
            .context("smaps_rollup")?;
        private.push(clean + written);
        dirty.push(written);
        files.push(fs::read_dir(proc.join("fd"))?.count());
    }
    for all in [&mut private, &mut dirty] {
        all.sort_unstable();
    }
    files.sort_unstable();
    let middle = private.len() / 2;
    Ok((private[middle], dirty[middle], files[middle]))
}

fn show(measured: &[Measured]) {
    println!();
    print!("{:8} {:>5}", "", "run");
    for verb in VERBS {
        print!(" {verb:>8}");
    }
    println!("   private     dirty  files");
    for one in measured {
        print!("{:8} {:>5}", one.engine, one.level);
        for sample in &one.samples {
            print!(" {:8.2}", sample.median());
        }
        println!("  {:>4} KiB  {:>4} KiB  {:>5}", one.private, one.dirty, one.files);
    }
    println!("\nhow many times strata fits into podman, and what it takes beside itself with one:");
    let of = |engine: &str, level: usize| {
        measured
            .iter()
            .find(|one| one.engine == engine && one.level == level)
    };
    let Some(least) = measured.iter().find(|one| one.engine == "strata") else {
        return;
    };
    for one in measured.iter().filter(|one| one.engine == "strata") {
        print!("{:8} {:>5}", "", one.level);
        for (verb, sample) in one.samples.iter().enumerate() {
            let beside = sample.median() / least.samples[verb].median();
            match of("podman", one.level) {
                Some(podman) => print!(
                    " {:5.1} {beside:4.2}",
                    podman.samples[verb].median() / sample.median()
                ),
                None => print!("     – {beside:4.2}"),
            }
        }
        println!();
    }
}
