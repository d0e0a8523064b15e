//! `cargo xtask bench start`: from the command to its end, everything that one start of a container costs.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use sys::mount::{FsContext, MountAttrFlags};
use testkit::{Image, Layer, Strata};

use super::peers::{Bundle, Podman, WithoutCgroup2, timed};
use super::rootless;
use super::{Release, Sample, machine, table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each is started
    #[arg(short, default_value_t = 50)]
    n: usize,
    /// As an ordinary user, beside podman as that user and strata as root
    #[arg(long)]
    rootless: bool,
    /// Leave out what starts a hundred at once and puts a thousand in the store
    #[arg(long)]
    short: bool,
}

/// Makes the command that is to print a token.
type Make<'a> = Box<dyn Fn(&str) -> Result<Command> + 'a>;

/// One way to start a container that prints a token.
struct Contestant<'a> {
    name: &'static str,
    command: Make<'a>,
    hidden_cgroup2: bool,
    sample: Sample,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let release = Release::build()?;
    if args.rootless {
        return rootless::main(&release, args.n);
    }
    // On the file system of /var/lib, as the stores of all of them are.
    let place = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in("/var/tmp")?;
    let image = Image::busybox();
    let strata = Strata::beneath(place.path(), &release.strata);
    let passing = ["podman-run", "runtimes"].map(|name| place.path().join(name));
    let _passing = Tmpfs::mount(passing.into_iter().chain([strata.state()]))?;
    strata.load(&image);
    let bundle = Bundle::prepare(place.path(), &strata, &Layer::busybox().finish())?;
    let hidden = WithoutCgroup2::new()?;
    let podman = Podman::prepare(place.path(), &image, &hidden)?;

    println!("{}", machine());
    println!(
        "busybox prints one word; n = {}, interleaved; seccomp filter in the bundle: {}; podman's flags: {}",
        args.n,
        if bundle.filtered() { "yes" } else { "NO" },
        podman.flags()
    );
    let lower = place.path().join("bundle/rootfs");
    let scratch = place.path().join("floor");
    let mut contestants = contestants(&strata, &release.floor, &lower, &scratch, &bundle, &podman);
    // The first round fills caches and is not counted.
    for round in 0..=args.n {
        for contestant in &mut contestants {
            let token = format!("token-{round}");
            let command = (contestant.command)(&token)?;
            let (output, took) = if contestant.hidden_cgroup2 {
                hidden.timed(command)?
            } else {
                timed(&mut { command })?
            };
            check(contestant.name, &token, &output)?;
            if round > 0 {
                contestant.sample.push(took);
            }
        }
    }
    show(&contestants);
    if !args.short {
        at_once(&strata, 100)?;
        thousand(&strata, args.n)?;
    }
    Ok(())
}

/// What lives no longer than the machine is up lies on a tmpfs, as `/run` does wherever systemd runs.
pub(super) struct Tmpfs(Vec<PathBuf>);

impl Tmpfs {
    pub(super) fn mount(targets: impl Iterator<Item = PathBuf>) -> Result<Tmpfs> {
        let mut mounted = Tmpfs(Vec::new());
        for target in targets {
            std::fs::create_dir(&target)?;
            let tmpfs = FsContext::open("tmpfs")?.mount(MountAttrFlags::empty())?;
            sys::mount::attach_at(tmpfs.as_fd(), &target)?;
            mounted.0.push(target);
        }
        Ok(mounted)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        for target in &self.0 {
            let _ = sys::mount::detach_at(target);
        }
    }
}

fn contestants<'a>(
    strata: &'a Strata,
    floor: &'a Path,
    lower: &'a Path,
    scratch: &'a Path,
    bundle: &'a Bundle,
    podman: &'a Podman,
) -> Vec<Contestant<'a>> {
    let one = |name, command: Make<'a>| Contestant {
        name,
        command,
        hidden_cgroup2: false,
        sample: Sample::default(),
    };
    let floor = move |token: &str| {
        let mut command = Command::new(floor);
        command
            .arg(lower)
            .arg(scratch)
            .args(["/bin/busybox", "echo", token]);
        Ok(command)
    };
    vec![
        one("floor", Box::new(floor)),
        one(
            "strata run --rm",
            Box::new(|token| {
                Ok(strata.command(["run", "--rm", "--network", "none", "busybox", "echo", token]))
            }),
        ),
        Contestant {
            hidden_cgroup2: true,
            ..one("crun run", Box::new(|token| bundle.run("crun", token)))
        },
        one("runc run", Box::new(|token| bundle.run("runc", token))),
        Contestant {
            hidden_cgroup2: true,
            ..one("podman run --rm", Box::new(|token| Ok(podman.run(token))))
        },
    ]
}

/// The word came from inside, and the exit code is the word's.
pub(super) fn check(name: &str, token: &str, output: &Output) -> Result<()> {
    if output.status.success() && output.stdout == format!("{token}\n").as_bytes() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!(
        "{name} ended with {} and said {:?}: {said}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    )
}

fn show(contestants: &[Contestant]) {
    let sample = |wanted: &str| {
        let found = contestants
            .iter()
            .find(|contestant| contestant.name.starts_with(wanted));
        found.map(|contestant| &contestant.sample).expect("listed above")
    };
    let rows: Vec<_> = contestants
        .iter()
        .map(|contestant| (contestant.name, &contestant.sample))
        .collect();
    println!(
        "\n{}",
        table(
            &rows,
            &[
                ("floor", sample("floor")),
                ("crun", sample("crun")),
                ("strata", sample("strata"))
            ]
        )
    );
    let strata = sample("strata").median();
    let faster = |peer: &str| sample(peer).median() / strata;
    println!("wanted: 10 times faster than podman   is {:.1}", faster("podman"));
    println!(
        "wanted: faster than crun run          is {:.2} times",
        faster("crun")
    );
    println!(
        "wanted: within 3 times of the floor   is {:.2}",
        1.0 / faster("floor")
    );
}

/// Many at once: all must come up.
fn at_once(strata: &Strata, many: usize) -> Result<()> {
    let started = Instant::now();
    let mut running = Vec::new();
    for number in 0..many {
        let token = format!("token-{number}");
        let mut command = strata.command(["run", "--rm", "--network", "none", "busybox", "echo", &token]);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("strata")?;
        running.push((token, child));
    }
    for (token, child) in running {
        check("one of many", &token, &child.wait_with_output()?)?;
    }
    let took = started.elapsed();
    println!(
        "\n{many} at once: all came up and were gone after {:.2} s, {:.1} ms each",
        took.as_secs_f64(),
        took.as_secs_f64() * 1000.0 / many as f64
    );
    Ok(())
}

/// A thousand containers that have ended, in the store: the next start must not notice.
fn thousand(strata: &Strata, n: usize) -> Result<()> {
    let before = starts(strata, n)?;
    let started = Instant::now();
    for number in 0..1000 {
        let token = format!("token-{number}");
        check(
            "one of a thousand",
            &token,
            &timed(&mut strata.command(["run", "--network", "none", "busybox", "echo", &token]))?.0,
        )?;
    }
    let filling = started.elapsed();
    let after = starts(strata, n)?;
    let listed = timed(&mut strata.command(["ps", "-a", "--format", "json"]))?.1;
    println!(
        "1000 in the store (put there in {:.1} s): the next start takes {:.2} ms, before {:.2} ms, × {:.2}; ps -a {:.1} ms",
        filling.as_secs_f64(),
        after.median(),
        before.median(),
        after.median() / before.median(),
        listed.as_secs_f64() * 1000.0
    );
    Ok(())
}

fn starts(strata: &Strata, n: usize) -> Result<Sample> {
    let mut sample = Sample::default();
    for round in 0..=n {
        let token = format!("token-{round}");
        let (output, took): (Output, Duration) =
            timed(&mut strata.command(["run", "--rm", "--network", "none", "busybox", "echo", &token]))?;
        check("strata run", &token, &output)?;
        if round > 0 {
            sample.push(took);
        }
    }
    Ok(sample)
}
