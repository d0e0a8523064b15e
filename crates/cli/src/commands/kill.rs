//! `strata kill`: a signal to containers.

use clap::Args;

use super::stop::signal;
use super::{Context, Outcome, for_each, print};

/// Send a signal to the processes of containers
#[derive(Debug, Args)]
pub(crate) struct KillArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,
    /// Signal to send
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    signal: String,
    /// All containers of the namespace that run
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
}

pub(crate) fn run(context: &Context, args: KillArgs) -> Outcome {
    let signal = signal("--signal", &args.signal)?;
    let engine = context.engine()?;
    let names = match args.all {
        true => engine.ps(false)?.into_iter().map(|c| c.id).collect(),
        false => args.containers,
    };
    Ok(for_each(&names, |name| {
        engine.kill(name, signal)?;
        print(|out| writeln!(out, "{name}")).map(drop)
    }))
}
