//! `state`, `list`, `ps`: what is printed, in runc's form.

use std::collections::BTreeSet;
use std::io::Write;
use std::process::Command;

use runtime::oci::{Container, Containers};
use serde::Serialize;

use super::Outcome;
use super::args::{Format, ListArgs, PsArgs};

/// Prints a document.
pub(super) fn json(value: &impl Serialize) -> Outcome {
    print(&serde_json::to_string_pretty(value)?)
}

pub(super) fn state(container: &Container) -> Outcome {
    json(&container.state()?)
}

pub(super) fn list(containers: &Containers, args: &ListArgs) -> Outcome {
    let mut states = Vec::new();
    for container in containers.list()? {
        states.push(container.state()?);
    }
    if args.quiet {
        let ids: Vec<&str> = states.iter().map(|state| state.id.as_str()).collect();
        return match ids.is_empty() {
            true => Ok(0),
            false => print(&ids.join("\n")),
        };
    }
    if args.format == Format::Json {
        return print(&serde_json::to_string(&states)?);
    }
    let head = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = states.iter().map(|state| {
        [
            state.id.clone(),
            state.pid.to_string(),
            state.status.to_string(),
            state.bundle.display().to_string(),
            state.created.clone(),
            state.owner.clone(),
        ]
    });
    let rows: Vec<_> = std::iter::once(head).chain(rows).collect();
    let widths: [usize; 6] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0));
    let line = |row: &[String; 6]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    print(&rows.iter().map(line).collect::<Vec<_>>().join("\n"))
}

pub(super) fn ps(container: &Container, args: &PsArgs) -> Outcome {
    let pids: BTreeSet<i32> = runtime::processes::list(&container.cgroups(), container.first())?
        .into_iter()
        .map(|process| process.pid)
        .collect();
    if args.format == Format::Json {
        return print(&serde_json::to_string(&pids)?);
    }
    let options = match args.options.is_empty() {
        true => vec!["-ef".to_owned()],
        false => args.options.clone(),
    };
    let output = Command::new("ps")
        .args(&options)
        .output()
        .map_err(|error| format!("ps: {error}"))?;
    if !output.status.success() {
        return Err(format!("ps: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let head = text.lines().next().unwrap_or_default();
    let column = head
        .split_whitespace()
        .position(|word| word == "PID")
        .ok_or("ps prints no column PID")?;
    let ours = |line: &&str| {
        let word = line.split_whitespace().nth(column);
        word.and_then(|word| word.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    let lines: Vec<&str> = text
        .lines()
        .take(1)
        .chain(text.lines().skip(1).filter(ours))
        .collect();
    print(&lines.join("\n"))
}

/// Prints text and the end of its line. A reader that has gone away is no failure.
fn print(text: &str) -> Outcome {
    match writeln!(std::io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(0),
    }
}
