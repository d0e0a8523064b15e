//! What `strata` is to its supervisors: a program that can take their role. For the tests of this crate.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    match args.split_first() {
        Some((role, rest)) if role == "supervisor" => runtime::supervisor::main(rest),
        _ => ExitCode::from(2),
    }
}
