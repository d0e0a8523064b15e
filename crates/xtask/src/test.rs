//! `cargo xtask test`: everything that shows that strata works, in one command.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::build::{self, TestProgram};
use crate::leftovers::{self, Before};
use crate::libtest::{self, Tally};
use crate::{newer, packages, vm};

/// One test program may take this long before it counts as hung. The slowest takes a tenth.
const LIMIT: Duration = Duration::from_secs(15 * 60);

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leave out the cases that run on Debian's kernel in a virtual machine
    #[arg(long)]
    no_vm: bool,
    /// Run the cases in the virtual machine only
    #[arg(long, conflicts_with = "no_vm")]
    only_vm: bool,
    /// Run only test programs, or single tests, whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Show everything that the tests print
    #[arg(long)]
    show: bool,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!(
            "the tests mount file systems and start containers, which needs root\n\
             hint: run `sudo -E $(which cargo) xtask test`; unit tests alone run with `cargo test --lib`"
        );
    }
    packages::install_missing()?;
    newer::unpack()?;
    let started = Instant::now();
    let mut total = Tally::default();
    if !args.only_vm {
        total.add(on_this_machine(args)?);
    }
    if !args.no_vm {
        total.add(vm::test(args.only.as_deref(), args.show)?);
    }
    conclude(&total, started.elapsed())
}

fn on_this_machine(args: &Args) -> Result<Tally> {
    let built = build::tests(&["--workspace"])?;
    leftovers::set_apart()?;
    let mut total = Tally::default();
    for test in &built.tests {
        let Some(filter) = filter(test, args.only.as_deref()) else {
            continue;
        };
        total.add(run_program(test, filter, args.show)?);
    }
    Ok(total)
}

/// How `--only` applies to a program: none when it is to be left out, else the filter to hand it.
pub(crate) fn filter<'a>(test: &TestProgram, only: Option<&'a str>) -> Option<&'a str> {
    match only {
        None => Some(""),
        Some(only) if test.name.contains(only) => Some(""),
        Some(only) => {
            let listed = Command::new(&test.executable)
                .args([only, "--list", "--format=terse"])
                .current_dir(&test.package_dir)
                .stderr(Stdio::null())
                .output()
                .ok()?;
            (!listed.stdout.is_empty()).then_some(only)
        }
    }
}

fn run_program(test: &TestProgram, filter: &str, show: bool) -> Result<Tally> {
    let started = Instant::now();
    let mut command = Command::new(&test.executable);
    command
        .arg(filter)
        .current_dir(&test.package_dir)
        .env("CARGO_MANIFEST_DIR", &test.package_dir);
    let before = Before::look();
    let mut tally = libtest::run(&test.name, command, LIMIT, show)?;
    let left = before.left();
    tally.failed.extend(
        left.into_iter()
            .map(|what| format!("{} left behind: {what}", test.name)),
    );
    if tally != Tally::default() {
        report(&test.name, &tally, started.elapsed());
    }
    Ok(tally)
}

/// One line per program, as it ends.
pub(crate) fn report(name: &str, tally: &Tally, took: Duration) {
    let verdict = if tally.failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "{name}: {verdict}. {} passed; {} failed; {:.1} s",
        tally.passed,
        tally.failed.len(),
        took.as_secs_f64()
    );
}

fn conclude(total: &Tally, took: Duration) -> Result<()> {
    println!();
    for name in &total.failed {
        println!("failed: {name}");
    }
    let good = total.failed.is_empty() && total.ignored == 0 && total.passed > 0;
    println!(
        "test result: {}. {} passed; {} failed; {} ignored; 0 measured; 0 filtered out; finished in {:.2}s",
        if good { "ok" } else { "FAILED" },
        total.passed,
        total.failed.len(),
        total.ignored,
        took.as_secs_f64()
    );
    match good {
        true => Ok(()),
        false if total.passed == 0 && total.failed.is_empty() => bail!("no test ran"),
        false => bail!("the tests failed"),
    }
}
