//! `strata commit`: what a container changed becomes an image.

use clap::{ArgAction, Args};
use engine::commit::Request;

use super::{Context, Outcome, note_host, print};
use crate::progress;

/// Make an image of what a container changed
///
/// The new image is the container's own with one more layer, and is run as the container was. What it costs is what
/// changed: nothing of the layers below is copied.
#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    /// The container, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    name: Option<String>,
    /// Who makes it
    #[arg(short, long, value_name = "NAME")]
    author: Option<String>,
    /// How containers of it are run, as a line of a Dockerfile (CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, …)
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the image's history says
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Let the container's processes stand still meanwhile
    #[arg(
        short,
        long,
        value_name = "BOOL",
        default_value = "true",
        default_missing_value = "true",
        num_args = 0..=1,
        require_equals = true,
        action = ArgAction::Set
    )]
    pause: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(context: &Context, args: CommitArgs) -> Outcome {
    let request = Request {
        container: &args.container,
        name: args.name.as_deref(),
        changes: &args.change,
        author: args.author.as_deref(),
        message: args.message.as_deref(),
        pause: args.pause,
    };
    let engine = context.engine()?;
    let committed = engine.commit(&request, progress::choose(args.quiet, progress::UNPACK).as_ref())?;
    note_host(committed.names.iter());
    print(|out| writeln!(out, "{}", committed.id))?;
    context.settle(&engine, &committed.names);
    Ok(0)
}
