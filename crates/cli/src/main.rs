//! The program `strata`; everything is in the library beside it.

fn main() -> std::process::ExitCode {
    strata_cli::main()
}
