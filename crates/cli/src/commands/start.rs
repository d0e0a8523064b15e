//! `strata start`: containers that were made before, or have ended.

use clap::Args;
use engine::run::RunError;
use runtime::options::process;
use runtime::terminal::Attention;

use super::attach;
use super::run::{Way, foreground};
use super::{Context, Outcome, for_each, print};
use crate::failure::Failure;

/// Start containers
///
/// One that runs already stays as it is. With --attach or --interactive this command stays with the container, and its
/// exit code is the container's.
#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,
    /// Show what it prints, and pass signals on
    #[arg(short, long)]
    attach: bool,
    /// Pass on what is typed, too
    #[arg(short, long)]
    interactive: bool,
    /// Keys that leave it to itself at a terminal: ctrl-x,a and the like; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// Those that --restart keeps running and that do not run: what is done when the machine has started
    #[arg(long, conflicts_with_all = ["containers", "attach", "interactive"])]
    all: bool,
}

pub(crate) fn run(context: &Context, args: StartArgs) -> Outcome {
    let engine = context.engine()?;
    if args.attach || args.interactive {
        let [name] = args.containers.as_slice() else {
            return Err(Failure::user("--attach is of one container")
                .hint("name one; several are started without --attach and --interactive"));
        };
        let keys = process::detach_keys(&args.detach_keys)?;
        let streams = engine.streams_of(name)?;
        let attention = Attention::begin();
        let attention = attention.map_err(|e| Failure::user(format!("holding signals back: {e}")))?;
        let mut runs = false;
        let outcome = foreground(
            Way::Attached,
            args.interactive && streams.interactive,
            streams.terminal,
            Some(&attention),
            &keys,
            |streams| {
                let started = engine.start(name, streams);
                runs = matches!(started, Err(RunError::Running(_)));
                Ok(started?)
            },
        );
        if runs {
            return attach::stay(&engine, name, args.interactive, &keys, Some(&attention));
        }
        return outcome;
    }
    let names = match args.all {
        true => engine.kept_running()?,
        false => args.containers,
    };
    Ok(for_each(&names, |name| {
        match engine.start(name, &engine::run::Streams::held()) {
            Ok(_) | Err(RunError::Running(_)) => {}
            Err(error) => return Err(error.into()),
        }
        print(|out| writeln!(out, "{name}")).map(drop)
    }))
}
