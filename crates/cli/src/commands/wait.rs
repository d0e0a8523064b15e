//! `strata wait`: for the end of containers.

use clap::{Args, ValueEnum};

use super::{Context, Outcome, for_each, print};

/// Wait until containers do not run, and print their exit codes
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    /// What is waited for: stopped, or healthy, which prints nothing
    #[arg(long, value_name = "CONDITION", default_value = "stopped")]
    condition: Condition,
}

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Condition {
    /// That it does not run
    #[value(alias = "exited")]
    Stopped,
    /// That its health check succeeds
    Healthy,
}

pub(crate) fn run(context: &Context, args: WaitArgs) -> Outcome {
    let engine = context.engine()?;
    Ok(for_each(&args.containers, |name| {
        if args.condition == Condition::Healthy {
            return Ok(engine.wait_healthy(name)?);
        }
        let code = engine.wait(name)?;
        print(|out| writeln!(out, "{code}")).map(drop)
    }))
}
