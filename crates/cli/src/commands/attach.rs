//! `strata attach`: to the streams of a container that runs.

use std::io;
use std::os::fd::AsFd;

use clap::Args;
use engine::Engine;
use engine::attach::{self, Left, Local};
use runtime::options::process;
use runtime::terminal::Attention;

use super::{Context, Outcome};
use crate::failure::Failure;

/// Attach to a container that runs
///
/// What it prints from now on is shown (`strata logs` shows what it printed before), and what is typed goes to it if it
/// was made with --interactive. At a terminal the keys Ctrl-P Ctrl-Q, or others that are chosen, leave it to itself. The exit code is the container's.
#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// The container, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// Pass nothing on that is typed
    #[arg(long)]
    no_stdin: bool,
    /// Keys that leave it to itself at a terminal: ctrl-x,a and the like; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// Forward signals to the process (--sig-proxy=false for not)
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true)]
    sig_proxy: bool,
}

pub(crate) fn run(context: &Context, args: AttachArgs) -> Outcome {
    let keys = process::detach_keys(&args.detach_keys)?;
    let engine = context.engine()?;
    let terminal = engine.streams_of(&args.container)?.terminal;
    let attention = (args.sig_proxy || terminal).then(Attention::begin).transpose();
    let attention = attention.map_err(|e| Failure::user(format!("holding signals back: {e}")))?;
    stay(
        &engine,
        &args.container,
        !args.no_stdin,
        &keys,
        attention.as_ref(),
    )
}

/// Stays with a container that runs, until it ends or is left; the exit code.
pub(super) fn stay(
    engine: &Engine,
    container: &str,
    typed: bool,
    keys: &[u8],
    attention: Option<&Attention>,
) -> Outcome {
    let mut attached = engine.attach(container, typed)?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let local = Local {
        input: typed.then(|| stdin.as_fd()),
        output: stdout.as_fd(),
        error: stderr.as_fd(),
        terminal: attached.terminal,
        detach_keys: keys,
    };
    let left = attach::stay(&mut attached.running, attached.pipes, attention, local);
    match left.map_err(|e| Failure::user(format!("container {container}: {e}")))? {
        Left::Ended(exit) => Ok(exit.code),
        Left::Detached => Ok(0),
    }
}
