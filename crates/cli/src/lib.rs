//! The program `strata`: what it is asked on the command line, and how it answers.
//!
//! Each command is one file under `commands`: it parses its flags, calls the engine, and renders the answer. What
//! several share lies beside: [`args`] (the whole command line), [`config`] (settings), [`failure`] (errors, hints,
//! exit codes), [`progress`] (bars and lines), `render` (tables, sizes, times, colour), `password` (asking for one). Nothing here decides anything about images or containers: that is the engine's.
//!
//! The program also plays the supervisor of a container, a role it is started in by itself: see [`main`].
//!
//! Start reading at [`args`].

mod args;
mod commands;
mod config;
mod explain;
mod failure;
mod password;
mod progress;
mod registries;
mod render;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

/// First argument of the program when it is started as a container's supervisor. No command of the user's.
const SUPERVISOR: &str = "supervise";

/// First argument when a supervisor starts it because its container has ended and nobody is left to look after that.
const REAPER: &str = "reap";

/// The command line's definition, for completions and man pages.
pub fn command() -> clap::Command {
    args::Cli::command()
}

/// The program: plays the role or runs the command that its arguments name.
pub fn main() -> ExitCode {
    // Roles first: a container's start waits for one, and they need nothing of the command line's definition.
    let mut words = std::env::args_os().skip(1);
    let role = words.next().unwrap_or_default();
    ExitCode::from(if role == SUPERVISOR {
        return runtime::supervisor::main(&words.collect::<Vec<_>>());
    } else if role == REAPER {
        commands::reap::main(words.collect())
    } else {
        match args::Cli::try_parse() {
            Ok(cli) => commands::run(cli),
            Err(error) => failure::usage(&error),
        }
    })
}
