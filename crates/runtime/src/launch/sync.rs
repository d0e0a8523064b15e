//! What the launcher and the container's process to be tell each other between fork and exec.
//!
//! The child speaks when it has come to a point ([`Word`]) and the launcher answers [`Sync::allow`] where the child
//! has to wait. Permission may be given before it is asked for, so that the usual start waits for nothing. The last
//! one, for the program ([`Sync::allow_program`]), brings the seccomp filter: it is compiled while the child makes its
//! mounts. Both ends are close-on-exec: the end of the conversation after [`Word::Executing`] means that the program runs.

use std::ffi::c_ulong;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags};
use sys::seccomp::{Flags, MAX_INSTRUCTIONS, Program};

use super::fault::{During, Fault, Result};
use super::identity::Filter;
use crate::control::Concern;

/// No permission is longer: flags and instructions of a filter.
const MAX_PERMISSION: usize = 8 + 8 * MAX_INSTRUCTIONS;

/// A fault's text is cut at this length.
const MAX_WORD: usize = 4096;

/// What the child says.
#[derive(Debug)]
pub(crate) enum Word {
    /// The namespaces and mounts are made; hooks may run before the root is changed. Waits for permission.
    Mounted,
    /// The master of the container's terminal.
    Console(OwnedFd),
    /// The container is made. Waits for somebody to connect.
    Waiting,
    /// Everything is done but exec.
    Executing,
    /// The listener of its filter, for the agent. Waits for permission.
    Listener(OwnedFd),
    /// It failed and ends.
    Failed(Fault),
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Sync(OwnedFd);

impl AsFd for Sync {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Sync {
    /// The launcher's end and the child's.
    pub(super) fn pair() -> Result<(Sync, Sync)> {
        let (a, b) = sys::socket::pair().during(|| "a socket pair".into())?;
        Ok((Sync(a), Sync(b)))
    }

    /// The end of one who tells a process to start, over a connection that was made for it.
    pub(crate) fn over(connection: OwnedFd) -> Sync {
        Sync(connection)
    }

    /// The same end once more, for another thread.
    pub(super) fn try_clone(&self) -> io::Result<Sync> {
        self.0.try_clone().map(Sync)
    }

    /// The child's: waits until somebody connects to `listener`, and goes on over that connection.
    pub(super) fn accept(listener: BorrowedFd<'_>) -> Result<Sync> {
        let doing = || "waiting to be started".to_owned();
        loop {
            let mut polled = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
            rustix::event::poll(&mut polled, None).during(doing)?;
            if let Some(connection) = sys::socket::accept(listener).during(doing)? {
                rustix::io::ioctl_fionbio(&connection, false).during(doing)?;
                return Ok(Sync(connection));
            }
        }
    }

    /// The child's: says a word.
    pub(super) fn say(&self, word: &Word) -> Result<()> {
        let mut text = Vec::new();
        let mut fds = Vec::new();
        match word {
            Word::Mounted => text.push(b'M'),
            Word::Waiting => text.push(b'W'),
            Word::Executing => text.push(b'X'),
            Word::Console(master) => {
                text.push(b'C');
                fds.push(master.as_fd());
            }
            Word::Listener(listener) => {
                text.push(b'L');
                fds.push(listener.as_fd());
            }
            Word::Failed(fault) => {
                text.extend([b'F', fault.code, fault.concern.to_byte()]);
                text.extend(fault.text.bytes().take(MAX_WORD - 3));
            }
        }
        sys::socket::send(self.0.as_fd(), &text, &fds).during(|| "telling the supervisor".into())
    }

    /// The launcher's: what the child said; `None` when it is gone or has executed its program.
    pub(crate) fn hear(&self) -> io::Result<Option<Word>> {
        let Some(mut message) = sys::socket::receive(self.0.as_fd(), MAX_WORD)? else {
            return Ok(None);
        };
        let word = match (message.bytes.as_slice(), message.fds.pop()) {
            (b"M", None) => Word::Mounted,
            (b"W", None) => Word::Waiting,
            (b"X", None) => Word::Executing,
            (b"C", Some(master)) => Word::Console(master),
            (b"L", Some(listener)) => Word::Listener(listener),
            ([b'F', code, concern, text @ ..], None) => Word::Failed(Fault {
                code: *code,
                concern: Concern::from_byte(*concern),
                text: String::from_utf8_lossy(text).into_owned(),
            }),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Some(word))
    }

    /// The launcher's: gives one permission. A child that has ended does not take it, and says so otherwise.
    pub(crate) fn allow(&self) -> io::Result<()> {
        self.send_permission(b"g")
    }

    /// The launcher's: gives the permission to come to the program, behind the filter.
    pub(super) fn allow_program(&self, filter: Option<&Filter>) -> io::Result<()> {
        let Some(filter) = filter else {
            return self.allow();
        };
        let mut bytes = filter.flags.bits().to_ne_bytes().to_vec();
        bytes.extend(filter.program.to_bytes());
        self.send_permission(&bytes)
    }

    fn send_permission(&self, bytes: &[u8]) -> io::Result<()> {
        match sys::socket::send(self.0.as_fd(), bytes, &[]) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }

    /// The child's: waits for one permission. Fails when the supervisor has died.
    pub(super) fn wait(&self) -> Result<()> {
        self.permission(1).map(drop)
    }

    /// The child's: waits for the permission to come to its program, and takes the filter.
    pub(super) fn wait_for_program(&self) -> Result<Option<Filter>> {
        let bytes = self.permission(MAX_PERMISSION)?;
        let Some((flags, program)) = bytes.split_first_chunk() else {
            return Ok(None);
        };
        let program = Program::from_bytes(program).during(|| "taking the seccomp filter".into())?;
        let flags = Flags::from_bits_retain(c_ulong::from_ne_bytes(*flags));
        Ok(Some(Filter { program, flags }))
    }

    fn permission(&self, longest: usize) -> Result<Vec<u8>> {
        match sys::socket::receive(self.0.as_fd(), longest) {
            Ok(Some(message)) => Ok(message.bytes),
            Ok(None) => Err(Fault::new(
                "the supervisor died while the container was being started",
            )),
            Err(error) => Err(error).during(|| "waiting for the supervisor".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_arrive() {
        let (launcher, child) = Sync::pair().unwrap();
        child.say(&Word::Mounted).unwrap();
        let fault = Fault {
            code: 127,
            concern: Concern::Hook,
            text: "nothing there".into(),
        };
        child.say(&Word::Failed(fault.clone())).unwrap();
        assert!(matches!(launcher.hear().unwrap(), Some(Word::Mounted)));
        assert!(matches!(launcher.hear().unwrap(), Some(Word::Failed(heard)) if heard == fault));
        launcher.allow().unwrap();
        child.wait().unwrap();
        launcher.allow_program(None).unwrap();
        assert_eq!(child.wait_for_program().unwrap(), None);
        let kill = sys::seccomp::Instruction {
            code: 6,
            jump_true: 1,
            jump_false: 2,
            k: 0x8000_0000,
        };
        let filter = Filter {
            program: Program::new(vec![kill; MAX_INSTRUCTIONS]).unwrap(),
            flags: Flags::LOG | Flags::SPEC_ALLOW,
        };
        launcher.allow_program(Some(&filter)).unwrap();
        assert_eq!(child.wait_for_program().unwrap(), Some(filter));
        let (reader, _) = rustix::pipe::pipe().unwrap();
        child.say(&Word::Console(reader)).unwrap();
        assert!(matches!(launcher.hear().unwrap(), Some(Word::Console(_))));
        drop(child);
        assert!(launcher.hear().unwrap().is_none());
        launcher.allow().unwrap();
    }
}
