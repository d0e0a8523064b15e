//! `strata ps`: the containers.

use clap::Args;
use engine::ps::Container;
use engine::state::State;
use jiff::Timestamp;

use super::{Context, Outcome, print};
use crate::render;
use crate::render::table::Table;
use crate::render::template::{self, Field, ListFormat};
use crate::render::time::{ago, since};

/// List containers
///
/// Without --all, those that run.
#[derive(Debug, Args)]
pub(crate) struct PsArgs {
    /// List those that do not run too
    #[arg(short, long)]
    all: bool,
    /// Only ids
    #[arg(short, long)]
    quiet: bool,
    /// Whole ids and commands
    #[arg(long)]
    no_trunc: bool,
    /// Form of the output: table, json, or fields such as '{{.ID}} {{.Names}}'
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: ListFormat,
}

pub(crate) fn run(context: &Context, args: PsArgs) -> Outcome {
    let containers = context.engine()?.ps(args.all)?;
    let now = Timestamp::now();
    let lines = match &args.format {
        ListFormat::Template(template) => template.lines(&fields(args.no_trunc, now), &containers)?,
        _ => Vec::new(),
    };
    print(|out| match (args.quiet, &args.format) {
        (true, _) => containers
            .iter()
            .try_for_each(|c| writeln!(out, "{}", render::id(&c.id, args.no_trunc))),
        (_, ListFormat::Json) => render::json(out, &containers),
        (_, ListFormat::Template(_)) => template::write(out, &lines),
        (_, ListFormat::Table) => table(&containers, args.no_trunc, now).write(out, context.style),
    })
}

fn table(containers: &[Container], full: bool, now: Timestamp) -> Table {
    let mut table = Table::new(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]);
    for c in containers {
        let image = if full {
            c.image.clone()
        } else {
            render::cut(&c.image, 40)
        };
        table.row([
            render::id(&c.id, full).to_owned(),
            image,
            command(c, full),
            ago(Some(c.created), now),
            status(&c.state, now),
            c.name.clone(),
        ]);
    }
    table
}

fn command(container: &Container, full: bool) -> String {
    let command = format!("\"{}\"", container.command.join(" "));
    if full { command } else { render::cut(&command, 20) }
}

/// Docker's names for what a template shows.
fn fields(full: bool, now: Timestamp) -> [Field<Container>; 8] {
    let labels = |c: &Container| {
        let labels: Vec<String> = c
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        labels.join(",")
    };
    [
        ("ID", Box::new(move |c| render::id(&c.id, full).to_owned())),
        ("Names", Box::new(|c| c.name.clone())),
        ("Image", Box::new(|c| c.image.clone())),
        ("Command", Box::new(move |c| command(c, full))),
        ("RunningFor", Box::new(move |c| ago(Some(c.created), now))),
        ("State", Box::new(|c| c.state.word().to_owned())),
        ("Status", Box::new(move |c| status(&c.state, now))),
        ("Labels", Box::new(labels)),
    ]
}

/// A state in docker's words: `Up 3 minutes`, `Exited (0) 2 hours ago`.
pub(crate) fn status(state: &State, now: Timestamp) -> String {
    match state {
        State::Created => "Created".to_owned(),
        State::Running { started, .. } => format!("Up {}", since(*started, now)),
        State::Paused { started, .. } => format!("Up {} (Paused)", since(*started, now)),
        State::Restarting { code, at } => format!("Restarting ({code}) {}", ago(Some(*at), now)),
        State::Exited { code, at, .. } => format!("Exited ({code}) {}", ago(*at, now)),
        State::Lost => "Lost".to_owned(),
    }
}
