//! `strata restart`: stops containers and starts them again.

use clap::Args;

use super::stop::StopFlags;
use super::{Context, Outcome, for_each, print};

/// Stop containers that run, and start them again
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    how: StopFlags,
}

pub(crate) fn run(context: &Context, args: RestartArgs) -> Outcome {
    let how = args.how.parse()?;
    let engine = context.engine()?;
    Ok(for_each(&args.containers, |name| {
        engine.restart(name, how)?;
        print(|out| writeln!(out, "{name}")).map(drop)
    }))
}
