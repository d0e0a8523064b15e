//! A connection and the threads that read it, one at a time.
//!
//! To hand a call to another thread takes longer than many a call does. So whoever reads a call of [`Lane::Look`] answers
//! it, where nothing else has come meanwhile, and then reads on. What was to be answered in a moment may take longer, as
//! when the disk is slow; then the [`Watch`] lets another thread read on, so that nothing that comes after it waits, and
//! the first leaves when it is done.
//!
//! Whose turn it is tells [`Line::looking`]: the number of the call that is being answered by whoever has the turn, or 0
//! while he reads. Who takes the number out of it has the turn from then on.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};

use super::connection::{Connection, Next};
use super::sender::Sender;
use super::{Shared, pool, thread};

/// How often calls under way are looked at. One that is seen twice keeps its connection's next calls waiting.
pub(super) const TICK: Duration = Duration::from_millis(10);

/// Ticks without a call after which nobody looks any more.
const QUIET: u32 = 100;

pub(super) struct Line {
    pub(super) sender: Arc<Sender>,
    shared: Arc<Shared>,
    connection: Mutex<Connection>,
    looking: AtomicU64,
}

impl Line {
    pub(super) fn new(shared: &Arc<Shared>, sender: Arc<Sender>, socket: UnixStream) -> Line {
        Line {
            connection: Mutex::new(Connection::new(shared, &sender, socket)),
            sender,
            shared: shared.clone(),
            looking: AtomicU64::new(0),
        }
    }

    /// Reads until the connection ends, or somebody else reads on.
    pub(super) fn read(&self) {
        let watch = &self.shared.watch;
        let reason = loop {
            let job = match self
                .connection
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next()
            {
                Next::Look(job) => job,
                Next::End(reason) => break reason,
            };
            let number = watch.begin();
            self.looking.store(number, SeqCst);
            watch.wake();
            pool::answer(&self.shared, &job);
            watch.end();
            if !self.take_turn(number) {
                return;
            }
        };
        match reason {
            Some(reason) => self.sender.refuse(reason),
            None => self.sender.break_off(),
        }
        self.sender.unheard();
    }

    /// Takes the turn from who is answering the call with this number; `false` where he has not got it any more.
    fn take_turn(&self, number: u64) -> bool {
        self.looking.compare_exchange(number, 0, SeqCst, SeqCst).is_ok()
    }
}

/// Looks after calls that are answered by whoever read them: the thread that takes connections does, and nobody has to be
/// woken for it while there are calls all the time.
pub(super) struct Watch {
    awake: AtomicBool,
    bell: OwnedFd,
    /// Calls that have begun.
    begun: AtomicU64,
    /// Calls under way.
    now: AtomicUsize,
}

impl Watch {
    pub(super) fn new() -> std::io::Result<Watch> {
        Ok(Watch {
            awake: AtomicBool::new(false),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            begun: AtomicU64::new(0),
            now: AtomicUsize::new(0),
        })
    }

    /// Whether one more may be answered by whoever read it; `most` at once.
    pub(super) fn has_room(&self, most: usize) -> bool {
        self.now.load(SeqCst) < most
    }

    fn begin(&self) -> u64 {
        self.now.fetch_add(1, SeqCst);
        self.begun.fetch_add(1, SeqCst) + 1
    }

    fn end(&self) {
        self.now.fetch_sub(1, SeqCst);
    }

    fn wake(&self) {
        if !self.awake.swap(true, SeqCst) {
            // It fails where the bell rings already.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }
}

impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }
}

/// What the thread that watches knows.
pub(super) struct Watcher {
    shared: Arc<Shared>,
    last: Instant,
    begun: u64,
    quiet: u32,
}

impl Watcher {
    pub(super) fn new(shared: &Arc<Shared>) -> Watcher {
        Watcher {
            shared: shared.clone(),
            last: Instant::now(),
            begun: 0,
            quiet: 0,
        }
    }

    /// How long until [`Watcher::look`] is wanted, if it is.
    pub(super) fn left(&self) -> Option<Duration> {
        let watch = &self.shared.watch;
        watch
            .awake
            .load(SeqCst)
            .then(|| TICK.saturating_sub(self.last.elapsed()))
    }

    /// Lets others read on where a call takes long. `seen` of each line is what was found there last.
    pub(super) fn look<'a>(&mut self, lines: impl Iterator<Item = (&'a Arc<Line>, &'a mut u64)>) {
        if self.left() != Some(Duration::ZERO) {
            return;
        }
        self.last = Instant::now();
        let watch = &self.shared.watch;
        for (line, seen) in lines {
            let number = line.looking.load(SeqCst);
            if number != 0 && number == *seen {
                let line = line.clone();
                // Without a thread to be had, it is tried again at the next tick.
                let _ = thread("connection", move || {
                    if line.take_turn(number) {
                        line.read();
                    }
                });
            }
            *seen = number;
        }
        let begun = watch.begun.load(SeqCst);
        let quiet = begun == self.begun && watch.now.load(SeqCst) == 0;
        self.begun = begun;
        self.quiet = if quiet { self.quiet + 1 } else { 0 };
        if self.quiet >= QUIET {
            self.quiet = 0;
            let _ = rustix::io::read(&watch.bell, &mut [0u8; 8]);
            watch.awake.store(false, SeqCst);
            // One that began just now found it awake.
            if watch.begun.load(SeqCst) != begun {
                watch.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::Limits;
    use super::super::tests::{Raw, Running, SOON, code};
    use super::*;
    use crate::frame::kind;
    use crate::status::Code;

    /// What is heard until the answer to a call has come whole.
    fn answered(raw: &mut Raw, stream: u32) -> Vec<(u8, u32, u8)> {
        let end = (kind::HEADERS, stream, 5);
        let heard = raw.say(|heard| *heard == end);
        assert_eq!(heard.last(), Some(&end), "{heard:?}");
        heard
    }

    #[test]
    fn what_takes_long_keeps_nothing_waiting_that_comes_after_it() {
        let server = Running::new(Limits::default());
        let mut raw = Raw::new(&server);
        raw.call(1, "/t.T/LookEcho");
        answered(&mut raw, 1);
        for (stream, pause) in [(3, Duration::ZERO), (9, TICK * (QUIET + 20))] {
            // After the pause nobody looks any more, and has to be woken.
            std::thread::sleep(pause);
            raw.call(stream, "/t.T/LookWait");
            raw.socket.write_all(&std::mem::take(&mut raw.out)).unwrap();
            server.begun.recv().unwrap();
            raw.call(stream + 2, "/t.T/LookEcho");
            let heard = answered(&mut raw, stream + 2);
            assert!(!heard.iter().any(|heard| heard.1 == stream), "{heard:?}");
            server.go.send(()).unwrap();
            answered(&mut raw, stream);
            // Whoever had the turn before does not read as well.
            raw.call(stream + 4, "/t.T/LookEcho");
            answered(&mut raw, stream + 4);
        }
    }

    #[test]
    fn its_time_is_over_when_it_is_over() {
        let server = Running::new(Limits::default());
        let began = Instant::now();
        let waits = server.behind("/t.T/LookWait", Duration::from_millis(200));
        assert_eq!(code(waits.join().unwrap()), Code::DeadlineExceeded);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        server.go.send(()).unwrap();
    }

    #[test]
    fn as_many_are_answered_so_as_there_are_threads_for_them_and_the_rest_wait_as_others_do() {
        let limits = Limits {
            readers: 1,
            queue: 1,
            ..Limits::default()
        };
        let server = Running::new(limits);
        let mut stuck = Vec::new();
        // One by who reads it, one by the thread that reads.
        for _ in 0..2 {
            stuck.push(server.behind("/t.T/LookWait", SOON));
            server.begun.recv().unwrap();
        }
        let third = || {
            code(
                server
                    .client()
                    .call("/t.T/LookWait", &[], b"x", Duration::from_millis(50)),
            )
        };
        // It waits, and is given up; its place is taken all the same.
        assert_eq!(third(), Code::DeadlineExceeded);
        assert_eq!(third(), Code::ResourceExhausted);
        stuck.iter().for_each(|_| server.go.send(()).unwrap());
        stuck
            .into_iter()
            .for_each(|call| drop(call.join().unwrap().unwrap()));
    }
}
