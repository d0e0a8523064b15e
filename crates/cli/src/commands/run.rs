//! `strata run`: a container from an image, and its process in the foreground.

mod options;

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use engine::run::{LeftOut, Streams};
use runtime::terminal::{Attention, Screen};
use rustix::termios::tcgetwinsize;

use super::{Context, Outcome};
use crate::failure::Failure;
use crate::progress;
use crate::render::style::Style;

/// Run a command in a new container
///
/// IMAGE is a name in the local store, and is pulled when it is missing; or `host`, which is this machine's own
/// root file system as the read-only lower layer: whatever runs there has a private, throw-away view of the real
/// machine. Other file systems mounted on the machine, and strata's own store, are left out of that view
/// (`strata -v run … host` lists them), and what others change on the machine meanwhile may show in it.
///
/// The exit code is the command's; 125 when strata itself fails, 126 when the command cannot be run, 127 when it
/// is not found, 128 and the signal's number when a signal ended it.
#[derive(Debug, Args)]
#[command(
    override_usage = "strata run [OPTIONS] IMAGE [COMMAND] [ARG...]\n       \
                            strata run [OPTIONS] --rootfs DIR COMMAND [ARG...]",
    disable_help_flag = true
)]
pub(crate) struct RunArgs {
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
    /// Annotation for the OCI runtime
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) annotation: Vec<String>,
    /// OCI runtime to run the bundle instead of strata's own (runc, crun)
    #[arg(long, value_name = "PATH", env = "STRATA_RUNTIME", hide_env_values = true)]
    pub(crate) runtime: Option<PathBuf>,
    /// Print help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,

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
    /// Working directory
    #[arg(short, long, value_name = "DIR", help_heading = "Process")]
    pub(crate) workdir: Option<String>,
    /// User and group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]", help_heading = "Process")]
    pub(crate) user: Option<String>,
    /// Supplementary group, by name or number
    #[arg(long, value_name = "GROUP", help_heading = "Process")]
    pub(crate) group_add: Vec<String>,
    /// Replace the image's entry point (empty for none; a JSON array for more than one word)
    #[arg(long, value_name = "COMMAND", help_heading = "Process")]
    pub(crate) entrypoint: Option<String>,
    /// Run a small init as process 1 that reaps and forwards signals
    #[arg(long, help_heading = "Process")]
    pub(crate) init: bool,
    /// Signal that asks the process to end
    #[arg(long, value_name = "SIGNAL", help_heading = "Process")]
    pub(crate) stop_signal: Option<String>,
    /// Forward signals to the process (--sig-proxy=false for not)
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1,
          require_equals = true, action = clap::ArgAction::Set, hide_default_value = true, hide_possible_values = true,
          help_heading = "Process")]
    pub(crate) sig_proxy: bool,

    /// Show a directory or file of the host; z and Z, which relabel it for SELinux, do nothing where there is none
    #[arg(short, long, value_name = "HOST:CONTAINER[:ro,…]", help_heading = "Files")]
    pub(crate) volume: Vec<String>,
    /// Mount: type=bind,src=PATH,dst=PATH[,ro] or type=tmpfs,dst=PATH[,tmpfs-size=SIZE]
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
    pub(crate) driver: super::mount::Driver,
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
    /// no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE|unconfined, mask=PATH, unmask=PATH|ALL
    /// (label=disable changes nothing: strata gives no SELinux labels)
    #[arg(long, value_name = "OPTION", help_heading = "Security")]
    pub(crate) security_opt: Vec<String>,
    /// Kernel parameter of the container's namespaces
    #[arg(long, value_name = "NAME=VALUE", help_heading = "Security")]
    pub(crate) sysctl: Vec<String>,

    /// Memory limit
    #[arg(
        short,
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub(crate) memory: Option<String>,
    /// Limit of memory and swap together, -1 for no limit of swap [default: twice the memory]
    #[arg(
        long,
        value_name = "SIZE",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub(crate) memory_swap: Option<String>,
    /// How many CPUs' worth of time
    #[arg(
        long,
        value_name = "NUMBER",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub(crate) cpus: Option<String>,
    /// How many processes and threads (-1 for no limit)
    #[arg(
        long,
        value_name = "NUMBER",
        allow_hyphen_values = true,
        help_heading = "Limits"
    )]
    pub(crate) pids_limit: Option<String>,
    /// Resource limit of each process
    #[arg(long, value_name = "NAME=SOFT[:HARD]", help_heading = "Limits")]
    pub(crate) ulimit: Vec<String>,
    /// size=SIZE: how much the container may write, where the store's file system has project quotas
    #[arg(long, value_name = "size=SIZE", help_heading = "Limits")]
    pub(crate) storage_opt: Vec<String>,
    /// Control group beneath which the container's is made
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    pub(crate) cgroup_parent: Option<String>,

    /// Network: none, host or container:NAME
    #[arg(
        long,
        visible_alias = "net",
        value_name = "NETWORK",
        default_value = "none",
        help_heading = "Namespaces and names"
    )]
    pub(crate) network: String,
    /// Processes: private, host or container:NAME [default: private]
    #[arg(long, value_name = "MODE", help_heading = "Namespaces and names")]
    pub(crate) pid: Option<String>,
    /// IPC and /dev/shm: private, host or container:NAME [default: private]
    #[arg(long, value_name = "MODE", help_heading = "Namespaces and names")]
    pub(crate) ipc: Option<String>,
    /// Host name's namespace: private, host or container:NAME [default: private]
    #[arg(long, value_name = "MODE", help_heading = "Namespaces and names")]
    pub(crate) uts: Option<String>,
    /// Host name [default: the first 12 digits of the container's id]
    #[arg(short = 'h', long, value_name = "NAME", help_heading = "Namespaces and names")]
    pub(crate) hostname: Option<String>,
    /// Line of /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Namespaces and names")]
    pub(crate) add_host: Vec<String>,
    /// Name server [default: the host's]
    #[arg(long, value_name = "ADDRESS", help_heading = "Namespaces and names")]
    pub(crate) dns: Vec<String>,
}

/// `--pull`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Pull {
    /// Before every run
    Always,
    /// When the store lacks the image
    Missing,
    /// Never
    Never,
}

pub(crate) fn run(context: &Context, args: RunArgs) -> Outcome {
    let request = options::request(context, &args)?;
    let setup = context.setup();
    let summons = setup.summon()?;
    let engine = super::open_engine(setup)?;
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    if args.tty && args.interactive && !stdin.is_terminal() {
        eprintln!(
            "{} standard input is no terminal",
            Style::of(&stderr).yellow("warning:")
        );
    }
    let null;
    let input = match args.interactive {
        true => stdin.as_fd(),
        false => {
            null = File::open("/dev/null").map_err(|e| Failure::user(format!("/dev/null: {e}")))?;
            null.as_fd()
        }
    };
    let size = tcgetwinsize(&stdout).or_else(|_| tcgetwinsize(&stdin)).ok();
    let base = engine.base(&request, progress::choose(args.quiet, progress::FETCH).as_ref())?;
    // From here on, so that a signal which comes while the container is being started reaches it.
    // A terminal is relayed under attention in any case: its keys become signals in the container.
    let attention = (args.sig_proxy || args.tty).then(Attention::begin).transpose();
    let attention = attention.map_err(|e| Failure::user(format!("holding signals back: {e}")))?;
    let streams = Streams {
        stdio: [input, stdout.as_fd(), stderr.as_fd()],
        size: size.filter(|_| args.tty).map(|size| (size.ws_row, size.ws_col)),
        attention: attention.as_ref(),
    };
    let started = engine.run(summons, &request, base, &streams)?;
    if context.verbose {
        tell_left_out(&started.left_out);
    }
    let screen = args.tty.then(|| Screen {
        input: args.interactive.then(|| stdin.as_fd()),
        output: stdout.as_fd(),
    });
    let exit = started.attend(attention.as_ref(), screen)?;
    for warning in &exit.warnings {
        eprintln!("{} {warning}", Style::of(&stderr).yellow("warning:"));
    }
    // The kernel closes everything at once, and the program ends now.
    std::mem::forget(engine);
    Ok(exit.code)
}

/// Tells on standard error what of the machine a view of it leaves out.
fn tell_left_out(left_out: &[LeftOut]) {
    let style = Style::of(&io::stderr());
    for place in left_out {
        eprintln!(
            "{} {} ({})",
            style.dim("left out:"),
            place.path.display(),
            place.kind
        );
    }
}
