//! `strata rmi`: removes images.

use clap::Args;

use super::{Context, Outcome, for_each, print};
use crate::failure::Failure;

/// Remove images
///
/// Layers and blobs that no other image and no container needs are freed.
#[derive(Debug, Args)]
pub(crate) struct RmiArgs {
    /// Images, by name or the beginning of an id
    #[arg(value_name = "IMAGE", required_unless_present = "all")]
    images: Vec<String>,
    /// Remove an image that has several names under all of them, and one that containers use; an image that does
    /// not exist is no error
    #[arg(short, long)]
    force: bool,
    /// All images of the namespace
    #[arg(short, long, conflicts_with = "images")]
    all: bool,
}

pub(crate) fn run(context: &Context, args: RmiArgs) -> Outcome {
    let engine = context.engine()?;
    let names = match args.all {
        true => engine.images(None)?.into_iter().map(|i| i.name).collect(),
        false => args.images,
    };
    let mut any = false;
    let code = for_each(&names, |name| match engine.rmi(name, args.force) {
        Ok(removed) => {
            any = true;
            let told = print(|out| {
                removed
                    .names
                    .iter()
                    .try_for_each(|name| writeln!(out, "Untagged: {name}"))?;
                removed
                    .id
                    .iter()
                    .try_for_each(|id| writeln!(out, "Deleted: {id}"))
            });
            told.map(drop)
        }
        Err(engine::rmi::RmiError::NotFound(_)) if args.force => Ok(()),
        Err(error) => Err(Failure::from(error)),
    });
    if any {
        engine.collect()?;
    }
    Ok(code)
}
