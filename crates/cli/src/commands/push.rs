//! `strata push`: an image into a registry.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use engine::push::Compress;

use super::{Context, Outcome, print};
use crate::failure::Failure;
use crate::{progress, registries};

/// Send an image to a registry
///
/// Layers that the repository has are not sent. Those that the store has in an image of another repository of the same
/// registry are taken from there, if the registry lets it. strata login keeps a password.
#[derive(Debug, Args)]
pub(crate) struct PushArgs {
    /// The image, by name or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name to push it to [default: the image's own]
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,
    /// What layers are compressed with whose compressed form the store does not keep
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::Gzip)]
    compression_format: Form,
    /// How hard: 1 to 9 for gzip, 1 to 22 for zstd [default: 6 and 3]
    #[arg(long, value_name = "N")]
    compression_level: Option<u32>,
    /// Push what the image's index has for other platforms too (pulled with --all-platforms)
    #[arg(long)]
    all_platforms: bool,
    /// Write the digest of what was pushed to a file
    #[arg(long, value_name = "FILE")]
    digestfile: Option<PathBuf>,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
    /// Speak to the registry without TLS (a loopback address needs no asking)
    #[arg(long)]
    plain_http: bool,
}

/// What layers are compressed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// gzip
    Gzip,
    /// zstd
    Zstd,
}

pub(crate) fn run(context: &Context, args: PushArgs) -> Outcome {
    let level = |default, most| match args.compression_level {
        None => Ok(default),
        Some(level) if (1..=most).contains(&level) => Ok(level),
        Some(level) => Err(Failure::user(format!("--compression-level {level} is none"))
            .hint(format!("it is a number from 1 to {most}"))),
    };
    let compress = match args.compression_format {
        Form::Gzip => Compress::Gzip(level(6, 9)?),
        Form::Zstd => Compress::Zstd(level(3, 22)?.cast_signed()),
    };
    let to = args.destination.as_deref();
    let registry = args
        .plain_http
        .then(|| engine::push::registry_of(&args.image, to))
        .transpose()?;
    let registries = registries::options(&context.settings, registry.as_deref());
    let progress = progress::choose(args.quiet, progress::PUSH);
    let pushed = context.engine()?.push(
        &args.image,
        to,
        (compress, args.all_platforms),
        registries,
        progress.as_ref(),
    )?;
    let digest = pushed.manifest.digest.to_string();
    if let Some(path) = &args.digestfile {
        // A file of the user's own, named on the command line.
        let written = std::fs::File::create(path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, digest.as_bytes()));
        written.map_err(|e| Failure::user(format!("cannot write {}: {e}", path.display())))?;
    }
    print(|out| writeln!(out, "{digest}"))
}
