//! `strata pull`: fetches an image from its registry.

use clap::Args;

use super::{Context, Outcome, note_host, print};
use crate::{progress, registries};

/// Fetch an image from a registry
///
/// A name without a registry is docker.io's, as docker has it. Layers that the store holds are neither fetched nor
/// unpacked again.
#[derive(Debug, Args)]
pub(crate) struct PullArgs {
    /// Names, with a tag or a digest
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Platform, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<String>,
    /// Keep what the image's index has for other platforms too, so that it can be saved and pushed whole
    #[arg(long, conflicts_with = "platform")]
    all_platforms: bool,
    /// No progress, only the image's id
    #[arg(short, long)]
    quiet: bool,
    /// Speak to the registry without TLS (a loopback address needs no asking)
    #[arg(long)]
    plain_http: bool,
}

pub(crate) fn run(context: &Context, args: PullArgs) -> Outcome {
    let engine = context.engine()?;
    let progress = progress::choose(args.quiet, progress::FETCH);
    for name in &args.images {
        let registry = args
            .plain_http
            .then(|| engine::pull::registry_of(name))
            .transpose()?;
        let registries = registries::options(&context.settings, registry.as_deref());
        let pulled = match args.all_platforms {
            true => engine.pull_all_platforms(name, registries, progress.as_ref())?,
            false => engine.pull(name, args.platform.as_deref(), registries, progress.as_ref())?,
        };
        note_host(pulled.image.names.iter());
        print(|out| writeln!(out, "{}", pulled.image.id))?;
        context.settle(&engine, &pulled.image.names);
    }
    Ok(0)
}
