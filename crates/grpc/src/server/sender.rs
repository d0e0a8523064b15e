//! What goes out on one connection: answers within the windows that the client grants, and frames that govern.
//!
//! One lock is held while bytes are written: that bounds how much of an answer lies in memory, and a client that does
//! not take what is written within [`STALL`] loses its connection. So the lock may be long in coming, and only the
//! connection's own threads wait for it. A stream is here until it is answered, reset or timed out, whichever is
//! first; the others then find it gone.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::{SendFlags, send};

use super::{Gone, ready};
use crate::frame::{self, MAX_PAYLOAD, MAX_WINDOW, Reason, WINDOW, flag, kind};
use crate::headers;
use crate::message;
use crate::status::{Code, Status};

/// How long a client may take for what is written at once.
const STALL: Duration = Duration::from_secs(10);

pub(super) struct Sender {
    socket: UnixStream,
    /// How long a client may grant no room at all to an answer.
    room: Duration,
    state: Mutex<State>,
    /// A window grew, a stream ended, or the connection did.
    changed: Condvar,
}

struct State {
    /// What the connection may send.
    window: i64,
    /// What each new stream may send.
    initial: i64,
    /// Calls that have not been answered, by stream.
    open: HashMap<u32, Open>,
    /// The last stream that was taken.
    last: u32,
    draining: bool,
    broken: bool,
    /// Since when there was no call, where there is none.
    idle: Instant,
    /// Nothing is read any more.
    unheard: bool,
    /// What is to be written.
    out: Vec<u8>,
    /// Threads that wait for a change.
    waiting: usize,
}

struct Open {
    window: i64,
    /// The answer's headers were sent.
    begun: bool,
    /// The client has said all that it says.
    heard: bool,
    /// How long whoever is to stop waits for it.
    until: Instant,
}

/// What becomes of a new stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Taken,
    /// It was refused, and may be tried again elsewhere.
    Refused,
}

impl Sender {
    pub(super) fn new(socket: UnixStream, room: Duration) -> Sender {
        Sender {
            socket,
            room,
            state: Mutex::new(State {
                window: WINDOW,
                initial: WINDOW,
                open: HashMap::new(),
                last: 0,
                draining: false,
                broken: false,
                idle: Instant::now(),
                unheard: false,
                out: Vec::new(),
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what has gathered.
    fn flush(&self, state: &mut State) {
        self.flush_within(state, STALL);
    }

    fn flush_within(&self, state: &mut State, time: Duration) {
        if !state.broken && self.write(&state.out, time).is_err() {
            self.break_now(state);
        }
        state.out.clear();
        // A list of ten thousand is no reason to keep its room.
        state.out.shrink_to(4 * MAX_PAYLOAD);
    }

    fn write(&self, mut bytes: &[u8], time: Duration) -> io::Result<()> {
        let mut until = None;
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(sent) => bytes = &bytes[sent..],
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => {
                    let until = *until.get_or_insert_with(|| Instant::now() + time);
                    ready(&self.socket, PollFlags::OUT, until)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Wakes whoever waits for something to change; nearly always nobody does, and to wake nobody is a system call too.
    fn tell(&self, state: &State) {
        if state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    fn break_now(&self, state: &mut State) {
        state.broken = true;
        state.open.clear();
        // The thread that reads wakes up by it.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.tell(state);
    }

    /// Ends the connection: nobody on it is answered any more.
    pub(super) fn break_off(&self) {
        // Whoever writes, and holds the lock, is let go by it.
        let _ = self.socket.shutdown(Shutdown::Both);
        self.break_now(&mut self.lock());
    }

    /// Writes frames that govern.
    pub(super) fn govern(&self, put: impl FnOnce(&mut Vec<u8>)) {
        let mut state = self.lock();
        put(&mut state.out);
        self.flush(&mut state);
    }

    /// Takes a new stream, or refuses it.
    pub(super) fn admit(&self, stream: u32, most: usize) -> Admission {
        let mut state = self.lock();
        if state.draining || state.open.len() >= most {
            frame::put_reset(&mut state.out, stream, Reason::RefusedStream);
            self.flush(&mut state);
            return Admission::Refused;
        }
        let window = state.initial;
        state.last = stream;
        let open = Open {
            window,
            begun: false,
            heard: false,
            until: Instant::now(),
        };
        state.open.insert(stream, open);
        Admission::Taken
    }

    /// Whoever is to stop waits so long for a call.
    pub(super) fn keep(&self, stream: u32, until: Instant) {
        if let Some(open) = self.lock().open.get_mut(&stream) {
            open.until = until;
        }
    }

    /// The client has said all that it says on a stream.
    pub(super) fn heard(&self, stream: u32) {
        if let Some(open) = self.lock().open.get_mut(&stream) {
            open.heard = true;
        }
    }

    /// Since when there is no call; `None` where there is one, or something is being done.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state.try_lock().ok()?;
        state.open.is_empty().then_some(state.idle)
    }

    /// Ends the connection unless there is a call, without waiting for anything; whether it did.
    pub(super) fn give_way(&self) -> bool {
        let Ok(mut state) = self.state.try_lock() else {
            return false;
        };
        if !state.open.is_empty() {
            return false;
        }
        // What is under way is told to be unheard, and may be said again elsewhere.
        let last = state.last;
        frame::put_goaway(&mut state.out, last, Reason::NoError);
        self.flush_within(&mut state, Duration::ZERO);
        self.break_now(&mut state);
        true
    }

    /// Whether the call still wants an answer.
    pub(super) fn wants(&self, stream: u32) -> bool {
        self.lock().open.contains_key(&stream)
    }

    /// The client has given a call up.
    pub(super) fn forget(&self, stream: u32) {
        let mut state = self.lock();
        state.open.remove(&stream);
        state.idle = Instant::now();
        self.tell(&state);
    }

    /// The client says how much each stream may send.
    pub(super) fn set_initial_window(&self, window: u32) -> Result<(), Reason> {
        let window = i64::from(window);
        if window > MAX_WINDOW {
            return Err(Reason::FlowControl);
        }
        let mut state = self.lock();
        let more = window - state.initial;
        state.initial = window;
        state.open.values_mut().for_each(|open| open.window += more);
        self.tell(&state);
        Ok(())
    }

    /// The client takes `more` bytes, on a stream or (0) altogether.
    pub(super) fn grow(&self, stream: u32, more: u32) -> Result<(), Reason> {
        let mut state = self.lock();
        let window = match stream {
            0 => Some(&mut state.window),
            _ => state.open.get_mut(&stream).map(|open| &mut open.window),
        };
        // One that has ended needs no room.
        if let Some(window) = window {
            *window += i64::from(more);
            if more == 0 || *window > MAX_WINDOW {
                return Err(Reason::FlowControl);
            }
            self.tell(&state);
        }
        Ok(())
    }

    /// Sends a message of an answer, waiting for room until `deadline`, and less while none comes.
    pub(super) fn message(&self, stream: u32, message: &[u8], deadline: Instant) -> Result<(), Gone> {
        let mut state = self.put_message(self.lock(), stream, message, deadline)?;
        self.flush(&mut state);
        Ok(())
    }

    /// Gathers a message's frames; writes only where there is no room for all of them.
    fn put_message<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        stream: u32,
        message: &[u8],
        deadline: Instant,
    ) -> Result<MutexGuard<'a, State>, Gone> {
        let head = message::head(message.len());
        let rest = [&head[..], message].concat();
        let (mut at, mut until) = (0, None);
        while at < rest.len() {
            let State {
                window, open, out, ..
            } = &mut *state;
            let open = open.get_mut(&stream).ok_or(Gone)?;
            begin(open, stream, out);
            let room = (*window).min(open.window).clamp(0, MAX_PAYLOAD as i64) as usize;
            let some = room.min(rest.len() - at);
            if some > 0 {
                frame::put(out, kind::DATA, 0, stream, &rest[at..at + some]);
                at += some;
                *window -= some as i64;
                open.window -= some as i64;
                until = None;
                continue;
            }
            self.flush(&mut state);
            let now = Instant::now();
            let until = *until.get_or_insert(deadline.min(now + self.room));
            let left = until.saturating_duration_since(now);
            if left.is_zero() {
                return Err(Gone);
            }
            state = self.wait_for_change(state, left);
        }
        Ok(state)
    }

    /// Ends a call, with a last message where there is one; how that was told, `None` where it had ended.
    pub(super) fn finish(
        &self,
        stream: u32,
        message: Option<&[u8]>,
        status: &Status,
        deadline: Instant,
    ) -> Option<Code> {
        let mut state = self.lock();
        if let Some(message) = message {
            state = match self.put_message(state, stream, message, deadline) {
                Ok(state) => state,
                Err(Gone) => {
                    let status = Status::new(Code::DeadlineExceeded, "the answer was not taken in its time");
                    return self.finish(stream, None, &status, deadline);
                }
            };
        }
        let State { open, out, .. } = &mut *state;
        let mut ended = open.remove(&stream)?;
        // An answer without messages is headers alone, which its status ends (gRPC's "Trailers-Only").
        let mut block = Vec::with_capacity(64);
        if message.is_none() && !ended.begun {
            headers::put_response(&mut block);
        } else {
            begin(&mut ended, stream, out);
        }
        headers::put_status(&mut block, status);
        frame::put_headers(out, flag::END_STREAM, stream, &block);
        // A client that would say more is told that nobody listens (RFC 9113, section 8.1).
        if !ended.heard {
            frame::put_reset(out, stream, Reason::NoError);
        }
        state.idle = Instant::now();
        self.flush(&mut state);
        self.tell(&state);
        Some(status.code)
    }

    /// Tells the client to make no more calls here.
    pub(super) fn go_away(&self) {
        let mut state = self.lock();
        state.draining = true;
        let last = state.last;
        frame::put_goaway(&mut state.out, last, Reason::NoError);
        self.flush(&mut state);
    }

    /// Tells the client that it does not keep to the protocol, and ends the connection.
    pub(super) fn refuse(&self, reason: Reason) {
        let mut state = self.lock();
        let last = state.last;
        frame::put_goaway(&mut state.out, last, reason);
        self.flush(&mut state);
        self.break_now(&mut state);
    }

    /// Waits until every call was answered, or as long as that may take, or for so long.
    pub(super) fn wait_idle(&self, until: Instant) {
        let mut state = self.lock();
        while let Some(last) = state.open.values().map(|open| open.until).max() {
            let left = last.min(until).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait_for_change(state, left);
        }
    }

    /// Says nothing more, and waits until the client has heard that and left, or for so long. To close at once would
    /// be an error for a client that is just saying something, with our last answer still unread.
    pub(super) fn wait_left(&self, until: Instant) {
        let _ = self.socket.shutdown(Shutdown::Write);
        self.wait(until, |state| state.unheard);
        self.break_off();
    }

    /// The client has left, or is not listened to any more.
    pub(super) fn unheard(&self) {
        let mut state = self.lock();
        state.unheard = true;
        self.tell(&state);
    }

    pub(super) fn is_unheard(&self) -> bool {
        // Somebody who has it is about to write to it.
        self.state.try_lock().is_ok_and(|state| state.unheard)
    }

    fn wait(&self, until: Instant, is_so: impl Fn(&State) -> bool) {
        let mut state = self.lock();
        while !is_so(&state) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = self.wait_for_change(state, left);
        }
    }

    fn wait_for_change<'a>(&self, mut state: MutexGuard<'a, State>, left: Duration) -> MutexGuard<'a, State> {
        state.waiting += 1;
        let waited = self.changed.wait_timeout(state, left);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.waiting -= 1;
        state
    }
}

/// Sends the headers that an answer begins with, once.
fn begin(open: &mut Open, stream: u32, out: &mut Vec<u8>) {
    if !std::mem::replace(&mut open.begun, true) {
        let mut block = Vec::with_capacity(32);
        headers::put_response(&mut block);
        frame::put_headers(out, 0, stream, &block);
    }
}
