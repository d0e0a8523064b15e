//! Starts qemu, listens to the machine, and ends it when it takes too long.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::cases::Cases;
use super::kernel::Kernel;
use crate::libtest::Tally;
use crate::test::report;

/// From power-on to the first test: two to three seconds with a free processor.
const BOOT: Duration = Duration::from_secs(120);

/// What is booted, and how.
pub(crate) struct Boot<'a> {
    /// Where the disk and the first file system lie; the console's log comes there too.
    pub(crate) dir: &'a Path,
    /// More of the kernel's parameters.
    pub(crate) parameters: &'a str,
    /// It does not say that it goes off, and starts again in the end, which ends qemu.
    pub(crate) reboots: bool,
}

/// Boots, runs every case, and returns when the machine is off.
pub(crate) fn run(boot: &Boot<'_>, kernel: &Kernel, cases: &Cases, show: bool) -> Result<Tally> {
    let dir = boot.dir;
    let console = dir.join("console.log");
    let mut qemu = Qemu(
        Command::new("qemu-system-x86_64")
            // Emulated even where /dev/kvm exists: nested KVM can be there and not work, and one way is the same
            // on every machine. An old processor is emulated a fifth faster than all that there is to emulate.
            .args(["-accel", "tcg", "-cpu", "Nehalem-v1", "-smp", "2", "-m", "2048"])
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(dir.join("initramfs"))
            // A panic ends the machine, and with -no-reboot qemu too. What a processor leaks is kept from nobody here,
            // at the price of a tenth of the time.
            .arg("-append")
            .arg(format!(
                "console=ttyS0 panic=-1 quiet loglevel=4 8250.nr_uarts=2 mitigations=off apparmor=1 security=apparmor {}",
                boot.parameters
            ))
            .arg("-drive")
            .arg(format!(
                "if=virtio,format=raw,cache=unsafe,file={}",
                dir.join("disk").display()
            ))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("qemu-system-x86_64")?,
    );
    let words = qemu.0.stdout.take().context("qemu has no output")?;
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(words);
        let mut line = Vec::new();
        while matches!(reader.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            if send
                .send(String::from_utf8_lossy(&line).trim_end().to_owned())
                .is_err()
            {
                break;
            }
            line.clear();
        }
    });

    let mut hearing = Hearing::new(cases, show);
    let mut deadline = Instant::now() + BOOT;
    while !hearing.off {
        match receive.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                if let Some(allowed) = hearing.line(&line) {
                    deadline = Instant::now() + allowed;
                }
            }
            Err(mpsc::RecvTimeoutError::Timeout) => break,
            Err(mpsc::RecvTimeoutError::Disconnected) => {
                hearing.off |= boot.reboots;
                break;
            }
        }
    }
    let off = hearing.off;
    let total = hearing.conclude();
    if !off {
        println!(
            "the virtual machine did not run to its end; its console ({}) ends:",
            console.display()
        );
        let log = String::from_utf8_lossy(&std::fs::read(&console).unwrap_or_default()).into_owned();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..]
            .iter()
            .for_each(|line| println!("  {line}"));
        if let Some(status) = qemu.0.try_wait()? {
            let mut words = String::new();
            if let Some(mut stream) = qemu.0.stderr.take() {
                std::io::Read::read_to_string(&mut stream, &mut words)?;
            }
            println!("  qemu ended with {status}: {}", words.trim());
        }
    }
    Ok(total)
}

/// Ends with the value that holds it, whatever the machine is doing.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads the machine's second serial line: marks of guest-init.sh, and the test harness's words between them.
struct Hearing<'a> {
    cases: &'a Cases,
    show: bool,
    /// Name of the program that runs, when it began, and what it has said.
    current: Option<(String, Instant, Vec<String>)>,
    heard: usize,
    total: Tally,
    /// The machine said that it goes off by itself.
    off: bool,
}

impl<'a> Hearing<'a> {
    fn new(cases: &'a Cases, show: bool) -> Self {
        Hearing {
            cases,
            show,
            current: None,
            heard: 0,
            total: Tally::default(),
            off: false,
        }
    }

    /// Takes in a line; after a mark, returns how long the next mark may take.
    fn line(&mut self, line: &str) -> Option<Duration> {
        if self.show {
            println!("vm| {line}");
        }
        if let Some(name) = line.strip_prefix("@begin ") {
            self.current = Some((name.to_owned(), Instant::now(), Vec::new()));
            let limit = self
                .cases
                .list
                .iter()
                .find(|case| case.test.name == name)
                .map(|case| case.limit);
            return Some(limit.unwrap_or(BOOT) + Duration::from_secs(30));
        }
        if let Some(end) = line.strip_prefix("@end ") {
            let status = end.rsplit(' ').next().unwrap_or("?").to_owned();
            self.end(&format!("ended with status {status}"), status == "0");
            return Some(BOOT);
        }
        if line == "@off" {
            self.off = true;
        } else if let Some((_, _, said)) = &mut self.current {
            said.push(line.to_owned());
        }
        None
    }

    fn end(&mut self, how: &str, good: bool) {
        let Some((name, began, said)) = self.current.take() else {
            return;
        };
        self.heard += 1;
        let mut tally = Tally::default();
        said.iter()
            .for_each(|line| tally.read_line(&format!("vm {name}"), line));
        if !good && tally.failed.is_empty() {
            tally.failed.push(format!("vm {name} {how}"));
        }
        if !tally.failed.is_empty() && !self.show {
            said.iter().for_each(|line| println!("vm| {line}"));
        }
        report(&format!("vm {name}"), &tally, began.elapsed());
        self.total.add(tally);
    }

    fn conclude(mut self) -> Tally {
        self.end("did not end", false);
        for case in self.cases.list.iter().skip(self.heard) {
            self.total.failed.push(format!("vm {} never ran", case.test.name));
        }
        self.total
    }
}
