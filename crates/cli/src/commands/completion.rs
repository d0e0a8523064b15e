//! `strata completion`: completion scripts.

use clap::Args;
use clap_complete::Shell;

use super::{Outcome, print};

/// Print a completion script for a shell
///
/// For bash: strata completion bash > /etc/bash_completion.d/strata
#[derive(Debug, Args)]
pub(crate) struct CompletionArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(args: CompletionArgs) -> Outcome {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut crate::command(), "strata", &mut script);
    print(|out| out.write_all(&script))
}
