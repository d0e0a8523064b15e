//! `strata stats`: what containers use.

use std::io::{self, IsTerminal};
use std::time::Duration;

use clap::Args;
use engine::Engine;
use engine::stats::Sample;
use serde::Serialize;

use super::{Context, Outcome, print};
use crate::failure::Failure;
use crate::render;
use crate::render::size;
use crate::render::table::Table;
use crate::render::template::{self, Field, ListFormat};

/// Show what containers use
///
/// Of those named, or of all that run; every second, until it is interrupted. `--` stands for what nothing on this machine
/// counts: without a cgroup controller, processes and memory are summed up from /proc.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Containers, by name, id or the beginning of an id
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
    /// Those too that do not run
    #[arg(short, long)]
    all: bool,
    /// Show it once
    #[arg(long)]
    no_stream: bool,
    /// Whole ids
    #[arg(long)]
    no_trunc: bool,
    /// Form of the output: table, json, or fields such as '{{.Name}} {{.CPUPerc}}'
    #[arg(long, value_name = "FORM", default_value = "table")]
    format: ListFormat,
}

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// One line, in docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Line {
    #[serde(rename = "ID")]
    id: String,
    name: String,
    #[serde(rename = "CPUPerc")]
    cpu: String,
    #[serde(rename = "MemUsage")]
    memory: String,
    #[serde(rename = "MemPerc")]
    memory_share: String,
    #[serde(rename = "NetIO")]
    network: String,
    #[serde(rename = "BlockIO")]
    block: String,
    #[serde(rename = "PIDs")]
    tasks: String,
}

pub(crate) fn run(context: &Context, args: StatsArgs) -> Outcome {
    let engine = context.engine()?;
    let machine = machine_memory();
    // Time of processors shows between two looks.
    let mut before = engine.sample(&args.containers, args.all)?;
    loop {
        std::thread::sleep(PAUSE);
        let lines = look(&engine, &args, &mut before, machine)?;
        let made = match &args.format {
            ListFormat::Template(template) => template.lines(&fields(), None, "CONTAINER ID", &lines)?,
            _ => Vec::new(),
        };
        let fresh = !args.no_stream && args.format == ListFormat::Table && io::stdout().is_terminal();
        print(|out| {
            if fresh {
                // Home, and away with what was there.
                write!(out, "\x1b[H\x1b[2J")?;
            }
            match &args.format {
                ListFormat::Json => render::json(out, &lines),
                ListFormat::Template(_) => template::write(out, &made),
                ListFormat::Table => table(&lines).write(out, context.style),
            }
        })?;
        if args.no_stream {
            return Ok(0);
        }
    }
}

fn look(
    engine: &Engine,
    args: &StatsArgs,
    before: &mut Vec<Sample>,
    machine: Option<u64>,
) -> Result<Vec<Line>, Failure> {
    let now = engine.sample(&args.containers, args.all)?;
    let lines = now
        .iter()
        .map(|sample| {
            let earlier = before.iter().find(|earlier| earlier.id == sample.id);
            line(sample, earlier, machine, args.no_trunc)
        })
        .collect();
    *before = now;
    Ok(lines)
}

const UNKNOWN: &str = "--";

fn line(sample: &Sample, before: Option<&Sample>, machine: Option<u64>, full: bool) -> Line {
    let usage = &sample.usage;
    let unknown = || UNKNOWN.to_owned();
    let percent = |share: f64| format!("{share:.2}%");
    let pair = |pair: Option<(u64, u64)>| {
        pair.map_or_else(unknown, |(a, b)| {
            format!("{} / {}", size::human(a), size::human(b))
        })
    };
    let limit = match (usage.memory_limit, machine) {
        (Some(limit), Some(machine)) => Some(limit.min(machine)),
        (limit, machine) => limit.or(machine),
    };
    let binary = |bytes: Option<u64>| bytes.map_or_else(unknown, size::binary);
    let share = usage.memory.zip(limit).filter(|(_, limit)| *limit > 0);
    Line {
        id: render::id(&sample.id, full).to_owned(),
        name: sample.name.clone(),
        cpu: before
            .and_then(|before| sample.cpu_percent(before))
            .map_or_else(unknown, percent),
        memory: format!("{} / {}", binary(usage.memory), binary(limit)),
        memory_share: share.map_or_else(unknown, |(used, limit)| {
            percent(100.0 * used as f64 / limit as f64)
        }),
        network: pair(usage.network),
        block: pair(usage.block),
        tasks: usage.tasks.map_or_else(unknown, |tasks| tasks.to_string()),
    }
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new(&[
        "CONTAINER ID",
        "NAME",
        "CPU %",
        "MEM USAGE / LIMIT",
        "MEM %",
        "NET I/O",
        "BLOCK I/O",
        "PIDS",
    ]);
    for line in lines {
        let Line {
            id,
            name,
            cpu,
            memory,
            memory_share,
            network,
            block,
            tasks,
        } = line.clone();
        table.row([id, name, cpu, memory, memory_share, network, block, tasks]);
    }
    table
}

/// Docker's names for what a template shows.
fn fields() -> [Field<Line>; 9] {
    [
        ("Container", Box::new(|line| line.id.clone())),
        ("ID", Box::new(|line| line.id.clone())),
        ("Name", Box::new(|line| line.name.clone())),
        ("CPUPerc", Box::new(|line| line.cpu.clone())),
        ("MemUsage", Box::new(|line| line.memory.clone())),
        ("MemPerc", Box::new(|line| line.memory_share.clone())),
        ("NetIO", Box::new(|line| line.network.clone())),
        ("BlockIO", Box::new(|line| line.block.clone())),
        ("PIDs", Box::new(|line| line.tasks.clone())),
    ]
}

/// All memory of the machine, in bytes.
fn machine_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let kilobytes = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(kilobytes.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use runtime::processes::Usage;

    use super::*;

    #[test]
    fn lines_in_dockers_words() {
        let begin = Instant::now();
        let mut before = Sample {
            id: "ab".repeat(32),
            name: "web".into(),
            at: begin,
            usage: Usage::default(),
        };
        let nothing = line(&before, None, Some(1 << 30), false);
        assert_eq!(nothing.id, "abababababab");
        assert_eq!(
            (nothing.cpu.as_str(), nothing.memory.as_str()),
            ("--", "-- / 1GiB")
        );
        assert_eq!(
            (nothing.memory_share.as_str(), nothing.network.as_str()),
            ("--", "--")
        );
        before.usage.cpu = Some(Duration::ZERO);
        let mut now = before.clone();
        now.at = begin + Duration::from_secs(2);
        now.usage = Usage {
            cpu: Some(Duration::from_secs(1)),
            memory: Some(3 << 20),
            memory_limit: Some(12 << 20),
            network: Some((1500, 0)),
            block: Some((0, 4096)),
            tasks: Some(5),
        };
        let all = line(&now, Some(&before), Some(1 << 30), true);
        assert_eq!(all.id.len(), 64);
        assert_eq!(
            (all.cpu.as_str(), all.memory.as_str()),
            ("50.00%", "3MiB / 12MiB")
        );
        assert_eq!(
            (all.memory_share.as_str(), all.network.as_str()),
            ("25.00%", "1.5kB / 0B")
        );
        assert_eq!((all.block.as_str(), all.tasks.as_str()), ("0B / 4.1kB", "5"));
    }
}
