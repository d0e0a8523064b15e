//! `create`, `run` and `spec`.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use runtime::oci::{Containers, CreateRequest, OciError, Process, Wish};
use runtime::terminal::{Attention, Screen, attend};
use rustix::io::FdFlags;

use super::args::{CreateArgs, RunArgs, SpecArgs, WishArgs};
use super::{Failure, Outcome};

/// What is wished for a process whose further descriptors are `preserved`.
pub(super) fn wish<'a>(args: &'a WishArgs, preserved: &'a [OwnedFd], detach: bool) -> Wish<'a> {
    Wish {
        console_socket: args.console_socket.as_deref(),
        pid_file: args.pid_file.as_deref(),
        preserved,
        keep_keyring: args.no_new_keyring,
        detach,
    }
}

/// What came of a process that was to be made, or, where this program cannot be put out of its reach as it is, what comes of
/// the program that is executed in its place: it is left what this one was started with.
pub(super) fn or_again<T>(
    made: Result<T, OciError>,
    preserved: &[OwnedFd],
    attention: Option<Attention>,
) -> Result<(T, Option<Attention>), Failure> {
    match made {
        Err(OciError::OnDisk(_)) => {}
        other => return Ok((other?, attention)),
    }
    attention.map_or(Ok(()), Attention::end)?;
    for fd in preserved {
        rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
    }
    let error = runtime::execute_from_a_copy(std::env::args_os());
    Err(format!("a read-only copy of this program: {error}").into())
}

/// What the flags before the command say of a new container's cgroup.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) systemd_cgroup: bool,
    pub(super) needs_cgroup: bool,
}

fn made(
    containers: &Containers,
    args: &CreateArgs,
    how: How,
    attention: Option<Attention>,
    detach: bool,
) -> Result<(Process, Option<Attention>), Failure> {
    let preserved = runtime::oci::inherited(args.wish.preserve_fds)?;
    let made = containers.create(&CreateRequest {
        id: &args.id,
        bundle: &args.bundle,
        systemd_cgroup: how.systemd_cgroup,
        needs_cgroup: how.needs_cgroup,
        no_pivot: args.no_pivot,
        wish: wish(&args.wish, &preserved, detach),
    });
    or_again(made, &preserved, attention)
}

pub(super) fn create(containers: &Containers, args: CreateArgs, how: How) -> Outcome {
    made(containers, &args, how, None, true)?;
    Ok(0)
}

pub(super) fn run(containers: &Containers, args: RunArgs, how: How) -> Outcome {
    // A signal that comes while it begins is for the program.
    let attention = match args.detach {
        true => None,
        false => Some(Attention::begin()?),
    };
    let (mut process, attention) = made(containers, &args.create, how, attention, args.detach)?;
    let container = containers.open(&args.create.id)?;
    if let Err(error) = container.start() {
        if !args.keep {
            container.delete(true)?;
        }
        return Err(error.into());
    }
    let Some(attention) = attention else {
        return Ok(0);
    };
    let code = stay(&mut process, &attention)?;
    if !args.keep {
        container.delete(true)?;
    }
    Ok(code)
}

/// Stays with a process until it has ended, and gives its exit code.
pub(super) fn stay(process: &mut Process, attention: &Attention) -> Outcome {
    let (input, output) = (std::io::stdin(), std::io::stdout());
    let screen = Screen {
        input: Some(input.as_fd()),
        output: output.as_fd(),
    };
    Ok(attend(process, attention, Some(screen))?.code)
}

pub(super) fn spec(args: &SpecArgs) -> Outcome {
    let path = args.bundle.join("config.json");
    let text = serde_json::to_string_pretty(&runtime::oci::default_spec(args.rootless))?;
    File::create_new(&path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(0)
}
