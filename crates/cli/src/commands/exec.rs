//! `strata exec`: one more program in a container that runs.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::Args;
use engine::exec::Request;
use runtime::options::process;
use runtime::spec::ExecOptions;
use runtime::terminal::{Attention, Left, Screen, attend_or_leave};
use rustix::termios::tcgetwinsize;

use super::run::environment;
use super::{Context, Outcome};
use crate::failure::Failure;
use crate::render::style::Style;

/// Run a command in a running container
///
/// It has what the container's own process has: user, variables, working directory, limits and rights. It ends with the
/// container, not with this command. At a terminal the keys Ctrl-P Ctrl-Q, or others that are chosen, leave it to itself.
///
/// The exit code is the command's; 125 when strata itself fails, 126 when the command cannot be run, 127 when it
/// is not found, 128 and the signal's number when a signal ended it.
#[derive(Debug, Args)]
#[command(override_usage = "strata exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub(crate) struct ExecArgs {
    /// The container by name, id or the beginning of an id, then the command and its arguments
    #[arg(value_name = "CONTAINER COMMAND [ARG...]", trailing_var_arg = true, required = true, num_args = 2..)]
    words: Vec<String>,
    /// Leave the command to itself; it has no input, and what it prints is lost
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Variable of the environment; without a value, the one strata itself has
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// File of variables, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Working directory [default: the container's]
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User and group, by name or number [default: the container's]
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// Keys that leave the command to itself at a terminal: ctrl-x,a and the like; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: String,
    /// Every capability, and no AppArmor profile; the container's filter and mounts stay
    #[arg(long)]
    privileged: bool,
}

pub(crate) fn run(context: &Context, args: ExecArgs) -> Outcome {
    let (container, command) = args.words.split_first().unwrap_or((&args.words[0], &[]));
    let workdir = args.workdir.as_deref().filter(|asked| !asked.is_empty());
    let options = ExecOptions {
        command: command.to_vec(),
        env: environment(false, &args.env_file, &args.env)?,
        workdir: workdir.map(process::workdir).transpose()?,
        user: args.user.clone(),
        tty: args.tty,
        privileged: args.privileged,
    };
    let keys = process::detach_keys(&args.detach_keys)?;
    let engine = context.engine()?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    if args.tty && args.interactive && !args.detach && !stdin.is_terminal() {
        eprintln!(
            "{} standard input is no terminal",
            Style::of(&stderr).yellow("warning:")
        );
    }
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = null.map_err(|e| Failure::user(format!("/dev/null: {e}")))?;
    let input = match args.interactive {
        true => stdin.as_fd(),
        false => null.as_fd(),
    };
    let size = tcgetwinsize(&stdout).or_else(|_| tcgetwinsize(&stdin)).ok();
    let mut request = Request {
        options,
        stdio: [input, stdout.as_fd(), stderr.as_fd()],
        size: size.filter(|_| args.tty).map(|size| (size.ws_row, size.ws_col)),
        attention: None,
    };
    if args.detach {
        request.stdio = [null.as_fd(); 3];
        engine.exec(container, &request)?;
        return Ok(0);
    }
    // From here on, so that a signal which comes while the command is being started reaches it.
    let attention = Attention::begin().map_err(|e| Failure::user(format!("holding signals back: {e}")))?;
    request.attention = Some(&attention);
    let mut running = engine.exec(container, &request)?;
    let screen = args.tty.then(|| Screen {
        input: args.interactive.then(|| stdin.as_fd()),
        output: stdout.as_fd(),
    });
    let left = attend_or_leave(&mut running, &attention, screen, &keys).map_err(|e| {
        Failure::user(format!(
            "container {container}: the command's end is not known: {e}"
        ))
        .hint("strata ps tells whether the container runs")
    })?;
    Ok(match left {
        Left::Ended(exit) => exit.code,
        Left::Detached => 0,
    })
}
