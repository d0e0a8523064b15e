//! `--env`, `--env-file`, `--label`, `--annotation`: names and their values.

use super::{Flag, Result};

const ENV_FORM: &str = "write NAME=VALUE, or NAME to pass it on from here";

/// One variable that the user asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnvOption {
    /// This value.
    Set(String, String),
    /// The caller's own value; where the caller has none the variable is taken out, the image's too, as docker does.
    Inherit(String),
    /// Every variable of the caller whose name begins so (`NAME*`), as podman does.
    InheritAll(String),
}

impl EnvOption {
    /// The variables this stands for, given the caller's environment. A value of `None` takes the variable out.
    pub fn resolve(&self, caller: &[(String, String)]) -> Vec<(String, Option<String>)> {
        match self {
            EnvOption::Set(name, value) => vec![(name.clone(), Some(value.clone()))],
            EnvOption::Inherit(name) => {
                let value = caller
                    .iter()
                    .find(|(known, _)| known == name)
                    .map(|(_, value)| value.clone());
                vec![(name.clone(), value)]
            }
            EnvOption::InheritAll(prefix) => caller
                .iter()
                .filter(|(name, _)| name.starts_with(prefix.as_str()))
                .map(|(name, value)| (name.clone(), Some(value.clone())))
                .collect(),
        }
    }
}

/// Parses `-e`/`--env`.
///
/// # Errors
/// An empty name, or a NUL, which no environment can hold.
pub fn env(value: &str) -> Result<EnvOption> {
    let flag = Flag::new("--env", value, ENV_FORM);
    one(&flag, value)
}

fn one(flag: &Flag<'_>, text: &str) -> Result<EnvOption> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    if name.is_empty() {
        return Err(flag.wrong("the name is empty"));
    }
    if text.contains('\0') {
        return Err(flag.wrong("a NUL cannot be in the environment"));
    }
    Ok(match (value, name.strip_suffix('*')) {
        (Some(value), _) => EnvOption::Set(name.to_owned(), value.to_owned()),
        (None, Some(prefix)) => EnvOption::InheritAll(prefix.to_owned()),
        (None, None) => EnvOption::Inherit(name.to_owned()),
    })
}

/// Parses the text of an `--env-file`: one variable a line, `#` begins a comment line, blank lines are skipped,
/// white space before a name is too; values are taken as they are, quotes included, as docker does.
///
/// # Errors
/// The first line that is not of the form, with its number.
pub fn env_file(text: &str) -> Result<Vec<EnvOption>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut variables = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let flag = Flag::new("--env-file", line, ENV_FORM);
        let name = line.split('=').next().unwrap_or_default();
        if name.trim_end().contains(char::is_whitespace) || (line.contains('=') && name != name.trim_end()) {
            return Err(flag.wrong(format!(
                "line {}: the name {name:?} holds white space",
                number + 1
            )));
        }
        let line = if line.contains('=') { line } else { line.trim_end() };
        variables.push(one(&flag, line).map_err(|mut error| {
            error.problem = format!("line {}: {}", number + 1, error.problem);
            error
        })?);
    }
    Ok(variables)
}

/// Parses the text of a `--label-file`: one label a line, `KEY=VALUE` or `KEY` alone; `#` begins a comment line, blank
/// lines are skipped, white space before a key is too.
///
/// # Errors
/// A line without a key.
pub fn label_file(text: &str) -> Result<Vec<(String, String)>> {
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_start);
    let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| key_value("--label-file", line)).collect()
}

/// Parses `--label` or `--annotation` (give the flag's name for the message): `KEY=VALUE`, or `KEY` alone for an
/// empty value.
///
/// # Errors
/// An empty key.
pub fn key_value(name: &'static str, value: &str) -> Result<(String, String)> {
    let (key, text) = value.split_once('=').unwrap_or((value, ""));
    if key.is_empty() {
        return Err(Flag::new(name, value, "write KEY=VALUE").wrong("the key is empty"));
    }
    Ok((key.to_owned(), text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_a_file() {
        let text = "\u{feff}# ours\n\n  a=b=c\nd\n";
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(label_file(text).unwrap(), [label("a", "b=c"), label("d", "")]);
        assert!(label_file("=x").is_err());
    }

    #[test]
    fn variables() {
        let set = |n: &str, v: &str| EnvOption::Set(n.into(), v.into());
        for (text, expected) in [
            ("A=b", set("A", "b")),
            ("A=", set("A", "")),
            ("A=b=c", set("A", "b=c")),
            ("A*=b", set("A*", "b")),
            ("A", EnvOption::Inherit("A".into())),
            ("LC_*", EnvOption::InheritAll("LC_".into())),
        ] {
            assert_eq!(env(text).unwrap(), expected, "{text}");
        }
        assert!(env("=x").is_err());
        assert!(env("").is_err());
        assert!(env("A=\0").is_err());
    }

    #[test]
    fn inheriting() {
        let caller = [
            ("LC_A".to_owned(), "1".to_owned()),
            ("LC_B".to_owned(), "2".to_owned()),
        ];
        assert_eq!(
            EnvOption::Inherit("LC_A".into()).resolve(&caller),
            [("LC_A".into(), Some("1".into()))]
        );
        assert_eq!(
            EnvOption::Inherit("NONE".into()).resolve(&caller),
            [("NONE".into(), None)]
        );
        assert_eq!(EnvOption::InheritAll("LC_".into()).resolve(&caller).len(), 2);
    }

    #[test]
    fn files() {
        let text = "\u{feff}A=1\n# comment\n\n  B=two words \r\nC\nD=\"quoted\" # kept\n";
        let set = |n: &str, v: &str| EnvOption::Set(n.into(), v.into());
        assert_eq!(
            env_file(text).unwrap(),
            [
                set("A", "1"),
                set("B", "two words "),
                EnvOption::Inherit("C".into()),
                set("D", "\"quoted\" # kept")
            ]
        );
        for (text, says) in [
            ("A=1\nB C=2\n", "line 2"),
            ("A =1", "line 1"),
            ("=1", "line 1"),
            ("one two", "white space"),
        ] {
            let error = env_file(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
    }

    #[test]
    fn labels() {
        assert_eq!(key_value("--label", "a=b=c").unwrap(), ("a".into(), "b=c".into()));
        assert_eq!(key_value("--label", "a").unwrap(), ("a".into(), String::new()));
        assert!(key_value("--label", "=b").is_err());
    }
}
