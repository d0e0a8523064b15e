//! `--health-cmd` and the like, over what the image says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Flag, Result};
use crate::health::HealthCheck;

/// What the flags say of health checks; the rest is the image's, or the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthOptions {
    /// `--no-healthcheck`.
    pub none: bool,
    /// `--health-cmd`: the program and its arguments.
    pub command: Option<Vec<String>>,
    /// `--health-interval`.
    pub interval: Option<Duration>,
    /// `--health-timeout`.
    pub timeout: Option<Duration>,
    /// `--health-retries`.
    pub retries: Option<u32>,
    /// `--health-start-period`.
    pub start_period: Option<Duration>,
    /// `--health-start-interval`.
    pub start_interval: Option<Duration>,
}

/// Docker's defaults.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const RETRIES: u32 = 3;

/// The image's `Healthcheck`, in nanoseconds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct OfImage {
    test: Vec<String>,
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

impl HealthOptions {
    /// What is asked of a container whose image says this; nothing, where neither says anything, or one says so.
    pub fn check(&self, image: Option<&serde_json::Value>) -> Option<HealthCheck> {
        if self.none {
            return None;
        }
        let image = image
            .and_then(|value| OfImage::deserialize(value).ok())
            .unwrap_or_default();
        let command = match &self.command {
            Some(command) => command.clone(),
            None => command(&image.test)?,
        };
        if command.is_empty() {
            return None;
        }
        // Zero is what was not said.
        let pick = |flag: Option<Duration>, image: i64, default: Duration| {
            let image = u64::try_from(image).map(Duration::from_nanos).unwrap_or_default();
            [flag.unwrap_or_default(), image]
                .into_iter()
                .find(|time| !time.is_zero())
                .unwrap_or(default)
        };
        let retries = [
            self.retries.unwrap_or(0),
            u32::try_from(image.retries).unwrap_or(0),
        ];
        Some(HealthCheck {
            command,
            interval: pick(self.interval, image.interval, INTERVAL),
            timeout: pick(self.timeout, image.timeout, TIMEOUT),
            retries: retries
                .into_iter()
                .find(|retries| *retries > 0)
                .unwrap_or(RETRIES),
            start_period: pick(self.start_period, image.start_period, Duration::ZERO),
            start_interval: pick(self.start_interval, image.start_interval, START_INTERVAL),
        })
    }
}

/// The program that an image's `Test` means.
fn command(test: &[String]) -> Option<Vec<String>> {
    match test.split_first() {
        Some((word, rest)) if word == "CMD" => Some(rest.to_vec()),
        Some((word, [line])) if word == "CMD-SHELL" => Some(shell(line)),
        _ => None,
    }
}

fn shell(line: &str) -> Vec<String> {
    ["/bin/sh", "-c", line].map(str::to_owned).to_vec()
}

/// Parses `--health-cmd`: a line for the shell, or a JSON array of words; `none` for nothing.
///
/// # Errors
/// An array that is none, or not of texts.
pub fn command_line(value: &str) -> Result<Vec<String>> {
    let flag = Flag::new(
        "--health-cmd",
        value,
        "write a line for /bin/sh, or a JSON array of words",
    );
    if !value.trim_start().starts_with('[') {
        return Ok(if value == "none" { Vec::new() } else { shell(value) });
    }
    let words: Vec<String> = serde_json::from_str(value).map_err(|error| flag.wrong(error.to_string()))?;
    match words.split_first() {
        Some((word, _)) if word == "CMD" || word == "CMD-SHELL" => {
            command(&words).ok_or_else(|| flag.wrong("CMD-SHELL takes one line"))
        }
        Some((word, [])) if word == "NONE" => Ok(Vec::new()),
        _ => Ok(words),
    }
}

/// Parses a time as Go writes it: `30s`, `1m30s`, `500ms`.
///
/// # Errors
/// Anything that is not of the form.
pub fn duration(name: &'static str, value: &str) -> Result<Duration> {
    let flag = Flag::new(name, value, "write 30s, 1m30s or 500ms");
    let (mut total, mut rest) = (Duration::ZERO, value);
    if value == "0" {
        return Ok(total);
    }
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(flag.wrong(format!("{unit:?} is no unit of time"))),
        };
        let number: f64 = number
            .parse()
            .map_err(|_| flag.wrong(format!("{number:?} is no number")))?;
        let part = Duration::try_from_secs_f64(number * seconds);
        total = part
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| flag.wrong("it is too long"))?;
        rest = after;
    }
    match value.is_empty() {
        true => Err(flag.wrong("it is empty")),
        false => Ok(total),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_as_go_writes_them() {
        let read = |text: &str| {
            duration("--health-interval", text)
                .ok()
                .map(|time| time.as_millis())
        };
        for (text, milliseconds) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1.5h", 5_400_000),
            ("0", 0),
        ] {
            assert_eq!(read(text), Some(milliseconds), "{text}");
        }
        for text in ["", "30", "s", "5 s", "-1s", "1d", "1..5s"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn flags_over_the_image_over_the_defaults() {
        let image = json!({"Test": ["CMD-SHELL", "curl x"], "Interval": 1_000_000_000_i64, "Retries": 5});
        let none = HealthOptions::default();
        assert_eq!(none.check(None), None);
        assert_eq!(none.check(Some(&json!({"Test": ["NONE"]}))), None);
        assert_eq!(none.check(Some(&json!("what"))), None);
        let check = none.check(Some(&image)).unwrap();
        assert_eq!(check.command, ["/bin/sh", "-c", "curl x"]);
        assert_eq!(
            (check.interval, check.timeout, check.retries),
            (Duration::from_secs(1), TIMEOUT, 5)
        );
        let asked = HealthOptions {
            command: Some(command_line(r#"["CMD", "a", "b"]"#).unwrap()),
            retries: Some(1),
            ..HealthOptions::default()
        };
        let check = asked.check(Some(&image)).unwrap();
        assert_eq!((check.command.join(" "), check.retries), ("a b".to_owned(), 1));
        for (flags, wanted) in [
            (
                HealthOptions {
                    none: true,
                    ..asked.clone()
                },
                None,
            ),
            (
                HealthOptions {
                    command: Some(command_line("none").unwrap()),
                    ..none
                },
                None,
            ),
        ] {
            assert_eq!(flags.check(Some(&image)), wanted);
        }
        assert_eq!(command_line(r#"["a", "b"]"#).unwrap(), ["a", "b"]);
        assert!(command_line("[1]").is_err());
    }
}
