//! `strata pause` and `strata unpause`: holds containers still, and lets them go on.

use clap::Args;

use super::{Context, Outcome, for_each, print};

/// Hold all processes of containers still
#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    which: Which,
}

/// Let the processes of paused containers go on
#[derive(Debug, Args)]
pub(crate) struct UnpauseArgs {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Which {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,
    /// All containers of the namespace that it can be done to
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
}

pub(crate) fn pause(context: &Context, args: PauseArgs) -> Outcome {
    each(context, args.which, false)
}

pub(crate) fn unpause(context: &Context, args: UnpauseArgs) -> Outcome {
    each(context, args.which, true)
}

fn each(context: &Context, which: Which, paused: bool) -> Outcome {
    let engine = context.engine()?;
    let names = match which.all {
        true => engine
            .ps(false)?
            .into_iter()
            .filter(|c| (c.state.word() == "paused") == paused)
            .map(|c| c.id)
            .collect(),
        false => which.containers,
    };
    Ok(for_each(&names, |name| {
        match paused {
            false => engine.pause(name)?,
            true => engine.unpause(name)?,
        }
        print(|out| writeln!(out, "{name}")).map(drop)
    }))
}
