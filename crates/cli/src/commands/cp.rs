//! `strata cp`: files in and out of containers.

use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::Args;
use engine::cp::{End, Options};

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::progress;

/// Copy files between a container and this machine
///
/// A container's path is written CONTAINER:PATH. With - as the source a tar is read from standard input and extracted
/// into the destination, a directory; with - as the destination a tar is written. A source that ends with /. means what
/// is in the directory. A container may run or not; what of this machine is mounted in it, volumes too, is seen in any case.
#[derive(Debug, Args)]
pub(crate) struct CpArgs {
    /// What is copied: CONTAINER:PATH, PATH or -
    #[arg(value_name = "SOURCE", allow_hyphen_values = true)]
    source: String,
    /// Where to: CONTAINER:PATH, PATH or -
    #[arg(value_name = "DESTINATION", allow_hyphen_values = true)]
    destination: String,
    /// Keep owners and groups
    #[arg(short, long)]
    archive: bool,
    /// Follow a symbolic link that the source is
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

pub(crate) fn run(context: &Context, args: CpArgs) -> Outcome {
    let (mut stdin, mut stdout) = (std::io::stdin(), std::io::stdout());
    let from = match (args.source.as_str(), in_container(&args.source)) {
        ("-", _) if stdin.is_terminal() => {
            return Err(
                Failure::user("there is no tar on standard input").hint("send one by a pipe, or name a file")
            );
        }
        ("-", _) => End::Input(&mut stdin),
        (_, Some((name, path))) => End::Container { name, path },
        (path, None) => End::Host(Path::new(path)),
    };
    let to = match (args.destination.as_str(), in_container(&args.destination)) {
        ("-", _) if stdout.is_terminal() => {
            return Err(
                Failure::user("a tar is not written to a terminal").hint("send it elsewhere with a pipe")
            );
        }
        ("-", _) => End::Output(&mut stdout),
        (_, Some((name, path))) => End::Container { name, path },
        (path, None) => End::Host(Path::new(path)),
    };
    if matches!(
        (&from, &to),
        (End::Host(_), End::Host(_) | End::Output(_)) | (End::Input(_), End::Host(_))
    ) {
        return Err(Failure::user("neither source nor destination is in a container")
            .hint("write CONTAINER:PATH; cp and tar copy on this machine"));
    }
    let options = Options {
        archive: args.archive,
        follow: args.follow_link,
    };
    let progress = progress::choose(args.quiet, progress::SAVE);
    context.engine()?.cp(from, to, options, progress.as_ref())?;
    stdout
        .flush()
        .map_err(|e| Failure::user(format!("cannot write the tar: {e}")))?;
    Ok(0)
}

/// Container and path of `CONTAINER:PATH`. What begins with `/` or `.` is a path of this machine, as docker has it.
fn in_container(text: &str) -> Option<(&str, &Path)> {
    let (name, path) = text.split_once(':')?;
    let here = text.starts_with(['/', '.']) || name.is_empty();
    (!here).then_some((name, Path::new(if path.is_empty() { "/" } else { path })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_side_is_a_container_s() {
        for (text, expected) in [
            ("box:/a", Some(("box", "/a"))),
            ("box:a:b", Some(("box", "a:b"))),
            ("box:", Some(("box", "/"))),
            ("/a:b", None),
            ("./a:b", None),
            ("a", None),
            ("-", None),
        ] {
            let expected = expected.map(|(name, path)| (name, Path::new(path)));
            assert_eq!(in_container(text), expected, "{text}");
        }
    }
}
