//! Colour, only where a person sees it: on a terminal, without `NO_COLOR` (<https://no-color.org>).

use std::fmt::{self, Display};
use std::io::IsTerminal;

/// Whether one stream is coloured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    /// For what goes to `stream`.
    pub(crate) fn of(stream: &impl IsTerminal) -> Style {
        let unset = |name| std::env::var_os(name).is_none_or(|v| v.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|t| t == "dumb");
        Style {
            on: !dumb && unset("NO_COLOR") && stream.is_terminal(),
        }
    }

    /// Never coloured.
    pub(crate) const PLAIN: Style = Style { on: false };

    /// Bold.
    pub(crate) fn bold<T: Display>(self, text: T) -> Styled<T> {
        self.paint("1", text)
    }

    /// Less prominent.
    pub(crate) fn dim<T: Display>(self, text: T) -> Styled<T> {
        self.paint("2", text)
    }

    /// Bold red: an error.
    pub(crate) fn red<T: Display>(self, text: T) -> Styled<T> {
        self.paint("1;31", text)
    }

    /// Green: what is writable, added, running.
    pub(crate) fn green<T: Display>(self, text: T) -> Styled<T> {
        self.paint("32", text)
    }

    /// Cyan: a hint, a name.
    pub(crate) fn cyan<T: Display>(self, text: T) -> Styled<T> {
        self.paint("36", text)
    }

    /// Yellow: changed.
    pub(crate) fn yellow<T: Display>(self, text: T) -> Styled<T> {
        self.paint("33", text)
    }

    fn paint<T: Display>(self, code: &'static str, text: T) -> Styled<T> {
        Styled {
            code: self.on.then_some(code),
            text,
        }
    }
}

/// Text with or without colour.
pub(crate) struct Styled<T> {
    code: Option<&'static str>,
    text: T,
}

impl<T: Display> Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.code {
            // The padding asked for applies to the text: an escape has no width.
            Some(code) => {
                write!(f, "\x1b[{code}m")?;
                self.text.fmt(f)?;
                f.write_str("\x1b[0m")
            }
            None => self.text.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_wraps_the_padded_text() {
        assert_eq!(
            format!("{:<4}|", Style { on: true }.red("ab")),
            "\x1b[1;31mab  \x1b[0m|"
        );
        assert_eq!(format!("{:<4}|", Style::PLAIN.red("ab")), "ab  |");
    }
}
