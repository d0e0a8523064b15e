//! `strata oci …`, and the program under the name `strata-oci`: an OCI runtime for other engines, with the command line
//! that they call runc by.
//!
//! It has nothing of strata's own: neither its global flags nor its store. Errors go where those who call runc look for
//! them: one line on standard error, and one in the file that `--log` names; the exit code is 1. A warning goes to that file
//! alone, where there is one: standard error may be the container's.
//!
//! `args` is the command line, `log` the errors, `show` what is printed; the rest, a file for what goes together.

mod args;
mod exec;
mod log;
mod make;
mod show;
mod update;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::rc::Rc;

use clap::{CommandFactory, Parser};
use runtime::cgroup::Manager;
use runtime::oci::{Containers, OciError, Warnings};

use args::{Cli, Command, Rootless};
use log::Log;
use make::How;

/// The exit code of a command that failed.
const FAILED: u8 = 1;

/// The same of `exec`, whose program may end with 1.
const EXEC_FAILED: u8 = 255;

/// Why a command failed: one line.
#[derive(Debug)]
struct Failure(String);

impl<E: fmt::Display> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure(crate::failure::one_line(&error.to_string()))
    }
}

/// Exit code of a command that did not fail.
type Outcome = Result<u8, Failure>;

/// The definition, for completions and man pages.
pub(crate) fn command() -> clap::Command {
    Cli::command()
}

/// The program, with its arguments; gives its exit code.
pub(crate) fn main(words: impl Iterator<Item = OsString>) -> u8 {
    let words: Vec<OsString> = std::iter::once(OsString::from("strata oci"))
        .chain(words)
        .collect();
    let cli = match Cli::try_parse_from(&words) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            let text = error.render().to_string();
            Log::of_words(&words).error(
                text.lines()
                    .next()
                    .unwrap_or_default()
                    .trim_start_matches("error: "),
            );
            return FAILED;
        }
        Err(asked) => {
            // A reader that has gone away has seen enough.
            let _ = asked.print();
            return 0;
        }
    };
    let log = Rc::new(Log::of(&cli));
    let code = if let Command::Exec(_) = cli.command {
        EXEC_FAILED
    } else {
        FAILED
    };
    run(cli, &log).unwrap_or_else(|Failure(text)| {
        log.error(&text);
        code
    })
}

/// Where the state lies when nothing is said. An engine of an ordinary user calls from the user's own namespace, whose root
/// may not write to `/run` either.
fn usual_root() -> PathBuf {
    match users_runtime_dir() {
        Some(dir) => dir.join("strata-oci"),
        None => PathBuf::from("/run/strata-oci"),
    }
}

/// The systemd that makes cgroups where one is asked to.
fn manager() -> Manager {
    users_runtime_dir().map_or_else(Manager::machine, |dir| Manager::user(&dir))
}

/// Where what an ordinary user runs is kept.
fn users_runtime_dir() -> Option<PathBuf> {
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    own.filter(|dir| dir.is_absolute() && !runtime::rootless::is_machines_root())
}

fn run(cli: Cli, log: &Rc<Log>) -> Outcome {
    if cli.command.makes_processes() && !runtime::can_leave_later() {
        runtime::leave_the_disk(std::env::args_os())
            .map_err(|error| format!("a read-only copy of this program: {error}"))?;
    }
    log.debug(&format!("{:?}", cli.command));
    let warnings = Rc::clone(log);
    let warnings = Warnings::to(move |text| warnings.warning(&crate::failure::one_line(text)));
    let containers = Containers::at(&cli.root.unwrap_or_else(usual_root), manager(), warnings)?;
    let how = How {
        systemd_cgroup: cli.systemd_cgroup,
        needs_cgroup: cli.rootless == Rootless::False,
    };
    match cli.command {
        Command::Create(args) => make::create(&containers, args, how),
        Command::Run(args) => make::run(&containers, args, how),
        Command::Start(args) => {
            containers.open(&args.id)?.start()?;
            Ok(0)
        }
        Command::State(args) => show::state(&containers.open(&args.id)?),
        Command::Kill(args) => {
            let signal = runtime::options::process::signal(&args.signal)
                .ok_or_else(|| format!("unknown signal {:?}", args.signal))?;
            containers.open(&args.id)?.kill(signal, args.all)?;
            Ok(0)
        }
        Command::Delete(args) => match containers.open(&args.id) {
            Err(OciError::Unknown(_)) if args.force => Ok(0),
            found => {
                found?.delete(args.force)?;
                Ok(0)
            }
        },
        Command::Exec(args) => exec::exec(&containers, *args),
        Command::Pause(args) => {
            containers.open(&args.id)?.pause()?;
            Ok(0)
        }
        Command::Resume(args) => {
            containers.open(&args.id)?.resume()?;
            Ok(0)
        }
        Command::Ps(args) => show::ps(&containers.open(&args.id)?, &args),
        Command::List(args) => show::list(&containers, &args),
        Command::Update(args) => update::update(&containers.open(&args.id)?, &args, log),
        Command::Features => show::json(&runtime::oci::features()),
        Command::Spec(args) => make::spec(&args),
    }
}
