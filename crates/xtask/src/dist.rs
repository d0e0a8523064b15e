//! `cargo xtask dist`: shell completions and man pages, made from the definition of the command line.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap_complete::{Shell, generate_to};

use crate::build;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where they go
    #[arg(long, value_name = "DIR", default_value = "target/dist")]
    out: PathBuf,
}

pub(crate) fn main(args: &Args) -> Result<()> {
    let out = build::workspace().join(&args.out);
    let completions = out.join("completions");
    let pages = out.join("man/man1");
    for dir in [&completions, &pages] {
        // What an earlier run made may be of a command that is gone.
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let mut command = strata_cli::command();
        let path =
            generate_to(shell, &mut command, "strata", &completions).with_context(|| shell.to_string())?;
        println!("{}", path.display());
    }
    man(&strata_cli::command(), &pages)
}

/// One page for the program, and one for each command: `strata-run.1`.
fn man(command: &clap::Command, dir: &Path) -> Result<()> {
    clap_mangen::generate_to(command.clone(), dir).with_context(|| dir.display().to_string())?;
    let mut pages: Vec<_> = fs::read_dir(dir)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    pages.sort();
    pages.iter().for_each(|page| println!("{}", page.display()));
    Ok(())
}
