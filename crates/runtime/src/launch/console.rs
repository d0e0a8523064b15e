//! `process.terminal`: a pseudo-terminal of the container's own devpts, shown at /dev/console.

use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use rustix::fs::OFlags;
use sys::pty::Pty;

use super::fault::{During, Fault, Result};
use super::root::{self, Kind, Root};

/// Makes the terminal with the window's size in rows and columns.
pub(super) fn make(root: &Root, size: Option<(u16, u16)>) -> Result<Pty> {
    let doing = || "the terminal".to_owned();
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let ptmx = root
        .open(Path::new("/dev/pts/ptmx"), flags)
        .during(|| "the terminal: /dev/pts/ptmx (is a devpts mounted at /dev/pts?)".into())?;
    // Were it another file, its owner would be handed the container's streams.
    if root::file_system(ptmx.as_fd()).during(doing)? != root::DEVPTS {
        return Err(Fault::new("the terminal: /dev/pts/ptmx is not in a devpts"));
    }
    let pty = sys::pty::open(ptmx).during(doing)?;
    if let Some((rows, columns)) = size {
        sys::pty::set_size(pty.master.as_fd(), rows, columns).during(doing)?;
    }
    Ok(pty)
}

/// Binds the terminal at /dev/console. The slave is reached through its descriptor: its name in the devpts could be
/// anything by now (CVE-2025-52565).
pub(super) fn show(root: &Root, pty: &Pty) -> Result<()> {
    let doing = || "the terminal at /dev/console".to_owned();
    let path = Path::new("/dev/console");
    let target = match root.find_plain(path).during(doing)? {
        Some(found) => found,
        None => root.find_or_make(path, Kind::File).during(doing)?,
    };
    if root::is_directory(target.as_fd()).during(doing)? {
        return Err(Fault::new("/dev/console is a directory"));
    }
    // A clone by empty path wants the descriptor itself to name the terminal, as this one does.
    let tree = sys::mount::clone_tree(pty.slave.as_fd(), "", false)
        .during(|| format!("{}: copying descriptor {}", doing(), pty.slave.as_raw_fd()))?;
    sys::mount::attach(tree.as_fd(), target.as_fd()).during(doing)
}
