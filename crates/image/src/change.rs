//! Instructions of a Dockerfile that change an image's configuration: `import --change 'CMD ["/bin/sh"]'`.

use crate::config::Execution;

/// Why an instruction could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChangeError {
    /// No such instruction, or none that changes a configuration.
    #[error(
        "cannot apply {given:?}: know CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR"
    )]
    Unknown {
        /// What was given.
        given: String,
    },
    /// It lacks its value, or the value has another form than it needs.
    #[error("cannot apply {given:?}: write it as {form}")]
    Form {
        /// What was given.
        given: String,
        /// How it is written.
        form: &'static str,
    },
}

/// Applies one instruction, `NAME value` or `NAME=value`, as docker and podman take it.
///
/// # Errors
/// [`ChangeError`]; nothing is changed then.
pub fn apply(config: &mut Execution, instruction: &str) -> Result<(), ChangeError> {
    let given = || instruction.to_owned();
    let text = instruction.trim();
    let end = text
        .find(|c: char| c.is_whitespace() || c == '=')
        .unwrap_or(text.len());
    let (name, value) = (
        &text[..end],
        text[end..].trim_start_matches(|c: char| c.is_whitespace()),
    );
    let value = value
        .strip_prefix('=')
        .filter(|_| text[end..].starts_with('='))
        .unwrap_or(value)
        .trim();
    let form = |form| ChangeError::Form { given: given(), form };
    let whole = |what| {
        if value.is_empty() {
            Err(form(what))
        } else {
            Ok(value.to_owned())
        }
    };
    match name.to_ascii_uppercase().as_str() {
        "CMD" => config.cmd = command(value).ok_or_else(|| form("CMD [\"program\", \"argument\"]"))?,
        "ENTRYPOINT" => {
            config.entrypoint =
                command(value).ok_or_else(|| form("ENTRYPOINT [\"program\", \"argument\"]"))?;
        }
        "SHELL" => config.shell = list(value).ok_or_else(|| form("SHELL [\"program\", \"argument\"]"))?,
        "ENV" => {
            for (name, value) in pairs(value).ok_or_else(|| form("ENV name=value"))? {
                let prefix = format!("{name}=");
                config.env.retain(|old| !old.starts_with(&prefix));
                config.env.push(prefix + &value);
            }
        }
        "LABEL" => config
            .labels
            .extend(pairs(value).ok_or_else(|| form("LABEL name=value"))?),
        "EXPOSE" => {
            let ports = split(value)
                .filter(|ports| !ports.is_empty())
                .ok_or_else(|| form("EXPOSE 80/tcp"))?;
            for port in ports {
                let (number, protocol) = port.split_once('/').unwrap_or((&port, "tcp"));
                let known = matches!(protocol, "tcp" | "udp" | "sctp");
                let number: u16 = number
                    .parse()
                    .ok()
                    .filter(|_| known)
                    .ok_or_else(|| form("EXPOSE 80/tcp"))?;
                add(&mut config.exposed_ports, format!("{number}/{protocol}"));
            }
        }
        "VOLUME" => {
            let paths = if value.starts_with('[') {
                list(value)
            } else {
                split(value)
            };
            let paths = paths
                .filter(|p| !p.is_empty())
                .ok_or_else(|| form("VOLUME /path"))?;
            paths.into_iter().for_each(|path| add(&mut config.volumes, path));
        }
        "USER" => config.user = whole("USER name[:group]")?,
        "WORKDIR" => {
            let path = whole("WORKDIR /path")?;
            config.working_dir = match (path.starts_with('/'), config.working_dir.as_str()) {
                (true, _) => path,
                (false, "" | "/") => format!("/{path}"),
                (false, dir) => format!("{}/{path}", dir.trim_end_matches('/')),
            };
        }
        "STOPSIGNAL" => config.stop_signal = whole("STOPSIGNAL SIGTERM")?,
        "ONBUILD" => config.on_build.push(whole("ONBUILD RUN command")?),
        _ => return Err(ChangeError::Unknown { given: given() }),
    }
    Ok(())
}

fn add(set: &mut Vec<String>, item: String) {
    if !set.contains(&item) {
        set.push(item);
    }
}

/// A JSON list of strings.
fn list(value: &str) -> Option<Vec<String>> {
    serde_json::from_str(value).ok()
}

/// A JSON list, or a line for the shell.
fn command(value: &str) -> Option<Vec<String>> {
    match value {
        "" => None,
        value if value.starts_with('[') => list(value),
        line => Some(vec!["/bin/sh".into(), "-c".into(), line.into()]),
    }
}

/// `a=b c="d e"`, or of old `a rest of the line`.
fn pairs(value: &str) -> Option<Vec<(String, String)>> {
    let words = split(value)?;
    let first = words.first()?;
    if !first.contains('=') {
        let (name, rest) = value.split_once(char::is_whitespace)?;
        return Some(vec![(name.to_owned(), rest.trim().to_owned())]);
    }
    let pair = |word: &String| {
        let (name, value) = word.split_once('=')?;
        (!name.is_empty()).then(|| (name.to_owned(), value.to_owned()))
    };
    words.iter().map(pair).collect()
}

/// Words with quotes and backslashes as a Dockerfile has them; `None` when a quote is open at the end.
fn split(value: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', Some('"') | None) => word.get_or_insert_default().push(chars.next()?),
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, Some(open)) if c == open => quote = None,
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, _) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_panics(name in "CMD|ENV|LABEL|EXPOSE|VOLUME|WORKDIR|[a-z]*", rest in any::<String>()) {
            let _ = apply(&mut Execution::default(), &format!("{name}{rest}"));
            let _ = apply(&mut Execution::default(), &format!("{name} {rest}"));
        }
    }

    #[test]
    fn instructions() {
        let mut config = Execution {
            env: vec!["A=1".into(), "AB=2".into()],
            ..Execution::default()
        };
        for change in [
            r#"CMD ["/bin/sh", "-l"]"#,
            "entrypoint=/entry point",
            r#"ENV A="x y" C=z\ w"#,
            "ENV OLD form of it",
            "EXPOSE 80 53/udp",
            "LABEL k=v 'l m'=n",
            "USER=nobody:nogroup",
            "VOLUME /a /b",
            r#"VOLUME ["/c d"]"#,
            "WORKDIR /w",
            "WORKDIR sub",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN x=y",
            r#"SHELL ["/bin/bash"]"#,
        ] {
            apply(&mut config, change).unwrap();
        }
        assert_eq!(config.cmd, ["/bin/sh", "-l"]);
        assert_eq!(config.entrypoint, ["/bin/sh", "-c", "/entry point"]);
        assert_eq!(config.env, ["AB=2", "A=x y", "C=z w", "OLD=form of it"]);
        assert_eq!(config.exposed_ports, ["80/tcp", "53/udp"]);
        assert_eq!(config.labels.get("l m").map(String::as_str), Some("n"));
        assert_eq!(config.user, "nobody:nogroup");
        assert_eq!(config.volumes, ["/a", "/b", "/c d"]);
        assert_eq!(config.working_dir, "/w/sub");
        assert_eq!(config.stop_signal, "SIGQUIT");
        assert_eq!(config.on_build, ["RUN x=y"]);
        assert_eq!(config.shell, ["/bin/bash"]);
    }

    #[test]
    fn refused() {
        let mut config = Execution::default();
        for bad in ["", "FROM x", "RUN x", "CMDx y"] {
            assert!(
                matches!(apply(&mut config, bad), Err(ChangeError::Unknown { .. })),
                "{bad}"
            );
        }
        for bad in [
            "CMD",
            "CMD [1]",
            "ENV",
            "ENV A",
            "ENV =x",
            "ENV A=\"x",
            "EXPOSE",
            "EXPOSE a",
            "EXPOSE 1/x",
            "USER ",
            "SHELL x",
        ] {
            assert!(
                matches!(apply(&mut config, bad), Err(ChangeError::Form { .. })),
                "{bad}"
            );
        }
        assert_eq!(config, Execution::default());
    }
}
