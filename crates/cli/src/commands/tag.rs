//! `strata tag`: another name for an image.

use clap::Args;

use super::{Context, Outcome, note_host};

/// Give an image another name
#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The image, by name or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// New names
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

pub(crate) fn run(context: &Context, args: TagArgs) -> Outcome {
    let engine = context.engine()?;
    for name in &args.names {
        let name = engine.tag(&args.image, name)?;
        note_host([name].iter());
    }
    Ok(0)
}
