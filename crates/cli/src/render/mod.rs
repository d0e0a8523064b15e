//! From values to text: tables, sizes, times, JSON, colour.

pub(crate) mod filter;
pub(crate) mod plain;
pub(crate) mod size;
pub(crate) mod style;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod time;

use std::collections::BTreeMap;
use std::io::{self, Write};

use clap::ValueEnum;
use serde::Serialize;

/// `--format` of commands whose output is data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// Aligned columns, for reading
    #[default]
    Table,
    /// JSON, for programs
    Json,
}

/// Digits of an id that are shown unless `--no-trunc` asks for all.
pub(crate) const SHORT_ID: usize = 12;

/// An id or digest as lists show it: without its algorithm, and short unless `full`.
pub(crate) fn id(id: &str, full: bool) -> &str {
    if full {
        return id;
    }
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..SHORT_ID).unwrap_or(hex)
}

/// `text` cut to `width` characters, the last an ellipsis when something was cut.
pub(crate) fn cut(text: &str, width: usize) -> String {
    let mut kept: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(width + 1)
        .collect();
    if kept.chars().count() > width {
        kept.pop();
        kept.pop();
        kept.push('…');
    }
    kept
}

/// Labels as lists show them.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let pairs: Vec<String> = labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Writes `value` as indented JSON and a newline.
pub(crate) fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string_pretty(value)?;
    writeln!(out, "{}", plain::json(&text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_bare() {
        let digest = "sha256:0123456789abcdef0123456789abcdef";
        assert_eq!(id(digest, false), "0123456789ab");
        assert_eq!(id(digest, true), digest);
        assert_eq!(id("abc", false), "abc");
    }

    #[test]
    fn cutting_keeps_the_width_and_no_control_characters() {
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("abcd", 3), "ab…");
        assert_eq!(cut("a\nb\x1b", 9), "a b ");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
