//! The values of `strata run`'s flags, as docker and podman spell them, and [`ContainerOptions`], what they add up to.
//!
//! Every parser is a pure function from one flag's text to a value; none looks at the machine, the environment or
//! the file system. Errors name the flag, the part that is wrong and the form that is right, so that a command line
//! can print them as they are.
//!
//! | flag | parser |
//! |---|---|
//! | `-v`, `--mount`, `--tmpfs` | [`mounts::volume`], [`mounts::mount`], [`mounts::tmpfs`] |
//! | `--volumes-from` | [`volumes::volumes_from`] |
//! | `--device` | [`devices::device`] |
//! | `--memory`, `--shm-size`, `--storage-opt` | [`limits::memory`], [`limits::shm_size`], [`limits::storage_opt`] |
//! | `--cpus`, `--pids-limit`, `--ulimit` | [`limits::cpus`], [`limits::pids_limit`], [`limits::ulimit`] |
//! | `--cap-add`, `--cap-drop` | [`security::capability`] |
//! | `--security-opt`, `--sysctl` | [`security::security_opt`], [`security::sysctl`] |
//! | `--env`, `--env-file`, `--label`, `--annotation` | [`env::env`], [`env::env_file`], [`env::key_value`] |
//! | `--network`, `--pid`, `--ipc`, `--uts` | [`namespaces::network`], [`namespaces::namespace`] |
//! | `--userns`, `--uidmap`, `--gidmap` | [`userns`] |
//! | `--restart`, `--log-driver`, `--log-opt` | [`lifecycle`] |
//! | `--health-cmd` and the like | [`health`] |
//! | `--hostname`, `--add-host`, `--dns` | [`network::hostname`], [`network::add_host`], [`network::dns`] |
//! | `--entrypoint`, `--workdir`, `--stop-signal`, `--name`, `--cgroup-parent` | [`process`] |

pub mod container;
pub mod devices;
pub mod env;
pub mod health;
pub mod lifecycle;
pub mod limits;
pub mod mounts;
pub mod namespaces;
pub mod network;
pub mod process;
pub mod security;
pub mod userns;
pub mod volumes;

pub use container::ContainerOptions;

/// A flag whose value cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{flag} {value:?}: {problem}; {hint}")]
#[non_exhaustive]
pub struct OptionError {
    /// The flag, as the user writes it (`--ulimit`).
    pub flag: &'static str,
    /// Its value, whole.
    pub value: String,
    /// What is wrong, naming the part.
    pub problem: String,
    /// The form that is right, or what to do instead.
    pub hint: &'static str,
}

impl OptionError {
    /// An error about `flag`'s `value`: what is wrong with it, and the form that is right. For parsers of other crates.
    pub fn new(flag: &'static str, value: &str, problem: String, hint: &'static str) -> OptionError {
        OptionError {
            flag,
            value: value.to_owned(),
            problem,
            hint,
        }
    }
}

/// What a parser returns.
pub type Result<T> = std::result::Result<T, OptionError>;

/// One flag's text while it is being parsed: what every error needs.
#[derive(Clone, Copy)]
struct Flag<'a> {
    name: &'static str,
    value: &'a str,
    form: &'static str,
}

impl<'a> Flag<'a> {
    fn new(name: &'static str, value: &'a str, form: &'static str) -> Flag<'a> {
        Flag { name, value, form }
    }

    /// The value is wrong in this way; the hint is the flag's form.
    fn wrong(&self, problem: impl Into<String>) -> OptionError {
        self.instead(problem, self.form)
    }

    /// The value is wrong in this way, and something else is to be done than repeating the form.
    fn instead(&self, problem: impl Into<String>, hint: &'static str) -> OptionError {
        OptionError {
            flag: self.name,
            value: self.value.to_owned(),
            problem: problem.into(),
            hint,
        }
    }
}

/// Splits at commas as CSV does: a field in double quotes may hold commas, and `""` in it is one quote.
fn csv(flag: &Flag<'_>) -> Result<Vec<String>> {
    let mut fields = Vec::new();
    let mut field = String::new();
    let mut quoted = false;
    let mut chars = flag.value.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    if quoted {
        return Err(flag.wrong("a double quote is not closed"));
    }
    fields.push(field);
    Ok(fields)
}

/// A boolean as Go's `strconv.ParseBool` reads it, which is what users of the peers write.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// An absolute path inside the container, with `.`, `..` and doubled slashes taken out as text, as docker does.
fn container_path(text: &str) -> Option<std::path::PathBuf> {
    let rest = text.strip_prefix('/')?;
    if text.contains('\0') {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in rest.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    Some(format!("/{}", parts.join("/")).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_keeps_quoted_commas() {
        let split = |v: &str| csv(&Flag::new("--mount", v, ""));
        assert_eq!(split("a,b").unwrap(), ["a", "b"]);
        assert_eq!(
            split(r#""source=/x,y",target=/z"#).unwrap(),
            ["source=/x,y", "target=/z"]
        );
        assert_eq!(split(r#""say ""hi""""#).unwrap(), [r#"say "hi""#]);
        assert!(split(r#""open"#).is_err());
    }

    #[test]
    fn container_paths_are_absolute_and_clean() {
        for (text, clean) in [
            ("/", "/"),
            ("/a//b/./c/", "/a/b/c"),
            ("/a/../../b", "/b"),
            ("/..", "/"),
        ] {
            assert_eq!(
                container_path(text).unwrap(),
                std::path::Path::new(clean),
                "{text}"
            );
        }
        assert_eq!(container_path("a/b"), None);
        assert_eq!(container_path(""), None);
        assert_eq!(container_path("/a\0b"), None);
    }

    #[test]
    fn an_error_names_flag_value_problem_and_form() {
        let error =
            Flag::new("--cpus", "lots", "write a number of CPUs, as 1.5").wrong("\"lots\" is not a number");
        assert_eq!(
            error.to_string(),
            r#"--cpus "lots": "lots" is not a number; write a number of CPUs, as 1.5"#
        );
    }
}
