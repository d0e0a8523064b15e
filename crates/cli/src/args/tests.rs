//! The command line as users type it.

use super::*;

#[test]
fn the_unit_that_is_shipped_runs_a_command_that_there_is() {
    let unit = include_str!("../../../../dist/strata.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/env "));
    let words: Vec<&str> = line.unwrap().split(' ').collect();
    let parsed = Cli::try_parse_from(&words).unwrap();
    assert!(matches!(parsed.command, Command::Start(_)), "{words:?}");
    assert!(
        Cli::try_parse_from(words.iter().chain(&["one"])).is_err(),
        "it is for all"
    );
}

#[test]
fn the_snapshotters_units_serve_where_the_program_would() {
    let unit = include_str!("../../../../dist/strata-snapshotter.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecStart=/usr/bin/env "));
    let parsed = Cli::try_parse_from(line.unwrap().split(' ')).unwrap();
    assert!(matches!(parsed.command, Command::Serve(_)), "{line:?}");
    let socket = include_str!("../../../../dist/strata-snapshotter.socket");
    let listens = socket
        .lines()
        .find_map(|line| line.strip_prefix("ListenStream="))
        .unwrap();
    let help = definition();
    let serve = help.find_subcommand("serve").unwrap();
    let address = serve.find_subcommand("snapshotter").unwrap();
    let address = address
        .get_arguments()
        .find(|arg| arg.get_id() == "address")
        .unwrap();
    assert_eq!(address.get_default_values(), [listens]);
}

#[test]
fn the_definition_is_sound() {
    definition().debug_assert();
}

#[test]
fn the_front_page_names_every_command_in_its_own_words() {
    for command in definition().get_subcommands().filter(|c| !c.is_hide_set()) {
        let about = command.get_about().map(|a| a.to_string()).unwrap_or_default();
        let line = format!("  {:<12} {about}\n", command.get_name());
        assert!(HELP.contains(&line), "the front page lacks: {line}");
    }
}

#[test]
fn help_is_a_command_too() {
    let asked = Cli::try_parse_from(["strata", "help", "rm"]).unwrap_err();
    assert_eq!(asked.kind(), clap::error::ErrorKind::DisplayHelp);
    assert!(asked.to_string().contains("strata rm [OPTIONS]"), "{asked}");
}

#[test]
fn every_flag_has_help() {
    fn walk(command: &clap::Command) {
        for arg in command.get_arguments() {
            assert!(
                arg.get_help().is_some(),
                "{} {}",
                command.get_name(),
                arg.get_id()
            );
        }
        command.get_subcommands().for_each(walk);
    }
    walk(&definition());
}

fn run(words: &[&str]) -> commands::run::RunArgs {
    match Cli::try_parse_from([&["strata", "run"], words].concat()) {
        Ok(Cli {
            command: Command::Run(run),
            ..
        }) => *run.0,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_read_quickly_is_understood_as_by_the_whole_definition() {
    for line in [
        "strata run --rm busybox echo --rm -v",
        "strata run --root /x -it -e A=1 -e B=2 --name a --name b --namespace n -m 64m busybox",
        "strata run --rootfs /x --network host --pull never true",
        "strata run --sig-proxy=false --config c -- busybox -x",
        "strata run",
        "strata run --nosuch busybox",
        "strata run --help",
        "strata --root /x run busybox",
        "strata runs",
        "strata --root /x exec -it -u 1 -- box ls -l",
        "strata --namespace run ps -a",
        "strata container ls -aq --format json",
        "strata container list",
        "strata image list",
        "strata container",
        "strata rm -f --all",
        "strata stop --time 3 one two --verbose",
        "strata system df -v",
        "strata kill -s 9 x --state=/s",
        "strata --version",
        "strata",
    ] {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        let text = |parsed: Result<Cli, clap::Error>| match parsed {
            Ok(cli) => format!("{cli:?}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(
            text(parse_words(&words)),
            text(Cli::try_parse_from(&words)),
            "{line}"
        );
    }
}

#[test]
fn switches_take_a_value_where_one_is_written() {
    let parsed = |line: &str| {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        parse_words(&words)
    };
    let run = |line: &str| match parsed(line).unwrap().command {
        Command::Run(run) => *run.0,
        other => panic!("{other:?}"),
    };
    let args = run("strata run --rm=true --read-only=false -it=false --init=1 busybox sh --rm=x");
    assert_eq!(
        (
            args.container.rm,
            args.container.read_only,
            args.container.interactive,
            args.container.tty,
            args.container.init
        ),
        (true, false, true, false, true)
    );
    assert_eq!(args.container.words, ["busybox", "sh", "--rm=x"]);
    assert!(run("strata --root /x run -it --rm=T busybox").container.rm);
    assert!(parsed("strata ps --all=true").is_ok());
    assert!(parsed("strata rm --force=true one").is_ok());
    let error = parsed("strata run --rm=maybe busybox").unwrap_err().to_string();
    assert!(error.contains("neither true nor false"), "{error}");
    let error = parsed("strata run --name=ab --nosuch busybox")
        .unwrap_err()
        .to_string();
    assert!(error.contains("--nosuch"), "{error}");
}

#[test]
fn what_follows_the_image_belongs_to_the_command() {
    let args = run(&["--rm", "busybox", "ls", "--rm", "-v", "--help"]);
    assert!(args.container.rm);
    assert_eq!(args.container.words, ["busybox", "ls", "--rm", "-v", "--help"]);
    let args = run(&["busybox", "--help"]);
    assert_eq!(args.container.words, ["busybox", "--help"]);
    let args = run(&["-it", "--", "busybox", "-x"]);
    assert!(args.container.interactive && args.container.tty);
    assert_eq!(args.container.words, ["busybox", "-x"]);
}

#[test]
fn unknown_flags_before_the_image_are_refused() {
    assert!(Cli::try_parse_from(["strata", "run", "--nosuch", "busybox"]).is_err());
}

#[test]
fn global_flags_stand_before_and_after_the_command() {
    for words in [["strata", "--root", "/x", "ps"], ["strata", "ps", "--root", "/x"]] {
        let cli = Cli::try_parse_from(words).unwrap();
        assert_eq!(cli.global.root.as_deref(), Some(std::path::Path::new("/x")));
    }
}

#[test]
fn short_flags_of_docker() {
    let args = run(&[
        "-e", "A=1", "-eB=2", "-w/tmp", "-u", "1:2", "-m", "64m", "-l", "a=b", "-h", "box", "x",
    ]);
    assert_eq!(args.container.env.len(), 2);
    let limits = args.container.limits.resources().unwrap();
    assert_eq!(limits.memory, Some(64 << 20));
    assert_eq!(args.container.hostname.as_deref(), Some("box"));
}
