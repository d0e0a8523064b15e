//! `strata load`: images from an archive or a layout directory.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::Args;
use engine::load::Source;

use super::{Context, Outcome, note_host, print};
use crate::failure::Failure;
use crate::progress;

/// Load images from an archive or an OCI layout directory
///
/// Reads what docker save, podman save, skopeo and buildah write: an OCI archive, a docker archive (compressed or
/// not), or an OCI layout directory. The names in it are kept.
#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// Archive or directory [default: standard input]
    #[arg(short, long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// Platform, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Keep what the images' indexes have for other platforms too, so that they can be saved and pushed whole
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(context: &Context, args: LoadArgs) -> Outcome {
    let mut stdin = std::io::stdin();
    let source = match &args.input {
        Some(path) if path.as_os_str() != "-" => Source::Path(path),
        _ if stdin.is_terminal() => {
            return Err(Failure::user("there is no archive on standard input").hint("name one with -i FILE"));
        }
        _ => Source::Stream(&mut stdin),
    };
    let progress = progress::choose(args.quiet, progress::READ);
    let engine = context.engine()?;
    let platform = args.platform.as_deref();
    let loaded = engine.load(source, platform, args.all_platforms, progress.as_ref())?;
    let names: Vec<String> = loaded.iter().flat_map(|image| image.names.clone()).collect();
    context.settle(&engine, &names);
    note_host(loaded.iter().flat_map(|image| &image.names));
    print(|out| {
        for image in &loaded {
            match image.names.is_empty() {
                true => writeln!(out, "Loaded image: {}", image.id)?,
                false => image
                    .names
                    .iter()
                    .try_for_each(|name| writeln!(out, "Loaded image: {name}"))?,
            }
        }
        Ok(())
    })
}
