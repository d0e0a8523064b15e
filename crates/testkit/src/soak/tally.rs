//! How often each command was started, and struck down: killed, or cut off from power, before it had ended.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;

/// Of one command, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Struck {
    /// How often it was started.
    pub started: usize,
    /// How often it was struck down before it had ended.
    pub struck: usize,
}

/// By command.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<String, Struck>);

impl Tally {
    /// A command was started.
    pub fn started(&mut self, words: &[impl AsRef<OsStr>]) {
        self.of(words).started += 1;
    }

    /// It was struck down.
    pub fn struck(&mut self, words: &[impl AsRef<OsStr>]) {
        self.of(words).struck += 1;
    }

    /// Adds another's.
    pub fn add(&mut self, other: &Tally) {
        for (verb, count) in &other.0 {
            let sum = self.0.entry(verb.clone()).or_default();
            sum.started += count.started;
            sum.struck += count.struck;
        }
    }

    /// All commands together.
    pub fn all(&self) -> Struck {
        self.0.values().fold(Struck::default(), |sum, count| Struck {
            started: sum.started + count.started,
            struck: sum.struck + count.struck,
        })
    }

    fn of(&mut self, words: &[impl AsRef<OsStr>]) -> &mut Struck {
        let words: Vec<_> = words.iter().map(|word| word.as_ref().to_string_lossy()).collect();
        // `image squash` is squash, `image prune` prune.
        let verb = match &words[..] {
            [noun, verb, ..] if matches!(&**noun, "image" | "volume" | "network") => verb,
            [verb, ..] => verb,
            [] => "nothing",
        };
        self.0.entry(verb.to_owned()).or_default()
    }
}

/// The most struck first: `pull 31 of 40, load 20 of 55`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: Vec<_> = self.0.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse((count.struck, count.started)));
        let told: Vec<_> = counts
            .iter()
            .map(|(verb, count)| format!("{verb} {} of {}", count.struck, count.started))
            .collect();
        f.write_str(&told.join(", "))
    }
}
