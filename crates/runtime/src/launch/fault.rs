//! What goes wrong between reading a spec and executing its program, as one line of text, an exit code and what it
//! concerns: it has to cross a process boundary.

use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::control::Concern;

/// Strata's own failure, or the container's configuration cannot be made real.
pub(crate) const FAILED: u8 = 125;
/// The program is there and cannot be run.
pub(crate) const CANNOT_RUN: u8 = 126;
/// The program is not there.
pub(crate) const NOT_FOUND: u8 = 127;

/// Why a container could not be launched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    /// 125, 126 or 127.
    pub(crate) code: u8,
    /// What of the container it concerns.
    pub(crate) concern: Concern,
    /// What failed, naming the path, option or name it concerns.
    pub(crate) text: String,
}

impl Fault {
    /// A failure of strata's own, or of the configuration.
    pub(crate) fn new(text: impl Into<String>) -> Fault {
        Fault {
            code: FAILED,
            concern: Concern::Other,
            text: text.into(),
        }
    }

    /// Says what it concerns, unless that is known more exactly.
    pub(crate) fn about(mut self, concern: Concern) -> Fault {
        if self.concern == Concern::Other {
            self.concern = concern;
        }
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// Says what a step that failed concerns.
pub(crate) trait About {
    /// [`Fault::about`].
    fn about(self, concern: Concern) -> Self;
}

impl<T> About for Result<T> {
    fn about(self, concern: Concern) -> Result<T> {
        self.map_err(|fault| fault.about(concern))
    }
}

/// Says what was being done when an error came.
pub(crate) trait During<T> {
    /// Turns the error into a [`Fault`] that begins with `what`.
    fn during(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: IntoText> During<T> for std::result::Result<T, E> {
    fn during(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Fault::new(format!("{}: {}", what(), error.into_text())))
    }
}

/// An error as a person reads it.
pub(crate) trait IntoText {
    fn into_text(self) -> String;
}

impl IntoText for Errno {
    fn into_text(self) -> String {
        io::Error::from(self).into_text()
    }
}

impl IntoText for io::Error {
    fn into_text(self) -> String {
        let text = self.to_string();
        // Rust adds the number, which says nothing that the words do not.
        match text.find(" (os error ") {
            Some(end) => text[..end].to_owned(),
            None => text,
        }
    }
}

impl IntoText for sys::mount::ConfigError {
    fn into_text(self) -> String {
        let mut text = format!("{}: {}", self.step, self.errno.into_text());
        if !self.messages.is_empty() {
            text.push_str(&format!(" (kernel: {})", self.messages.join("; ")));
        }
        text
    }
}
