//! `strata manifest`: the documents behind a name, and what refers to them.

use std::io::IsTerminal;

use clap::{Args, Subcommand};

use super::{Context, Outcome, print};
use crate::render::table::Table;
use crate::render::{self, Format, plain, size};
use crate::{progress, registries};

/// Look at manifests, and at what refers to them
#[derive(Debug, Args)]
pub(crate) struct ManifestArgs {
    #[command(subcommand)]
    command: ManifestCommand,
}

/// What is to be looked at.
#[derive(Debug, Subcommand)]
enum ManifestCommand {
    /// Print the manifest or index that a name leads to, as it is
    ///
    /// It is the store's if that has the image, else the registry's. The bytes are those that the digest is of.
    Inspect(InspectArgs),
    /// List what refers to an image in its registry: signatures, lists of contents and the like
    Referrers(ReferrersArgs),
}

#[derive(Debug, Args)]
struct InspectArgs {
    /// The image, by name or the beginning of its id
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Speak to the registry without TLS (a loopback address needs no asking)
    #[arg(long)]
    plain_http: bool,
}

#[derive(Debug, Args)]
struct ReferrersArgs {
    /// The image, by name
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Only those of this type
    #[arg(long, value_name = "TYPE")]
    artifact_type: Option<String>,
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
    /// Speak to the registry without TLS (a loopback address needs no asking)
    #[arg(long)]
    plain_http: bool,
}

pub(crate) fn run(context: &Context, args: ManifestArgs) -> Outcome {
    let registries = |name: &str, plain: bool| -> Result<_, crate::failure::Failure> {
        let registry = plain.then(|| engine::pull::registry_of(name)).transpose()?;
        Ok(registries::options(&context.settings, registry.as_deref()))
    };
    let progress = progress::choose(false, progress::FETCH);
    match args.command {
        ManifestCommand::Inspect(args) => {
            let registries = registries(&args.image, args.plain_http)?;
            let bytes = context
                .engine()?
                .manifest(&args.image, registries, progress.as_ref())?;
            print(|out| match std::io::stdout().is_terminal() {
                true => writeln!(out, "{}", plain::lines(&String::from_utf8_lossy(&bytes))),
                false => out.write_all(&bytes),
            })
        }
        ManifestCommand::Referrers(args) => {
            let registries = registries(&args.image, args.plain_http)?;
            let wanted = args.artifact_type.as_deref();
            let found = context
                .engine()?
                .referrers(&args.image, wanted, registries, progress.as_ref())?;
            print(|out| match args.format {
                Format::Json => render::json(out, &found),
                Format::Table => {
                    let mut table = Table::new(&["DIGEST", "TYPE", "SIZE"]);
                    for referrer in &found {
                        let size = size::human(referrer.size);
                        table.row(vec![
                            referrer.digest.clone(),
                            referrer.artifact_type.clone(),
                            size,
                        ]);
                    }
                    table.write(out, context.style)
                }
            })
        }
    }
}
