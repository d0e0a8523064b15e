//! What is said to a supervisor and what it answers: one JSON object a message, on a `SOCK_SEQPACKET` socket,
//! descriptors beside it.
//!
//! The first connection is the one the supervisor is started with; every later one comes in at `control.sock`.
//! Both speak the same language, so that the one who started a container has nothing that another who connects
//! cannot have. Every message carries [`VERSION`]; a supervisor answers a request it does not know with
//! [`Reply::Error`], so that a newer command line can tell and fall back.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::bundle::{self, Bundle};
use crate::log::Limits;
use crate::state::Exit;

/// Version of the protocol. Since 5 a supervisor [keeps](Request::Keep) descriptors; since 4 it [pauses](Request::Pause); since 3 it
/// holds streams, is attached to, starts again and [executes](Request::Exec); since 2, `Failed` says what it [concerns](Concern);
/// whoever reads takes what is not said, or not known to it, for [`Concern::Other`], so that any two versions understand each other.
pub const VERSION: u32 = 5;

/// No message is longer.
const MAX_MESSAGE: usize = 16 << 10;

/// How long a supervisor may take to answer: it waits for nothing itself but to be started again. One that takes longer
/// was stopped, or is stuck.
pub const ANSWER: Duration = Duration::from_secs(10);

/// What a supervisor is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// Start the container; the first request and only on the first connection. Answered by `Started` or `Failed`, and
    /// later by `Exited`. Brings three descriptors: its standard streams. Where the supervisor is to [hold](Hold) them it
    /// brings the log's directory if there is to be one, then three pipes if the client is to be attached from the first.
    Start {
        /// Rows and columns of the terminal, where the spec asks for one.
        size: Option<(u16, u16)>,
        /// The OCI runtime to drive instead of the launcher.
        runtime: Option<PathBuf>,
        /// Program and arguments to run at the end if the one who asked is gone by then.
        cleanup: Vec<OsString>,
        /// Hold the streams.
        #[serde(default)]
        hold: Option<Hold>,
        /// Whether to start it again after its end.
        #[serde(default)]
        restart: Restart,
        /// What goes with its events.
        #[serde(default)]
        about: About,
        /// Ask how it is, as its bundle says.
        #[serde(default)]
        health: bool,
        /// Where to write the number of its first process, at each start.
        #[serde(default)]
        pidfile: Option<PathBuf>,
    },
    /// Keep these descriptors for as long as the container is looked after, through every restart: sockets that hold its
    /// host ports. Before `Start`, on the first connection; brings as many as a message may carry, and is not answered.
    Keep,
    /// Attach to the streams that the supervisor holds. Brings three pipes: what is typed, and where output and error
    /// go. At the end of the first one the program's input ends too, unless its reader has [detached](Request::Detach).
    Attach {
        /// Pass on what is typed.
        stdin: bool,
    },
    /// Attach no longer.
    Detach,
    /// Send this signal to its first process, and do not start the container again after its end.
    Stop {
        /// The signal's number.
        signal: i32,
    },
    /// Start the container again after its end by this policy, instead of the one it was started with.
    Policy {
        /// The policy.
        restart: Restart,
    },
    /// Execute one more program in the container; on no connection but a new one. Brings four descriptors: its standard
    /// streams, and a file that holds its `process` as the OCI spec has it, which may be longer than a message. Answered
    /// by `Started` or `Failed`, and later by `Exited`. `Kill` and `Resize` on the same connection then mean this
    /// program, which goes on when the connection is closed.
    Exec {
        /// Rows and columns of the terminal, where `process` asks for one.
        size: Option<(u16, u16)>,
    },
    /// Have all processes of the container stand still until [`Request::Unpause`], or until this connection is closed; as
    /// long as there is another such connection, they go on standing still. Answered when they were asked to.
    Pause,
    /// See there.
    Unpause,
    /// Answer `Exited` when the container has ended.
    Wait,
    /// Send this signal to its first process.
    Kill {
        /// The signal's number.
        signal: i32,
    },
    /// Set the size of its terminal.
    Resize {
        /// Lines.
        rows: u16,
        /// Characters a line.
        columns: u16,
    },
}

/// What is told of a container with what happens to it ([`crate::events`]).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Its name, its image, its labels. Without any, its supervisor writes no events.
    pub attributes: BTreeMap<String, String>,
    /// When it was made, in nanoseconds since 1970, if nobody has written that down.
    pub made: Option<u64>,
    /// The one who starts it is attached to it.
    #[serde(default)]
    pub attached: bool,
    /// Volumes that are mounted for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<MountedVolume>,
}

/// A volume, where a container has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountedVolume {
    /// The volume's name.
    pub name: String,
    /// Its place in the container.
    pub destination: String,
    /// Whether it cannot be written there.
    pub read_only: bool,
}

/// How a supervisor holds the streams of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Keep standard input open for who attaches; otherwise it is empty.
    pub stdin: bool,
    /// Write what is printed to the log in the directory that is brought.
    pub log: Option<Limits>,
    /// Attach the one who asks, and pass on what is typed there if this says so.
    pub attach: Option<bool>,
}

/// Whether a container is started again after its end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Whatever its end was, and after the machine's.
    Always,
    /// As always, unless somebody stopped it.
    UnlessStopped,
    /// When its code is not zero, after the machine's end too.
    OnFailure {
        /// No more often than this.
        most: Option<u32>,
    },
}

/// What a supervisor answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply {
    /// The program was executed. Brings the master of its terminal, where it has one.
    Started {
        /// Its process id as the supervisor sees it.
        pid: i32,
    },
    /// Nothing runs, and nothing is left behind.
    Failed {
        /// 125 strata's own failure, 126 the program cannot be run, 127 it was not found.
        code: u8,
        /// What failed, in one line.
        message: String,
        /// What of the container it concerns.
        #[serde(default)]
        concern: Concern,
    },
    /// The container has ended.
    Exited(Exit),
    /// Done.
    Done,
    /// The request was not understood or could not be done.
    Error {
        /// Why.
        message: String,
    },
}

/// What of a container the failure to start it concerns: for a program, to tell its user what may help. The sentence
/// beside it is for people.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Concern {
    /// The root file system, or what is mounted in it.
    Mount,
    /// A device node.
    Device,
    /// A resource limit of the process.
    Rlimit,
    /// A kernel parameter.
    Sysctl,
    /// The working directory.
    Directory,
    /// An AppArmor profile.
    Apparmor,
    /// The system call filter.
    Seccomp,
    /// A namespace to make or to join.
    Namespace,
    /// A control group.
    Cgroup,
    /// A hook.
    Hook,
    /// The program of another OCI runtime, which cannot be started.
    RuntimeProgram,
    /// What another OCI runtime said.
    RuntimeWords,
    /// A signal came that asks to end.
    Interrupted,
    /// What the root file system has in a place where something must be mounted.
    Root,
    /// The program that makes it is executed from where the container could write to it, and cannot go on from elsewhere as it
    /// is.
    OnDisk,
    /// Anything else.
    #[default]
    #[serde(other)]
    Other,
}

impl Concern {
    /// All of them: the place of each is its byte.
    const ALL: [Concern; 15] = [
        Concern::Other,
        Concern::Mount,
        Concern::Device,
        Concern::Rlimit,
        Concern::Sysctl,
        Concern::Directory,
        Concern::Apparmor,
        Concern::Seccomp,
        Concern::Namespace,
        Concern::Cgroup,
        Concern::Hook,
        Concern::RuntimeProgram,
        Concern::RuntimeWords,
        Concern::Interrupted,
        Concern::Root,
    ];

    /// As the container's process says it to its supervisor, which is the same program.
    pub(crate) fn to_byte(self) -> u8 {
        let at = Concern::ALL.iter().position(|one| *one == self);
        at.and_then(|at| u8::try_from(at).ok()).unwrap_or_default()
    }

    /// What a byte says.
    pub(crate) fn from_byte(byte: u8) -> Concern {
        Concern::ALL.get(usize::from(byte)).copied().unwrap_or_default()
    }
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u32,
    #[serde(alias = "reply")]
    request: T,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
}

impl Connection {
    /// Connects to the supervisor of a bundle. `ConnectionRefused` or `NotFound` when there is none; `TimedOut` where it
    /// takes no connection for as long as [`ANSWER`], or later no message.
    pub fn open(bundle: &Bundle) -> io::Result<Connection> {
        Ok(Connection {
            socket: sys::socket::connect(bundle.dir(), bundle::CONTROL, Some(ANSWER)).map_err(in_time)?,
        })
    }

    /// Takes a connected socket.
    pub fn from_socket(socket: OwnedFd) -> Connection {
        Connection { socket }
    }

    /// Sends one message with descriptors.
    pub fn send(&self, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let envelope = Envelope {
            version: VERSION,
            request: message,
        };
        sys::socket::send(self.socket.as_fd(), &serde_json::to_vec(&envelope)?, fds).map_err(in_time)
    }

    /// The answer to what was asked; `None` when the supervisor is gone, `TimedOut` where it takes longer than `limit`.
    pub fn answer(&self, limit: Duration) -> io::Result<Option<Reply>> {
        match self.wait(Some(limit))? {
            true => Ok(self.receive()?.map(|(reply, _)| reply)),
            false => Err(silence()),
        }
    }

    /// Waits until there is something to receive; false when `time` passes first.
    pub fn wait(&self, time: Option<Duration>) -> io::Result<bool> {
        let begun = Instant::now();
        loop {
            let left = time.map(|time| time.saturating_sub(begun.elapsed()));
            let left = left.map(|left| Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            match rustix::event::poll(&mut [PollFd::new(self, PollFlags::IN)], left.as_ref()) {
                Ok(count) => return Ok(count > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for the next message; `None` when the other end is gone. What is not understood is `InvalidData`.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some(message) = sys::socket::receive(self.socket.as_fd(), MAX_MESSAGE)? else {
            return Ok(None);
        };
        let envelope: Envelope<T> = serde_json::from_slice(&message.bytes)?;
        Ok(Some((envelope.request, message.fds)))
    }
}

/// Where nothing is heard of a supervisor that is there.
pub(crate) fn silence() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "its supervisor does not answer")
}

fn in_time(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => silence(),
        _ => error,
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_concerns_is_understood_by_older_and_newer() {
        let concern = |text: &str| match serde_json::from_str(text) {
            Ok(Reply::Failed { concern, .. }) => concern,
            other => panic!("{text}: {other:?}"),
        };
        assert_eq!(
            concern(r#"{"failed":{"code":125,"message":"x","concern":"sysctl"}}"#),
            Concern::Sysctl
        );
        for text in [
            r#"{"failed":{"code":125,"message":"x"}}"#,
            r#"{"failed":{"code":125,"message":"x","concern":"weather"}}"#,
        ] {
            assert_eq!(concern(text), Concern::Other, "{text}");
        }
        for one in Concern::ALL {
            assert_eq!(Concern::from_byte(one.to_byte()), one);
            let reply = Reply::Failed {
                code: 125,
                message: String::new(),
                concern: one,
            };
            assert_eq!(concern(&serde_json::to_string(&reply).unwrap()), one);
        }
        assert_eq!(Concern::from_byte(255), Concern::Other);
    }

    #[test]
    fn both_ways_and_the_unknown() {
        let (a, b) = sys::socket::pair().unwrap();
        let (a, b) = (Connection::from_socket(a), Connection::from_socket(b));
        a.send(&Request::Kill { signal: 15 }, &[]).unwrap();
        let (request, _) = b.receive::<Request>().unwrap().unwrap();
        assert!(matches!(request, Request::Kill { signal: 15 }));
        b.send(&Reply::Done, &[]).unwrap();
        assert!(matches!(a.receive::<Reply>().unwrap().unwrap().0, Reply::Done));
        a.send(&"fly", &[]).unwrap();
        let error = b.receive::<Request>().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        drop(a);
        assert!(b.receive::<Request>().unwrap().is_none());
    }
}
