//! One file per command, and what they have in common: settings in, the engine opened, an exit code out.

pub(crate) mod attach;
pub(crate) mod commit;
pub(crate) mod completion;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod dedup;
pub(crate) mod df;
pub(crate) mod diff;
pub(crate) mod events;
pub(crate) mod exec;
pub(crate) mod exists;
pub(crate) mod export;
pub(crate) mod fsck;
pub(crate) mod history;
pub(crate) mod images;
pub(crate) mod import;
pub(crate) mod info;
pub(crate) mod inspect;
pub(crate) mod kill;
pub(crate) mod layers;
pub(crate) mod limits;
pub(crate) mod load;
pub(crate) mod login;
pub(crate) mod logout;
pub(crate) mod logs;
pub(crate) mod manifest;
pub(crate) mod mount;
pub(crate) mod network;
pub(crate) mod pause;
pub(crate) mod port;
pub(crate) mod prune;
pub(crate) mod ps;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod reap;
pub(crate) mod rename;
pub(crate) mod restart;
pub(crate) mod rm;
pub(crate) mod rmi;
pub(crate) mod run;
pub(crate) mod save;
pub(crate) mod serve;
pub(crate) mod snapshot;
pub(crate) mod squash;
pub(crate) mod start;
pub(crate) mod stats;
pub(crate) mod stop;
pub(crate) mod tag;
pub(crate) mod top;
pub(crate) mod umount;
pub(crate) mod unshare;
pub(crate) mod update;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod wait;

use std::ffi::OsString;
use std::io::{self, BufWriter, ErrorKind, Write};

use engine::{Engine, Helper};
use rustix::process::{Resource, getrlimit, setrlimit};

use crate::args::{
    Cli, Command, ContainerCommand, Global, ImageCommand, Late, NetworkCommand, ServeCommand,
    SnapshotCommand, SystemCommand, VolumeCommand,
};
use crate::config::Settings;
use crate::failure::Failure;
use crate::render::style::Style;

/// What a command ends with.
pub(crate) type Outcome = Result<u8, Failure>;

/// What every command is given.
pub(crate) struct Context {
    /// Where the store lies and the like.
    pub(crate) settings: Settings,
    /// `--verbose`.
    pub(crate) verbose: bool,
    /// Colour of standard output.
    pub(crate) style: Style,
}

impl Context {
    /// The engine on the settings' store.
    pub(crate) fn engine(&self) -> Result<Engine, Failure> {
        open_engine(self.setup())
    }

    /// Does what the configuration asks for once images were brought, by these names. That it could not be done is no
    /// failure of what was asked: they are there.
    pub(crate) fn settle(&self, engine: &Engine, brought: &[String]) {
        if let Err(error) = engine.keep_to_policy(brought) {
            let _ = writeln!(
                io::stderr(),
                "note: what [store] in the configuration asks for was not done: {error}"
            );
        }
    }

    /// What the engine is made of.
    pub(crate) fn setup(&self) -> engine::Setup {
        let settings = &self.settings;
        let program = crate::program();
        let remover = [
            program.as_os_str(),
            crate::REAPER.as_ref(),
            "--root".as_ref(),
            settings.root.as_os_str(),
            "--state".as_ref(),
        ]
        .into_iter()
        .chain([
            settings.state.as_os_str(),
            "--namespace".as_ref(),
            settings.namespace.as_ref(),
            "--config".as_ref(),
            settings.file_or_none().as_os_str(),
        ])
        .map(OsString::from)
        .collect();
        engine::Setup {
            root: settings.root.clone(),
            state: settings.state.clone(),
            namespace: settings.namespace.clone(),
            helper: Helper {
                program,
                args: vec![crate::SUPERVISOR.into()],
            },
            server: crate::overlay::helper(),
            remover,
            limits: settings.limits.clone(),
            policy: settings.policy,
            networking: settings.networking.clone(),
            ids: settings.ids,
        }
    }
}

/// Opens the engine. From here on the program may have as many files open as it is ever allowed to: an image of 500
/// layers has several open for each while it is brought in. What a container may have open is its supervisor's, which
/// was started before.
pub(crate) fn open_engine(setup: engine::Setup) -> Result<Engine, Failure> {
    raise_file_limit();
    Ok(Engine::open(setup)?)
}

fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is refused the old one holds, which is enough for nearly every image.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// Runs the command and gives the exit code, after an error is told on standard error.
pub(crate) fn run(cli: Cli) -> u8 {
    with(&cli.global, cli.verbose, |context| {
        crate::rootless::enter_for(&cli.command, &context.settings)?;
        dispatch(context, cli.command)
    })
}

/// Does something with the settings that these flags ask for.
fn with(global: &Global, verbose: bool, what: impl FnOnce(&Context) -> Outcome) -> u8 {
    let outcome = Settings::resolve(global).and_then(|settings| {
        what(&Context {
            settings,
            verbose,
            style: Style::of(&io::stdout()),
        })
    });
    outcome.unwrap_or_else(|failure| failure.report())
}

fn dispatch(context: &Context, command: Command) -> Outcome {
    match command {
        Command::Run(Late(args)) | Command::Container(ContainerCommand::Run(Late(args))) => {
            run::run(context, *args)
        }
        Command::Create(Late(args)) | Command::Container(ContainerCommand::Create(Late(args))) => {
            create::run(context, *args)
        }
        Command::Start(Late(args)) | Command::Container(ContainerCommand::Start(Late(args))) => {
            start::run(context, args)
        }
        Command::Stop(Late(args)) | Command::Container(ContainerCommand::Stop(Late(args))) => {
            stop::run(context, args)
        }
        Command::Restart(Late(args)) | Command::Container(ContainerCommand::Restart(Late(args))) => {
            restart::run(context, args)
        }
        Command::Kill(Late(args)) | Command::Container(ContainerCommand::Kill(Late(args))) => {
            kill::run(context, args)
        }
        Command::Wait(Late(args)) | Command::Container(ContainerCommand::Wait(Late(args))) => {
            wait::run(context, args)
        }
        Command::Attach(Late(args)) | Command::Container(ContainerCommand::Attach(Late(args))) => {
            attach::run(context, args)
        }
        Command::Logs(Late(args)) | Command::Container(ContainerCommand::Logs(Late(args))) => {
            logs::run(context, args)
        }
        Command::Pause(Late(args)) | Command::Container(ContainerCommand::Pause(Late(args))) => {
            pause::pause(context, args)
        }
        Command::Unpause(Late(args)) | Command::Container(ContainerCommand::Unpause(Late(args))) => {
            pause::unpause(context, args)
        }
        Command::Top(Late(args)) | Command::Container(ContainerCommand::Top(Late(args))) => {
            top::run(context, args)
        }
        Command::Stats(Late(args)) | Command::Container(ContainerCommand::Stats(Late(args))) => {
            stats::run(context, args)
        }
        Command::Update(Late(args)) | Command::Container(ContainerCommand::Update(Late(args))) => {
            update::run(context, args)
        }
        Command::Port(Late(args)) | Command::Container(ContainerCommand::Port(Late(args))) => {
            port::run(context, args)
        }
        Command::Network(NetworkCommand::Create(Late(args))) => network::create(context, args),
        Command::Network(NetworkCommand::Ls(Late(args))) => network::ls(context, &args),
        Command::Network(NetworkCommand::Inspect(Late(args))) => {
            inspect::run(context, &args.names, &args.format, Some(inspect::Kind::Network))
        }
        Command::Network(NetworkCommand::Exists(Late(args))) => {
            exists::run(context, &args, inspect::Kind::Network)
        }
        Command::Network(NetworkCommand::Rm(Late(args))) => network::rm(context, &args),
        Command::Network(NetworkCommand::Prune(Late(args))) => prune::networks(context, args),
        Command::Network(NetworkCommand::Connect(Late(args))) => network::connect(context, args),
        Command::Network(NetworkCommand::Disconnect(Late(args))) => network::disconnect(context, &args),
        Command::Rename(Late(args)) | Command::Container(ContainerCommand::Rename(Late(args))) => {
            rename::run(context, args)
        }
        Command::Exec(Late(args)) | Command::Container(ContainerCommand::Exec(Late(args))) => {
            exec::run(context, args)
        }
        Command::Events(Late(args)) | Command::System(SystemCommand::Events(Late(args))) => {
            events::run(context, args)
        }
        Command::Ps(Late(args)) | Command::Container(ContainerCommand::Ls(Late(args))) => {
            ps::run(context, args)
        }
        Command::Rm(Late(args)) | Command::Container(ContainerCommand::Rm(Late(args))) => {
            rm::run(context, args)
        }
        Command::Commit(Late(args)) | Command::Container(ContainerCommand::Commit(Late(args))) => {
            commit::run(context, args)
        }
        Command::Cp(Late(args)) | Command::Container(ContainerCommand::Cp(Late(args))) => {
            cp::run(context, args)
        }
        Command::Diff(Late(args))
        | Command::Container(ContainerCommand::Diff(Late(args)))
        | Command::Image(ImageCommand::Diff(Late(args))) => diff::run(context, args),
        Command::Image(ImageCommand::Squash(Late(args))) => squash::run(context, args),
        Command::Layers(Late(args))
        | Command::Container(ContainerCommand::Layers(Late(args)))
        | Command::Image(ImageCommand::Layers(Late(args))) => layers::run(context, args),
        Command::Inspect(Late(args)) => {
            inspect::sized(context, &args.names, &args.format, args.kind, args.size)
        }
        Command::Container(ContainerCommand::Inspect(Late(args))) => {
            let (noun, kind) = (&args.noun, Some(inspect::Kind::Container));
            inspect::sized(context, &noun.names, &noun.format, kind, args.size)
        }
        Command::Container(ContainerCommand::Exists(Late(args))) => {
            exists::run(context, &args, inspect::Kind::Container)
        }
        Command::Image(ImageCommand::Exists(Late(args))) => exists::run(context, &args, inspect::Kind::Image),
        Command::Image(ImageCommand::Inspect(Late(args))) => {
            inspect::run(context, &args.names, &args.format, Some(inspect::Kind::Image))
        }
        Command::Pull(Late(args)) | Command::Image(ImageCommand::Pull(Late(args))) => {
            pull::run(context, args)
        }
        Command::Load(Late(args)) | Command::Image(ImageCommand::Load(Late(args))) => {
            load::run(context, args)
        }
        Command::Push(Late(args)) | Command::Image(ImageCommand::Push(Late(args))) => {
            push::run(context, args)
        }
        Command::Save(Late(args)) | Command::Image(ImageCommand::Save(Late(args))) => {
            save::run(context, args)
        }
        Command::Export(Late(args)) | Command::Container(ContainerCommand::Export(Late(args))) => {
            export::run(context, args)
        }
        Command::Import(Late(args)) | Command::Image(ImageCommand::Import(Late(args))) => {
            import::run(context, args)
        }
        Command::Images(Late(args)) | Command::Image(ImageCommand::Ls(Late(args))) => {
            images::run(context, args)
        }
        Command::History(Late(args)) | Command::Image(ImageCommand::History(Late(args))) => {
            history::run(context, args)
        }
        Command::Tag(Late(args)) | Command::Image(ImageCommand::Tag(Late(args))) => tag::run(context, args),
        Command::Rmi(Late(args)) | Command::Image(ImageCommand::Rm(Late(args))) => rmi::run(context, args),
        Command::Manifest(Late(args)) => manifest::run(context, args),
        Command::Login(Late(args)) => login::run(context, args),
        Command::Logout(Late(args)) => logout::run(context, args),
        Command::Mount(Late(args)) => mount::run(context, args),
        Command::Umount(Late(args)) => umount::run(&args),
        Command::Unshare(Late(args)) => unshare::run(context, args),
        Command::Fsck(Late(args)) => fsck::run(context, args),
        Command::Dedup(Late(args)) => dedup::run(context, args),
        Command::Prune(Late(args)) | Command::System(SystemCommand::Prune(Late(args))) => {
            prune::run(context, args)
        }
        Command::Container(ContainerCommand::Prune(Late(args))) => prune::containers(context, args),
        Command::Image(ImageCommand::Prune(Late(args))) => prune::images(context, args),
        Command::Df(Late(args)) | Command::System(SystemCommand::Df(Late(args))) => df::run(context, args),
        Command::Snapshot(SnapshotCommand::Ls(Late(args))) => snapshot::ls(context, args),
        Command::Snapshot(SnapshotCommand::Tree(Late(args))) => snapshot::tree(context, &args),
        Command::Snapshot(SnapshotCommand::Usage(Late(args))) => snapshot::usage(context, args),
        Command::Snapshot(SnapshotCommand::Diff(Late(args))) => snapshot::diff(context, args),
        Command::Snapshot(SnapshotCommand::Mount(Late(args))) => snapshot::mount(context, &args),
        Command::Serve(ServeCommand::Snapshotter(Late(args))) => serve::snapshotter(context, args),
        Command::Info(Late(args)) | Command::System(SystemCommand::Info(Late(args))) => {
            info::run(context, args)
        }
        Command::Volume(VolumeCommand::Create(Late(args))) => volume::create(context, args),
        Command::Volume(VolumeCommand::Ls(Late(args))) => volume::ls(context, args),
        Command::Volume(VolumeCommand::Inspect(Late(args))) => {
            inspect::run(context, &args.names, &args.format, Some(inspect::Kind::Volume))
        }
        Command::Volume(VolumeCommand::Exists(Late(args))) => {
            exists::run(context, &args, inspect::Kind::Volume)
        }
        Command::Volume(VolumeCommand::Rm(Late(args))) => volume::rm(context, &args),
        Command::Volume(VolumeCommand::Prune(Late(args))) => prune::volumes(context, args),
        Command::Version(Late(args)) => version::run(context, args),
        Command::Completion(Late(args)) => completion::run(args),
    }
}

/// Writes a command's answer to standard output, in one go. A reader that has gone away (`strata ps | head -1`) is
/// no failure.
pub(crate) fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Failure::user(format!("cannot write the output: {e}")))
        }
        _ => Ok(0),
    }
}

/// `run host` is a view of the machine itself: who gives an image that name is told by which it is found.
pub(crate) fn note_host(mut names: impl Iterator<Item = impl AsRef<str>>) {
    if names.any(|name| matches!(name.as_ref(), "host:latest" | "docker.io/library/host:latest")) {
        let note = "note: `strata run host` is a view of this machine; this image is run as host:latest";
        // Who does not listen misses nothing.
        let _ = writeln!(io::stderr(), "{note}");
    }
}

/// Does one thing for each name, tells each failure, goes on with the rest; the exit code is that of a failure when
/// there was one.
pub(crate) fn for_each(names: &[String], mut what: impl FnMut(&str) -> Result<(), Failure>) -> u8 {
    let mut code = 0;
    for name in names {
        if let Err(failure) = what(name) {
            code = failure.report();
        }
    }
    code
}
