//! In the foreground: passing signals on to a container and, where it has a terminal, keys and characters between that
//! and the user's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags};
use rustix::process::Signal;
use rustix::termios::{OptionalActions, Termios};
use sys::signal::{Set, SignalFd};

use crate::state::Exit;

mod keys;

pub(crate) use keys::Keys;

/// Signals that are the caller's own: what its children and its terminal's job control tell it, and what only a fault
/// in it raises.
const KEPT: [Signal; 14] = [
    Signal::CHILD,
    Signal::PIPE,
    Signal::URG,
    Signal::TSTP,
    Signal::TTIN,
    Signal::TTOU,
    Signal::CONT,
    Signal::SEGV,
    Signal::BUS,
    Signal::FPE,
    Signal::ILL,
    Signal::TRAP,
    Signal::ABORT,
    Signal::SYS,
];

/// What runs in the foreground. Its descriptor is readable when [`Attended::take`] has something to take.
pub trait Attended: AsFd {
    /// The master of its terminal, where it has one.
    fn console(&self) -> Option<BorrowedFd<'_>>;
    /// Sends it a signal. `BrokenPipe` where nobody is left to take it.
    fn kill(&self, signal: i32) -> io::Result<()>;
    /// How it ended, once it has.
    fn take(&mut self) -> io::Result<Option<Exit>>;
}

/// The user's end of a container's terminal.
#[derive(Debug, Clone, Copy)]
pub struct Screen<'a> {
    /// Where keys come from; `None` where nothing may be typed.
    pub input: Option<BorrowedFd<'a>>,
    /// Where characters go.
    pub output: BorrowedFd<'a>,
}

/// Holds the signals of the calling thread back for [`attend`], from before the container is started: one that comes
/// in between is then not lost and does not end the caller. The caller should have one thread only, or have started
/// the others after this.
pub struct Attention {
    signals: SignalFd,
    before: Set,
}

impl Attention {
    /// Begins to hold signals back.
    pub fn begin() -> io::Result<Attention> {
        let wanted = KEPT
            .iter()
            .fold(Set::full(), |set, signal| set.without(signal.as_raw()));
        let signals = SignalFd::new(wanted)?;
        let before = sys::signal::set_mask(wanted)?;
        Ok(Attention { signals, before })
    }

    /// Holds signals back no longer.
    pub fn end(self) -> io::Result<()> {
        sys::signal::set_mask(self.before).map(drop)
    }

    /// Passes signals on to a supervisor that is starting a container, until it has said something.
    pub(crate) fn pass_on_until_answered(&self, running: &impl Attended) -> io::Result<()> {
        loop {
            let answered = {
                let mut fds = [
                    PollFd::from_borrowed_fd(running.as_fd(), PollFlags::IN),
                    PollFd::new(&self.signals, PollFlags::IN),
                ];
                retry(|| rustix::event::poll(&mut fds, None))?;
                !fds[0].revents().is_empty()
            };
            if answered {
                return Ok(());
            }
            self.pass_on(running, || {})?;
        }
    }

    /// Passes the signals that have come on to the container; `resized` is told that the window has another size.
    pub(crate) fn pass_on(&self, running: &impl Attended, mut resized: impl FnMut()) -> io::Result<()> {
        while let Some(received) = self.signals.read()? {
            if received.signal == Signal::WINCH.as_raw() {
                resized();
            } else if let Err(error) = running.kill(received.signal)
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                return Err(error);
            }
        }
        Ok(())
    }
}

impl AsFd for Attention {
    /// Readable when a signal has come.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}

impl std::fmt::Debug for Attention {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attention").finish_non_exhaustive()
    }
}

impl Drop for Attention {
    fn drop(&mut self) {
        let _ = sys::signal::set_mask(self.before);
    }
}

/// A terminal in raw mode; as it was again when dropped.
pub(crate) struct Raw<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> Raw<'a> {
    /// `None` where `terminal` is none.
    pub(crate) fn begin(terminal: BorrowedFd<'a>) -> io::Result<Option<Raw<'a>>> {
        let Ok(before) = rustix::termios::tcgetattr(terminal) else {
            return Ok(None);
        };
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(terminal, OptionalActions::Now, &raw)?;
        Ok(Some(Raw { terminal, before }))
    }
}

impl Drop for Raw<'_> {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// How one came to stay with a program no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Left {
    /// It has ended.
    Ended(Exit),
    /// The user left it.
    Detached,
}

/// Stays with a container in the foreground until it has ended: passes signals on and, with a `screen`, relays its
/// terminal. Keys that the terminal turns into signals reach the container once: as signals where it has no terminal,
/// as keys where it has one.
pub fn attend(
    running: &mut impl Attended,
    attention: &Attention,
    screen: Option<Screen<'_>>,
) -> io::Result<Exit> {
    match attend_or_leave(running, attention, screen, &[])? {
        Left::Ended(exit) => Ok(exit),
        // There are no keys that leave it.
        Left::Detached => attend_signals(running, attention),
    }
}

/// As [`attend`], until the user leaves it by `keys`, typed one after the other at a terminal.
pub fn attend_or_leave(
    running: &mut impl Attended,
    attention: &Attention,
    screen: Option<Screen<'_>>,
    keys: &[u8],
) -> io::Result<Left> {
    let console = running
        .console()
        .map(|console| console.try_clone_to_owned())
        .transpose()?;
    let (Some(console), Some(screen)) = (console, screen) else {
        return attend_signals(running, attention).map(Left::Ended);
    };
    let raw = screen.input.map(Raw::begin).transpose()?.flatten();
    resize(screen, console.as_fd());
    let mut relay = Relay {
        console: console.as_fd(),
        screen,
        typed: Buffer::default(),
        printed: Buffer::default(),
        keys: Keys::new(if raw.is_some() { keys } else { &[] }),
    };
    let left = relay.run(running, attention);
    drop(raw);
    left
}

fn attend_signals(running: &mut impl Attended, attention: &Attention) -> io::Result<Exit> {
    loop {
        let ended = {
            let mut fds = [
                PollFd::new(&attention.signals, PollFlags::IN),
                PollFd::from_borrowed_fd(running.as_fd(), PollFlags::IN),
            ];
            retry(|| rustix::event::poll(&mut fds, None))?;
            !fds[1].revents().is_empty()
        };
        if ended && let Some(exit) = running.take()? {
            return Ok(exit);
        }
        attention.pass_on(running, || {})?;
    }
}

/// Calls again where a signal came between.
pub(crate) fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Rows and columns of the first that is a terminal.
pub(crate) fn size_of<'a>(mut fds: impl Iterator<Item = BorrowedFd<'a>>) -> Option<(u16, u16)> {
    fds.find_map(|fd| sys::pty::size(fd).ok())
}

/// Gives the container's terminal the size of the user's.
fn resize(screen: Screen<'_>, console: BorrowedFd<'_>) {
    let sources = [Some(screen.output), screen.input];
    if let Some((rows, columns)) = size_of(sources.into_iter().flatten()) {
        let _ = sys::pty::set_size(console, rows, columns);
    }
}

/// Bytes on their way from one descriptor to another.
pub(crate) struct Buffer {
    pub(crate) bytes: Vec<u8>,
    /// How many of them have gone on.
    gone: usize,
    /// No more will come.
    pub(crate) ended: bool,
}

impl Default for Buffer {
    fn default() -> Buffer {
        Buffer {
            bytes: Vec::with_capacity(16 << 10),
            gone: 0,
            ended: false,
        }
    }
}

impl Buffer {
    pub(crate) fn is_empty(&self) -> bool {
        self.gone == self.bytes.len()
    }

    pub(crate) fn fill(&mut self, from: BorrowedFd<'_>) -> io::Result<()> {
        self.bytes.resize(16 << 10, 0);
        self.gone = 0;
        let read = rustix::io::read(from, &mut self.bytes);
        self.bytes.truncate(read.unwrap_or(0));
        match read {
            Ok(0) => self.ended = true,
            Ok(_) | Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            // A terminal that nobody has open any more.
            Err(rustix::io::Errno::IO) => self.ended = true,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    pub(crate) fn drain(&mut self, to: BorrowedFd<'_>) -> io::Result<()> {
        match rustix::io::write(to, &self.bytes[self.gone..]) {
            Ok(written) => self.gone += written,
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}

struct Relay<'a> {
    console: BorrowedFd<'a>,
    screen: Screen<'a>,
    typed: Buffer,
    printed: Buffer,
    keys: Keys<'a>,
}

impl Relay<'_> {
    fn run(&mut self, running: &mut impl Attended, attention: &Attention) -> io::Result<Left> {
        let mut exit = None;
        loop {
            if let Some(exit) = &exit
                && self.printed.is_empty()
                && !self.has_printed()?
            {
                return Ok(Left::Ended(Exit::clone(exit)));
            }
            let ready = self.wait(running, attention, exit.is_some())?;
            if ready.word && exit.is_none() {
                exit = running.take()?;
            }
            let (screen, console) = (self.screen, self.console);
            attention.pass_on(running, || resize(screen, console))?;
            if ready.to_screen {
                self.printed.drain(self.screen.output)?;
            }
            if ready.to_console && self.typed.drain(self.console).is_err() {
                self.typed.ended = true;
                self.typed.gone = self.typed.bytes.len();
            }
            if ready.printed && self.printed.is_empty() {
                self.printed.fill(self.console)?;
            }
            if ready.typed
                && self.typed.is_empty()
                && let Some(input) = self.screen.input
            {
                self.typed.fill(input)?;
                if self.keys.sift(&mut self.typed.bytes) {
                    return Ok(Left::Detached);
                }
                if self.typed.ended && self.typed.bytes.is_empty() {
                    // The end of what is typed, as a terminal says it.
                    self.typed.bytes.push(4);
                }
            }
        }
    }

    fn has_printed(&self) -> io::Result<bool> {
        if self.printed.ended {
            return Ok(false);
        }
        let mut fds = [PollFd::from_borrowed_fd(self.console, PollFlags::IN)];
        let now = rustix::event::Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        retry(|| rustix::event::poll(&mut fds, Some(&now)))?;
        Ok(fds[0].revents().contains(PollFlags::IN))
    }

    fn wait(&self, running: &impl Attended, attention: &Attention, ended: bool) -> io::Result<Ready> {
        let reads_keys = !ended && !self.typed.ended && self.typed.is_empty();
        let input = self.screen.input.filter(|_| reads_keys);
        let mut console = PollFlags::empty();
        if self.printed.is_empty() && !self.printed.ended {
            console |= PollFlags::IN;
        }
        if !self.typed.is_empty() {
            console |= PollFlags::OUT;
        }
        // A descriptor that is not waited for is left out: poll(2) would tell of its hang-up without end.
        let entries = [
            Some((attention.signals.as_fd(), PollFlags::IN)),
            (!ended).then_some((running.as_fd(), PollFlags::IN)),
            (!console.is_empty()).then_some((self.console, console)),
            (!self.printed.is_empty()).then_some((self.screen.output, PollFlags::OUT)),
            input.map(|input| (input, PollFlags::IN)),
        ];
        let mut fds: Vec<_> = entries
            .iter()
            .flatten()
            .map(|(fd, flags)| PollFd::from_borrowed_fd(*fd, *flags))
            .collect();
        retry(|| rustix::event::poll(&mut fds, None))?;
        let mut raised = fds.iter().map(PollFd::revents);
        let mut next = |there: bool| {
            if there {
                raised.next().unwrap_or(PollFlags::empty())
            } else {
                PollFlags::empty()
            }
        };
        let [_, word, console, screen, input] = entries.map(|entry| next(entry.is_some()));
        Ok(Ready {
            word: !word.is_empty(),
            printed: console.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR),
            to_console: console.intersects(PollFlags::OUT | PollFlags::HUP | PollFlags::ERR),
            to_screen: !screen.is_empty(),
            typed: !input.is_empty(),
        })
    }
}

/// What a wait found.
struct Ready {
    word: bool,
    printed: bool,
    to_console: bool,
    to_screen: bool,
    typed: bool,
}
