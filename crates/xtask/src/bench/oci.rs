//! `cargo xtask bench oci`: what an engine has done by its OCI runtime, on the same bundle: a container created, started
//! and deleted, and one more program in one that runs; with a seccomp filter and without.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use testkit::{Image, Layer, Strata};

use super::peers::{Bundle, WithoutCgroup2, timed};
use super::{Release, Sample, machine, table};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often each is done
    #[arg(short, default_value_t = 30)]
    n: usize,
}

/// One runtime.
struct Contestant<'a> {
    name: &'static str,
    program: PathBuf,
    /// Of a runtime that refuses to run beside a cgroup2 of a hybrid machine.
    hidden: Option<&'a WithoutCgroup2>,
    state: PathBuf,
    life: Sample,
    exec: Sample,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let release = Release::build()?;
    let place = tempfile::Builder::new()
        .prefix("strata-bench-")
        .tempdir_in("/var/tmp")?;
    let strata = Strata::beneath(place.path(), &release.strata);
    strata.load(&Image::busybox());
    let mut bundle = Bundle::prepare(place.path(), &strata, &Layer::busybox().finish())?;
    let hidden = WithoutCgroup2::new()?;
    let ours = place.path().join("strata-oci");
    std::os::unix::fs::symlink(&release.strata, &ours)?;
    println!("{}", machine());
    for filtered in [true, false] {
        if !filtered {
            bundle.without_filter();
        }
        let dir = bundle.write(&["sleep", "600"])?;
        let one = |name, program: &Path, hidden| Contestant {
            name,
            program: program.to_owned(),
            hidden,
            state: place.path().join(name),
            life: Sample::default(),
            exec: Sample::default(),
        };
        let mut contestants = [
            one("strata", &ours, None),
            one("crun", Path::new("crun"), Some(&hidden)),
            one("runc", Path::new("runc"), None),
        ];
        // The first round fills caches and is not counted.
        for round in 0..=args.n {
            for contestant in &mut contestants {
                let (life, exec) = contestant.round(&dir)?;
                if round > 0 {
                    contestant.life.push(life);
                    contestant.exec.push(exec);
                }
            }
        }
        let filter = if bundle.filtered() { "with" } else { "without" };
        show(
            &format!("create, start, delete, {filter} a seccomp filter; n = {}", args.n),
            contestants.each_ref().map(|one| (one.name, &one.life)),
        );
        show(
            &format!("exec, {filter} a seccomp filter; n = {}", args.n),
            contestants.each_ref().map(|one| (one.name, &one.exec)),
        );
    }
    Ok(())
}

fn show(what: &str, rows: [(&str, &Sample); 3]) {
    println!("\n{what}\n{}", table(&rows, &[rows[1], rows[2]]));
    let faster = rows[1].1.median() / rows[0].1.median();
    println!("wanted: twice as fast as crun   is {faster:.2} times");
}

impl Contestant<'_> {
    /// One container's life, and one more program in it.
    fn round(&self, bundle: &Path) -> Result<(Duration, Duration)> {
        let bundle = bundle.display().to_string();
        let mut life = self.call(&["create", "--bundle", &bundle, "bench"])?;
        life += self.call(&["start", "bench"])?;
        let exec = self.call(&["exec", "bench", "true"])?;
        life += self.call(&["delete", "--force", "bench"])?;
        Ok((life, exec))
    }

    fn call(&self, words: &[&str]) -> Result<Duration> {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(&self.state).args(words);
        // A container keeps them.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (output, took) = match self.hidden {
            Some(hidden) => hidden.timed(command)?,
            None => timed(&mut command)?,
        };
        match output.status.success() {
            true => Ok(took),
            false => bail!("{} {words:?}: {}", self.name, output.status),
        }
    }
}
