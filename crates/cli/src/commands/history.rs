//! `strata history`: the build steps of an image.

use clap::Args;
use engine::history::Step;
use jiff::Timestamp;

use super::{Context, Outcome, print};
use crate::render;
use crate::render::size::human;
use crate::render::table::Table;
use crate::render::template::{self, Field, ListFormat};
use crate::render::time::ago;

/// Show the build steps of an image, the last first
#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The image, by name or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Only the digests of layers
    #[arg(short, long)]
    quiet: bool,
    /// Whole digests and steps
    #[arg(long)]
    no_trunc: bool,
    /// Form of the output: table, json, or fields such as '{{.CreatedBy}} {{.Size}}'
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: ListFormat,
}

pub(crate) fn run(context: &Context, args: HistoryArgs) -> Outcome {
    let steps = context.engine()?.history(&args.image)?;
    let now = Timestamp::now();
    let full = args.no_trunc;
    let lines = match &args.format {
        ListFormat::Template(template) => template.lines(&fields(full, now), None, "IMAGE", &steps)?,
        _ => Vec::new(),
    };
    print(|out| match (args.quiet, &args.format) {
        (true, _) => steps
            .iter()
            .try_for_each(|step| writeln!(out, "{}", layer(step, full))),
        (_, ListFormat::Json) => render::json(out, &steps),
        (_, ListFormat::Template(_)) => template::write(out, &lines),
        (_, ListFormat::Table) => {
            let mut table = Table::new(&["LAYER", "CREATED", "CREATED BY", "SIZE", "COMMENT"]);
            for step in &steps {
                table.row([
                    layer(step, full),
                    ago(step.created, now),
                    created_by(step, full),
                    human(step.size),
                    step.comment.clone(),
                ]);
            }
            table.write(out, context.style)
        }
    })
}

/// The layer that a step made.
fn layer(step: &Step, full: bool) -> String {
    let id = step.diff_id.as_deref().map(|id| render::id(id, full).to_owned());
    id.unwrap_or_else(|| "<none>".to_owned())
}

/// A step on one line.
fn created_by(step: &Step, full: bool) -> String {
    let words = step.created_by.split_whitespace().collect::<Vec<_>>().join(" ");
    if full { words } else { render::cut(&words, 45) }
}

/// Docker's names for what a template shows.
fn fields(full: bool, now: Timestamp) -> [Field<Step>; 6] {
    [
        ("ID", Box::new(move |step| layer(step, full))),
        ("CreatedSince", Box::new(move |step| ago(step.created, now))),
        (
            "CreatedAt",
            Box::new(|step| step.created.map_or_else(|| "N/A".to_owned(), |at| at.to_string())),
        ),
        ("CreatedBy", Box::new(move |step| created_by(step, full))),
        ("Size", Box::new(|step| human(step.size))),
        ("Comment", Box::new(|step| step.comment.clone())),
    ]
}
