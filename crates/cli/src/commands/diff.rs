//! `strata diff`: what a container changed in its root file system.

use clap::Args;
use engine::diff::ChangeKind;

use super::{Context, Outcome, print};
use crate::render::{self, Format};

/// Show what a container changed in its root file system
///
/// A is added, C changed, D deleted.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The container, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: DiffArgs) -> Outcome {
    let changes = context.engine()?.diff(&args.container)?;
    let style = context.style;
    print(|out| match args.format {
        Format::Json => render::json(out, &changes),
        Format::Table => changes.iter().try_for_each(|change| {
            let letter = match change.kind {
                ChangeKind::Added => style.green("A"),
                ChangeKind::Modified => style.yellow("C"),
                ChangeKind::Deleted => style.red("D"),
            };
            writeln!(out, "{letter} {}", change.path.display())
        }),
    })
}
