//! Asking how the container is: the check is one more program in it, and the supervisor itself is the one who asks for it.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::process::Signal;

use super::execs::{Execs, Place};
use crate::bundle::{self, Bundle};
use crate::control::{Connection, Reply, Request};
use crate::health::{Asked, Health, HealthCheck, Probe, Status};
use crate::state;

/// Bytes of what a check prints that are kept; docker's number.
const OUTPUT: usize = 4096;

/// While a container is held still, it is looked again so often whether it still is.
const STILL: Duration = Duration::from_secs(1);

/// One container's health.
pub(super) struct Watch {
    check: HealthCheck,
    health: Health,
    begun: Instant,
    due: Instant,
    running: Option<Running>,
}

/// A check that is being made.
struct Running {
    connection: Connection,
    output: std::fs::File,
    text: Vec<u8>,
    start: u64,
    until: Instant,
    /// It took too long, and was killed.
    late: bool,
}

impl Watch {
    /// Of a container that has just been started; `None` where nothing is asked.
    pub(super) fn load(bundle: &Bundle) -> Option<Watch> {
        let asked: Asked = bundle.read_json(bundle::HEALTHCHECK).ok()??;
        let mut watch = Watch {
            check: asked.check,
            health: Health::new(),
            begun: Instant::now(),
            due: Instant::now(),
            running: None,
        };
        watch.due += watch.pause();
        let _ = bundle.write_json(bundle::HEALTH, &watch.health);
        Some(watch)
    }

    fn early(&self) -> bool {
        self.begun.elapsed() < self.check.start_period
    }

    fn pause(&self) -> Duration {
        match self.health.status == Status::Starting && self.early() {
            true => self.check.start_interval,
            false => self.check.interval,
        }
    }

    /// How long nothing is to be done, unless something is heard.
    pub(super) fn time(&self) -> Option<Duration> {
        let at = match &self.running {
            Some(running) if running.late => return None,
            Some(running) => running.until,
            None => self.due,
        };
        Some(at.saturating_duration_since(Instant::now()))
    }

    /// Where something may be heard.
    pub(super) fn watched(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let fds = self.running.iter();
        fds.flat_map(|running| [running.connection.as_fd(), running.output.as_fd()])
    }

    /// Does what is due: makes a check, ends one that takes too long, writes down what came of one.
    pub(super) fn act(&mut self, place: Place<'_>, execs: &mut Execs<'_>, first: BorrowedFd<'_>) {
        let now = Instant::now();
        let Some(running) = &mut self.running else {
            if now >= self.due {
                self.begin(place, execs, first);
            }
            return;
        };
        running.drain();
        let late = now >= running.until && !running.late;
        if late {
            running.late = true;
            let signal = Signal::KILL.as_raw();
            // One that has ended meanwhile tells so itself.
            let _ = running.connection.send(&Request::Kill { signal }, &[]);
        }
        let code = match running.connection.receive::<Reply>() {
            Ok(Some((Reply::Exited(exit), _))) => i32::from(exit.code),
            Ok(Some((Reply::Failed { message, .. }, _))) => {
                running.text = message.into_bytes();
                -1
            }
            Ok(None) => -1,
            // That it runs, that it was killed, or nothing.
            Ok(Some(_)) | Err(_) => return,
        };
        running.drain();
        let Some(running) = self.running.take() else {
            return;
        };
        let (code, output) = match running.late {
            true => (-1, format!("the check took longer than {:?}", self.check.timeout)),
            false => (code, String::from_utf8_lossy(&running.text).into_owned()),
        };
        let end = state::now();
        self.take(
            place,
            Probe {
                start: running.start,
                end,
                code,
                output,
            },
        );
    }

    fn take(&mut self, place: Place<'_>, probe: Probe) {
        let early = self.early();
        let changed = self.health.take(probe, &self.check, early);
        self.due = Instant::now() + self.pause();
        let _ = place.bundle.write_json(bundle::HEALTH, &self.health);
        if changed {
            place.told.health(self.health.status);
        }
    }

    fn begin(&mut self, place: Place<'_>, execs: &mut Execs<'_>, first: BorrowedFd<'_>) {
        if place.left.cgroups.paths().is_frozen() {
            self.due = Instant::now() + STILL;
            return;
        }
        let start = state::now();
        match order(place.bundle) {
            Ok((ours, theirs, output, fds)) => {
                self.running = Some(Running {
                    connection: ours,
                    output: output.into(),
                    text: Vec::new(),
                    start,
                    until: Instant::now() + self.check.timeout,
                    late: false,
                });
                execs.begin(place, first, theirs, None, fds, true);
            }
            Err(error) => {
                let output = error.to_string();
                self.take(
                    place,
                    Probe {
                        start,
                        end: start,
                        code: -1,
                        output,
                    },
                );
            }
        }
    }
}

impl Running {
    /// Takes what was printed; what is too much is read and forgotten.
    fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = self.output.read(&mut buffer) {
            let room = OUTPUT.saturating_sub(self.text.len());
            self.text.extend_from_slice(&buffer[..length.min(room)]);
        }
    }
}

/// Both ends of a connection, the end of the pipe where output is read, and what the program is given.
type Order = (Connection, Connection, OwnedFd, Vec<OwnedFd>);

fn order(bundle: &Bundle) -> std::io::Result<Order> {
    let (ours, theirs) = sys::socket::pair()?;
    for socket in [&ours, &theirs] {
        rustix::io::ioctl_fionbio(socket, true)?;
    }
    let (output, out) = std::io::pipe()?;
    let output = OwnedFd::from(output);
    rustix::io::ioctl_fionbio(&output, true)?;
    let null = rustix::fs::openat(CWD, "/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let asked: Option<Asked> = bundle
        .read_json(bundle::HEALTHCHECK)
        .map_err(std::io::Error::other)?;
    let asked = asked.ok_or(std::io::ErrorKind::NotFound)?;
    let file = crate::exec::write_down(&asked.process)?;
    let out = OwnedFd::from(out);
    let fds = vec![null, out.try_clone()?, out, file.into()];
    Ok((
        Connection::from_socket(ours),
        Connection::from_socket(theirs),
        output,
        fds,
    ))
}
