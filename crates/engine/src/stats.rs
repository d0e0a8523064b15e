//! `stats`: what containers use.

use std::time::{Duration, Instant};

use runtime::bundle::Bundle;
use runtime::processes::{self, Usage};
use runtime::state;
use store::ContainerError;

use crate::Engine;

/// What a container uses at one moment. One that does not run uses nothing.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The container's id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was looked at.
    pub at: Instant,
    /// What it uses.
    pub usage: Usage,
}

impl Sample {
    /// Per cent of one processor that it has used since `before`, an earlier sample of the same container.
    pub fn cpu_percent(&self, before: &Sample) -> Option<f64> {
        let (now, then) = (self.usage.cpu?, before.usage.cpu?);
        let passed = self.at.saturating_duration_since(before.at);
        if passed.is_zero() {
            return None;
        }
        // Less than before after a new start.
        let used = now.checked_sub(then).unwrap_or(Duration::ZERO);
        Some(100.0 * used.as_secs_f64() / passed.as_secs_f64())
    }
}

impl Engine {
    /// What the containers of these names use; of all that run where none is named, and of those too that do not run if
    /// `all` says so.
    ///
    /// # Errors
    /// [`ContainerError`]: none of a name or id; the store.
    pub fn sample(&self, names: &[String], all: bool) -> Result<Vec<Sample>, ContainerError> {
        let rows = match names {
            [] => self.store.containers(self.ns())?,
            names => names
                .iter()
                .map(|name| self.store.find_container(self.ns(), name))
                .collect::<Result<_, _>>()?,
        };
        let wanted = |row: &store::Container| all || !names.is_empty() || self.state(row).is_running();
        Ok(rows
            .into_iter()
            .filter(wanted)
            .map(|row| self.look_at(row))
            .collect())
    }

    fn look_at(&self, row: store::Container) -> Sample {
        // One that ends meanwhile uses nothing.
        let usage = match self.state(&row).is_running() {
            true => Bundle::open(&self.bundle_of(&row))
                .ok()
                .and_then(|bundle| state::load(&bundle).ok()?)
                .and_then(|state| processes::usage(&state).ok())
                .unwrap_or_default(),
            false => Usage::default(),
        };
        Sample {
            at: Instant::now(),
            id: row.id,
            name: row.name,
            usage,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_cent_of_one_processor() {
        let begin = Instant::now();
        let sample = |millis: u64, cpu: Option<u64>| Sample {
            id: String::new(),
            name: String::new(),
            at: begin + Duration::from_millis(millis),
            usage: Usage {
                cpu: cpu.map(Duration::from_millis),
                ..Usage::default()
            },
        };
        let first = sample(0, Some(100));
        assert_eq!(sample(1000, Some(1600)).cpu_percent(&first), Some(150.0));
        assert_eq!(sample(1000, Some(5)).cpu_percent(&first), Some(0.0));
        assert_eq!(sample(0, Some(100)).cpu_percent(&first), None);
        assert_eq!(sample(1000, None).cpu_percent(&first), None);
    }
}
