//! `strata ps`: the containers.

use clap::Args;
use engine::ps::Container;
use engine::state::State;
use jiff::Timestamp;

use super::{Context, Outcome, print};
use crate::render::table::Table;
use crate::render::time::{ago, since};
use crate::render::{self, Format};

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
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

pub(crate) fn run(context: &Context, args: PsArgs) -> Outcome {
    let containers = context.engine()?.ps(args.all)?;
    print(|out| match (args.quiet, args.format) {
        (true, _) => containers
            .iter()
            .try_for_each(|c| writeln!(out, "{}", render::id(&c.id, args.no_trunc))),
        (_, Format::Json) => render::json(out, &containers),
        (_, Format::Table) => table(&containers, args.no_trunc, Timestamp::now()).write(out, context.style),
    })
}

fn table(containers: &[Container], full: bool, now: Timestamp) -> Table {
    let mut table = Table::new(&["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"]);
    for c in containers {
        let command = format!("\"{}\"", c.command.join(" "));
        table.row([
            render::id(&c.id, full).to_owned(),
            if full {
                c.image.clone()
            } else {
                render::cut(&c.image, 40)
            },
            if full { command } else { render::cut(&command, 20) },
            ago(Some(c.created), now),
            status(&c.state, now),
            c.name.clone(),
        ]);
    }
    table
}

/// A state in docker's words: `Up 3 minutes`, `Exited (0) 2 hours ago`.
pub(crate) fn status(state: &State, now: Timestamp) -> String {
    match state {
        State::Created => "Created".to_owned(),
        State::Running { started, .. } => format!("Up {}", since(*started, now)),
        State::Exited { code, at, .. } => format!("Exited ({code}) {}", ago(*at, now)),
        State::Lost => "Lost".to_owned(),
    }
}
