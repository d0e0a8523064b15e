//! `strata run`: a container from an image, and its process in the foreground.

mod cidfile;
mod flags;
mod options;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use clap::Args;
use engine::rm::RmError;
use engine::run::{LeftOut, Started, Stdio, Streams};
use runtime::attach::{self, Left, Local};
use runtime::options::process;
use runtime::terminal::{Attention, Screen};
use rustix::termios::tcgetwinsize;

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::progress;
use crate::render::plain::plain;
use crate::render::style::Style;
pub(crate) use cidfile::Cidfile;
pub(crate) use flags::{ContainerArgs, Pull};
pub(crate) use options::request;

pub(super) use options::environment;

/// Run a command in a new container
///
/// IMAGE is a name in the local store, and is pulled when it is missing; or `host`, which is this machine's own
/// root file system as the read-only lower layer: whatever runs there has a private, throw-away view of the real
/// machine. Other file systems mounted on the machine, and strata's own store, are left out of that view
/// (`strata -v run … host` lists them), and what others change on the machine meanwhile may show in it.
///
/// The exit code is the command's; 125 when strata itself fails, 126 when the command cannot be run, 127 when it
/// is not found, 128 and the signal's number when a signal ended it.
#[derive(Debug, Args)]
#[command(
    override_usage = "strata run [OPTIONS] IMAGE [COMMAND] [ARG...]\n       \
                            strata run [OPTIONS] --rootfs DIR COMMAND [ARG...]",
    disable_help_flag = true
)]
pub(crate) struct RunArgs {
    /// Leave it to itself once it runs, and print its id
    #[arg(short, long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) container: ContainerArgs,
    /// Keys that leave it to itself at a terminal: ctrl-x,a and the like; empty for none
    #[arg(
        long,
        value_name = "KEYS",
        default_value = "ctrl-p,ctrl-q",
        help_heading = "Process"
    )]
    pub(crate) detach_keys: String,
    /// Forward signals to the process (--sig-proxy=false for not)
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true,
          help_heading = "Process")]
    pub(crate) sig_proxy: bool,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
}

pub(crate) fn run(context: &Context, args: RunArgs) -> Outcome {
    let RunArgs {
        detach,
        container: args,
        sig_proxy,
        detach_keys,
        ..
    } = args;
    let keys = process::detach_keys(&detach_keys)?;
    let request = options::request(context, &args)?;
    let cidfile = args.cidfile.as_deref().map(Cidfile::make).transpose()?;
    let setup = context.setup();
    let summons = setup.summon()?;
    let engine = super::open_engine(setup)?;
    warn_of_input(&args, detach);
    let base = engine.base(&request, progress::choose(args.quiet, progress::FETCH).as_ref())?;
    if args.replace {
        replace(&engine, &request)?;
    }
    let way = match (detach, args.rm) {
        (true, _) => Way::Detached,
        // Its terminal can be left, and then somebody must hold it.
        (false, true) if args.tty && args.interactive && !keys.is_empty() => Way::Attached,
        // Nobody can ask for its log later, so that nothing need be copied.
        (false, true) => Way::Inherited,
        (false, false) => Way::Attached,
    };
    // From here on, so that a signal which comes while the container is being started reaches it.
    // A terminal is relayed under attention in any case: its keys become signals in the container.
    let attention = (!detach && (sig_proxy || args.tty))
        .then(Attention::begin)
        .transpose();
    let attention = attention.map_err(|e| Failure::user(format!("holding signals back: {e}")))?;
    let start = |streams: &Streams<'_>| -> Result<Started<'_>, Failure> {
        let started = engine.run(summons, &request, base, streams)?;
        if let Some(Err(failure)) = cidfile.map(|file| file.write(&started.id)) {
            // Whoever is to find it by that file never would.
            engine.rm(&started.id, true, true)?;
            return Err(failure);
        }
        if context.verbose {
            tell_left_out(&started.left_out);
        }
        Ok(started)
    };
    let code = foreground(way, args.interactive, args.tty, attention.as_ref(), &keys, start)?;
    // The kernel closes everything at once, and the program ends now.
    std::mem::forget(engine);
    Ok(code)
}

/// `--replace`: removes the container that has the name which is asked for.
pub(crate) fn replace(engine: &engine::Engine, request: &engine::run::Request) -> Result<(), Failure> {
    match request.name.as_deref().map(|name| engine.rm(name, true, false)) {
        None | Some(Ok(_) | Err(RmError::NotFound(_))) => Ok(()),
        Some(Err(error)) => Err(error.into()),
    }
}

/// Where the streams of a container are that is started here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// With its supervisor; nobody stays.
    Detached,
    /// With its supervisor; this command is attached until the end.
    Attached,
    /// They are this command's own.
    Inherited,
}

/// Starts a container and, unless it is to be left to itself, stays with it; the exit code.
pub(crate) fn foreground<'a>(
    way: Way,
    interactive: bool,
    tty: bool,
    attention: Option<&Attention>,
    detach_keys: &[u8],
    start: impl FnOnce(&Streams<'_>) -> Result<Started<'a>, Failure>,
) -> Outcome {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let size = tcgetwinsize(&stdout).or_else(|_| tcgetwinsize(&stdin)).ok();
    let size = size.filter(|_| tty).map(|size| (size.ws_row, size.ws_col));
    let failed = |e: io::Error| Failure::user(format!("the pipes of the container's streams: {e}"));
    let exit = match way {
        Way::Detached => {
            let streams = Streams {
                stdio: Stdio::Held(None),
                size,
                attention: None,
            };
            let started = start(&streams)?;
            super::print(|out| writeln!(out, "{}", started.id))?;
            return Ok(0);
        }
        Way::Attached => {
            let (pipes, ends) = attach::pipes(interactive).map_err(failed)?;
            let streams = Streams {
                stdio: Stdio::Held(Some(&ends)),
                size,
                attention,
            };
            let started = start(&streams)?;
            drop(ends);
            let local = Local {
                input: interactive.then(|| stdin.as_fd()),
                output: stdout.as_fd(),
                error: stderr.as_fd(),
                terminal: tty,
                detach_keys,
            };
            match started.stay(pipes, attention, local)? {
                Left::Ended(exit) => exit,
                Left::Detached => return Ok(0),
            }
        }
        Way::Inherited => {
            let null;
            let input = match interactive {
                true => stdin.as_fd(),
                false => {
                    null = File::open("/dev/null").map_err(|e| Failure::user(format!("/dev/null: {e}")))?;
                    null.as_fd()
                }
            };
            let streams = Streams {
                stdio: Stdio::Given([input, stdout.as_fd(), stderr.as_fd()]),
                size,
                attention,
            };
            let started = start(&streams)?;
            let screen = tty.then(|| Screen {
                input: interactive.then(|| stdin.as_fd()),
                output: stdout.as_fd(),
            });
            started.attend(attention, screen)?
        }
    };
    for warning in &exit.warnings {
        eprintln!("{} {}", Style::of(&stderr).yellow("warning:"), plain(warning));
    }
    Ok(exit.code)
}

fn warn_of_input(args: &ContainerArgs, detach: bool) {
    if args.tty && args.interactive && !detach && !io::stdin().is_terminal() {
        eprintln!(
            "{} standard input is no terminal",
            Style::of(&io::stderr()).yellow("warning:")
        );
    }
}

/// Tells on standard error what of the machine a view of it leaves out.
fn tell_left_out(left_out: &[LeftOut]) {
    let style = Style::of(&io::stderr());
    for place in left_out {
        eprintln!(
            "{} {} ({})",
            style.dim("left out:"),
            plain(&place.path.to_string_lossy()),
            place.kind
        );
    }
}
