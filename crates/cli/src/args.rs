//! The command line: global flags, the commands and their noun forms.
//!
//! Each command's own flags stand in its file under [`crate::commands`].

use std::cell::LazyCell;
use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{ArgAction, ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands;

/// The program's flags and commands.
#[derive(Debug, Parser)]
#[command(
    name = "strata",
    version,
    about = "Run containers from images on overlay root file systems, without a daemon",
    subcommand_required = true,
    arg_required_else_help = true,
    // As an alias gives a flag and the user another: the last one holds.
    args_override_self = true,
    max_term_width = 110,
    help_template = HELP
)]
pub(crate) struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub(crate) global: Global,
    /// Tell more on standard error, such as what a view of the host leaves out
    #[arg(short, long, help_heading = GLOBAL)]
    pub(crate) verbose: bool,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Reads a line by the definition of the command that it names alone: to define all of them takes as long as a tenth of
/// what it takes to start a container. `None` is for the whole definition to answer.
fn quick(words: &[OsString]) -> Option<Cli> {
    let commands = LazyCell::new(|| Command::augment_subcommands_for_update(clap::Command::new("strata")));
    let typed = words.iter().skip(1).find_map(|word| match word.to_str()? {
        // To name all of the others takes a hundredth of a start.
        "run" => Some(commands::run::RunArgs::augment_args(clap::Command::new("run"))),
        flag_or_path if flag_or_path.starts_with(['-', '/']) => None,
        word => commands.find_subcommand(word).cloned(),
    })?;
    let verbose = clap::Arg::new("verbose").short('v').long("verbose");
    let matches = Global::augment_args(clap::Command::new("strata"))
        .args_override_self(true)
        .arg(verbose.action(ArgAction::SetTrue))
        .subcommand(typed)
        .try_get_matches_from(words)
        .ok()?;
    Some(Cli {
        global: Global::from_arg_matches(&matches).ok()?,
        verbose: matches.get_flag("verbose"),
        command: Command::from_arg_matches(&matches).ok()?,
    })
}

/// The flags of one command: in [`Cli`] defined at once, by [`quick`] when they are asked for.
#[derive(Debug)]
pub(crate) struct Late<A>(pub(crate) A);

impl<A: Args> Args for Late<A> {
    fn augment_args(command: clap::Command) -> clap::Command {
        A::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command.defer(A::augment_args)
    }
}

impl<A: FromArgMatches> FromArgMatches for Late<A> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        A::from_arg_matches(matches).map(Late)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

/// The whole definition. `oci` is another's command line: it is read by itself, and shown here.
pub(crate) fn definition() -> clap::Command {
    Cli::command().subcommand(crate::oci::command())
}

/// Parses the program's arguments.
///
/// # Errors
/// They are not understood, or ask for help.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let words: Vec<OsString> = std::env::args_os().collect();
    parse_words(&words)
}

fn parse_words(words: &[OsString]) -> Result<Cli, clap::Error> {
    if let Some(cli) = quick(words) {
        return Ok(cli);
    }
    definition()
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .or_else(|error| with_values(words, error))
}

/// Docker's and podman's switches take a value where one is written (`--rm=true`, `--read-only=false`): the definition
/// with such switches, which help and completions would show otherwise than anybody writes them.
fn with_values(words: &[OsString], error: clap::Error) -> Result<Cli, clap::Error> {
    use clap::error::ErrorKind::{DisplayHelp, DisplayVersion, TooManyValues};
    let has_value = |word: &OsString| {
        word.as_encoded_bytes().starts_with(b"-") && word.as_encoded_bytes().contains(&b'=')
    };
    if matches!(error.kind(), DisplayHelp | DisplayVersion) || !words.iter().any(has_value) {
        return Err(error);
    }
    let second = valued(Cli::command())
        .try_get_matches_from(words)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match second {
        Err(second) if error.kind() == TooManyValues => Err(second),
        Err(_) => Err(error),
        parsed => parsed,
    }
}

fn valued(command: clap::Command) -> clap::Command {
    command
        .mut_subcommands(valued)
        .mut_args(|arg| match arg.get_action() {
            ArgAction::SetTrue => arg
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .default_value("false")
                .default_missing_value("true")
                .value_parser(|text: &str| {
                    runtime::options::boolean(text).ok_or("it is neither true nor false")
                }),
            _ => arg,
        })
}

/// Heading of the flags that every command has.
const GLOBAL: &str = "Global options";

/// The front page: commands in the order in which they are met. A test holds it against the commands.
const HELP: &str = "\
{about}

{usage-heading} {usage}

Containers:
  run          Run a command in a new container
  create       Make a container, and do not start it
  start        Start containers
  stop         Stop containers
  restart      Stop containers that run, and start them again
  kill         Send a signal to the processes of containers
  wait         Wait until containers do not run, and print their exit codes
  attach       Attach to a container that runs
  logs         Show what a container printed
  exec         Run a command in a running container
  pause        Hold all processes of containers still
  unpause      Let the processes of paused containers go on
  top          Show the processes of a container
  stats        Show what containers use
  events       Show what happens to containers, images, volumes and networks, as it happens
  update       Change the limits of containers
  rename       Give a container another name
  port         Show where the published ports of a container are reached
  ps           List containers
  rm           Remove containers
  cp           Copy files between a container and this machine
  diff         Show what a container changed in its root file system
  commit       Make an image of what a container changed
  export       Write what a container's root file system shows, as a tar
  layers       Show the stack of layers beneath a container, an image, or a snapshot of containerd's
  inspect      Show everything about containers, images, networks or volumes, as JSON

Volumes:
  volume       Keep directories that outlive the containers which use them

Images:
  pull         Fetch an image from a registry
  push         Send an image to a registry
  save         Save images to an archive or an OCI layout directory
  load         Load images from an archive or an OCI layout directory
  import       Make an image of a tar of a root file system
  images       List images
  history      Show the build steps of an image, the last first
  tag          Give an image another name
  rmi          Remove images
  manifest     Look at manifests, and at what refers to them
  login        Log in to a registry
  logout       Log out of a registry

Networks:
  network      Make, list and remove networks, and connect containers to them

File systems:
  mount        Mount an overlay of directories
  umount       Unmount an overlay, and end its server
  unshare      Run a command in the user namespace of an ordinary user's containers

Strata:
  df           Show what images, layers, containers and volumes take on disk, and what could be freed
  prune        Remove what is not in use: containers that do not run, images that nothing uses, idle networks, what was left over
  dedup        Let equal files of different layers share their blocks, where the file system can (xfs, btrfs)
  fsck         Check the store, layers against their records, and what runs against what is mounted; and mend it
  snapshot     Look at what containerd keeps in this store
  serve        Serve other engines: containerd, whose images and containers then stand on this store
  oci          Run containers for podman, containerd and buildah, which call this as they call runc
  info         Show the store, the state and what this machine offers
  version      Show the version
  completion   Print a completion script for a shell
  help         Show the help of a command

{options}

Commands are also found under their nouns: strata container ls, strata image rm, and so on.
`strata COMMAND --help` tells more about each.

Try:  strata run --rm -it host sh      a throw-away view of this very machine
";

/// A path, or nothing: an empty value is the default.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// Flags that every command takes.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = GLOBAL)]
pub(crate) struct Global {
    /// Directory of images, layers and writable layers [default: /var/lib/strata, of a user ~/.local/share/strata]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "STRATA_ROOT",
        hide_env_values = true,
        value_parser = path()
    )]
    pub(crate) root: Option<PathBuf>,
    /// Directory of what lives as long as the machine is up [default: /run/strata, of a user $XDG_RUNTIME_DIR/strata]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "STRATA_STATE",
        hide_env_values = true,
        value_parser = path()
    )]
    pub(crate) state: Option<PathBuf>,
    /// Namespace of containers and images [default: default]
    #[arg(
        long,
        global = true,
        value_name = "NAME",
        env = "STRATA_NAMESPACE",
        hide_env_values = true
    )]
    pub(crate) namespace: Option<String>,
    /// Configuration file [default: /etc/strata/config.toml]
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "STRATA_CONFIG",
        hide_env_values = true,
        value_parser = path()
    )]
    pub(crate) config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Run(Late<Box<commands::run::RunArgs>>),
    Create(Late<Box<commands::create::CreateArgs>>),
    Start(Late<commands::start::StartArgs>),
    Stop(Late<commands::stop::StopArgs>),
    Restart(Late<commands::restart::RestartArgs>),
    Kill(Late<commands::kill::KillArgs>),
    Wait(Late<commands::wait::WaitArgs>),
    Attach(Late<commands::attach::AttachArgs>),
    Logs(Late<commands::logs::LogsArgs>),
    Exec(Late<commands::exec::ExecArgs>),
    Pause(Late<commands::pause::PauseArgs>),
    Unpause(Late<commands::pause::UnpauseArgs>),
    Top(Late<commands::top::TopArgs>),
    Stats(Late<commands::stats::StatsArgs>),
    Events(Late<commands::events::EventsArgs>),
    Update(Late<commands::update::UpdateArgs>),
    Rename(Late<commands::rename::RenameArgs>),
    Port(Late<commands::port::PortArgs>),
    Ps(Late<commands::ps::PsArgs>),
    Rm(Late<commands::rm::RmArgs>),
    Cp(Late<commands::cp::CpArgs>),
    Diff(Late<commands::diff::DiffArgs>),
    Commit(Late<commands::commit::CommitArgs>),
    Export(Late<commands::export::ExportArgs>),
    Layers(Late<commands::layers::LayersArgs>),
    Inspect(Late<commands::inspect::InspectArgs>),
    /// Keep directories that outlive the containers which use them
    #[command(subcommand)]
    Volume(VolumeCommand),
    Pull(Late<commands::pull::PullArgs>),
    Push(Late<commands::push::PushArgs>),
    Save(Late<commands::save::SaveArgs>),
    Load(Late<commands::load::LoadArgs>),
    Import(Late<commands::import::ImportArgs>),
    Images(Late<commands::images::ImagesArgs>),
    History(Late<commands::history::HistoryArgs>),
    Tag(Late<commands::tag::TagArgs>),
    Rmi(Late<commands::rmi::RmiArgs>),
    Manifest(Late<commands::manifest::ManifestArgs>),
    Login(Late<commands::login::LoginArgs>),
    Logout(Late<commands::logout::LogoutArgs>),
    /// Make, list and remove networks, and connect containers to them
    #[command(subcommand)]
    Network(NetworkCommand),
    Mount(Late<commands::mount::MountArgs>),
    Umount(Late<commands::umount::UmountArgs>),
    Unshare(Late<commands::unshare::UnshareArgs>),
    Df(Late<commands::df::DfArgs>),
    Prune(Late<commands::prune::PruneArgs>),
    Dedup(Late<commands::dedup::DedupArgs>),
    /// Look at what containerd keeps in this store
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Serve other engines: containerd, whose images and containers then stand on this store
    #[command(subcommand)]
    Serve(ServeCommand),
    Fsck(Late<commands::fsck::FsckArgs>),
    Info(Late<commands::info::InfoArgs>),
    Version(Late<commands::version::VersionArgs>),
    Completion(Late<commands::completion::CompletionArgs>),
    /// Commands of containers, under their noun
    #[command(hide = true, subcommand)]
    Container(ContainerCommand),
    /// Commands of images, under their noun
    #[command(hide = true, subcommand)]
    Image(ImageCommand),
    /// Commands of the store, under docker's noun
    #[command(hide = true, subcommand)]
    System(SystemCommand),
}

/// `strata network …`.
#[derive(Debug, Subcommand)]
pub(crate) enum NetworkCommand {
    Create(Late<commands::network::CreateArgs>),
    #[command(visible_alias = "list")]
    Ls(Late<commands::network::LsArgs>),
    Inspect(Late<commands::inspect::NounArgs>),
    #[command(hide = true)]
    Exists(Late<commands::exists::ExistsArgs>),
    #[command(visible_alias = "remove")]
    Rm(Late<commands::network::RmArgs>),
    Prune(Late<commands::prune::PruneNetworksArgs>),
    Connect(Late<commands::network::ConnectArgs>),
    Disconnect(Late<commands::network::DisconnectArgs>),
}

/// `strata container …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    Run(Late<Box<commands::run::RunArgs>>),
    Create(Late<Box<commands::create::CreateArgs>>),
    Start(Late<commands::start::StartArgs>),
    Stop(Late<commands::stop::StopArgs>),
    Restart(Late<commands::restart::RestartArgs>),
    Kill(Late<commands::kill::KillArgs>),
    Wait(Late<commands::wait::WaitArgs>),
    Attach(Late<commands::attach::AttachArgs>),
    Logs(Late<commands::logs::LogsArgs>),
    Exec(Late<commands::exec::ExecArgs>),
    Pause(Late<commands::pause::PauseArgs>),
    Unpause(Late<commands::pause::UnpauseArgs>),
    Top(Late<commands::top::TopArgs>),
    Stats(Late<commands::stats::StatsArgs>),
    Update(Late<commands::update::UpdateArgs>),
    Rename(Late<commands::rename::RenameArgs>),
    Port(Late<commands::port::PortArgs>),
    #[command(visible_aliases = ["ps", "list"])]
    Ls(Late<commands::ps::PsArgs>),
    Rm(Late<commands::rm::RmArgs>),
    Prune(Late<commands::prune::PruneContainersArgs>),
    Cp(Late<commands::cp::CpArgs>),
    Diff(Late<commands::diff::DiffArgs>),
    Commit(Late<commands::commit::CommitArgs>),
    Export(Late<commands::export::ExportArgs>),
    Layers(Late<commands::layers::LayersArgs>),
    Inspect(Late<commands::inspect::ContainerArgs>),
    #[command(hide = true)]
    Exists(Late<commands::exists::ExistsArgs>),
}

/// `strata image …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    Pull(Late<commands::pull::PullArgs>),
    Push(Late<commands::push::PushArgs>),
    Save(Late<commands::save::SaveArgs>),
    Load(Late<commands::load::LoadArgs>),
    Import(Late<commands::import::ImportArgs>),
    #[command(visible_alias = "list")]
    Ls(Late<commands::images::ImagesArgs>),
    Tag(Late<commands::tag::TagArgs>),
    Rm(Late<commands::rmi::RmiArgs>),
    Prune(Late<commands::prune::PruneImagesArgs>),
    Squash(Late<commands::squash::SquashArgs>),
    Diff(Late<commands::diff::DiffArgs>),
    Layers(Late<commands::layers::LayersArgs>),
    History(Late<commands::history::HistoryArgs>),
    Inspect(Late<commands::inspect::NounArgs>),
    #[command(hide = true)]
    Exists(Late<commands::exists::ExistsArgs>),
}

/// `strata snapshot …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    #[command(visible_alias = "list")]
    Ls(Late<commands::snapshot::LsArgs>),
    Tree(Late<commands::snapshot::TreeArgs>),
    Usage(Late<commands::snapshot::UsageArgs>),
    Diff(Late<commands::snapshot::SnapshotDiffArgs>),
    Mount(Late<commands::snapshot::SnapshotMountArgs>),
}

/// `strata serve …`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServeCommand {
    Snapshotter(Late<commands::serve::SnapshotterArgs>),
}

/// `strata volume …`.
#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    Create(Late<commands::volume::CreateArgs>),
    #[command(visible_alias = "list")]
    Ls(Late<commands::volume::LsArgs>),
    Inspect(Late<commands::inspect::NounArgs>),
    #[command(hide = true)]
    Exists(Late<commands::exists::ExistsArgs>),
    #[command(visible_alias = "remove")]
    Rm(Late<commands::volume::RmArgs>),
    Prune(Late<commands::prune::PruneVolumesArgs>),
}

/// `strata system …`.
#[derive(Debug, Subcommand)]
pub(crate) enum SystemCommand {
    Df(Late<commands::df::DfArgs>),
    Prune(Late<commands::prune::PruneArgs>),
    Events(Late<commands::events::EventsArgs>),
    Info(Late<commands::info::InfoArgs>),
}

#[cfg(test)]
mod tests;
