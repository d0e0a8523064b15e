//! `strata export`: a container's root file system as a tar.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::Args;
use engine::save::Destination;

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::progress;

/// Write what a container's root file system shows, as a tar
///
/// What is mounted in the container is not in it. strata import makes an image of it.
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The container, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// File [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(context: &Context, args: ExportArgs) -> Outcome {
    let output = args.output.as_deref().filter(|path| path.as_os_str() != "-");
    let mut stdout = std::io::stdout();
    let to = match output {
        Some(path) => Destination::Path(path),
        None if stdout.is_terminal() => {
            return Err(Failure::user("a tar is not written to a terminal")
                .hint("name a file with -o FILE, or send it elsewhere with a pipe"));
        }
        None => Destination::Stream(&mut stdout),
    };
    let progress = progress::choose(args.quiet, progress::SAVE);
    context.engine()?.export(&args.container, to, progress.as_ref())?;
    stdout
        .flush()
        .map_err(|e| Failure::user(format!("cannot write the tar: {e}")))?;
    Ok(0)
}
