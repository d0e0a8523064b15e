//! What is counted, in the text that Prometheus reads.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use grpc::Code;
use store::Counts;

/// Upper ends of the classes that times are counted in, in microseconds.
const CLASSES: [u64; 8] = [250, 1_000, 4_000, 16_000, 64_000, 250_000, 1_000_000, 10_000_000];

/// Every method; anything else is counted together, so that what a client makes up takes no memory.
const METHODS: [&str; 10] = [
    "Prepare", "View", "Mounts", "Commit", "Remove", "Stat", "Update", "List", "Usage", "Cleanup",
];

/// Counts of a server.
#[derive(Debug, Default)]
pub struct Metrics {
    calls: Mutex<BTreeMap<(&'static str, Code), u64>>,
    times: Mutex<BTreeMap<&'static str, Times>>,
    adopted: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Times {
    classes: [u64; CLASSES.len()],
    count: u64,
    micros: u64,
}

impl Metrics {
    /// A call of `method` was answered.
    pub(crate) fn count(&self, method: &str, code: Code, took: Duration) {
        let known = METHODS.iter().find(|known| **known == method);
        let method = known.copied().unwrap_or("other");
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.entry((method, code)).or_default() += 1;
        drop(calls);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let times = times.entry(method).or_default();
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        times.count += 1;
        times.micros = times.micros.saturating_add(micros);
        if let Some(class) = CLASSES.iter().position(|end| micros <= *end) {
            times.classes[class] += 1;
        }
    }

    /// A layer was here already.
    pub(crate) fn adopted(&self) {
        self.adopted.fetch_add(1, Ordering::Relaxed);
    }

    /// All of it, with how much the store has.
    pub fn render(&self, counts: Option<&Counts>) -> String {
        let mut out = String::new();
        self.write(&mut out, counts).unwrap_or_default();
        out
    }

    fn write(&self, out: &mut String, counts: Option<&Counts>) -> std::fmt::Result {
        let name = "strata_snapshotter_calls_total";
        writeln!(
            out,
            "# HELP {name} Calls that were answered.\n# TYPE {name} counter"
        )?;
        for ((method, code), count) in &*self.calls.lock().unwrap_or_else(PoisonError::into_inner) {
            writeln!(
                out,
                "{name}{{method=\"{method}\",code=\"{}\"}} {count}",
                code.name()
            )?;
        }
        let name = "strata_snapshotter_call_seconds";
        writeln!(
            out,
            "# HELP {name} Time from a call's last byte to its answer.\n# TYPE {name} histogram"
        )?;
        for (method, times) in &*self.times.lock().unwrap_or_else(PoisonError::into_inner) {
            let mut sum = 0;
            for (end, count) in CLASSES.iter().zip(times.classes) {
                sum += count;
                let end = *end as f64 / 1e6;
                writeln!(out, "{name}_bucket{{method=\"{method}\",le=\"{end}\"}} {sum}")?;
            }
            writeln!(
                out,
                "{name}_bucket{{method=\"{method}\",le=\"+Inf\"}} {}",
                times.count
            )?;
            writeln!(
                out,
                "{name}_sum{{method=\"{method}\"}} {}",
                times.micros as f64 / 1e6
            )?;
            writeln!(out, "{name}_count{{method=\"{method}\"}} {}", times.count)?;
        }
        let name = "strata_snapshotter_layers_shared_total";
        writeln!(
            out,
            "# HELP {name} Layers that were neither fetched nor unpacked, since the store had them."
        )?;
        writeln!(
            out,
            "# TYPE {name} counter\n{name} {}",
            self.adopted.load(Ordering::Relaxed)
        )?;
        let Some(counts) = counts else { return Ok(()) };
        let name = "strata_store_objects";
        writeln!(
            out,
            "# HELP {name} What the store has, of all namespaces.\n# TYPE {name} gauge"
        )?;
        for (kind, count) in [
            ("blobs", counts.blobs),
            ("containers", counts.containers),
            ("images", counts.images),
            ("layers", counts.layers),
            ("snapshots", counts.snapshots),
            ("volumes", counts.volumes),
        ] {
            writeln!(out, "{name}{{kind=\"{kind}\"}} {count}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_cumulative_and_names_few() {
        let metrics = Metrics::default();
        metrics.count("Stat", Code::Ok, Duration::from_micros(100));
        metrics.count("Stat", Code::NotFound, Duration::from_micros(1000));
        metrics.count("Stat", Code::Ok, Duration::from_secs(100));
        metrics.count("What", Code::Unimplemented, Duration::ZERO);
        let text = metrics.render(Some(&Counts::default()));
        for line in [
            "strata_snapshotter_calls_total{method=\"Stat\",code=\"OK\"} 2",
            "strata_snapshotter_calls_total{method=\"Stat\",code=\"NOT_FOUND\"} 1",
            "strata_snapshotter_calls_total{method=\"other\",code=\"UNIMPLEMENTED\"} 1",
            "strata_snapshotter_call_seconds_bucket{method=\"Stat\",le=\"0.00025\"} 1",
            "strata_snapshotter_call_seconds_bucket{method=\"Stat\",le=\"0.001\"} 2",
            "strata_snapshotter_call_seconds_bucket{method=\"Stat\",le=\"10\"} 2",
            "strata_snapshotter_call_seconds_bucket{method=\"Stat\",le=\"+Inf\"} 3",
            "strata_snapshotter_call_seconds_sum{method=\"Stat\"} 100.0011",
            "strata_store_objects{kind=\"snapshots\"} 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.rsplit_once(' ').unwrap().1.parse::<f64>().is_ok(), "{line}");
        }
    }
}
