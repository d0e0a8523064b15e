//! What a client of ours never says, frame by frame.

use std::io::Write;

use super::*;
use crate::frame::{self, FrameReader, PREFACE, flag, kind};
use crate::{headers, message};

/// Says frames, and reads what comes.
pub(in crate::server) struct Raw {
    pub(in crate::server) socket: UnixStream,
    pub(in crate::server) out: Vec<u8>,
}

impl Raw {
    pub(in crate::server) fn new(server: &Running) -> Raw {
        let mut out = PREFACE.to_vec();
        frame::put_settings(&mut out, &[]);
        let socket = UnixStream::connect(&server.path).unwrap();
        socket.set_read_timeout(Some(SOON)).unwrap();
        Raw { socket, out }
    }

    /// Begins a call, with as much of its message as there is, and does not say that this is all.
    fn begin(&mut self, stream: u32, path: &str, data: &[u8]) {
        let mut block = Vec::new();
        headers::put_request(&mut block, path, SOON, &[]);
        frame::put_headers(&mut self.out, 0, stream, &block);
        for some in data.chunks(frame::MAX_PAYLOAD) {
            frame::put(&mut self.out, kind::DATA, 0, stream, some);
        }
    }

    pub(in crate::server) fn call(&mut self, stream: u32, path: &str) {
        let (mut block, message) = (Vec::new(), [&message::head(1)[..], b"x"].concat());
        headers::put_request(&mut block, path, SOON, &[]);
        frame::put_headers(&mut self.out, 0, stream, &block);
        frame::put(&mut self.out, kind::DATA, flag::END_STREAM, stream, &message);
    }

    /// Sends all of it; the kinds, streams and flags of what is answered, until `last` or the end.
    pub(in crate::server) fn say(&mut self, last: impl Fn(&(u8, u32, u8)) -> bool) -> Vec<(u8, u32, u8)> {
        // A server that has ended the connection already takes no more.
        let _ = self.socket.write_all(&self.out);
        self.out.clear();
        let mut heard = Vec::new();
        let mut reader = FrameReader::new(&self.socket);
        while let Ok(Some(frame)) = reader.next() {
            heard.push((frame.kind, frame.stream, frame.flags));
            if last(heard.last().unwrap()) {
                break;
            }
        }
        heard
    }
}

#[test]
fn calls_of_one_connection_run_beside_each_other_and_can_be_given_up() {
    let server = Running::new(Limits::default());
    let mut raw = Raw::new(&server);
    raw.call(1, "/t.T/Wait");
    raw.call(3, "/t.T/Wait");
    raw.call(5, "/t.T/Echo");
    let ends = |stream| move |heard: &(u8, u32, u8)| *heard == (kind::HEADERS, stream, 5);
    let heard = raw.say(ends(5));
    assert!(
        !heard.iter().any(|(_, stream, _)| [1, 3].contains(stream)),
        "{heard:?}"
    );
    (0..2).for_each(|_| server.begun.recv().unwrap());
    frame::put_reset(&mut raw.out, 1, frame::Reason::NoError);
    frame::put(&mut raw.out, kind::PING, 0, 0, &[1; 8]);
    let heard = raw.say(|heard| heard.0 == kind::PING);
    assert_eq!(heard, [(kind::PING, 0, flag::ACK)]);
    (0..2).for_each(|_| server.go.send(()).unwrap());
    let heard = raw.say(ends(3));
    assert!(!heard.iter().any(|(_, stream, _)| *stream == 1), "{heard:?}");
}

#[test]
fn streams_beyond_the_limit_are_refused_to_be_tried_again() {
    let limits = Limits {
        streams: 1,
        ..Limits::default()
    };
    let server = Running::new(limits);
    let mut raw = Raw::new(&server);
    raw.call(1, "/t.T/Wait");
    raw.call(3, "/t.T/Wait");
    let heard = raw.say(|heard| heard.1 == 3);
    assert_eq!(heard.last(), Some(&(kind::RST_STREAM, 3, 0)));
    server.go.send(()).unwrap();
    raw.say(|heard| *heard == (kind::HEADERS, 1, 5));
}

#[test]
fn who_does_not_keep_to_the_protocol_is_told_and_left() {
    let server = Running::new(Limits::default());
    type Say = dyn Fn(&mut Vec<u8>);
    let wrong: &[&Say] = &[
        &|out| out.extend([0, 0x40, 1, 0, 0, 0, 0, 0, 1]),
        &|out| frame::put(out, kind::DATA, 0, 0, b"x"),
        &|out| frame::put(out, kind::DATA, 0, 7, b"x"),
        &|out| frame::put(out, kind::HEADERS, flag::END_HEADERS, 2, b""),
        &|out| frame::put(out, kind::HEADERS, flag::END_HEADERS, 1, &[0xff; 20]),
        &|out| frame::put(out, kind::CONTINUATION, flag::END_HEADERS, 1, b""),
        &|out| frame::put(out, kind::PING, 0, 0, b"x"),
        &|out| frame::put(out, kind::SETTINGS, 0, 0, b"x"),
        &|out| frame::put(out, kind::PUSH_PROMISE, 0, 1, b""),
        &|out| frame::put(out, kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        &|out| frame::put(out, kind::WINDOW_UPDATE, 0, 0, &[0; 4]),
        &|out| {
            frame::put(out, kind::HEADERS, 0, 1, b"");
            frame::put(out, kind::PING, 0, 0, &[0; 8]);
        },
        &|out| {
            frame::put(out, kind::HEADERS, 0, 1, b"");
            (0..10).for_each(|_| frame::put(out, kind::CONTINUATION, 0, 1, &[0; 16_384]));
        },
    ];
    for (which, wrong) in wrong.iter().enumerate() {
        let mut raw = Raw::new(&server);
        wrong(&mut raw.out);
        let heard = raw.say(|_| false);
        assert_eq!(
            heard.last().map(|heard| heard.0),
            Some(kind::GOAWAY),
            "{which}: {heard:?}"
        );
    }
    let mut web = UnixStream::connect(&server.path).unwrap();
    web.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    assert_eq!(web.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(
        server.client().call("/t.T/Echo", &[], b"x", SOON).unwrap(),
        [b"x"]
    );
}

#[test]
fn a_call_that_is_not_said_to_have_come_whole_is_answered() {
    let limits = Limits {
        time: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = Running::new(limits);
    // Its message has not come: it is in time that it is answered.
    let mut raw = Raw::new(&server);
    raw.begin(1, "/t.T/Echo", b"");
    let heard = raw.say(|heard| heard.0 == kind::RST_STREAM);
    assert!(
        heard.ends_with(&[(kind::HEADERS, 1, 5), (kind::RST_STREAM, 1, 0)]),
        "{heard:?}"
    );
    let ended = || server.echo.ended.lock().unwrap().clone();
    until(|| ended() == [("/t.T/Echo".to_owned(), Code::DeadlineExceeded)]);

    // Its message has: a client that may say more waits for the answer to that, as grpcurl does.
    let server = Running::new(Limits::default());
    let mut raw = Raw::new(&server);
    for (stream, path) in [(1, "/t.T/Nothing"), (3, "/t.T/Echo")] {
        raw.begin(stream, path, &message::head(0));
        let heard = raw.say(|heard| heard.0 == kind::RST_STREAM);
        assert!(
            heard.ends_with(&[(kind::HEADERS, stream, 5), (kind::RST_STREAM, stream, 0)]),
            "{heard:?}"
        );
    }
}

/// A client that grants any room, and takes only the first of what is sent.
fn stalled(server: &Running) -> Raw {
    let mut raw = Raw::new(server);
    frame::put_settings(&mut raw.out, &[(frame::setting::INITIAL_WINDOW_SIZE, 1 << 30)]);
    frame::put_window(&mut raw.out, 0, 1 << 30);
    raw.call(1, "/t.T/Many");
    raw.say(|heard| heard.0 == kind::DATA);
    raw
}

#[test]
fn a_client_that_takes_nothing_keeps_no_other_waiting() {
    let server = Running::new(Limits::default());
    let _stalled = stalled(&server);
    let waits = server.behind("/t.T/Wait", Duration::from_secs(3));
    server.begun.recv().unwrap();
    assert_eq!(code(waits.join().unwrap()), Code::DeadlineExceeded);
    assert_eq!(
        server.client().call("/t.T/Echo", &[], b"x", SOON).unwrap(),
        [b"x"]
    );
    server.go.send(()).unwrap();
}

#[test]
fn an_answer_that_is_given_no_room_lets_its_thread_go() {
    let limits = Limits {
        readers: 1,
        room: Duration::from_millis(50),
        ..Limits::default()
    };
    let server = Running::new(limits);
    let mut raw = Raw::new(&server);
    raw.call(1, "/t.T/Many");
    raw.call(3, "/t.T/Large");
    raw.say(|heard| *heard == (kind::HEADERS, 3, 5));
    let ended = || server.echo.ended.lock().unwrap().clone();
    let late = |path: &str| (path.to_owned(), Code::DeadlineExceeded);
    until(|| ended() == [late("/t.T/Many"), late("/t.T/Large")]);
    let echo = server
        .client()
        .call("/t.T/Echo", &[], b"x", Duration::from_secs(10));
    assert_eq!(echo.unwrap(), [b"x"]);
}

#[test]
fn messages_that_do_not_come_whole_are_bounded_together() {
    let server = Running::new(Limits::default());
    let mut raw = Raw::new(&server);
    let data = [&message::head(1 << 20)[..], &[0; (1 << 20) - 1]].concat();
    (0..4).for_each(|n| raw.begin(2 * n + 1, "/t.T/Echo", &data));
    let heard = raw.say(|heard| heard.0 == kind::RST_STREAM);
    assert_eq!(heard.last(), Some(&(kind::RST_STREAM, 7, 0)));
    let ended = || server.echo.ended.lock().unwrap().clone();
    until(|| ended() == [("/t.T/Echo".to_owned(), Code::ResourceExhausted)]);
}

#[test]
fn what_is_granted_is_told_first() {
    let server = Running::new(Limits::default());
    let mut raw = Raw::new(&server);
    raw.socket.write_all(&raw.out).unwrap();
    let mut reader = FrameReader::new(&raw.socket);
    let frame = reader.next().unwrap().unwrap();
    assert_eq!(frame.kind, kind::SETTINGS);
    let settings: Vec<_> = frame.settings().unwrap().collect();
    assert_eq!(settings, [(3, 64), (4, (1 << 20) + 5), (6, 64 * 1024)]);
}

#[test]
fn time_that_is_over_is_over_whatever_there_is_to_read() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    theirs.write_all(b"x").unwrap();
    let late = ready(&ours, PollFlags::IN, Instant::now()).unwrap_err();
    assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    ready(&ours, PollFlags::IN, Instant::now() + SOON).unwrap();
}
