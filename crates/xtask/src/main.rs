//! The project's own tools, started as `cargo xtask COMMAND`.
//!
//! One file per command. Nothing here is part of the program that users install: it builds that program, starts
//! it, and looks at what it did. Start reading at `test.rs`; `vm/` boots Debian's own kernel for the cases that
//! the machine's kernel cannot show.

mod ask;
mod bench;
mod build;
mod conformance;
mod dist;
mod leftovers;
mod libtest;
mod newer;
mod packages;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own tools", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need, run all of them, then those that need another kernel
    Test(test::Args),
    /// Measure, against the peers, in one interleaved run
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Run what others test file systems with, on the kernel's overlay and on ours
    Conformance(conformance::Args),
    /// Make the shell completions and the man pages
    Dist(dist::Args),
    /// Do random things to the program, and kill it at random moments, for as long as one likes
    Soak(soak::Args),
    /// Ask a snapshotter as containerd does
    #[command(hide = true)]
    Ask(ask::Args),
}

fn main() -> ExitCode {
    let ended = match Cli::parse().command {
        Command::Test(args) => test::main(&args),
        Command::Bench(bench) => bench::main(&bench),
        Command::Conformance(args) => conformance::main(&args),
        Command::Dist(args) => dist::main(&args),
        Command::Soak(args) => soak::main(&args),
        Command::Ask(args) => ask::main(&args),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
