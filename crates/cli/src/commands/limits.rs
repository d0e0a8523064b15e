//! The limits of a container's cgroup: flags of `run`, `create` and `update`.

use clap::Args;
use runtime::options::container::ResourceOptions;
use runtime::options::{OptionError, limits};

/// What a container may use.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Memory limit, 0 for none
    #[arg(short, long, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Limit of memory and swap together, -1 for no limit of swap [default: twice the memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Memory that is left to it when others need some
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_reservation: Option<String>,
    /// How many CPUs' worth of time, 0 for no limit
    #[arg(
        long,
        value_name = "NUMBER",
        allow_hyphen_values = true,
        conflicts_with_all = ["cpu_quota", "cpu_period"]
    )]
    cpus: Option<String>,
    /// Share of CPU time where several want it, 2 to 262144 [default: 1024]
    #[arg(short = 'c', long, value_name = "NUMBER")]
    cpu_shares: Option<String>,
    /// CPU time in each period, in microseconds, 0 for no limit
    #[arg(long, value_name = "MICROSECONDS", allow_hyphen_values = true)]
    cpu_quota: Option<String>,
    /// That period, in microseconds [default: 100000]
    #[arg(long, value_name = "MICROSECONDS")]
    cpu_period: Option<String>,
    /// CPUs that it runs on, as 0-2,4
    #[arg(long, value_name = "LIST")]
    cpuset_cpus: Option<String>,
    /// Memory nodes that it has, as 0,1
    #[arg(long, value_name = "LIST")]
    cpuset_mems: Option<String>,
    /// Share of block I/O where several want it, 10 to 1000, 0 for the ordinary one
    #[arg(long, value_name = "NUMBER")]
    blkio_weight: Option<String>,
    /// How many processes and threads, -1 for no limit
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pids_limit: Option<String>,
}

impl LimitArgs {
    /// What they ask for.
    pub(crate) fn resources(&self) -> Result<ResourceOptions, OptionError> {
        let (quota, period) = match maybe(&self.cpus, limits::cpus)? {
            // Of a container that has another period, too.
            Some(quota) => (Some(quota), Some(limits::CPU_PERIOD)),
            None => (
                maybe(&self.cpu_quota, limits::cpu_quota)?,
                maybe(&self.cpu_period, limits::cpu_period)?,
            ),
        };
        Ok(ResourceOptions {
            memory: maybe(&self.memory, limits::memory)?,
            memory_swap: maybe(&self.memory_swap, limits::memory_swap)?,
            memory_reservation: maybe(&self.memory_reservation, limits::memory_reservation)?,
            cpu_quota: quota,
            cpu_period: period,
            cpu_shares: maybe(&self.cpu_shares, limits::cpu_shares)?,
            cpuset_cpus: maybe(&self.cpuset_cpus, |v| limits::cpuset("--cpuset-cpus", v))?,
            cpuset_mems: maybe(&self.cpuset_mems, |v| limits::cpuset("--cpuset-mems", v))?,
            pids_limit: maybe(&self.pids_limit, limits::pids_limit)?,
            blkio_weight: maybe(&self.blkio_weight, limits::blkio_weight)?,
        })
    }
}

/// An empty value is the default.
fn maybe<T>(
    value: &Option<String>,
    parse: impl FnOnce(&str) -> Result<T, OptionError>,
) -> Result<Option<T>, OptionError> {
    value
        .as_deref()
        .filter(|value| !value.is_empty())
        .map(parse)
        .transpose()
}
