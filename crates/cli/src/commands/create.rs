//! `strata create`: a container that is made and not started.

use clap::Args;

use super::run::{self, ContainerArgs};
use super::{Context, Outcome, print};
use crate::progress;

/// Make a container, and do not start it
///
/// It is started with `strata start`. IMAGE is a name in the local store, and is pulled when it is missing; or `host`,
/// which is this machine's own root file system: see `strata run --help`.
#[derive(Debug, Args)]
#[command(
    override_usage = "strata create [OPTIONS] IMAGE [COMMAND] [ARG...]\n       \
                            strata create [OPTIONS] --rootfs DIR COMMAND [ARG...]",
    disable_help_flag = true
)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    container: ContainerArgs,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

pub(crate) fn run(context: &Context, args: CreateArgs) -> Outcome {
    let args = args.container;
    let request = run::request(context, &args)?;
    let cidfile = args.cidfile.as_deref().map(run::Cidfile::make).transpose()?;
    let engine = context.engine()?;
    let base = engine.base(&request, progress::choose(args.quiet, progress::FETCH).as_ref())?;
    if args.replace {
        run::replace(&engine, &request)?;
    }
    let made = engine.create(&request, base)?;
    if let Some(Err(failure)) = cidfile.map(|file| file.write(&made.id)) {
        engine.rm(&made.id, true, true)?;
        return Err(failure);
    }
    print(|out| writeln!(out, "{}", made.id))
}
