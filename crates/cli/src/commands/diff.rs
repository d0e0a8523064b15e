//! `strata diff`: what a container changed in its root file system, and how any two of containers, images and layers
//! differ.

use clap::Args;
use engine::diff::{Change, ChangeKind};

use super::{Context, Outcome, print};
use crate::progress;
use crate::render::style::Style;
use crate::render::{self, Format, plain};

/// Show what a container changed in its root file system
///
/// A is added, C changed, D deleted. An image is compared with what lies below its topmost layer. With a second name the
/// first is compared with that: each is a container, an image or a layer. A layer is named by its diff ID, which means
/// its directory alone, or by its chain ID, which means it and all below it.
#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A container, an image or a layer, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER|IMAGE|LAYER")]
    name: String,
    /// What it is compared with
    #[arg(value_name = "CONTAINER|IMAGE|LAYER")]
    other: Option<String>,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: DiffArgs) -> Outcome {
    let progress = progress::choose(false, progress::READ);
    let changes = context
        .engine()?
        .diff(&args.name, args.other.as_deref(), &*progress)?;
    drop(progress);
    write_changes(&changes, args.format, context.style)
}

/// Writes changes as docker does, a letter and a path a line.
pub(crate) fn write_changes(changes: &[Change], format: Format, style: Style) -> Outcome {
    let show = plain::by_reader();
    print(|out| match format {
        Format::Json => render::json(out, &changes),
        Format::Table => changes.iter().try_for_each(|change| {
            let letter = match change.kind {
                ChangeKind::Added => style.green("A"),
                ChangeKind::Modified => style.yellow("C"),
                ChangeKind::Deleted => style.red("D"),
            };
            writeln!(out, "{letter} {}", show(&change.path.to_string_lossy()))
        }),
    })
}
