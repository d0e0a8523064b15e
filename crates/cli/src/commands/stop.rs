//! `strata stop`: ends containers.

use std::time::Duration;

use clap::Args;
use engine::stop::{Patience, Stop};
use runtime::options::process;

use super::{Context, Outcome, for_each, print};
use crate::failure::Failure;

/// Stop containers
///
/// The container's process is sent its stop signal, and killed when it does not end in time.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER", required_unless_present = "all")]
    containers: Vec<String>,
    #[command(flatten)]
    pub(crate) how: StopFlags,
    /// All containers of the namespace that run
    #[arg(short, long, conflicts_with = "containers")]
    all: bool,
}

/// How a container is stopped.
#[derive(Debug, Args)]
pub(crate) struct StopFlags {
    /// Seconds to wait before it is killed, -1 for as long as it takes [default: the container's own, or 10]
    #[arg(
        short,
        long,
        visible_alias = "timeout",
        value_name = "SECONDS",
        allow_hyphen_values = true
    )]
    time: Option<i64>,
    /// Signal to send [default: the container's own, or SIGTERM]
    #[arg(short, long, value_name = "SIGNAL")]
    signal: Option<String>,
}

impl StopFlags {
    pub(crate) fn parse(&self) -> Result<Stop, Failure> {
        let signal = self
            .signal
            .as_deref()
            .map(|text| signal("--signal", text))
            .transpose()?;
        let patience = self.time.map(|time| match u64::try_from(time) {
            Ok(time) => Patience::For(Duration::from_secs(time)),
            Err(_) => Patience::Forever,
        });
        Ok(Stop { signal, patience })
    }
}

/// A signal by name or number.
pub(crate) fn signal(flag: &str, text: &str) -> Result<i32, Failure> {
    process::signal(text).ok_or_else(|| {
        Failure::user(format!("{flag} {text:?}: no signal"))
            .hint("write a signal's name or number, as SIGTERM or 15")
    })
}

pub(crate) fn run(context: &Context, args: StopArgs) -> Outcome {
    let how = args.how.parse()?;
    let engine = context.engine()?;
    let names = match args.all {
        true => engine.ps(false)?.into_iter().map(|c| c.id).collect(),
        false => args.containers,
    };
    Ok(for_each(&names, |name| {
        engine.stop(name, how)?;
        print(|out| writeln!(out, "{name}")).map(drop)
    }))
}
