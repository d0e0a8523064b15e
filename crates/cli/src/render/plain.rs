//! Words of strangers (an image's configuration, names of files in a container, a registry's answer) as a person may see
//! them: without what a terminal would take for a command, and without what shows them in another order than they stand in.

use std::borrow::Cow;
use std::io::{self, IsTerminal};

/// Makes text of a stranger's fit to be shown.
pub(crate) type Show = fn(&str) -> Cow<'_, str>;

/// Whether a character does something to a terminal, or to the order of what is around it, instead of being shown.
fn acts(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let breaks = matches!(c, '\u{2028}' | '\u{2029}');
    c.is_control() || reorders || breaks
}

fn escaped(text: &str, what: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&what) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' if what(c) => out.extend(c.escape_default()),
            c if what(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// On one line: `\n`, `\t` and `\u{1b}` are what stands for such a character.
pub(crate) fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, acts)
}

/// As [`plain`], but of as many lines as it has, and with its tabs.
pub(crate) fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| acts(c) && !matches!(c, '\n' | '\t'))
}

/// As it is: for a program.
pub(crate) fn raw(text: &str) -> Cow<'_, str> {
    Cow::Borrowed(text)
}

/// How values are shown that programs read as well: a terminal gets [`lines`], any other reader every byte of them.
pub(crate) fn by_reader() -> Show {
    match io::stdout().is_terminal() {
        true => lines,
        false => raw,
    }
}

/// JSON without such characters: what its writer leaves of them stands in strings alone, where an escape is the same.
pub(crate) fn json(text: &str) -> Cow<'_, str> {
    let left = |c: char| acts(c) && c >= '\u{7f}';
    if !text.contains(left) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match left(c) {
            true => out += &format!("\\u{:04x}", u32::from(c)),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_shown_instead() {
        let text = "a\x1b[31m\x07\u{9b}2J\u{202e}b\x7f\tc\nd\r\u{2028}ä€🦀\\";
        assert_eq!(
            plain(text),
            "a\\u{1b}[31m\\u{7}\\u{9b}2J\\u{202e}b\\u{7f}\\tc\\nd\\r\\u{2028}ä€🦀\\"
        );
        assert_eq!(lines("a\tb\nc\r\x1b"), "a\tb\nc\\r\\u{1b}");
        assert!(matches!(plain("ä b"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_says_the_same_as_before() {
        let value = serde_json::json!({"a\u{9b}": ["\x1b\x7f\u{202e}", "ä\n"]});
        let told = serde_json::to_string_pretty(&value).unwrap();
        let told = json(&told);
        assert!(!told.contains(|c: char| acts(c) && c != '\n'), "{told:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&told).unwrap(), value);
    }
}
