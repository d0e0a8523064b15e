//! `strata update`: other limits for containers, and another restart policy.

use clap::Args;
use engine::update::Update;
use runtime::options::{lifecycle, limits};

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
    /// Memory limit, 0 for none
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Limit of memory and swap together, -1 for no limit of swap
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// How many CPUs' worth of time, 0 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// How many processes and threads, -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Whether it is started again after its end: no, always, unless-stopped or on-failure[:TIMES]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
}

pub(crate) fn run(context: &Context, args: UpdateArgs) -> Outcome {
    let update = Update {
        memory: args.memory.as_deref().map(limits::memory).transpose()?,
        memory_swap: args.memory_swap.as_deref().map(limits::memory_swap).transpose()?,
        cpu_quota: args.cpus.as_deref().map(limits::cpus).transpose()?,
        pids_limit: args.pids_limit.as_deref().map(limits::pids_limit).transpose()?,
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
