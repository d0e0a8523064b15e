//! What helps when a container cannot be started again, stopped, or listened to.

use std::io::ErrorKind;

use engine::attach::AttachError;
use engine::errors::Fault;
use engine::kill::KillError;
use engine::logs::LogsError;
use engine::pause::PauseError;
use engine::restart::RestartError;
use engine::stop::StopError;
use engine::top::TopError;
use engine::update::UpdateError;
use engine::wait::WaitError;
use runtime::control::Concern;

use super::Explain;

/// Of one whose supervisor does not answer.
pub(super) fn stuck(name: &str) -> String {
    format!("let it go on where somebody stopped it (SIGCONT), or end all of it: strata rm -f {name}")
}

impl Explain for StopError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            StopError::Container(error) => error.fault(),
            StopError::Remove(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            StopError::Container(error) => error.hint(),
            StopError::Remove(error) => error.hint(),
            StopError::Supervisor { name, .. } => Some(format!("end it with strata rm -f {name}")),
            StopError::End(_) => Some("the kernel waits for a device or a file system beneath it".to_owned()),
            _ => None,
        }
    }
}

impl Explain for RestartError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            RestartError::Stop(error) => error.fault(),
            RestartError::Start(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            RestartError::Stop(error) => error.hint(),
            RestartError::Start(error) => error.hint(),
            _ => Some("stop it, and run it anew".to_owned()),
        }
    }
}

impl Explain for KillError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            KillError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            KillError::Container(error) => error.hint(),
            KillError::NotRunning(_) => Some("strata ps lists those that run".to_owned()),
            _ => None,
        }
    }
}

impl Explain for WaitError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            WaitError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            WaitError::Container(error) => error.hint(),
            WaitError::NoCheck(_) => {
                Some("give it one when it is made: --health-cmd, or the image's HEALTHCHECK".to_owned())
            }
            WaitError::NotRunning(_) => Some("strata ps -a shows how it ended".to_owned()),
            WaitError::NotStarted(name) => Some(format!("start it with strata start {name}")),
            WaitError::Stuck(name) => Some(stuck(name)),
            WaitError::Lost(_) => Some("strata ps -a shows it as lost".to_owned()),
            _ => None,
        }
    }
}

impl Explain for AttachError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            AttachError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            AttachError::Container(error) => error.hint(),
            AttachError::NotRunning(name) => Some(format!("start it with strata start -ai {name}")),
            AttachError::Refused { name, source } if source.kind() == ErrorKind::TimedOut => {
                Some(stuck(name))
            }
            AttachError::Refused { .. } => Some(
                "a container that was run in the foreground with --rm is that command's alone".to_owned(),
            ),
            _ => None,
        }
    }
}

impl Explain for LogsError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            LogsError::Container(error) => error.fault(),
            LogsError::Snapshot(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            LogsError::Container(error) => error.hint(),
            LogsError::None(_) => Some("it was made with --log-driver none".to_owned()),
            _ => None,
        }
    }
}

impl Explain for PauseError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            PauseError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            PauseError::Container(error) => return error.hint(),
            PauseError::NotRunning(_) | PauseError::NotPaused(_) => {
                "strata ps tells what each does".to_owned()
            }
            PauseError::Already(name) => format!("let it go on with strata unpause {name}"),
            PauseError::Foreign(_) => "that runtime's own pause and resume do it".to_owned(),
            PauseError::Cgroup(_) => "strata info tells which cgroups this machine has".to_owned(),
            _ => return None,
        })
    }
}

impl Explain for TopError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            TopError::Container(error) => error.fault(),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            TopError::Container(error) => return error.hint(),
            TopError::NotRunning(_) => "strata ps lists those that run".to_owned(),
            TopError::Foreign(_) => "that runtime's own ps lists them".to_owned(),
            _ => return None,
        })
    }
}

impl Explain for UpdateError {
    fn fault(&self) -> Option<&Fault> {
        match self {
            UpdateError::Container(error) => error.fault(),
            UpdateError::Store(fault) => Some(fault),
            _ => None,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            UpdateError::Container(error) => return error.hint(),
            UpdateError::NoPlan(_) => "run it anew with what it is to have".to_owned(),
            UpdateError::Ephemeral(_) => "run it anew without --rm".to_owned(),
            UpdateError::Foreign(_) => "that runtime's own update does it".to_owned(),
            UpdateError::Spec(_) => {
                "give --memory and --memory-swap together; strata info tells what this machine has".to_owned()
            }
            UpdateError::Impossible { .. } => super::run::setup_hint(Concern::Cgroup).to_owned(),
            UpdateError::Cgroup { name, .. } => {
                format!("it is kept for the next start: strata restart {name}")
            }
            _ => return None,
        })
    }
}
