//! The role of an overlay's server: a request on standard input, the answer on standard output, then the file system.

use std::io::Write;
use std::process::ExitCode;

use ::mount::fuse::{READY, Request};

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
    fuse::process::serve(&setup, || {
        let _ = writeln!(std::io::stdout(), "{READY}");
        let _ = fuse::process::leave_streams();
    })
    .map_err(|error| error.to_string())
}
