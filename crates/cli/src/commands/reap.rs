//! `strata reap`: what a supervisor runs at its container's end when nobody else is there. No command of the user's.

use clap::Args;

use super::{Context, Outcome};

/// Look after a container that has ended
#[derive(Debug, Args)]
pub(crate) struct ReapArgs {
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

pub(crate) fn run(context: &Context, args: &ReapArgs) -> Outcome {
    context.engine()?.reap(&args.id)?;
    Ok(0)
}
