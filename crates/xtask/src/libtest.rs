//! Runs a test program of Rust's own harness and reads what it says.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::leftovers;

/// What one or many test programs came to.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    /// Tests marked `#[ignore]`: there should be none.
    pub(crate) ignored: usize,
    /// Full names of tests that failed, and of programs that ended before they could say which.
    pub(crate) failed: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.ignored += other.ignored;
        self.failed.extend(other.failed);
    }

    /// Takes in one line of the harness's output; `program` is put before the names of tests.
    pub(crate) fn read_line(&mut self, program: &str, line: &str) {
        // A test that prints without a newline has the verdict glued to its own words, so both ends are searched.
        let Some(start) = line.find("test ") else { return };
        let Some((name, verdict)) = line[start + 5..].rsplit_once(" ... ") else {
            return;
        };
        let name = name.trim_end_matches(" - should panic");
        match verdict.trim_end() {
            verdict if verdict == "ok" || verdict.ends_with("ok") => self.passed += 1,
            verdict if verdict.starts_with("ignored") => self.ignored += 1,
            verdict if verdict.ends_with("FAILED") => self.failed.push(format!("{program}::{name}")),
            _ => {}
        }
    }
}

/// Runs `command` to its end or to the `limit`, and shows its output when `show` or when a test failed.
pub(crate) fn run(program: &str, mut command: Command, limit: Duration, show: bool) -> Result<Tally> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let (lines, ended) = read_all(&mut child, limit, show)?;
    let mut tally = Tally::default();
    for line in &lines {
        tally.read_line(program, line);
    }
    let fault = match ended {
        Some(status) if status.success() => None,
        Some(status) if tally.failed.is_empty() => Some(format!("{program} ended with {status}")),
        Some(_) => None,
        None => Some(format!("{program} was still running after {} s", limit.as_secs())),
    };
    if !show && (fault.is_some() || !tally.failed.is_empty()) {
        lines.iter().for_each(|line| println!("{line}"));
    }
    tally.failed.extend(fault);
    Ok(tally)
}

/// Every line of both streams, in the order they came, and how the child ended (none: it was killed at the limit).
fn read_all(
    child: &mut Child,
    limit: Duration,
    show: bool,
) -> Result<(Vec<String>, Option<std::process::ExitStatus>)> {
    let (send, receive) = mpsc::channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child
            .stdout
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>),
        child
            .stderr
            .take()
            .map(|stream| Box::new(stream) as Box<dyn Read + Send>),
    ];
    for stream in streams.into_iter().flatten() {
        let send = send.clone();
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stream);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                line.clear();
                if send.send(text).is_err() {
                    break;
                }
            }
        });
    }
    drop(send);

    let deadline = Instant::now() + limit;
    let mut lines = Vec::new();
    let mut take = |line: String| {
        if show {
            println!("{line}");
        }
        lines.push(line);
    };
    loop {
        leftovers::reap(child.id());
        match receive.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => take(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            // The streams can be held open by something that the program left behind: its own end counts.
            Err(mpsc::RecvTimeoutError::Timeout) if child.try_wait()?.is_some() => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            receive.try_iter().for_each(take);
            return Ok((lines, None));
        }
    }
    receive.try_iter().for_each(take);
    let status = child.wait()?;
    Ok((lines, Some(status)))
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn reads_every_verdict() {
        let mut tally = Tally::default();
        for line in [
            "running 4 tests",
            "test one ... ok",
            "test deep::two ... FAILED",
            "test three ... ignored, needs a moon",
            "test four - should panic ... ok",
            "said by a testtest five ... ok",
            "test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out",
        ] {
            tally.read_line("p", line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 3,
                ignored: 1,
                failed: vec!["p::deep::two".into()]
            }
        );
    }
}
