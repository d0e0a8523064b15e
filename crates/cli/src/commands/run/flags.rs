//! The flags of a container that is to be made: those of `run` and of `create`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::commands::limits::LimitArgs;

/// What a container is made of.
#[derive(Debug, Args)]
pub(crate) struct ContainerArgs {
    /// The image, then the command and its arguments (the image's own when absent)
    #[arg(
        value_name = "IMAGE [COMMAND] [ARG...]",
        trailing_var_arg = true,
        required_unless_present = "rootfs"
    )]
    pub(crate) words: Vec<String>,

    /// Remove the container and what it wrote when its process ends
    #[arg(long)]
    pub(crate) rm: bool,
    /// Name of the container (one is made up when absent)
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Remove the container that has that name now, be it running or not
    #[arg(long, requires = "name")]
    pub(crate) replace: bool,
    /// Use DIR as the read-only lower layer instead of an image
    #[arg(long, value_name = "DIR")]
    pub(crate) rootfs: Option<PathBuf>,
    /// When to pull the image
    #[arg(long, value_name = "WHEN", default_value = "missing")]
    pub(crate) pull: Pull,
    /// Platform of the image, such as linux/arm64 [default: this machine's]
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<String>,
    /// No progress while pulling
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Label of the container
    #[arg(short, long = "label", value_name = "KEY=VALUE")]
    pub(crate) label: Vec<String>,
    /// File of labels, one a line
    #[arg(long, value_name = "FILE")]
    pub(crate) label_file: Vec<PathBuf>,
    /// Write the container's id into FILE, which must not exist
    #[arg(long, value_name = "FILE")]
    pub(crate) cidfile: Option<PathBuf>,
    /// Write the number of the container's first process into FILE, at each start
    #[arg(long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// Annotation for the OCI runtime
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// OCI runtime to run the bundle instead of strata's own (runc, crun)
    #[arg(long, value_name = "PATH", env = "STRATA_RUNTIME", hide_env_values = true)]
    pub(crate) runtime: Option<PathBuf>,
    /// Keep standard input open
    #[arg(short, long, help_heading = "Process")]
    pub(crate) interactive: bool,
    /// Give the process a terminal
    #[arg(short, long, help_heading = "Process")]
    pub(crate) tty: bool,
    /// Variable of the environment; without a value, the one strata itself has
    #[arg(short, long, value_name = "NAME[=VALUE]", help_heading = "Process")]
    pub(crate) env: Vec<String>,
    /// File of variables, one a line
    #[arg(long, value_name = "FILE", help_heading = "Process")]
    pub(crate) env_file: Vec<PathBuf>,
    /// All variables that strata itself has
    #[arg(long, help_heading = "Process")]
    pub(crate) env_host: bool,
    /// Working directory
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub(crate) workdir: Option<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    pub(crate) user: Option<String>,
    /// Supplementary group, by name or number
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub(crate) group_add: Vec<String>,
    /// Permissions that new files do not get, in octal [default: 0022]
    #[arg(long, value_name = "MASK", help_heading = "Process")]
    pub(crate) umask: Option<String>,
    /// Replace the image's entry point (empty for none; a JSON array for more than one word)
    #[arg(long, value_name = "COMMAND", help_heading = "Process")]
    pub(crate) entrypoint: Option<String>,
    /// Run a small init as process 1 that reaps and forwards signals
    #[arg(long, help_heading = "Process")]
    pub(crate) init: bool,
    /// Signal that asks the process to end
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    pub(crate) stop_signal: Option<String>,

    /// Seconds between the stop signal and the end that is forced [default: 10]
    #[arg(long, value_name = "SECONDS", help_heading = "Process")]
    pub(crate) stop_timeout: Option<u32>,
    /// Start it again after its end: no, always, unless-stopped or on-failure[:TIMES]
    #[arg(long, value_name = "POLICY", default_value = "no", help_heading = "Process")]
    pub(crate) restart: String,
    /// Where what it prints is kept: k8s-file, which strata logs shows, or none
    #[arg(
        long,
        value_name = "DRIVER",
        default_value = "k8s-file",
        help_heading = "Process"
    )]
    pub(crate) log_driver: String,
    /// max-size=SIZE of a file of the log [default: 10m], max-file=NUMBER of files [default: 5]
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Process")]
    pub(crate) log_opt: Vec<String>,

    /// Ask by this command how it is: a line for its shell, or a JSON array of words (none for not at all)
    #[arg(long, value_name = "COMMAND", help_heading = "Health")]
    pub(crate) health_cmd: Option<String>,
    /// From the end of one check to the next [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_interval: Option<String>,
    /// How long a check may take [default: 30s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_timeout: Option<String>,
    /// So many failures in a row make it unhealthy [default: 3]
    #[arg(long, value_name = "NUMBER", help_heading = "Health")]
    pub(crate) health_retries: Option<u32>,
    /// Failures within this time do not count, until one check succeeded [default: 0s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_start_period: Option<String>,
    /// From one check to the next within that time [default: 5s]
    #[arg(long, value_name = "TIME", help_heading = "Health")]
    pub(crate) health_start_interval: Option<String>,
    /// Do not ask how it is, whatever the image says
    #[arg(long, help_heading = "Health")]
    pub(crate) no_healthcheck: bool,

    /// Show a directory or file of the host, or a volume, which is made when it is missing; without a source, a volume for
    /// this container alone; z gives it an SELinux label that containers share, Z one of this container alone
    #[arg(
        short,
        long,
        value_name = "[HOST|NAME:]CONTAINER[:ro,…]",
        help_heading = "Files"
    )]
    pub(crate) volume: Vec<String>,
    /// Mount what another container has mounted too
    #[arg(long, value_name = "CONTAINER[:ro]", help_heading = "Files")]
    pub(crate) volumes_from: Vec<String>,
    /// Mount: type=bind,src=PATH,dst=PATH[,ro], type=volume,src=NAME,dst=PATH or type=tmpfs,dst=PATH[,tmpfs-size=SIZE]
    #[arg(long, value_name = "FIELD=VALUE,…", help_heading = "Files")]
    pub(crate) mount: Vec<String>,
    /// File system in memory
    #[arg(long, value_name = "PATH[:OPTION,…]", help_heading = "Files")]
    pub(crate) tmpfs: Vec<String>,
    /// Device of the host
    #[arg(long, value_name = "HOST[:CONTAINER][:rwm]", help_heading = "Files")]
    pub(crate) device: Vec<String>,
    /// Make the root file system read-only
    #[arg(long, help_heading = "Files")]
    pub(crate) read_only: bool,
    /// Who serves the root file system: the kernel, a process of strata's own, or the kernel where it can
    #[arg(long, value_name = "DRIVER", default_value = "auto", help_heading = "Files")]
    pub(crate) driver: crate::commands::mount::Driver,
    /// Size of /dev/shm [default: 64m]
    #[arg(long, value_name = "SIZE", help_heading = "Files")]
    pub(crate) shm_size: Option<String>,

    /// Add a capability (ALL for every one)
    #[arg(
        long,
        value_name = "CAPABILITY",
        value_delimiter = ',',
        help_heading = "Security"
    )]
    pub(crate) cap_add: Vec<String>,
    /// Drop a capability (ALL for every one)
    #[arg(
        long,
        value_name = "CAPABILITY",
        value_delimiter = ',',
        help_heading = "Security"
    )]
    pub(crate) cap_drop: Vec<String>,
    /// Every capability and device, nothing masked, no filter
    #[arg(long, help_heading = "Security")]
    pub(crate) privileged: bool,
    /// no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE|unconfined, label=disable, label=type:NAME (user, role,
    /// level, filetype), mask=PATH, unmask=PATH|ALL
    #[arg(long, value_name = "OPTION", help_heading = "Security")]
    pub(crate) security_opt: Vec<String>,
    /// Kernel parameter of the container's namespaces
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Security")]
    pub(crate) sysctl: Vec<String>,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,
    /// How gladly the kernel ends it where memory is short, -1000 (never) to 1000
    #[arg(
        long,
        value_name = "NUMBER",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub(crate) oom_score_adj: Option<String>,
    /// Resource limit of each process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    pub(crate) ulimit: Vec<String>,
    /// size=SIZE: how much the container may write, where the store's file system has project quotas
    #[arg(long, value_name = "size=SIZE", help_heading = "Limits")]
    pub(crate) storage_opt: Vec<String>,
    /// Control group beneath which the container's is made
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    pub(crate) cgroup_parent: Option<String>,

    /// Network: bridge, the name of one (or NAME:ip=ADDRESS,mac=ADDRESS,alias=NAME; several times for several), none, host or
    /// container:NAME [default: the configuration's default_network, or bridge where its plug-ins are installed, or none]
    #[arg(
        long,
        visible_alias = "net",
        value_name = "NETWORK",
        help_heading = "Networks"
    )]
    pub(crate) network: Vec<String>,
    /// Lead a port of this machine to one of the container (-p 80 takes any that is free)
    #[arg(
        short,
        long,
        value_name = "[[ADDRESS:]PORT:]PORT[/udp]",
        help_heading = "Networks"
    )]
    pub(crate) publish: Vec<String>,
    /// Publish all ports that image and --expose name
    #[arg(short = 'P', long, help_heading = "Networks")]
    pub(crate) publish_all: bool,
    /// Port that the container listens at, for -P and to be shown
    #[arg(long, value_name = "PORT[/udp]", help_heading = "Networks")]
    pub(crate) expose: Vec<String>,
    /// Address in its network [default: one that is free]
    #[arg(long, value_name = "ADDRESS", help_heading = "Networks")]
    pub(crate) ip: Option<String>,
    /// Address of IPv6 in its network [default: one that is free]
    #[arg(long, value_name = "ADDRESS", help_heading = "Networks")]
    pub(crate) ip6: Option<String>,
    /// Hardware address of its interface
    #[arg(long, value_name = "ADDRESS", help_heading = "Networks")]
    pub(crate) mac_address: Option<String>,
    /// Another name of it in its network
    #[arg(
        long,
        visible_alias = "net-alias",
        value_name = "NAME",
        help_heading = "Networks"
    )]
    pub(crate) network_alias: Vec<String>,
    /// Processes: private, host or container:NAME [default: private]
    #[arg(long, value_name = "MODE", help_heading = "Namespaces and names")]
    pub(crate) pid: Option<String>,
    /// IPC and /dev/shm: private, host or container:NAME [default: private]
    #[arg(long, value_name = "MODE", help_heading = "Namespaces and names")]
    pub(crate) ipc: Option<String>,
    /// Host name's namespace: private, host or container:NAME [default: private]
    #[arg(long, value_name = "MODE", help_heading = "Namespaces and names")]
    pub(crate) uts: Option<String>,
    /// User ids: host, auto, auto:size=COUNT, keep-id or FIRST:COUNT of this machine [default: host]
    #[arg(long, value_name = "MODE", help_heading = "Namespaces and names")]
    pub(crate) userns: Option<String>,
    /// Users of the container, from which id of this machine on, and how many
    #[arg(
        long,
        value_name = "CONTAINER:HOST:COUNT",
        help_heading = "Namespaces and names",
        conflicts_with = "userns"
    )]
    pub(crate) uidmap: Vec<String>,
    /// Groups of the container, from which id of this machine on, and how many
    #[arg(
        long,
        value_name = "CONTAINER:HOST:COUNT",
        help_heading = "Namespaces and names",
        conflicts_with = "userns"
    )]
    pub(crate) gidmap: Vec<String>,
    /// Host name [default: the first 12 digits of the container's id]
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Namespaces and names")]
    pub(crate) hostname: Option<String>,
    /// Line of /etc/hosts; host-gateway for an address is this machine's
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Namespaces and names")]
    pub(crate) add_host: Vec<String>,
    /// Name server [default: the host's]
    #[arg(long, value_name = "ADDRESS", help_heading = "Namespaces and names")]
    pub(crate) dns: Vec<String>,
    /// Domain in which names are looked up (. for none) [default: the host's]
    #[arg(long, value_name = "DOMAIN", help_heading = "Namespaces and names")]
    pub(crate) dns_search: Vec<String>,
    /// Option of the resolver [default: the host's]
    #[arg(
        long,
        visible_alias = "dns-opt",
        value_name = "OPTION",
        help_heading = "Namespaces and names"
    )]
    pub(crate) dns_option: Vec<String>,
}

/// `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Before every run
    Always,
    /// Before every run, if the registry answers
    Newer,
    /// When the store lacks the image
    Missing,
    /// Never
    Never,
}
