//! `exec`.

use runtime::oci::{Containers, ExecFlags, ExecRequest, read_process};
use runtime::terminal::Attention;

use super::Outcome;
use super::args::ExecArgs;
use super::make::{or_again, stay, wish};

pub(super) fn exec(containers: &Containers, args: ExecArgs) -> Outcome {
    let preserved = runtime::oci::inherited(args.wish.preserve_fds)?;
    let container = containers.open(&args.id)?;
    let below = runtime::oci::places_below(&args.cgroup)?;
    let (mut process, unknown) = match &args.process {
        Some(path) => read_process(path)?,
        None => container.process_of(&ExecFlags {
            args: args.words,
            cwd: args.cwd,
            env: args.env,
            tty: args.tty,
            user: args.user,
            groups: args.additional_gids,
            capabilities: args.cap,
            no_new_privileges: args.no_new_privs,
            apparmor: args.apparmor,
            label: args.process_label,
        })?,
    };
    if args.tty {
        process.set_terminal(Some(true));
    }
    let attention = match args.detach {
        true => None,
        false => Some(Attention::begin()?),
    };
    let made = container.exec(&ExecRequest {
        process: &process,
        unknown,
        below: &below,
        wait_where_paused: args.ignore_paused,
        wish: wish(&args.wish, &preserved, args.detach),
    });
    let (mut made, attention) = or_again(made, &preserved, attention)?;
    match attention {
        Some(attention) => stay(&mut made, &attention),
        None => Ok(0),
    }
}
