//! `strata ps`: the containers.

mod filter;

use std::collections::HashMap;

use clap::Args;
use engine::ps::{Container, Size};
use engine::state::State;
use jiff::Timestamp;

use super::{Context, Outcome, port, print};
use crate::render;
use crate::render::filter::KeyValue;
use crate::render::size::human;
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
    /// Only what fits: id=, name=, label=KEY[=VALUE], status=, exited=CODE, ancestor=IMAGE, before=CONTAINER,
    /// since=CONTAINER, volume=NAME or PATH, health=
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<KeyValue>,
    /// The so many made last, whether they run or not
    #[arg(short = 'n', long, value_name = "NUMBER", allow_hyphen_values = true)]
    last: Option<i64>,
    /// The one made last, whether it runs or not
    #[arg(short, long)]
    latest: bool,
    /// Show what each has written, and with what its image has
    #[arg(short, long)]
    size: bool,
    /// Form of the output: table, json, or fields such as '{{.ID}} {{.Names}}'
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: ListFormat,
}

pub(crate) fn run(context: &Context, args: PsArgs) -> Outcome {
    let engine = context.engine()?;
    // Docker's -1 is no number at all.
    let last = if args.latest {
        Some(1)
    } else {
        args.last.and_then(|n| usize::try_from(n).ok())
    };
    let all = args.all || last.is_some() || filter::means_all(&args.filter);
    // What others are compared with may not run.
    let containers = filter::keep(&engine, &args.filter, engine.ps(true)?)?;
    let mut containers: Vec<Container> = containers
        .into_iter()
        .filter(|c| all || c.state.is_up())
        .collect();
    containers.truncate(last.unwrap_or(usize::MAX));
    let asked = matches!(&args.format, ListFormat::Template(template) if template.mentions("Size"));
    let mut sizes = HashMap::new();
    if args.size || asked {
        for container in &containers {
            // What a power cut took half of there is nothing to measure of.
            sizes.insert(
                container.id.clone(),
                engine.size(&container.id).unwrap_or_default(),
            );
        }
    }
    let (now, full) = (Timestamp::now(), args.no_trunc);
    let lines = match &args.format {
        ListFormat::Template(template) => template.lines(
            &fields(full, now, &sizes),
            Some(|c| &c.labels),
            "CONTAINER ID",
            &containers,
        )?,
        _ => Vec::new(),
    };
    print(|out| match (args.quiet, &args.format) {
        (true, _) => containers
            .iter()
            .try_for_each(|c| writeln!(out, "{}", render::id(&c.id, full))),
        (_, ListFormat::Json) => render::json(out, &containers),
        (_, ListFormat::Template(_)) => template::write(out, &lines),
        (_, ListFormat::Table) => {
            let sizes = args.size.then_some(&sizes);
            table(&containers, full, now, sizes).write(out, context.style)
        }
    })
}

type Sizes = HashMap<String, Size>;

fn table(containers: &[Container], full: bool, now: Timestamp, sizes: Option<&Sizes>) -> Table {
    let mut heads = vec![
        "CONTAINER ID",
        "IMAGE",
        "COMMAND",
        "CREATED",
        "STATUS",
        "PORTS",
        "NAMES",
    ];
    heads.extend(sizes.map(|_| "SIZE"));
    let mut table = Table::new(&heads);
    for c in containers {
        let image = if full {
            c.image.clone()
        } else {
            render::cut(&c.image, 40)
        };
        let mut row = vec![
            render::id(&c.id, full).to_owned(),
            image,
            command(c, full),
            ago(Some(c.created), now),
            status_of(c, now),
            port::column(&c.ports),
            c.name.clone(),
        ];
        row.extend(sizes.map(|sizes| size_of(c, sizes)));
        table.row(row);
    }
    table
}

/// In docker's words: what it wrote, and with its image.
fn size_of(container: &Container, sizes: &Sizes) -> String {
    let Size { own, whole } = sizes.get(&container.id).copied().unwrap_or_default();
    format!("{} (virtual {})", human(own), human(whole))
}

fn command(container: &Container, full: bool) -> String {
    let words: Vec<String> = container
        .command
        .iter()
        .map(|word| match word.contains(' ') {
            true => format!("'{word}'"),
            false => word.clone(),
        })
        .collect();
    let command = words.join(" ");
    let shown = if full { command } else { render::cut(&command, 20) };
    // A line that is broken would break the table.
    format!("\"{}\"", shown.replace('\n', "\\n"))
}

/// Docker's names for what a template shows.
fn fields(full: bool, now: Timestamp, sizes: &Sizes) -> [Field<Container>; 14] {
    let sizes = sizes.clone();
    let mounts = |c: &Container, full: bool| {
        let shown = |source: &String| {
            if full {
                source.clone()
            } else {
                render::cut(source, 15)
            }
        };
        c.mounts
            .iter()
            .map(|mount| shown(&mount.source))
            .collect::<Vec<_>>()
            .join(",")
    };
    [
        ("ID", Box::new(move |c| render::id(&c.id, full).to_owned())),
        ("Names", Box::new(|c| c.name.clone())),
        ("Image", Box::new(|c| c.image.clone())),
        ("Command", Box::new(move |c| command(c, full))),
        ("CreatedAt", Box::new(|c| c.created.to_string())),
        ("RunningFor", Box::new(move |c| ago(Some(c.created), now))),
        ("State", Box::new(|c| c.state.word().to_owned())),
        ("Status", Box::new(move |c| status_of(c, now))),
        ("Ports", Box::new(|c| port::column(&c.ports))),
        ("Networks", Box::new(|c| c.networks.join(","))),
        ("Labels", Box::new(|c| render::labels(&c.labels))),
        ("Mounts", Box::new(move |c| mounts(c, full))),
        (
            "LocalVolumes",
            Box::new(|c| {
                c.mounts
                    .iter()
                    .filter(|m| !m.source.starts_with('/'))
                    .count()
                    .to_string()
            }),
        ),
        ("Size", Box::new(move |c| size_of(c, &sizes))),
    ]
}

/// With how its checks say it is: `Up 3 minutes (healthy)`.
fn status_of(container: &Container, now: Timestamp) -> String {
    let status = status(&container.state, now);
    match container.health {
        Some("starting") => format!("{status} (health: starting)"),
        Some(word) => format!("{status} ({word})"),
        None => status,
    }
}

/// A state in docker's words: `Up 3 minutes`, `Exited (0) 2 hours ago`.
pub(crate) fn status(state: &State, now: Timestamp) -> String {
    match state {
        State::Created => "Created".to_owned(),
        State::Running { started, .. } => format!("Up {}", since(*started, now)),
        State::Paused { started, .. } => format!("Up {} (Paused)", since(*started, now)),
        State::Restarting { code, at } => format!("Restarting ({code}) {}", ago(Some(*at), now)),
        State::Exited { code, at: None, .. } => format!("Exited ({code})"),
        State::Exited { code, at, .. } => format!("Exited ({code}) {}", ago(*at, now)),
        State::Lost => "Lost".to_owned(),
    }
}
