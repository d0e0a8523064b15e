//! Text from strangers, made fit for one line of an error.

/// Longest excerpt, in characters.
const MAX: usize = 300;

/// The text without control characters (which could move a terminal's cursor or break a line), at most 300 long.
pub(crate) fn printable(text: &str) -> String {
    let mut out: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(MAX)
        .collect::<String>()
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ");
    if text.chars().nth(MAX).is_some() {
        out.push('…');
    }
    out
}

/// An error with everything behind it, as far as its own words do not say it already.
pub(crate) fn whole(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let text = error.to_string();
        if !out.contains(&text) {
            out.push_str(": ");
            out.push_str(&text);
        }
        next = error.source();
    }
    out
}
