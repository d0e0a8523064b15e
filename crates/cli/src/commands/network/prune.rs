//! `strata network prune`.

use clap::Args;

use crate::commands::prune::{self, Filter};
use crate::commands::{Context, Outcome, print};
use crate::failure::Failure;

/// Remove networks that no container is to be in
#[derive(Debug, Args)]
pub(crate) struct PruneArgs {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Only what fits: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "FILTER")]
    filter: Vec<Filter>,
}

pub(crate) fn run(context: &Context, args: PruneArgs) -> Outcome {
    if args
        .filter
        .iter()
        .any(|filter| matches!(filter, Filter::Dangling(_) | Filter::All(_)))
    {
        return Err(
            Failure::user("--filter: dangling is of images, and all of volumes")
                .hint("there are label, label! and until"),
        );
    }
    if !args.force {
        prune::ask(["all networks that no container is to be in".to_owned()])?;
    }
    let gone = context.engine()?.prune_networks(|network| {
        args.filter.iter().all(|filter| match filter {
            Filter::Until(time) => network.created < *time,
            Filter::Label(label) => {
                let value = network.labels.get(&label.key);
                let fits = value.is_some_and(|value| label.value.as_ref().is_none_or(|asked| asked == value));
                fits != label.not
            }
            Filter::Dangling(_) | Filter::All(_) => true,
        })
    })?;
    print(|out| {
        gone.iter()
            .try_for_each(|network| writeln!(out, "Network {}", network.name))
    })
}
