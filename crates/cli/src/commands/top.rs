//! `strata top`: the processes of a container.

use std::collections::HashMap;
use std::process::Command;
use std::time::Duration;

use clap::Args;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use runtime::processes::Process;

use super::{Context, Outcome, print};
use crate::failure::Failure;
use crate::render::table::Table;

/// Show the processes of a container
///
/// As `ps -ef` shows them, with this machine's numbers. With options it is ps(1) of this machine that is asked, and of what
/// it prints the lines of the container's processes are shown; among the columns must be PID.
#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// The container by name, id or the beginning of an id, then options of ps(1)
    #[arg(
        value_name = "CONTAINER [PS-OPTION...]",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true
    )]
    words: Vec<String>,
}

pub(crate) fn run(context: &Context, args: TopArgs) -> Outcome {
    let (container, options) = args.words.split_first().unwrap_or((&args.words[0], &[]));
    let processes = context.engine()?.top(container)?;
    if !options.is_empty() {
        let text = ps(options)?;
        let lines = of_container(&text, &processes)?;
        return print(|out| lines.iter().try_for_each(|line| writeln!(out, "{line}")));
    }
    let zone = TimeZone::system();
    let now = Timestamp::now().to_zoned(zone.clone());
    let names = names();
    let mut table = Table::new(&["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]);
    for process in &processes {
        let number = process.uid.to_string();
        table.row([
            names.get(&process.uid).cloned().unwrap_or(number),
            process.pid.to_string(),
            process.parent.to_string(),
            share(process).to_string(),
            start(process.started, &now),
            process.terminal.clone().unwrap_or_else(|| "?".to_owned()),
            clock(process.cpu),
            process.command.clone(),
        ]);
    }
    print(|out| table.write(out, context.style))
}

/// Users of this machine by number.
fn names() -> HashMap<u32, String> {
    let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let user = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    // The first of several with one number is the one that ps shows.
    text.lines().rev().filter_map(user).collect()
}

/// Per cent of its life that it has computed.
fn share(process: &Process) -> u64 {
    let life = process.age.as_millis().max(1);
    u64::try_from(process.cpu.as_millis() * 100 / life).unwrap_or(0)
}

/// As ps(1) has it: the hour of today, the day of this year, or the year.
fn start(nanoseconds: u64, now: &Zoned) -> String {
    let at = Timestamp::from_nanosecond(i128::from(nanoseconds)).unwrap_or_default();
    let at = at.to_zoned(now.time_zone().clone());
    let form = match (at.date() == now.date(), at.year() == now.year()) {
        (true, _) => "%H:%M",
        (false, true) => "%b%d",
        (false, false) => "%Y",
    };
    at.strftime(form).to_string()
}

fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

/// What ps(1) prints of all processes.
fn ps(options: &[String]) -> Result<String, Failure> {
    let output = Command::new("ps").args(options).output().map_err(|error| {
        Failure::user(format!("ps: {error}")).hint("install Debian's procps, or leave its options out")
    })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let said = said.lines().next().unwrap_or("it failed").to_owned();
        return Err(Failure::user(format!("ps {}: {said}", options.join(" ")))
            .hint("give options as ps(1) has them, such as -eo pid,ppid,comm"));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The head and the lines of these processes.
fn of_container<'a>(text: &'a str, processes: &[Process]) -> Result<Vec<&'a str>, Failure> {
    let head = text.lines().next().unwrap_or_default();
    let place = head
        .split_whitespace()
        .position(|word| word == "PID")
        .ok_or_else(|| {
            Failure::user("ps did not print a column PID")
                .hint("choose it among the columns, as in -eo pid,ppid,comm")
        })?;
    let is_ours = |line: &&str| {
        let pid = line
            .split_whitespace()
            .nth(place)
            .and_then(|word| word.parse().ok());
        pid.is_some_and(|pid: i32| processes.iter().any(|process| process.pid == pid))
    };
    Ok(std::iter::once(head)
        .chain(text.lines().skip(1).filter(is_ours))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: i32) -> Process {
        Process {
            uid: 0,
            pid,
            parent: 1,
            threads: 1,
            terminal: None,
            started: 0,
            age: Duration::from_secs(200),
            cpu: Duration::from_secs(50),
            command: "x".into(),
        }
    }

    #[test]
    fn lines_of_ps() {
        let text = "USER   PID COMMAND\nroot     1 init 20\nroot    20 sleep 1\n";
        assert_eq!(
            of_container(text, &[process(20)]).unwrap(),
            ["USER   PID COMMAND", "root    20 sleep 1"]
        );
        assert!(of_container("COMMAND\nsh\n", &[]).is_err());
        assert!(of_container("", &[]).is_err());
    }

    #[test]
    fn times_as_ps_has_them() {
        assert_eq!(clock(Duration::from_secs(3 * 3600 + 62)), "03:01:02");
        assert_eq!(share(&process(1)), 25);
        let now = Timestamp::from_second(1_700_000_000)
            .unwrap()
            .to_zoned(TimeZone::UTC);
        let ago = |seconds: u64| start((1_700_000_000 - seconds) * 1_000_000_000, &now);
        assert_eq!(ago(60), "22:12");
        assert_eq!(ago(86_400 * 3), "Nov11");
        assert_eq!(ago(86_400 * 400), "2022");
    }
}
