//! `--entrypoint`, `--workdir`, `--stop-signal`, `--name`, `--cgroup-parent`: the process and what it is called.

use super::{Flag, Result, container_path};

/// Parses `--entrypoint`: one program, or a JSON array of strings as podman has it. Empty clears the image's.
///
/// # Errors
/// Text beginning with `[` that is no JSON array of strings.
pub fn entrypoint(value: &str) -> Result<Vec<String>> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    if !value.starts_with('[') {
        return Ok(vec![value.to_owned()]);
    }
    let flag = Flag::new(
        "--entrypoint",
        value,
        r#"write a program, or ["PROGRAM","ARGUMENT",…]"#,
    );
    serde_json::from_str(value).map_err(|error| flag.wrong(format!("no JSON array of strings: {error}")))
}

/// Parses `-w`/`--workdir`.
///
/// # Errors
/// Not an absolute path.
pub fn workdir(value: &str) -> Result<String> {
    let flag = Flag::new("--workdir", value, "write an absolute path in the container");
    let path = container_path(value).ok_or_else(|| flag.wrong(format!("{value:?} is no absolute path")))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Parses `--stop-signal`: a number, or a name with or without `SIG` in either case (`RTMIN+N` and `RTMAX-N` too).
///
/// # Errors
/// No signal of Linux.
pub fn stop_signal(value: &str) -> Result<i32> {
    let flag = Flag::new(
        "--stop-signal",
        value,
        "write a signal's name or number, as SIGTERM or 15",
    );
    signal(value).ok_or_else(|| flag.wrong(format!("{value:?} is no signal")))
}

/// The number of a signal by name or number, or `None` where there is no such signal. The real-time ones count from
/// 34, as glibc does and users write.
pub fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(rest) = name.strip_prefix("RTMIN") {
        let offset: i32 = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('+')?.parse().ok()?
        };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    if let Some(rest) = name.strip_prefix("RTMAX") {
        let offset: i32 = if rest.is_empty() {
            0
        } else {
            rest.strip_prefix('-')?.parse().ok()?
        };
        return (0..=30).contains(&offset).then_some(64 - offset);
    }
    let alias = match name {
        "IOT" => "ABRT",
        "CLD" => "CHLD",
        "POLL" => "IO",
        "UNUSED" => "SYS",
        name => name,
    };
    SIGNALS
        .iter()
        .position(|known| *known == alias)
        .map(|at| at as i32 + 1)
}

/// The name of a signal, as `SIGTERM` or `SIGRTMIN+3`; the number where it has none.
pub fn signal_name(number: i32) -> String {
    let at = usize::try_from(number - 1).ok();
    match (at.and_then(|at| SIGNALS.get(at)), number) {
        (Some(name), _) => format!("SIG{name}"),
        (None, 34) => "SIGRTMIN".to_owned(),
        (None, 35..=64) => format!("SIGRTMIN+{}", number - 34),
        (None, _) => number.to_string(),
    }
}

/// Signals 1 to 31 (asm-generic/signal.h, the same on x86 and arm).
const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// Parses `--name`: docker's rule, at least two characters of `[a-zA-Z0-9_.-]`, the first a letter or digit.
///
/// # Errors
/// Anything else.
pub fn name(value: &str) -> Result<String> {
    let flag = Flag::new(
        "--name",
        value,
        "use two or more of letters, digits, _ . and -, a letter or digit first",
    );
    let good = value.len() >= 2
        && value.as_bytes()[0].is_ascii_alphanumeric()
        && value
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if good {
        Ok(value.to_owned())
    } else {
        Err(flag.wrong(format!("{value:?} is no name")))
    }
}

/// Parses `--umask`: octal digits.
///
/// # Errors
/// Anything else, or more than 0777.
pub fn umask(value: &str) -> Result<u32> {
    let flag = Flag::new("--umask", value, "write octal digits, as 0022");
    let digits = (1..=4).contains(&value.len()) && value.bytes().all(|b| (b'0'..=b'7').contains(&b));
    let mask = u32::from_str_radix(value, 8)
        .ok()
        .filter(|mask| digits && *mask <= 0o777);
    mask.ok_or_else(|| flag.wrong(format!("{value:?} is no mask of permissions")))
}

/// Parses `--cgroup-parent`: a path below the cgroup hierarchy's root; leading `/` or not is the same.
///
/// # Errors
/// An empty path, one with `..`, or with an empty part.
pub fn cgroup_parent(value: &str) -> Result<String> {
    let flag = Flag::new(
        "--cgroup-parent",
        value,
        "write a path below the cgroup root, as /work/batch",
    );
    let path = value.trim_matches('/');
    if path.is_empty() || path.contains('\0') || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(flag.wrong(format!("{value:?} is no path of a cgroup")));
    }
    Ok(format!("/{path}"))
}

/// Parses `--detach-keys`: keys with commas between, each a character or `ctrl-` with one; none for an empty text.
///
/// # Errors
/// Anything that is not of the form.
pub fn detach_keys(value: &str) -> Result<Vec<u8>> {
    let flag = Flag::new(
        "--detach-keys",
        value,
        "write keys with commas between, as ctrl-p,ctrl-q or ctrl-x,a",
    );
    if value.is_empty() {
        return Ok(Vec::new());
    }
    value
        .split(',')
        .map(|key| match key.strip_prefix("ctrl-").map(str::as_bytes) {
            // What a terminal sends for a character of this column with Ctrl.
            Some([c @ (b'@'..=b'_' | b'a'..=b'z')]) => Ok(c & 0x1f),
            None if key.len() == 1 && key.is_ascii() => Ok(key.as_bytes()[0]),
            _ => Err(flag.wrong(format!("{key:?} is no key"))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entrypoints() {
        assert_eq!(entrypoint("").unwrap(), Vec::<String>::new());
        assert_eq!(entrypoint("/bin/sh").unwrap(), ["/bin/sh"]);
        assert_eq!(entrypoint(r#"["sh","-c"]"#).unwrap(), ["sh", "-c"]);
        assert!(entrypoint("[1]").is_err());
        assert!(entrypoint("[").is_err());
    }

    #[test]
    fn workdirs() {
        assert_eq!(workdir("/a/../b/").unwrap(), "/b");
        assert_eq!(workdir("/").unwrap(), "/");
        assert!(workdir("a").is_err());
    }

    #[test]
    fn signals() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("HUP", 1),
            ("SYS", 31),
            ("WINCH", 28),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-2", 62),
            ("64", 64),
            ("POLL", 29),
        ] {
            assert_eq!(stop_signal(text).unwrap(), number, "{text}");
        }
        for number in (1..=31).chain(34..=64) {
            assert_eq!(signal(&signal_name(number)), Some(number));
        }
        assert_eq!(
            [15, 37, 32].map(signal_name),
            ["SIGTERM", "SIGRTMIN+3", "32"].map(str::to_owned)
        );
        for text in ["", "0", "65", "-1", "NOPE", "RTMIN+31", "RTMAX-x", "SIG"] {
            assert!(stop_signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn names() {
        for good in ["ab", "web_1.x-y", "0x"] {
            assert_eq!(name(good).unwrap(), good);
        }
        for bad in ["", "a", "-ab", "a b", "ä1", "a/b"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn masks() {
        for (text, mask) in [
            ("0022", Some(0o22)),
            ("77", Some(0o77)),
            ("0", Some(0)),
            ("1777", None),
            ("8", None),
            ("", None),
            ("+22", None),
        ] {
            assert_eq!(umask(text).ok(), mask, "{text}");
        }
    }

    #[test]
    fn cgroup_parents() {
        for (text, clean) in [("/a/b", "/a/b"), ("a", "/a"), ("/a/", "/a")] {
            assert_eq!(cgroup_parent(text).unwrap(), clean);
        }
        for bad in ["", "/", "/a/../b", "/a//b", "."] {
            assert!(cgroup_parent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_that_leave() {
        for (text, keys) in [
            ("ctrl-p,ctrl-q", &[16, 17][..]),
            ("ctrl-@,ctrl-[,ctrl-_", &[0, 27, 31]),
            ("ctrl-x,a,~", &[24, b'a', b'~']),
            ("", &[]),
        ] {
            assert_eq!(detach_keys(text).unwrap(), keys, "{text}");
        }
        for text in ["ctrl-", "ctrl-ab", "ab", "ctrl-p,", "ö", "ctrl-1"] {
            assert!(detach_keys(text).is_err(), "{text}");
        }
    }
}
