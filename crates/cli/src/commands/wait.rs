//! `strata wait`: for the end of containers.

use clap::Args;

use super::{Context, Outcome, for_each, print};

/// Wait until containers do not run, and print their exit codes
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

pub(crate) fn run(context: &Context, args: WaitArgs) -> Outcome {
    let engine = context.engine()?;
    Ok(for_each(&args.containers, |name| {
        let code = engine.wait(name)?;
        print(|out| writeln!(out, "{code}")).map(drop)
    }))
}
