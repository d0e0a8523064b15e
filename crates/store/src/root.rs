//! The root directory of a new writable snapshot.
//!
//! What a container sees as `/` is the upper directory's own inode: overlayfs merges the entries of the roots, not
//! their attributes. So a new `fs` takes owner, mode, times and extended attributes from the topmost directory
//! below whose root was really described.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use rustix::fs::Mode;
use sys::Dir;

use crate::error::Fault;
use crate::layout::{FS, Layout, NOTHING, WORK};
use crate::stack::Lower;

const PLAIN: u32 = 0o755;

/// Makes `fs` and `work` in `dir`; the first is answered. Where there is `work`, all of it is there: a file system that
/// loses what it was told last (ext4, xfs and btrfs keep the order of such things) has lost that before the rest.
pub(crate) fn make(layout: &Layout, dir: &Dir, lowers: &[Lower]) -> Result<Dir, Fault> {
    let path = |error| {
        Fault::io(
            "making a directory in",
            layout.at(crate::layout::SNAPSHOTS),
            error,
        )
    };
    let fs = || match dir.mkdir(FS, Mode::from_raw_mode(PLAIN)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => dir.open_dir(FS),
    };
    let fs = fs().map_err(path)?;
    let described = lowers.iter().find(|lower| match lower {
        Lower::Number { root_counts, .. } => *root_counts,
        Lower::Foreign(_) => true,
        Lower::Nothing => false,
    });
    if let Some(lower) = described {
        let path: PathBuf = lower.path(layout);
        let from = match lower {
            Lower::Number { n, .. } => layout.snapshots()?.open_dir(format!("{n}/{FS}")),
            Lower::Foreign(path) => Dir::open_ambient(path),
            Lower::Nothing => layout.root.open_dir(NOTHING),
        };
        from.and_then(|from| sys::attributes::copy(&from, &fs, is_copied))
            .map_err(|e| Fault::io("copying the attributes of", path, e))?;
    }
    match dir.mkdir(WORK, Mode::RWXU) {
        // Another was as fast, where it is made again.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(Fault::io(
            "making a directory in",
            layout.at(crate::layout::SNAPSHOTS),
            error,
        )),
        _ => Ok(fs),
    }
}

/// The overlay's own attributes say what the directory is in its layer, not how it looks: an opaque root is not to
/// be passed on. Escaped ones (`overlay.overlay.`) are those that a container sees. SELinux labels new directories
/// itself, by the policy's rules.
fn is_copied(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let own = [&b"trusted.overlay."[..], b"user.overlay."].iter().any(|prefix| {
        name.strip_prefix(*prefix)
            .is_some_and(|rest| !rest.starts_with(b"overlay."))
    });
    !own && name != b"security.selinux"
}
