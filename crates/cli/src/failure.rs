//! How a command fails: one sentence on standard error, a hint where one helps, and exit code 125.
//!
//! A user's mistake and strata's own trouble are told apart: the latter says what to report.

use std::ffi::OsString;
use std::fmt;
use std::io::Write;

use rustix::io::Errno;

use crate::peers;
use crate::render::plain::{lines, plain};
use crate::render::style::Style;

/// Exit code of strata's own failures, as docker and podman have it.
pub(crate) const EXIT: u8 = 125;

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// What was asked cannot be done: a wrong name, a bad archive, a full disk.
    User,
    /// Strata or what it stands on is not as it should be.
    Internal,
}

/// A failed command.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    hint: Option<String>,
    fault: Fault,
    code: u8,
}

impl Failure {
    /// What was asked cannot be done.
    pub(crate) fn user(message: impl fmt::Display) -> Failure {
        Failure {
            message: one_line(&message.to_string()),
            hint: None,
            fault: Fault::User,
            code: EXIT,
        }
    }

    /// Something that should hold does not.
    pub(crate) fn internal(message: impl fmt::Display) -> Failure {
        Failure {
            fault: Fault::Internal,
            ..Failure::user(message)
        }
    }

    /// Adds what the user may do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }

    /// What the user may do about it.
    #[cfg(test)]
    pub(crate) fn advice(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// Ends with another exit code than [`EXIT`].
    pub(crate) fn code(mut self, code: u8) -> Failure {
        self.code = code;
        self
    }

    /// Prints the failure on standard error and gives the exit code.
    pub(crate) fn report(&self) -> u8 {
        let err = std::io::stderr();
        // Nothing is left to tell anyone if standard error is gone.
        let _ = self.write(&mut err.lock(), Style::of(&err));
        self.code
    }

    fn write(&self, out: &mut impl Write, style: Style) -> std::io::Result<()> {
        match self.fault {
            Fault::User => writeln!(out, "{} {}", style.red("error:"), plain(&self.message))?,
            Fault::Internal => writeln!(out, "{} {}", style.red("internal error:"), plain(&self.message))?,
        }
        match (shortage(&self.message).or(self.hint.as_deref()), self.fault) {
            (Some(hint), _) => writeln!(out, "{} {}", style.cyan("hint:"), lines(hint)),
            (None, Fault::Internal) => {
                writeln!(
                    out,
                    "{} this should not happen; please report it with the command",
                    style.cyan("hint:")
                )
            }
            (None, Fault::User) => Ok(()),
        }
    }
}

/// What helps where this process, or the machine, is out of something that any step may meet first.
fn shortage(message: &str) -> Option<&'static str> {
    let of = |error: Errno| message.ends_with(&one_line(&std::io::Error::from(error).to_string()));
    match () {
        _ if of(Errno::MFILE) => Some("a process here may open too few files: ulimit -n 1024 gives it more"),
        // Of the store, it is known better what helps.
        _ if of(Errno::NOSPC) && !message.contains(" left on the disk for ") => {
            Some("df -h and df -i tell which file system is full, of bytes or of files: make room there")
        }
        _ if of(Errno::NFILE) => Some("the machine may open too few files: sysctl fs.file-max gives it more"),
        _ => None,
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Errors are one line: what comes from elsewhere (the kernel's log, a registry's answer) may hold more. The number that
/// the standard library puts behind a system error's words tells nobody anything.
pub(crate) fn one_line(text: &str) -> String {
    let lines = text
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let mut line = lines.collect::<Vec<_>>().join("; ");
    while let Some(start) = line.find(" (os error ") {
        let Some(length) = line[start..].find(')') else {
            break;
        };
        line.replace_range(start..=start + length, "");
    }
    line
}

/// What clap found wrong, in our form; help and version are no failures and go to standard output.
pub(crate) fn usage(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind;
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A reader that has gone away has seen enough.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            EXIT
        }
        ErrorKind::InvalidUtf8 => not_utf8(std::env::args_os().skip(1)).report(),
        _ => from_clap(&error.render().to_string()).report(),
    }
}

/// A container's configuration is JSON, and so are names: words of other bytes have no place in either.
fn not_utf8(mut words: impl Iterator<Item = OsString>) -> Failure {
    let word = words.find(|word| word.to_str().is_none()).unwrap_or_default();
    let shown = word.as_encoded_bytes().escape_ascii();
    Failure::user(format!("the argument \"{shown}\" is not UTF-8"))
        .hint("a container's configuration holds nothing else; let a shell in it make the bytes: sh -c \"printf '\\377'\"")
}

/// Clap's words are its error in one paragraph or two, then `tip:` lines, then the usage.
fn from_clap(rendered: &str) -> Failure {
    let (words, usage) = rendered.split_once("Usage:").unwrap_or((rendered, ""));
    let (tips, message): (Vec<&str>, Vec<&str>) = words
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("For more information"))
        .partition(|line| line.starts_with("tip:"));
    // How to pass an unknown flag as a word is not what someone who typed one asks.
    let tips: Vec<&str> = tips
        .into_iter()
        .filter(|tip| !tip.contains("as a value"))
        .collect();
    let message = message.join(" ");
    let message = message.trim_start_matches("error:").trim();
    if let Some((_, rest)) = message.split_once(" requires a subcommand")
        && let Some(name) = message.split('\'').nth(1)
        && rest.starts_with(" but one was not provided")
    {
        return Failure::user(format!("{name} is given no command"))
            .hint(format!("{name} --help lists them"));
    }
    let failure = Failure::user(message);
    let command: Vec<&str> = usage
        .split_whitespace()
        .take_while(|word| !word.starts_with(['-', '<', '[']))
        .collect();
    if let Some(hint) = as_peers_have_it(message, &command) {
        return failure.hint(hint);
    }
    match (tips.first(), command.is_empty()) {
        _ if message.contains("--format") && message.contains("{{") => failure.hint(
            "ps and images know such fields, elsewhere --format json has everything, for jq and its like",
        ),
        (Some(tip), _) => failure.hint(tip.trim_start_matches("tip:").trim()),
        (None, false) => failure.hint(format!("{} --help tells more", command.join(" "))),
        (None, true) => failure.hint("--help tells more"),
    }
}

/// What to do where docker or podman would have understood.
fn as_peers_have_it(message: &str, command: &[&str]) -> Option<&'static str> {
    let mut quoted = message.split('\'').skip(1).step_by(2);
    let first = quoted.next()?;
    if message.starts_with("unrecognized subcommand") || message.ends_with("wasn't recognized") {
        return peers::command(first);
    }
    if message.starts_with("unexpected argument") {
        return peers::flag(command.get(1..)?.join(" ").as_str(), first);
    }
    if message.starts_with("invalid value") {
        return peers::value(quoted.next()?.split(' ').next()?, first);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(failure: &Failure) -> String {
        let mut out = Vec::new();
        failure.write(&mut out, Style::PLAIN).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn one_sentence_and_a_hint() {
        assert_eq!(text(&Failure::user("no image \"x\"")), "error: no image \"x\"\n");
        assert_eq!(
            text(&Failure::user("no image \"x\"").hint("pull it")),
            "error: no image \"x\"\nhint: pull it\n"
        );
        assert!(text(&Failure::internal("row gone")).starts_with("internal error: row gone\nhint: "));
        assert_eq!(text(&Failure::user("a\n\n b\r\n")), "error: a; b\n");
        let missing = std::io::Error::from_raw_os_error(2);
        assert_eq!(
            text(&Failure::user(format!("/x: {missing}; y"))),
            "error: /x: No such file or directory; y\n"
        );
    }

    #[test]
    fn who_is_out_of_descriptors_is_told_so_whatever_was_being_done() {
        let error = std::io::Error::from(Errno::MFILE);
        let failure = Failure::internal(format!("opening /x: {error}")).hint("see what uses it");
        assert!(text(&failure).contains("ulimit -n"), "{}", text(&failure));
    }

    #[test]
    fn a_word_that_is_not_utf_8_is_shown() {
        use std::os::unix::ffi::OsStringExt;
        let words = [b"run".to_vec(), b"caf\xe9".to_vec()].map(OsString::from_vec);
        let failure = not_utf8(words.into_iter());
        assert_eq!(failure.to_string(), r#"the argument "caf\xe9" is not UTF-8"#);
        assert!(
            failure
                .advice()
                .is_some_and(|hint| hint.ends_with(r#"sh -c "printf '\377'""#))
        );
    }

    #[test]
    fn clap_s_errors_have_our_form() {
        let of = |words: &[&str]| match crate::command().try_get_matches_from(words) {
            Err(error) => text(&from_clap(&error.render().to_string())),
            Ok(_) => panic!("{words:?} was accepted"),
        };
        assert_eq!(
            of(&["strata", "rmi"]),
            "error: the following required arguments were not provided: <IMAGE>...\n\
             hint: strata rmi --help tells more\n"
        );
        assert_eq!(
            of(&["strata", "run", "--nam", "x", "y"]),
            "error: unexpected argument '--nam' found\nhint: a similar argument exists: '--name'\n"
        );
        assert_eq!(
            of(&["strata", "run", "--pull", "often", "y"]),
            "error: invalid value 'often' for '--pull <WHEN>' [possible values: always, newer, missing, never]\n\
             hint: --pull takes always, newer, missing or never\n"
        );
        assert_eq!(
            of(&["strata", "run", "--link", "a", "y"]).lines().last(),
            peers::flag("run", "--link")
                .map(|hint| format!("hint: {hint}"))
                .as_deref()
        );
        assert_eq!(
            of(&["strata", "--root", "/x"]),
            "error: strata is given no command\nhint: strata --help lists them\n"
        );
        assert!(of(&["strata", "exec", "x"]).contains("strata exec --help"));
        assert!(of(&["strata", "puul"]).contains("'pull'"));
        assert!(of(&["strata", "df", "--format", "{{.Type}}"]).contains("--format json has"));
        let template = of(&["strata", "inspect", "--format", "{{printf .Id}}", "x"]);
        assert!(
            template.contains("printf") && template.contains("there are json"),
            "{template}"
        );
    }
}
