//! Hooks: programs that the spec wants run at points of a container's life, with its state on their standard input
//! (OCI runtime spec, "POSIX-platform Hooks").

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use oci_spec::runtime::{Hook, Spec};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::Serialize;

use super::fault::{During, Fault, Result};

/// What a hook reads (OCI runtime spec, "State").
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HookState<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<i32>,
    bundle: &'a Path,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a std::collections::HashMap<String, String>>,
}

impl<'a> HookState<'a> {
    /// The state of the container `id`; `status` is one of the spec's words.
    pub(crate) fn new(
        spec: &'a Spec,
        id: &'a str,
        bundle: &'a Path,
        status: &'a str,
        pid: Option<i32>,
    ) -> Self {
        HookState {
            oci_version: spec.version(),
            id,
            status,
            pid,
            bundle,
            annotations: spec.annotations().as_ref(),
        }
    }
}

/// Runs `hooks` one after the other, and stops at the first that fails.
pub(crate) fn run(kind: &str, hooks: &[Hook], state: &HookState<'_>) -> Result<()> {
    hooks.iter().try_for_each(|hook| run_one(kind, hook, state))
}

/// Runs all of `hooks` whatever each does, and says what went wrong.
pub(crate) fn run_all(kind: &str, hooks: &[Hook], state: &HookState<'_>) -> Vec<String> {
    hooks
        .iter()
        .filter_map(|hook| run_one(kind, hook, state).err())
        .map(|fault| fault.text)
        .collect()
}

fn run_one(kind: &str, hook: &Hook, state: &HookState<'_>) -> Result<()> {
    let doing = || format!("{kind} hook {}", hook.path().display());
    if !hook.path().is_absolute() {
        return Err(Fault::new(format!("{}: its path must be absolute", doing())));
    }
    // Files in memory: no pipe that could fill up while nobody reads.
    let mut input = memory_file().during(doing)?;
    let mut errors = memory_file().during(doing)?;
    serde_json::to_writer(&mut input, state)
        .map_err(io::Error::from)
        .and_then(|()| input.rewind())
        .during(doing)?;
    let (arg0, args) = match hook.args().as_deref() {
        Some([arg0, args @ ..]) => (arg0.as_str(), args),
        _ => (hook.path().to_str().unwrap_or("hook"), [].as_slice()),
    };
    let environment = hook
        .env()
        .iter()
        .flatten()
        .filter_map(|entry| entry.split_once('='));
    let mut command = Command::new(hook.path());
    // As runc and crun have it. Within the container there is no such directory, nor one for whoever may not come at it.
    if kind != "startContainer" && state.bundle.join(".").exists() {
        command.current_dir(state.bundle);
    }
    let mut child = command
        .arg0(arg0)
        .args(args)
        .env_clear()
        .envs(environment)
        .stdin(Stdio::from(input))
        .stdout(Stdio::null())
        .stderr(errors.try_clone().during(doing)?)
        // A group of its own, so that what it started can be ended with it.
        .process_group(0)
        .spawn()
        .during(doing)?;
    let limit = hook
        .timeout()
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    let Some(status) = wait(&mut child, limit).during(doing)? else {
        let _ = rustix::process::kill_process_group(Pid::from_child(&child), Signal::KILL);
        let _ = child.wait();
        return Err(Fault::new(format!(
            "{}: not done after {} s",
            doing(),
            limit.unwrap_or_default().as_secs()
        )));
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    let _ = errors.rewind();
    let _ = errors.take(1024).read_to_end(&mut text);
    let said = String::from_utf8_lossy(&text);
    let said = said
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join("; ");
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or(0)),
    };
    let separator = if said.is_empty() { "" } else { ": " };
    Err(Fault::new(format!("{}: {how}{separator}{said}", doing())))
}

fn memory_file() -> io::Result<File> {
    Ok(rustix::fs::memfd_create("hook", MemfdFlags::CLOEXEC)?.into())
}

/// Waits for a child; `None` when `limit` passes first.
fn wait(child: &mut Child, limit: Option<Duration>) -> io::Result<Option<ExitStatus>> {
    let Some(limit) = limit else {
        return child.wait().map(Some);
    };
    let pid = Pid::from_child(child);
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    let limit = Timespec {
        tv_sec: limit.as_secs().try_into().unwrap_or(i64::MAX),
        tv_nsec: 0,
    };
    // Signals are held back in the supervisor, so that nothing cuts the wait short.
    match rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&limit))? {
        0 => Ok(None),
        _ => child.wait().map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(script: &str, timeout: Option<i64>) -> Hook {
        let text = serde_json::json!({
            "path": "/bin/sh", "args": ["hook", "-c", script], "env": ["GREETING=hello there"], "timeout": timeout,
        });
        serde_json::from_value(text).unwrap()
    }

    fn check(hook: Hook) -> Result<()> {
        let spec = Spec::default();
        let state = HookState::new(&spec, "abc", Path::new("/bundle"), "created", Some(42));
        run("test", &[hook], &state)
    }

    #[test]
    fn reads_the_state_and_has_its_environment_alone() {
        check(hook(
            r#"read -r line; case "$line" in *'"id":"abc"'*'"pid":42'*) ;; *) exit 1;; esac"#,
            None,
        ))
        .unwrap();
        check(hook(r#"[ "$GREETING" = "hello there" ] && [ -z "$HOME" ]"#, None)).unwrap();
    }

    #[test]
    fn failures_are_told() {
        let fault = check(hook("echo broken pipe dream >&2; exit 3", None)).unwrap_err();
        assert_eq!(fault.text, "test hook /bin/sh: exit code 3: broken pipe dream");
        let fault = check(hook("sleep 100", Some(1))).unwrap_err();
        assert!(fault.text.contains("not done after 1 s"), "{fault}");
        let fault = check(hook("kill -9 $$", None)).unwrap_err();
        assert!(fault.text.contains("signal 9"), "{fault}");
    }
}
