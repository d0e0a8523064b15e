//! `strata save`: images into an archive.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use engine::save::{self, Destination};

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::progress;

/// Save images to an archive or an OCI layout directory
///
/// The archive holds all images named, each under the name by which it is asked for. docker, podman, skopeo and
/// containerd read it, and so does strata load.
#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// Images, by name or the beginning of an id
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// File, or directory for oci-dir [default: standard output]
    #[arg(short, long, value_name = "PATH")]
    output: Option<PathBuf>,
    /// Form of the archive
    #[arg(long, value_enum, value_name = "FORM", default_value_t = Form::OciArchive)]
    format: Form,
    /// Save what the images' indexes have for other platforms too (pulled with --all-platforms)
    #[arg(long)]
    all_platforms: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// An OCI layout as a tar, which older dockers read too
    OciArchive,
    /// docker's archive of old, as podman writes it
    DockerArchive,
    /// An OCI layout as a directory
    OciDir,
}

pub(crate) fn run(context: &Context, args: SaveArgs) -> Outcome {
    let format = match args.format {
        Form::OciArchive => save::Format::OciArchive,
        Form::DockerArchive => save::Format::DockerArchive,
        Form::OciDir => save::Format::OciDir,
    };
    if args.all_platforms && args.format == Form::DockerArchive {
        return Err(Failure::user("docker's archive holds one platform of an image")
            .hint("take the form oci-archive or oci-dir"));
    }
    let output = args.output.as_deref().filter(|path| path.as_os_str() != "-");
    let mut stdout = std::io::stdout();
    let to = match output {
        Some(path) => Destination::Path(path),
        None if args.format == Form::OciDir => {
            return Err(
                Failure::user("a layout directory has no place on standard output")
                    .hint("name one with -o DIR"),
            );
        }
        None if stdout.is_terminal() => {
            return Err(Failure::user("an archive is not written to a terminal")
                .hint("name a file with -o FILE, or send it elsewhere with a pipe"));
        }
        None => Destination::Stream(&mut stdout),
    };
    let progress = progress::choose(args.quiet, progress::SAVE);
    context
        .engine()?
        .save(&args.images, (format, args.all_platforms), to, progress.as_ref())?;
    stdout
        .flush()
        .map_err(|e| Failure::user(format!("cannot write the archive: {e}")))?;
    Ok(0)
}
