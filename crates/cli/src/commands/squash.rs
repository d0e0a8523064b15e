//! `strata image squash`: an image's layers made one.

use clap::Args;

use super::{Context, Outcome, note_host, print};
use crate::progress;

/// Make an image of one layer that shows what all layers of another show
///
/// What a layer hides or replaces is gone from the new image; the other stays as it is.
#[derive(Debug, Args)]
pub(crate) struct SquashArgs {
    /// The image, by name or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name of the new image
    #[arg(value_name = "NAME")]
    name: Option<String>,
    /// What the image's history says
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(context: &Context, args: SquashArgs) -> Outcome {
    let progress = progress::choose(args.quiet, progress::UNPACK);
    let (name, message) = (args.name.as_deref(), args.message.as_deref());
    let engine = context.engine()?;
    let squashed = engine.squash(&args.image, name, message, progress.as_ref())?;
    note_host(squashed.names.iter());
    print(|out| writeln!(out, "{}", squashed.id))?;
    context.settle(&engine, &squashed.names);
    Ok(0)
}
