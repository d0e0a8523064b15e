//! `strata version`.

use clap::Args;
use serde::Serialize;

use super::{Context, Outcome, print};
use crate::render::{self, Format};

/// Show the version
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Form of the output
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: Format,
}

/// What there is to tell.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Version {
    version: &'static str,
    os: String,
    arch: String,
    /// Version of the OCI runtime specification that is followed.
    runtime_spec: &'static str,
}

pub(crate) fn run(context: &Context, args: VersionArgs) -> Outcome {
    let (os, arch) = engine::info::machine();
    let version = Version {
        version: env!("CARGO_PKG_VERSION"),
        os,
        arch,
        runtime_spec: "1.3.0",
    };
    let style = context.style;
    print(|out| match args.format {
        Format::Json => render::json(out, &version),
        Format::Table => {
            writeln!(out, "{} {}", style.bold("strata"), version.version)?;
            writeln!(
                out,
                "{}, OCI runtime specification {}",
                [&*version.os, &version.arch].join("/"),
                version.runtime_spec
            )
        }
    })
}
