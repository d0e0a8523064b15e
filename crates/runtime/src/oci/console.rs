//! `--console-socket`: the master of a container's terminal goes to whoever called, over a socket of theirs (runc,
//! docs/terminals.md).

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use super::{Result, failed};

/// Connects to the socket at `path` and sends the terminal, with its name as the message.
pub(super) fn send(path: &Path, master: BorrowedFd<'_>) -> Result<()> {
    let doing = || failed(format!("sending the terminal to {}", path.display()));
    let socket = sys::socket::connect_stream(path, None).map_err(doing())?;
    sys::socket::send(socket.as_fd(), b"/dev/ptmx", &[master]).map_err(doing())
}
