//! `floor LOWER SCRATCH PROGRAM [ARG…]`: the least that starting a container can cost.
//!
//! An overlay with a fresh writable directory over LOWER, a process in its own mount, pid, UTS and IPC namespaces
//! with that overlay as its root and `/proc` in it, exec, wait, clean up. No network namespace, no devices, no
//! cgroup, no seccomp filter, no record that it ever was. What a real start costs beyond this is what one can argue
//! about: `cargo xtask bench start` measures both in one run.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::mount::{MountPropagationFlags, UnmountFlags};
use rustix::process::{WaitId, WaitIdOptions};
use sys::mount::{FsContext, MountAttrFlags};
use sys::process::{CStrings, Fork, fork, namespaces};

fn main() -> ExitCode {
    match start(&std::env::args().collect::<Vec<_>>()) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("floor: {error}");
            ExitCode::from(125)
        }
    }
}

fn start(args: &[String]) -> io::Result<u8> {
    let [_, lower, scratch, command @ ..] = args else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let program = command.first().ok_or(io::ErrorKind::InvalidInput)?;
    let argv = CStrings::new(command.iter().map(String::as_bytes))?;
    let env = CStrings::new(["PATH=/bin"])?;
    let path = CStrings::new([program.as_bytes()])?;
    let dir = |name: &str| Path::new(scratch).join(name);
    for name in ["", "upper", "work", "merged"] {
        rustix::fs::mkdir(dir(name), Mode::RWXU)?;
    }

    let request = Fork {
        namespaces: namespaces::MOUNT | namespaces::PID | namespaces::UTS | namespaces::IPC,
        ..Fork::default()
    };
    let child = fork(&request, || {
        let ended = enter(lower, &dir("upper"), &dir("work"), &dir("merged"));
        let error = ended
            .err()
            .unwrap_or_else(|| sys::process::exec(&path.as_slice()[0], &argv, &env));
        eprintln!("floor: {error}");
        127
    })?;
    let status = rustix::process::waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED)?;
    let code = status.and_then(|status| status.exit_status()).unwrap_or(125);

    let scratch = Path::new(scratch);
    let name = scratch.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    sys::Dir::open_ambient(scratch.parent().unwrap_or(Path::new("/")))?.remove_tree(name)?;
    Ok(u8::try_from(code).unwrap_or(125))
}

fn enter(lower: &str, upper: &Path, work: &Path, merged: &Path) -> io::Result<()> {
    rustix::mount::mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )?;
    let overlay = || {
        let context = FsContext::open("overlay")?;
        context.set("lowerdir+", lower)?;
        context.set("upperdir", upper)?;
        context.set("workdir", work)?;
        context.flag("volatile")?;
        context.mount(MountAttrFlags::empty())
    };
    let overlay = overlay().map_err(io::Error::other)?;
    sys::mount::attach_at(overlay.as_fd(), merged)?;
    rustix::process::chdir(merged)?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    let proc = FsContext::open("proc").and_then(|context| context.mount(MountAttrFlags::empty()));
    sys::mount::attach_at(proc.map_err(io::Error::other)?.as_fd(), "/proc")
}
