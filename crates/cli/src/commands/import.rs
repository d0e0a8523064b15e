//! `strata import`: an image of one layer, from a tar of a root file system.

use std::io::IsTerminal;
use std::path::Path;

use clap::Args;
use engine::import::{Request, Source};

use super::{Context, Outcome, note_host, print};
use crate::failure::Failure;
use crate::{progress, registries};

/// Make an image of a tar of a root file system
#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The tar, plain or compressed: a file, an address, or - for standard input
    #[arg(value_name = "FILE|URL|-")]
    file: String,
    /// Name of the image
    #[arg(value_name = "IMAGE")]
    name: Option<String>,
    /// How containers of it are run, as a line of a Dockerfile (CMD, ENTRYPOINT, ENV, USER, WORKDIR, LABEL, …)
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// What the image's history says
    #[arg(short, long, value_name = "TEXT")]
    message: Option<String>,
    /// Platform of the image, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(context: &Context, args: ImportArgs) -> Outcome {
    let mut stdin = std::io::stdin();
    let source = match args.file.as_str() {
        "-" if stdin.is_terminal() => {
            return Err(
                Failure::user("there is no tar on standard input").hint("name a file, or send one by a pipe")
            );
        }
        "-" => Source::Stream(&mut stdin),
        url if url.starts_with("http://") || url.starts_with("https://") => {
            Source::Url(url, Box::new(registries::options(&context.settings, None)))
        }
        path => Source::Path(Path::new(path)),
    };
    let request = Request {
        source,
        name: args.name.as_deref(),
        changes: &args.change,
        message: args.message.as_deref(),
        platform: args.platform.as_deref(),
    };
    let engine = context.engine()?;
    let imported = engine.import(request, progress::choose(args.quiet, progress::UNPACK).as_ref())?;
    context.settle(&engine, &imported.names);
    note_host(imported.names.iter());
    print(|out| writeln!(out, "{}", imported.id))
}
