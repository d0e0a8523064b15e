//! `strata logout`: forgets a registry's password.

use std::path::Path;

use clap::Args;

use super::login::login_file;
use super::{Context, Outcome, print};
use crate::registries;

/// Log out of a registry
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// The registry [default: docker.io]
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// Of every registry
    #[arg(short, long, conflicts_with = "registry")]
    all: bool,
}

pub(crate) fn run(context: &Context, args: LogoutArgs) -> Outcome {
    let file = login_file()?;
    let registries = match (args.all, args.registry) {
        (true, _) => engine::login::logged_in(&file)?,
        (false, registry) => vec![registry.unwrap_or_else(|| "docker.io".to_owned())],
    };
    for registry in &registries {
        log_out(context, registry, &file)?;
    }
    Ok(0)
}

fn log_out(context: &Context, registry: &str, file: &Path) -> Outcome {
    let options = registries::options(&context.settings, None);
    let done = engine::login::logout(&options, registry, file)?;
    print(|out| {
        match done.removed {
            true => writeln!(out, "Removed the login for {registry}")?,
            false => writeln!(out, "Not logged in to {registry}")?,
        }
        match &done.remains_in {
            Some(file) => writeln!(out, "{} still has one", file.display()),
            None => Ok(()),
        }
    })
}
