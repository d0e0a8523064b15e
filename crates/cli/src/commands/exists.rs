//! `strata container exists` and the like, as podman's scripts ask.

use clap::Args;

use super::inspect::Kind;
use super::{Context, Outcome};

/// Tell by the exit code whether there is one: 0, or 1 for none
#[derive(Debug, Args)]
pub(crate) struct ExistsArgs {
    /// By name or the beginning of an id
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(context: &Context, args: &ExistsArgs, kind: Kind) -> Outcome {
    let there = context.engine()?.exists(&args.name, kind.into())?;
    Ok(u8::from(!there))
}
