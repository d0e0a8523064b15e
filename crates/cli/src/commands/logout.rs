//! `strata logout`: forgets a registry's password.

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
}

pub(crate) fn run(context: &Context, args: LogoutArgs) -> Outcome {
    let registry = args.registry.as_deref().unwrap_or("docker.io");
    let options = registries::options(&context.settings, None);
    let done = engine::login::logout(&options, registry, &login_file()?)?;
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
