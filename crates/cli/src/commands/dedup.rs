//! `strata dedup`: equal files of different layers onto the same blocks.

use clap::Args;

use super::{Context, Outcome, print};
use crate::progress;
use crate::render::size::human;
use crate::render::{self, Format};

/// Let equal files of different layers share their blocks, where the file system can (xfs, btrfs)
///
/// Content and attributes of the layers stay as they are. `strata df` tells what is saved.
#[derive(Debug, Args)]
pub(crate) struct DedupArgs {
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: DedupArgs) -> Outcome {
    let progress = progress::choose(false, progress::READ);
    let told = context.engine()?.dedup(&*progress)?;
    drop(progress);
    print(|out| match args.format {
        Format::Json => render::json(out, &told),
        Format::Table => writeln!(
            out,
            "{} files share blocks now, {} freed; {} saved in all",
            told.files,
            human(told.bytes),
            human(told.saved)
        ),
    })
}
