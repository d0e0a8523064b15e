//! Where errors go: standard error, for whoever looks on, and the file of `--log`, for the engine that called.

use std::borrow::Cow;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use clap::ValueEnum;

use super::args::{Cli, LogFormat};

/// Both places.
#[derive(Debug, Default)]
pub(super) struct Log {
    file: Option<PathBuf>,
    format: LogFormat,
    debug: bool,
}

impl Log {
    pub(super) fn of(cli: &Cli) -> Log {
        Log {
            file: cli.log.clone(),
            format: cli.log_format,
            debug: cli.debug,
        }
    }

    /// As the flags before the command ask for, of a command line that is none.
    pub(super) fn of_words(words: &[OsString]) -> Log {
        let mut log = Log::default();
        let mut words = words.iter().skip(1).map(|word| word.to_string_lossy());
        while let Some(word) = words.next() {
            let Some(flag) = word.strip_prefix("--") else {
                break;
            };
            let (name, mut value) = match flag.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (flag.to_owned(), None),
            };
            if ["root", "log", "log-format", "rootless", "criu"].contains(&&*name) {
                value = value.or_else(|| words.next().map(Cow::into_owned));
            }
            match &*name {
                "log" => log.file = value.map(PathBuf::from),
                "log-format" => {
                    log.format = LogFormat::from_str(&value.unwrap_or_default(), false).unwrap_or_default()
                }
                _ => {}
            }
        }
        log
    }

    /// Tells why a command failed.
    pub(super) fn error(&self, text: &str) {
        let noted = self.note("error", text);
        let line = match (&self.file, self.format) {
            // There standard error is the log.
            (None, LogFormat::Json) => self.line("error", text),
            _ => format!("{text}\n"),
        };
        // Nothing is left to tell anyone if standard error is gone.
        let mut err = std::io::stderr().lock();
        let _ = err.write_all(line.as_bytes());
        if let (Some(file), Err(error)) = (&self.file, noted) {
            let _ = writeln!(err, "log {}: {error}", file.display());
        }
    }

    /// Tells what is amiss and fails nothing. Standard error is the container's too, so that its file is the place.
    pub(super) fn warning(&self, text: &str) {
        self.tell("warning", text);
    }

    /// Tells what is being done, where that is wanted.
    pub(super) fn debug(&self, text: &str) {
        if self.debug {
            self.tell("debug", text);
        }
    }

    fn tell(&self, level: &str, text: &str) {
        let _ = self.note(level, text);
        if self.file.is_none() {
            let _ = std::io::stderr().write_all(self.line(level, text).as_bytes());
        }
    }

    fn note(&self, level: &str, text: &str) -> std::io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        let mut file = OpenOptions::new().append(true).create(true).open(file)?;
        // At once: several may write.
        file.write_all(self.line(level, text).as_bytes())
    }

    fn line(&self, level: &str, text: &str) -> String {
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        match self.format {
            LogFormat::Json => format!(
                "{}\n",
                serde_json::json!({"level": level, "msg": text, "time": time})
            ),
            LogFormat::Text => format!("time=\"{time}\" level={level} msg={text:?}\n"),
        }
    }
}
