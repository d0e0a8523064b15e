//! The processes of a container as /proc tells of them, and what the container uses: its cgroup's counts, and where a
//! bare hierarchy has no controller to count, the sum over the processes.

use std::path::Path;
use std::time::Duration;

use crate::cgroup::{Cgroup, CgroupError, CgroupPaths};
use crate::state::State;

/// A process, as ps(1) shows one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// User number of the host's.
    pub uid: u32,
    /// Process id of the host's.
    pub pid: i32,
    /// Of its parent.
    pub parent: i32,
    /// Threads, the first among them.
    pub threads: u64,
    /// Its controlling terminal, as `pts/0`, if it has one.
    pub terminal: Option<String>,
    /// When it was started, in nanoseconds since 1970.
    pub started: u64,
    /// For how long it has been there.
    pub age: Duration,
    /// Time of processors that it has used.
    pub cpu: Duration,
    /// Its words, or its name in brackets where it has none.
    pub command: String,
}

/// What a container uses. What nobody counts is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Time of processors since its start.
    pub cpu: Option<Duration>,
    /// Memory in bytes, less what the kernel could take back at once from files.
    pub memory: Option<u64>,
    /// The most it may have, in bytes, where that is limited.
    pub memory_limit: Option<u64>,
    /// Bytes received and sent by its network interfaces; nothing in a network that is not its own.
    pub network: Option<(u64, u64)>,
    /// Bytes read from and written to block devices.
    pub block: Option<(u64, u64)>,
    /// Processes and threads.
    pub tasks: Option<u64>,
}

/// The processes of a running container, in the order of their numbers. `first` is its first one: where it has no
/// cgroup, those that are in its pid namespace, if that is its own.
///
/// # Errors
/// Its cgroup cannot be read.
pub fn list(cgroups: &CgroupPaths, first: i32) -> Result<Vec<Process>, CgroupError> {
    let mut pids = pids(&Cgroup::open(cgroups)?, first)?;
    pids.sort_unstable();
    pids.dedup();
    // One that ends meanwhile is left out.
    let clock = Clock::read();
    Ok(pids.into_iter().filter_map(|pid| look(pid, &clock)).collect())
}

/// What a running container uses.
///
/// # Errors
/// Its cgroup cannot be read.
pub fn usage(state: &State) -> Result<Usage, CgroupError> {
    let cgroup = Cgroup::open(&state.cgroups)?;
    let pids = pids(&cgroup, state.process.pid)?;
    let mut usage = cgroup.usage();
    let sum = |of: &dyn Fn(i32) -> Option<u64>| -> u64 { pids.iter().filter_map(|pid| of(*pid)).sum() };
    if usage.memory.is_none() && !pids.is_empty() {
        usage.memory = Some(sum(&|pid| resident(pid)));
    }
    if usage.tasks.is_none() {
        let clock = Clock::read();
        usage.tasks = Some(sum(&|pid| look(pid, &clock).map(|process| process.threads)));
    }
    if usage.block.is_none() && !pids.is_empty() {
        let io = |pid: i32, key: &str| number_of(&read(pid, "io")?, key);
        usage.block = Some((
            sum(&|pid| io(pid, "read_bytes:")),
            sum(&|pid| io(pid, "write_bytes:")),
        ));
    }
    usage.network = network(state.process.pid);
    Ok(usage)
}

fn pids(cgroup: &Cgroup, first: i32) -> Result<Vec<i32>, CgroupError> {
    match cgroup.is_none() {
        true => Ok(in_namespace_of(first)),
        false => cgroup.pids(),
    }
}

/// The processes in the pid namespace of `first`; `first` alone where that is the caller's.
fn in_namespace_of(first: i32) -> Vec<i32> {
    let namespace = |who: &str| std::fs::read_link(Path::new("/proc").join(who).join("ns/pid")).ok();
    let Some(theirs) = namespace(&first.to_string()) else {
        return Vec::new();
    };
    if namespace("self").as_ref() == Some(&theirs) {
        return vec![first];
    }
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers
        .filter(|pid: &i32| namespace(&pid.to_string()).as_ref() == Some(&theirs))
        .collect()
}

fn read(pid: i32, file: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/{file}")).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first number in the line that begins with `key`.
fn number_of(text: &str, key: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(key))?;
    rest.split_whitespace().next()?.parse().ok()
}

/// Memory of a process, its share of what it has in common with others counted.
fn resident(pid: i32) -> Option<u64> {
    let kilobytes = match read(pid, "smaps_rollup") {
        Some(text) => number_of(&text, "Pss:"),
        None => number_of(&read(pid, "status")?, "VmRSS:"),
    };
    Some(kilobytes? * 1024)
}

/// Bytes that the interfaces of a process's network have received and sent; `None` for the caller's own network.
fn network(pid: i32) -> Option<(u64, u64)> {
    let namespace = |who: &str| std::fs::read_link(Path::new("/proc").join(who).join("ns/net")).ok();
    if namespace(&pid.to_string())? == namespace("self")? {
        return None;
    }
    Some(interfaces(&read(pid, "net/dev")?))
}

/// proc_net_dev(5), without the loopback.
fn interfaces(text: &str) -> (u64, u64) {
    let lines = text.lines().filter_map(|line| line.trim().split_once(':'));
    lines
        .filter(|(name, _)| *name != "lo")
        .fold((0, 0), |(received, sent), (_, counts)| {
            let mut counts = counts
                .split_whitespace()
                .map(|count| count.parse::<u64>().unwrap_or(0));
            (
                received + counts.next().unwrap_or(0),
                sent + counts.nth(7).unwrap_or(0),
            )
        })
}

/// What times in /proc are counted from and in.
pub(crate) struct Clock {
    ticks: u64,
    /// Nanoseconds since 1970 at which the machine was started.
    boot: u64,
    /// Since then.
    up: Duration,
}

impl Clock {
    pub(crate) fn read() -> Clock {
        let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let up = Duration::new(
            u64::try_from(up.tv_sec).unwrap_or(0),
            u32::try_from(up.tv_nsec).unwrap_or(0),
        );
        let since_boot = u64::try_from(up.as_nanos()).unwrap_or(u64::MAX);
        Clock {
            ticks: rustix::param::clock_ticks_per_second(),
            boot: crate::state::now().saturating_sub(since_boot),
            up,
        }
    }

    /// When a process was started that says so many ticks, in nanoseconds since 1970 as the clock goes now.
    pub(crate) fn time(&self, started: u64) -> u64 {
        let since_boot = self.duration(started).as_nanos();
        self.boot
            .saturating_add(u64::try_from(since_boot).unwrap_or(u64::MAX))
    }

    fn duration(&self, ticks: u64) -> Duration {
        Duration::from_millis(ticks.saturating_mul(1000) / self.ticks.max(1))
    }
}

fn look(pid: i32, clock: &Clock) -> Option<Process> {
    let stat = parse_stat(&read(pid, "stat")?)?;
    let uid = rustix::fs::stat(format!("/proc/{pid}")).ok()?.st_uid;
    let words = read(pid, "cmdline")?;
    let words: Vec<&str> = words.trim_end_matches('\0').split('\0').collect();
    let command = match words.join(" ") {
        empty if empty.is_empty() => format!("[{}]", stat.name),
        command => command
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect(),
    };
    let since_boot = clock.duration(stat.started);
    let started = u64::try_from(since_boot.as_nanos()).unwrap_or(u64::MAX);
    Some(Process {
        uid,
        pid,
        parent: stat.parent,
        threads: stat.threads,
        terminal: terminal(stat.terminal),
        started: clock.boot.saturating_add(started),
        age: clock.up.saturating_sub(since_boot),
        cpu: clock.duration(stat.cpu),
        command,
    })
}

/// What of proc_pid_stat(5) is shown.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: i32,
    terminal: i32,
    /// Ticks in user and kernel.
    cpu: u64,
    threads: u64,
    /// Ticks since the machine's start.
    started: u64,
}

fn parse_stat(text: &str) -> Option<Stat> {
    // The name may hold anything, closing brackets too: what counts begins after the last one.
    let (before, rest) = text.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbered as in the manual, from the state on.
    let field = |number: usize| fields.get(number - 3).copied();
    let number = |at: usize| field(at)?.parse::<u64>().ok();
    Some(Stat {
        name: before.split_once('(')?.1.to_owned(),
        parent: field(4)?.parse().ok()?,
        terminal: field(7)?.parse().ok()?,
        cpu: number(14)? + number(15)?,
        threads: number(20)?,
        started: number(22)?,
    })
}

/// The name of a terminal by its device number (admin-guide/devices.txt).
fn terminal(number: i32) -> Option<String> {
    let (major, minor) = (
        (number >> 8) & 0xfff,
        (number & 0xff) | ((number >> 12) & 0xfff00),
    );
    match major {
        0 => None,
        4 if minor < 64 => Some(format!("tty{minor}")),
        4 => Some(format!("ttyS{}", minor - 64)),
        136..=143 => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        _ => Some("?".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat() {
        let text = "42 (a) b) (c) S 7 42 42 34817 42 4194560 1 2 3 4 50 60 7 8 20 0 3 0 4242 99 1";
        let stat = parse_stat(text).unwrap();
        assert_eq!(
            stat,
            Stat {
                name: "a) b) (c".into(),
                parent: 7,
                terminal: 34817,
                cpu: 110,
                threads: 3,
                started: 4242
            }
        );
        assert_eq!(terminal(34817).as_deref(), Some("pts/1"));
        assert_eq!(terminal(0), None);
        assert_eq!(terminal(4 << 8 | 65).as_deref(), Some("ttyS1"));
        assert_eq!(parse_stat("42 nothing"), None);
    }

    #[test]
    fn bytes_of_interfaces() {
        let text = "Inter-|   Receive                            |  Transmit\n \
             face |bytes    packets errs drop fifo frame compressed multicast|bytes packets\n    \
             lo: 500 5 0 0 0 0 0 0 500 5 0 0 0 0 0 0\n  \
             eth0: 100 2 0 0 0 0 0 0 30 3 0 0 0 0 0 0\n  eth1:7 2 0 0 0 0 0 0 8 3 0 0 0 0 0 0\n";
        assert_eq!(interfaces(text), (107, 38));
    }

    #[test]
    fn this_process() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let process = look(pid, &Clock::read()).unwrap();
        assert!(process.command.contains("runtime"), "{process:?}");
        assert!(process.threads >= 1 && process.age < Duration::from_secs(3600));
        assert!(resident(pid).unwrap() > 100_000);
    }
}
