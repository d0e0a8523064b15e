//! `strata unshare`: a command in an ordinary user's namespaces, where the files of the user's containers have their
//! owners and what strata mounts is seen.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::Command;

use clap::Args;

use super::{Context, Outcome};
use crate::failure::Failure;

/// Run a command in the user namespace of an ordinary user's containers
#[derive(Debug, Args)]
pub(crate) struct UnshareArgs {
    /// The command and its arguments; the user's shell without one
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<OsString>,
}

pub(crate) fn run(context: &Context, args: UnshareArgs) -> Outcome {
    let settings = &context.settings;
    if settings.user == 0 {
        return Err(Failure::user("root has no user namespace to enter")
            .hint("strata works in the machine's own as root: run the command as it is"));
    }
    let mut words = args.words.into_iter();
    let shell = || std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let program = words.next().unwrap_or_else(shell);
    // There the user is root, whose things lie elsewhere: a strata that the command calls is told where the user's do.
    let error = Command::new(&program)
        .args(words)
        .env("STRATA_ROOT", &settings.root)
        .env("STRATA_STATE", &settings.state)
        .env("STRATA_NAMESPACE", &settings.namespace)
        .env("STRATA_CONFIG", settings.file_or_none())
        .exec();
    let code = match error.kind() {
        ErrorKind::NotFound => 127,
        _ => 126,
    };
    Err(Failure::user(format!("{}: {error}", program.to_string_lossy()))
        .hint("name a program of this machine")
        .code(code))
}
