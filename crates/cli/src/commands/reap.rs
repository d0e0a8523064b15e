//! `strata reap`: what a supervisor runs at its container's end when nobody else is there. No command of the user's, and
//! so not in the definition that help, completions and man pages are made of.

use clap::Parser;

use crate::args::Global;

/// Look after a container that has ended
#[derive(Debug, Parser)]
#[command(name = "strata reap")]
struct Reap {
    #[command(flatten)]
    global: Global,
    /// Its id
    #[arg(value_name = "ID")]
    id: String,
}

/// The role, from the arguments that follow its name.
pub(crate) fn main(words: Vec<std::ffi::OsString>) -> u8 {
    let words = std::iter::once("strata reap".into()).chain(words);
    match Reap::try_parse_from(words) {
        Ok(Reap { global, id }) => super::with(&global, false, |context| {
            context.engine()?.reap(&id)?;
            Ok(0)
        }),
        Err(error) => crate::failure::usage(&error),
    }
}
