//! `strata rm`: removes containers.

use std::io;

use clap::Args;

use super::{Context, Outcome, for_each, print};
use crate::failure::Failure;
use crate::render::style::Style;

/// Remove containers
///
/// What a container wrote is removed with it. Images stay, and so do volumes unless --volumes is given.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,
    /// Kill those that run; a container that does not exist is no error
    #[arg(short, long)]
    force: bool,
    /// Remove their volumes too that were given no name and that no other container uses
    #[arg(short, long)]
    volumes: bool,
    /// All containers of the namespace
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
}

pub(crate) fn run(context: &Context, args: RmArgs) -> Outcome {
    let engine = context.engine()?;
    let names = match args.all {
        true => engine.ps(true)?.into_iter().map(|c| c.id).collect(),
        false => args.containers,
    };
    let mut last = false;
    let code = for_each(&names, |name| match engine.rm(name, args.force, args.volumes) {
        Ok(removed) => {
            last |= removed.last;
            if let Some(error) = removed.abandoned {
                eprintln!(
                    "{} container {name}: {error}; rules of the packet filter may be left of it until the machine is restarted",
                    Style::of(&io::stderr()).yellow("warning:")
                );
            }
            print(|out| writeln!(out, "{name}")).map(drop)
        }
        Err(engine::rm::RmError::NotFound(_)) if args.force => Ok(()),
        Err(error) => Err(Failure::from(error)),
    });
    if last {
        engine.collect()?;
    }
    Ok(code)
}
