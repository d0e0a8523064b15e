//! What `strata` is to its supervisors: a program that can take their role. For the tests of this crate, which also
//! want what `strata run` is to a user: `foreground BUNDLE` starts a container and stays with it.
#![allow(clippy::print_stderr)]

use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use runtime::control::Restart;
use runtime::terminal::{Attention, Screen, attend};
use runtime::{Helper, StartRequest, Streams};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        Some((role, rest)) if role == "supervisor" => runtime::supervisor::main(rest),
        Some((role, [bundle])) if role == "foreground" => {
            foreground(Path::new(bundle)).unwrap_or_else(|error| {
                eprintln!("{error}");
                ExitCode::from(125)
            })
        }
        _ => ExitCode::from(2),
    }
}

fn foreground(bundle: &Path) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // At a terminal it is what a shell would have put into its foreground.
    if rustix::termios::isatty(std::io::stdin()) {
        rustix::process::setsid()?;
        rustix::process::ioctl_tiocsctty(std::io::stdin())?;
    }
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let attention = Attention::begin()?;
    let mut running = runtime::start(&StartRequest {
        keep: &[],
        helper: &Helper {
            program: std::env::current_exe()?,
            args: vec!["supervisor".into()],
        },
        bundle,
        streams: Streams::Given([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()]),
        restart: Restart::No,
        // As `strata run` does: the program may look before the one who stays with it has come to set it.
        size: sys::pty::size(stdin.as_fd()).ok(),
        runtime: None,
        cleanup: Vec::new(),
        about: Default::default(),
        health: false,
        pidfile: None,
        attention: Some(&attention),
    })?;
    let screen = Screen {
        input: Some(stdin.as_fd()),
        output: stdout.as_fd(),
    };
    let exit = attend(&mut running, &attention, Some(screen))?;
    running.finish()?;
    Ok(ExitCode::from(exit.code))
}
