//! What a cgroup has counted.

use std::time::Duration;

use super::Cgroup;
use super::node::Node;
use crate::processes::Usage;

impl Cgroup {
    /// What its controllers have counted; `None` for what none counts here.
    pub fn usage(&self) -> Usage {
        match &self.unified {
            Some(node) => self.of_unified(node),
            None => self.of_v1(Usage::default()),
        }
    }

    fn of_unified(&self, node: &Node) -> Usage {
        let number = |file: &str| node.read(file).ok()?.trim().parse::<u64>().ok();
        let micros = node
            .read("cpu.stat")
            .ok()
            .and_then(|text| value(&text, "usage_usec"));
        let reclaimable = node
            .read("memory.stat")
            .ok()
            .and_then(|text| value(&text, "inactive_file"));
        let current = number("memory.current");
        self.of_v1(Usage {
            cpu: micros.map(Duration::from_micros),
            memory: current.map(|current| current.saturating_sub(reclaimable.unwrap_or(0))),
            // The word for none is no number.
            memory_limit: number("memory.max"),
            network: None,
            block: node.read("io.stat").ok().map(|text| io_stat(&text)),
            tasks: number("pids.current"),
        })
    }

    /// With what v1 hierarchies count where the other has no controller.
    fn of_v1(&self, known: Usage) -> Usage {
        let number = |file: &str| {
            let found = self.v1.iter().find_map(|node| node.read(file).ok())?;
            found.trim().parse::<u64>().ok()
        };
        let memory = || {
            let stat = self.v1.iter().find_map(|node| node.read("memory.stat").ok());
            let reclaimable = stat.and_then(|text| value(&text, "total_inactive_file"));
            Some(number("memory.usage_in_bytes")?.saturating_sub(reclaimable.unwrap_or(0)))
        };
        // What v1 has for no limit is the highest number of whole pages.
        let limit = || number("memory.limit_in_bytes").filter(|limit| *limit < 1 << 60);
        Usage {
            cpu: known
                .cpu
                .or_else(|| number("cpuacct.usage").map(Duration::from_nanos)),
            memory: known.memory.or_else(memory),
            memory_limit: known.memory_limit.or_else(limit),
            tasks: known.tasks.or_else(|| number("pids.current")),
            ..known
        }
    }
}

/// The number of `key` in lines of `key number`.
fn value(text: &str, key: &str) -> Option<u64> {
    super::life::value(text, key)?.parse().ok()
}

/// Bytes read and written, over all devices.
fn io_stat(text: &str) -> (u64, u64) {
    let sum = |key: &str| {
        let words = text.split_whitespace();
        words
            .filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok())
            .sum()
    };
    (sum("rbytes="), sum("wbytes="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_devices() {
        let text = "8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=2\n";
        assert_eq!(io_stat(text), (101, 22));
        assert_eq!(io_stat(""), (0, 0));
        assert_eq!(value("usage_usec 7\nuser_usec 5\n", "usage_usec"), Some(7));
    }
}
