//! The role of an overlay's server: a request on standard input, the answer on standard output, then the file system.

use std::io::Write;
use std::process::ExitCode;

use ::fuse::Transport;
use ::mount::fuse::{READY, READY_IO_URING, Request};

use crate::overlay;

/// Serves the overlay that standard input asks for.
pub(crate) fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            // Whoever asked hears it; nobody else is there to be told.
            let _ = writeln!(std::io::stdout(), "{reason}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), String> {
    let request = Request::receive(&mut std::io::stdin()).map_err(|error| error.to_string())?;
    let setup = overlay::setup(&request)?;
    fuse::process::settle().map_err(|error| error.to_string())?;
    fuse::process::serve(&setup, |transport| {
        let ready = match transport {
            Transport::Device => READY,
            Transport::IoUring => READY_IO_URING,
        };
        let _ = writeln!(std::io::stdout(), "{ready}");
        let _ = fuse::process::leave_streams();
    })
    .map_err(|error| error.to_string())
}
