//! A container is to end since its supervisor was told to: the machine goes down, or who looks after that process wants it.
//! It is asked by the signal that it wants to be asked by, and ended when its time is over, as by `stop`.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::bundle::Bundle;
use crate::options::process;
use crate::spec::{STOP_SIGNAL_ANNOTATION, STOP_TIMEOUT_ANNOTATION};

/// Where nothing else was asked for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a container is asked to end.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) signal: i32,
    patience: Duration,
}

impl Stop {
    /// As its spec says: read when it is needed, and not kept for that.
    pub(super) fn of(bundle: &Bundle) -> Stop {
        let spec = bundle.spec().ok();
        let said = |name| spec.as_ref()?.annotations().as_ref()?.get(name);
        let signal = said(STOP_SIGNAL_ANNOTATION).and_then(|word| process::signal(word));
        let seconds = said(STOP_TIMEOUT_ANNOTATION).and_then(|seconds| seconds.parse().ok());
        Stop {
            signal: signal.unwrap_or(Signal::TERM.as_raw()),
            patience: seconds.map_or(PATIENCE, Duration::from_secs),
        }
    }

    /// When it is ended; never where that is beyond what can be told.
    pub(super) fn until(&self) -> Option<Instant> {
        Instant::now().checked_add(self.patience)
    }
}
