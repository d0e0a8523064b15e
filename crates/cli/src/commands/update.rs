//! `strata update`: other limits for containers, and another restart policy.

use clap::Args;
use engine::update::Update;
use runtime::options::lifecycle;

use super::limits::LimitArgs;
use super::{Context, Outcome, for_each, print};
use crate::failure::Failure;

/// Change the limits of containers
///
/// At once where they run, and from the next start on. What is not named stays as it is.
#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Whether it is started again after its end: no, always, unless-stopped or on-failure[:TIMES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
}

pub(crate) fn run(context: &Context, args: UpdateArgs) -> Outcome {
    let update = Update {
        resources: args.limits.resources()?,
        restart: args.restart.as_deref().map(lifecycle::restart).transpose()?,
    };
    if update == Update::default() {
        return Err(Failure::user("nothing is to be changed").hint("strata update --help lists what can be"));
    }
    let engine = context.engine()?;
    Ok(for_each(&args.containers, |name| {
        engine.update(name, &update)?;
        print(|out| writeln!(out, "{name}")).map(drop)
    }))
}
