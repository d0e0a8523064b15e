//! The command line of runc, as far as it is played: what is missing is refused.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Run containers for podman, containerd and buildah, which call this as they call runc
#[derive(Debug, Parser)]
#[command(
    name = "oci",
    bin_name = "strata oci",
    display_name = "strata-oci",
    version = concat!(env!("CARGO_PKG_VERSION"), "\nspec: 1.3.0"),
    disable_help_subcommand = true,
    args_override_self = true,
    max_term_width = 110
)]
pub(super) struct Cli {
    /// Directory of the containers' state [default: /run/strata-oci, of a user $XDG_RUNTIME_DIR/strata-oci]
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// File that errors are added to
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// Form of the lines in it
    #[arg(long, value_enum, default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Add a line for every call
    #[arg(long)]
    pub(super) debug: bool,
    /// Have systemd make cgroups; cgroupsPath is SLICE:PREFIX:NAME
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    /// Do without a cgroup where none can be made and nothing asks for one; false is to fail then
    #[arg(long, value_enum, ignore_case = true, default_value = "auto")]
    pub(super) rootless: Rootless,
    /// Program of `checkpoint` and `restore`, which are not here: without effect on what is
    #[arg(long, value_name = "FILE")]
    pub(super) criu: Option<PathBuf>,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What runc's flag of this name can say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Rootless {
    Auto,
    #[value(alias = "1", alias = "t")]
    True,
    #[value(alias = "0", alias = "f")]
    False,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a container of a bundle, up to its program
    Create(CreateArgs),
    /// Let the program of a created container begin
    Start(One),
    /// Make a container and let its program begin
    Run(RunArgs),
    /// Run one more program in a container
    Exec(Box<ExecArgs>),
    /// Show a container's state as JSON
    State(One),
    /// Send a signal to a container's first process
    Kill(KillArgs),
    /// Remove a container that has stopped
    Delete(DeleteArgs),
    /// Hold all processes of a container still
    Pause(One),
    /// Let the processes of a paused container go on
    Resume(One),
    /// Show the processes of a container
    Ps(PsArgs),
    /// List containers
    List(ListArgs),
    /// Change a container's limits
    Update(Box<UpdateArgs>),
    /// Show what this runtime does, as JSON
    Features,
    /// Write a configuration to begin with
    Spec(SpecArgs),
}

impl Command {
    /// Whether it becomes, or makes, a process of a container.
    pub(super) fn makes_processes(&self) -> bool {
        matches!(self, Command::Create(_) | Command::Run(_) | Command::Exec(_))
    }
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// Directory of config.json
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// Move its root over the host's, where that is an initramfs that cannot be exchanged
    #[arg(long)]
    pub(super) no_pivot: bool,
    #[command(flatten)]
    pub(super) wish: WishArgs,
    /// The container's id
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

/// What a new process is given.
#[derive(Debug, Args)]
pub(super) struct WishArgs {
    /// Socket that the terminal is sent to
    #[arg(long, value_name = "SOCKET")]
    pub(super) console_socket: Option<PathBuf>,
    /// File that the process's number is written to
    #[arg(long, value_name = "FILE")]
    pub(super) pid_file: Option<PathBuf>,
    /// How many descriptors after the standard streams it is given
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub(super) preserve_fds: u16,
    /// Leave it in the caller's session keyring
    #[arg(long)]
    pub(super) no_new_keyring: bool,
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pub(super) create: CreateArgs,
    /// Leave it, and do not remove it when it ends
    #[arg(short, long)]
    pub(super) detach: bool,
    /// Do not remove it when it ends
    #[arg(long)]
    pub(super) keep: bool,
    /// Take in no orphans of its processes, which this never does: without effect
    #[arg(long)]
    pub(super) no_subreaper: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Leave it
    #[arg(short, long)]
    pub(super) detach: bool,
    /// File of JSON that says everything of the process
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["user", "additional_gids", "cwd", "env",
        "cap", "no_new_privs", "apparmor", "process_label", "words"])]
    pub(super) process: Option<PathBuf>,
    /// Give it a terminal, whatever the file says
    #[arg(short, long)]
    pub(super) tty: bool,
    /// User and group, as numbers
    #[arg(short, long, value_name = "UID[:GID]")]
    pub(super) user: Option<String>,
    /// Groups besides
    #[arg(short = 'g', long, value_name = "GID")]
    pub(super) additional_gids: Vec<u32>,
    /// Working directory
    #[arg(long, value_name = "DIR")]
    pub(super) cwd: Option<PathBuf>,
    /// Variables besides
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub(super) env: Vec<String>,
    /// Capabilities besides
    #[arg(short, long, value_name = "CAPABILITY")]
    pub(super) cap: Vec<String>,
    /// Let nothing that it executes give it more rights
    #[arg(long)]
    pub(super) no_new_privs: bool,
    /// AppArmor profile
    #[arg(long, value_name = "PROFILE")]
    pub(super) apparmor: Option<String>,
    /// SELinux label
    #[arg(long, value_name = "LABEL")]
    pub(super) process_label: Option<String>,
    /// Cgroup below the container's that it is to be in, of v1 for some of its controllers
    #[arg(long, value_name = "[CONTROLLER,...:]PATH")]
    pub(super) cgroup: Vec<String>,
    /// Where the container is paused, wait until it goes on
    #[arg(long)]
    pub(super) ignore_paused: bool,
    #[command(flatten)]
    pub(super) wish: WishArgs,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
    /// The program and its arguments
    #[arg(
        value_name = "COMMAND",
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required_unless_present = "process"
    )]
    pub(super) words: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct KillArgs {
    /// Send it to every process of the container
    #[arg(short, long)]
    pub(super) all: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
    /// Name or number
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    pub(super) signal: String,
}

#[derive(Debug, Args)]
pub(super) struct DeleteArgs {
    /// One that runs too, and none at all
    #[arg(short, long)]
    pub(super) force: bool,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// table, or the numbers alone as json
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) format: Format,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
    /// Options of ps(1) [default: -ef]
    #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) options: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// table or json
    #[arg(short, long, value_enum, default_value = "table")]
    pub(super) format: Format,
    /// Print ids alone
    #[arg(short, long)]
    pub(super) quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// File of limits as linux.resources has them, - for standard input; other flags are then passed over
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["memory", "memory_reservation", "memory_swap",
        "blkio_weight", "cpu_burst", "cpu_period", "cpu_quota", "cpu_share", "cpu_rt_period", "cpu_rt_runtime",
        "cpuset_cpus", "cpuset_mems", "pids_limit"])]
    pub(super) resources: Option<String>,
    /// Memory, in bytes or with a unit: 64m
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) memory: Option<String>,
    /// Memory that is left to it when there is little
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) memory_reservation: Option<String>,
    /// Memory and swap together
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) memory_swap: Option<String>,
    /// Passed over with a warning, as runc does: the kernel has no such limit any more
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) kernel_memory: Option<String>,
    /// Passed over with a warning, as runc does
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub(super) kernel_memory_tcp: Option<String>,
    /// Weight against others at block devices, 10 to 1000
    #[arg(long, value_name = "NUMBER")]
    pub(super) blkio_weight: Option<u16>,
    /// Time of processors that may be saved up, in microseconds
    #[arg(long, value_name = "USECS")]
    pub(super) cpu_burst: Option<u64>,
    /// Processors: 0-2,7
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_cpus: Option<String>,
    /// Memory nodes: 0-2,7
    #[arg(long, value_name = "LIST")]
    pub(super) cpuset_mems: Option<String>,
    /// Period of the quota, in microseconds
    #[arg(long, value_name = "USECS")]
    pub(super) cpu_period: Option<u64>,
    /// Time of processors in a period, in microseconds
    #[arg(long, value_name = "USECS", allow_hyphen_values = true)]
    pub(super) cpu_quota: Option<i64>,
    /// Weight against others
    #[arg(long, value_name = "NUMBER")]
    pub(super) cpu_share: Option<u64>,
    /// Period of the real-time share, in microseconds (cgroup v1)
    #[arg(long, value_name = "USECS")]
    pub(super) cpu_rt_period: Option<u64>,
    /// Time that real-time processes may have in it, in microseconds (cgroup v1)
    #[arg(long, value_name = "USECS", allow_hyphen_values = true)]
    pub(super) cpu_rt_runtime: Option<i64>,
    /// Refused: Intel RDT is not supported
    #[arg(long, value_name = "SCHEMA")]
    pub(super) l3_cache_schema: Option<String>,
    /// Refused: Intel RDT is not supported
    #[arg(long, value_name = "SCHEMA")]
    pub(super) mem_bw_schema: Option<String>,
    /// Processes and threads
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<i64>,
    /// The container
    #[arg(value_name = "CONTAINER")]
    pub(super) id: String,
}

#[derive(Debug, Args)]
pub(super) struct SpecArgs {
    /// Directory that config.json is written to
    #[arg(short, long, value_name = "DIR", default_value = ".")]
    pub(super) bundle: PathBuf,
    /// For an ordinary user's container: a user namespace with the caller alone, and the host's network
    #[arg(long)]
    pub(super) rootless: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_others_call_it() {
        for line in [
            "oci --root /r --log /l --log-format json create --bundle /b --pid-file /p --console-socket /c one",
            "oci --root=/r start one",
            "oci kill --all one 9",
            "oci kill one KILL",
            "oci delete --force one",
            "oci exec --detach --process /p --pid-file /f --preserve-fds 2 one",
            "oci exec -t -u 1:2 -e A=1 --cwd /tmp one sh -c true --detach",
            "oci ps --format json one",
            "oci ps one -o pid,args",
            "oci list -q",
            "oci update --resources - one",
            "oci run --detach -b /b one",
            "oci run --keep --no-subreaper one",
            "oci --rootless=true --criu /usr/sbin/criu --rootless FALSE list",
            "oci exec --cgroup memory,cpu:/a --cgroup pids:b --ignore-paused one true",
            "oci update --memory 64m --memory-swap -1 --cpu-rt-period 1000 --cpu-rt-runtime 5 --kernel-memory 1m one",
            "oci spec --rootless",
        ] {
            Cli::try_parse_from(line.split(' ')).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        let exec = Cli::try_parse_from(["oci", "exec", "one", "ls", "-l", "--tty"]).unwrap();
        assert!(
            matches!(exec.command, Command::Exec(args) if args.words == ["ls", "-l", "--tty"] && !args.tty)
        );
        for line in [
            "oci exec one",
            "oci checkpoint one",
            "oci create",
            "oci",
            "oci --rootless some list",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
