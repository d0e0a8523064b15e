//! Filters that ask somebody else (`SCMP_ACT_NOTIFY`): the listener, on which the calls arrive, goes to the agent that
//! waits at `linux.seccomp.listenerPath`, with the state of the process (OCI runtime spec, "The Container Process State").
//!
//! The listener exists from when the filter does, and behind the filter the process may be unable to say so: any call may
//! be one that somebody has to answer first, and nobody can yet. So another thread of it, which has no filter, gives the
//! listener away ([`Courier`]), and the process itself watches memory meanwhile, without a call. What the container's program
//! is executed by ends the thread. The agent is the host's, and whoever launches speaks with it ([`Agent`]): nothing of it
//! is known in the container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use oci_spec::runtime::{LinuxSeccomp, LinuxSeccompAction, Spec};
use serde_json::{Value, json};

use super::fault::{About, During, Fault, Result};
use super::hooks::HookState;
use super::sync::{Sync, Word};
use crate::control::Concern;

/// How long an agent that takes nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the thread looks whether the listener is there.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// Whether a filter has a listener.
pub(super) fn notifies(seccomp: &LinuxSeccomp) -> bool {
    let mut rules = seccomp.syscalls().iter().flatten();
    rules.any(|rule| rule.action() == LinuxSeccompAction::ScmpActNotify)
}

/// Refuses a listener that nobody is to be given, and words for nobody.
pub(super) fn check(seccomp: &LinuxSeccomp) -> Result<()> {
    let text = match seccomp.listener_path() {
        Some(path) if !path.is_absolute() => "linux.seccomp.listenerPath is not absolute",
        Some(_) => return Ok(()),
        None if notifies(seccomp) => {
            "a seccomp filter that notifies (SCMP_ACT_NOTIFY) needs linux.seccomp.listenerPath"
        }
        None if seccomp
            .listener_metadata()
            .as_deref()
            .is_some_and(|text| !text.is_empty()) =>
        {
            "linux.seccomp.listenerMetadata without listenerPath"
        }
        None => return Ok(()),
    };
    Err(Fault::new(text).about(Concern::Seccomp))
}

/// The one who answers calls.
#[derive(Debug)]
pub(crate) struct Agent {
    socket: PathBuf,
    /// What it is told, but for the process's number.
    words: Value,
}

impl Agent {
    /// That of a container's filter, where there is one that notifies.
    pub(crate) fn of(spec: &Spec, state: &HookState<'_>) -> Result<Option<Agent>> {
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some((seccomp, socket)) = seccomp
            .filter(|seccomp| notifies(seccomp))
            .and_then(|seccomp| Some((seccomp, seccomp.listener_path().as_ref()?)))
        else {
            return Ok(None);
        };
        let mut words = json!({
            "ociVersion": spec.version(),
            "fds": ["seccompFd"],
            "state": serde_json::to_value(state)
                .map_err(std::io::Error::from)
                .during(|| "the container's state".into())?,
        });
        if let Some(metadata) = seccomp
            .listener_metadata()
            .as_deref()
            .filter(|text| !text.is_empty())
        {
            words["metadata"] = metadata.into();
        }
        Ok(Some(Agent {
            socket: socket.clone(),
            words,
        }))
    }

    /// Gives it the listener of the process `pid`.
    pub(crate) fn send(&self, pid: i32, listener: BorrowedFd<'_>) -> Result<()> {
        let mut words = self.words.clone();
        words["pid"] = pid.into();
        let sent = sys::socket::connect_stream(&self.socket, Some(PATIENCE))
            .and_then(|socket| sys::socket::send(socket.as_fd(), words.to_string().as_bytes(), &[listener]));
        sent.during(|| format!("sending the seccomp listener to {}", self.socket.display()))
            .about(Concern::Seccomp)
    }
}

const PENDING: u8 = 0;
const DELIVERED: u8 = 1;
const LOST: u8 = 2;

#[derive(Debug, Default)]
struct Slot {
    /// Only ever tried, by both: waiting for it would be a system call.
    listener: Mutex<Option<OwnedFd>>,
    outcome: AtomicU8,
}

/// The thread that gives the listener away.
pub(super) struct Courier(Arc<Slot>);

impl Courier {
    /// Lets it wait for the listener. To be called by the process itself, before its filter.
    pub(super) fn ready(sync: &Sync) -> Result<Courier> {
        let doing = || "a thread for the seccomp listener".to_owned();
        let slot = Arc::new(Slot::default());
        let (sync, shared) = (sync.try_clone().during(doing)?, slot.clone());
        let carry = move || {
            let listener = loop {
                match shared.listener.try_lock().ok().and_then(|mut slot| slot.take()) {
                    Some(listener) => break listener,
                    None => std::thread::sleep(LOOK_AGAIN),
                }
            };
            // Sent, it is closed here: when the agent is gone, calls must not wait for one that nobody has.
            let delivered = sync.say(&Word::Listener(listener)).and_then(|()| sync.wait());
            let outcome = if delivered.is_ok() { DELIVERED } else { LOST };
            shared.outcome.store(outcome, Ordering::Release);
        };
        std::thread::Builder::new().spawn(carry).during(doing)?;
        Ok(Courier(slot))
    }

    /// Has the listener given away, and waits until the agent has it. Makes no system call.
    pub(super) fn take(self, listener: OwnedFd) -> Result<()> {
        let mut listener = Some(listener);
        loop {
            if let Ok(mut slot) = self.0.listener.try_lock() {
                *slot = listener.take();
                break;
            }
            std::hint::spin_loop();
        }
        loop {
            match self.0.outcome.load(Ordering::Acquire) {
                PENDING => std::hint::spin_loop(),
                DELIVERED => return Ok(()),
                _ => return Err(Fault::new("the seccomp listener was not taken").about(Concern::Seccomp)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str) -> Result<()> {
        check(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn a_listener_is_for_somebody() {
        let notify = r#""syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_NOTIFY"}]"#;
        let with = |rest: &str| format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW"{rest}}}"#);
        checked(&with("")).unwrap();
        checked(&with(r#","listenerPath":"/run/agent""#)).unwrap();
        checked(&with(&format!(r#","listenerPath":"/run/agent",{notify}"#))).unwrap();
        for (rest, says) in [
            (format!(",{notify}"), "needs linux.seccomp.listenerPath"),
            (r#","listenerPath":"agent""#.to_owned(), "absolute"),
            (r#","listenerMetadata":"x""#.to_owned(), "without listenerPath"),
        ] {
            let fault = checked(&with(&rest)).unwrap_err();
            assert!(fault.text.contains(says), "{fault}");
        }
    }
}
