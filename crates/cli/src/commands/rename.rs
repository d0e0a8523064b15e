//! `strata rename`: another name for a container.

use clap::Args;
use runtime::options::process;

use super::{Context, Outcome};
use crate::failure::Failure;

/// Give a container another name
#[derive(Debug, Args)]
pub(crate) struct RenameArgs {
    /// The container, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Its new name
    #[arg(value_name = "NAME")]
    name: String,
}

pub(crate) fn run(context: &Context, args: RenameArgs) -> Outcome {
    let name = process::name(&args.name).map_err(|error| {
        Failure::user(format!("the name {:?}: {}", args.name, error.problem)).hint(error.hint)
    })?;
    context.engine()?.rename(&args.container, &name)?;
    Ok(0)
}
