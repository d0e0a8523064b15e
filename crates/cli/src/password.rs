//! Asking for a password on the terminal that strata runs in: what is typed is not shown.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// A terminal that does not show what is typed, until dropped.
pub(crate) struct Hidden<'a> {
    terminal: BorrowedFd<'a>,
    before: Option<Termios>,
}

impl<'a> Hidden<'a> {
    /// Hides what is typed on `terminal`.
    pub(crate) fn on(terminal: &'a impl AsFd) -> Hidden<'a> {
        let terminal = terminal.as_fd();
        let before = tcgetattr(terminal).ok().filter(|before| {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            tcsetattr(terminal, OptionalActions::Flush, &silent).is_ok()
        });
        Hidden { terminal, before }
    }
}

impl Drop for Hidden<'_> {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            // A terminal that has gone away needs nothing put back.
            let _ = tcsetattr(self.terminal, OptionalActions::Flush, before);
        }
    }
}
