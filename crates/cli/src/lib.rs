//! The program `strata`: what it is asked on the command line, and how it answers.
//!
//! Each command is one file under `commands`: it parses its flags, calls the engine, and renders the answer. What
//! several share lies beside: [`args`] (the whole command line), [`config`] (settings), [`failure`] (errors, hints,
//! exit codes), [`progress`] (bars and lines), `rootless` (ordinary users), `render` (tables, sizes, times, colour), `password` (asking for one). Nothing here decides anything about images or containers: that is the engine's.
//!
//! The program also plays roles that it is started in by itself: the supervisor of a container, and the server of an
//! overlay (`server`). Under the names `mount.fuse.strata` and `fuse-overlayfs` it is a mount helper and a drop-in for
//! that program, under `strata-oci` an OCI runtime for other engines: see [`main`].
//!
//! Start reading at [`args`].

mod args;
mod commands;
mod config;
mod explain;
mod failure;
mod fuse_overlayfs;
mod oci;
mod overlay;
mod password;
mod peers;
mod progress;
mod registries;
mod render;
mod rootless;
mod server;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// First argument of the program when it is started as a container's supervisor. No command of the user's.
const SUPERVISOR: &str = "supervise";

/// First argument when a supervisor starts it because its container has ended and nobody is left to look after that.
const REAPER: &str = "reap";

/// First argument of the program when it is started as the server of an overlay. No command of the user's.
const SERVER: &str = "serve-overlay";

/// First argument of the program when it is started to keep an ordinary user's namespaces. No command of the user's.
const HOLDER: &str = "hold-namespaces";

/// The program as a drop-in for fuse-overlayfs: by this first argument, or by this name.
const DROP_IN: &str = "fuse-overlayfs";

/// The program as an OCI runtime for other engines: by this first argument, or by the name below.
const OCI: &str = "oci";

/// The program's name as an OCI runtime.
const OCI_RUNTIME: &str = "strata-oci";

/// The program's name as a helper of mount(8).
const MOUNT_HELPER: &str = "mount.fuse.strata";

/// The file that this program was started from; the kernel's own link to it where it has been replaced since.
fn program() -> PathBuf {
    let program = std::env::current_exe().ok().filter(|path| path.exists());
    program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}

/// The command line's definition, for completions and man pages.
pub fn command() -> clap::Command {
    args::definition()
}

/// The program: plays the role or runs the command that its arguments name.
pub fn main() -> ExitCode {
    runtime::hear_of_children();
    // Roles first: a container's start waits for one, and they need nothing of the command line's definition.
    let mut words = std::env::args_os();
    let called = words.next().unwrap_or_default();
    let called = Path::new(&called).file_name().and_then(OsStr::to_str);
    match called {
        Some(DROP_IN) => return ExitCode::from(fuse_overlayfs::main(words)),
        Some(MOUNT_HELPER) => return ExitCode::from(commands::mount::helper(words)),
        Some(OCI_RUNTIME) => return ExitCode::from(oci::main(words)),
        _ => {}
    }
    let role = words.next();
    ExitCode::from(match role.as_deref().and_then(OsStr::to_str) {
        Some(SUPERVISOR) => return runtime::supervisor::main(&words.collect::<Vec<_>>()),
        Some(SERVER) => return server::main(),
        Some(HOLDER) => return runtime::rootless::hold(),
        Some(REAPER) => commands::reap::main(words.collect()),
        Some(DROP_IN) => fuse_overlayfs::main(words),
        Some(OCI) => oci::main(words),
        _ => match args::parse() {
            Ok(cli) => commands::run(cli),
            Err(error) => failure::usage(&error),
        },
    })
}
