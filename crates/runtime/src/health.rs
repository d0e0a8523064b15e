//! Health checks: what is asked of a container again and again while it runs, and what came of it.
//!
//! The one who starts the container writes `healthcheck.json` into its bundle; its supervisor executes the check, as it
//! does what `exec` asks, and writes `health.json`, which anyone may read.

use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use crate::bundle::{self, Bundle, BundleError};
use crate::spec::{ExecOptions, Who, exec_process};

/// How a container's health is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// From the end of one check to the next.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
    /// So many failures in a row make it unhealthy.
    pub retries: u32,
    /// Failures before this do not count, until one check succeeded.
    pub start_period: Duration,
    /// As `interval`, within the start period.
    pub start_interval: Duration,
}

/// Contents of `healthcheck.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Asked {
    pub(crate) check: HealthCheck,
    pub(crate) process: Process,
}

/// How a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// No check has succeeded, and not enough have failed.
    Starting,
    /// The last checks did not fail too often.
    Healthy,
    /// Too many failed in a row.
    Unhealthy,
}

impl Status {
    /// `starting`, `healthy`, `unhealthy`.
    pub fn word(self) -> &'static str {
        match self {
            Status::Starting => "starting",
            Status::Healthy => "healthy",
            Status::Unhealthy => "unhealthy",
        }
    }
}

/// One check that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// When it began, in nanoseconds since 1970.
    pub start: u64,
    /// When it ended.
    pub end: u64,
    /// Its exit code; -1 where it did not come to one.
    pub code: i32,
    /// The beginning of what it printed, or why it came to no exit code.
    pub output: String,
}

/// Contents of `health.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// How it is.
    pub status: Status,
    /// So many checks have failed in a row.
    pub failing: u32,
    /// The last checks, the latest at the end.
    pub log: Vec<Probe>,
}

/// So many checks are remembered.
const REMEMBERED: usize = 5;

impl Health {
    pub(crate) fn new() -> Health {
        Health {
            status: Status::Starting,
            failing: 0,
            log: Vec::new(),
        }
    }

    /// Takes what came of a check; `early` within the start period. Whether the status changed.
    pub(crate) fn take(&mut self, probe: Probe, check: &HealthCheck, early: bool) -> bool {
        let before = self.status;
        if probe.code == 0 {
            self.failing = 0;
            self.status = Status::Healthy;
        } else if !(early && before == Status::Starting) {
            self.failing = self.failing.saturating_add(1);
            if self.failing >= check.retries {
                self.status = Status::Unhealthy;
            }
        }
        self.log.push(probe);
        if self.log.len() > REMEMBERED {
            self.log.remove(0);
        }
        self.status != before
    }
}

/// How a container is, as its supervisor has written it down last; `None` where nothing is asked.
pub fn load(bundle: &Bundle) -> Result<Option<Health>, BundleError> {
    bundle.read_json(bundle::HEALTH)
}

/// Writes down what the next start's supervisor is to ask of a container with this spec.
pub fn write(bundle: &Bundle, spec: &Spec, check: &HealthCheck) -> Result<(), BundleError> {
    let first = spec.process().clone().unwrap_or_default();
    let options = ExecOptions {
        command: check.command.clone(),
        ..ExecOptions::default()
    };
    let asked = Asked {
        check: check.clone(),
        process: exec_process(&options, &first, Who::Same, &Default::default()),
    };
    bundle.write_json(bundle::HEALTHCHECK, &asked)?;
    bundle.write_json(bundle::HEALTH, &Health::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_count_in_a_row_and_not_at_the_beginning() {
        let check = HealthCheck {
            command: vec!["true".into()],
            interval: Duration::ZERO,
            timeout: Duration::ZERO,
            retries: 2,
            start_period: Duration::ZERO,
            start_interval: Duration::ZERO,
        };
        let mut health = Health::new();
        let mut take = |code, early| {
            let probe = Probe {
                start: 1,
                end: 2,
                code,
                output: String::new(),
            };
            let changed = health.take(probe, &check, early);
            (changed, health.status, health.failing, health.log.len())
        };
        use Status::{Healthy, Starting, Unhealthy};
        assert_eq!(take(1, true), (false, Starting, 0, 1));
        assert_eq!(take(1, false), (false, Starting, 1, 2));
        assert_eq!(take(0, false), (true, Healthy, 0, 3));
        // Once it was healthy, it fails early too.
        assert_eq!(take(-1, true), (false, Healthy, 1, 4));
        assert_eq!(take(3, true), (true, Unhealthy, 2, 5));
        assert_eq!(take(0, false), (true, Healthy, 0, 5));
    }
}
