//! `strata umount`.

use std::path::PathBuf;

use ::mount::fuse::{Unmount, is_ours};
use clap::Args;

use super::Outcome;
use crate::failure::Failure;

/// Unmount an overlay, and end its server
#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// Take it out of the tree even while it is in use; who uses it loses it
    #[arg(short, long)]
    lazy: bool,
    /// Directory it is mounted at
    #[arg(value_name = "MOUNTPOINT")]
    target: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &UmountArgs) -> Outcome {
    // The mount's own root is not asked: its server may be dead.
    let target = resolve(&args.target)?;
    let shown = args.target.display();
    let entry = ::mount::table::at(&target).map_err(|error| Failure::user(format!("{shown}: {error}")))?;
    let how = if args.lazy {
        Unmount::Detach
    } else {
        Unmount::IfUnused
    };
    let result = match entry {
        Some(entry) if is_ours(&entry.kind) => ::mount::fuse::stop(&target, how),
        Some(entry) if entry.kind == "overlay" => ::mount::kernel::unmount(&target, how == Unmount::Detach),
        Some(entry) => {
            return Err(Failure::user(format!(
                "{shown} is a mount of type {}, not an overlay",
                entry.kind
            ))
            .hint("umount(8) unmounts anything"));
        }
        None => return Err(Failure::user(format!("{shown} is not mounted"))),
    };
    result.map_err(|error| {
        let busy = matches!(&error, ::mount::MountError::Io { error, .. }
            if error.kind() == std::io::ErrorKind::ResourceBusy);
        match busy {
            true => {
                Failure::user(error).hint("something uses it: fuser -vm tells who; --lazy unmounts anyway")
            }
            false => Failure::user(error),
        }
    })?;
    Ok(0)
}

/// The path with every link resolved but without a look at what is mounted there.
fn resolve(path: &std::path::Path) -> Result<PathBuf, Failure> {
    let failed = |error: std::io::Error| Failure::user(format!("{}: {error}", path.display()));
    let absolute = std::path::absolute(path).map_err(failed)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            let direct = parent.canonicalize().map_err(failed)?.join(name);
            match std::fs::read_link(&direct) {
                Ok(_) => direct.canonicalize().map_err(failed),
                Err(_) => Ok(direct),
            }
        }
        _ => Ok(absolute),
    }
}
