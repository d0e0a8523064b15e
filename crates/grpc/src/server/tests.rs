//! A server and clients over a real socket; what a client of ours never says is said frame by frame.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender as Tell, channel};

use super::*;
use crate::frame::{self, FrameReader, PREFACE, flag, kind};
use crate::{Client, ClientError};

pub(super) const SOON: Duration = Duration::from_secs(30);

/// Answers by what the last part of the path says. Calls of `Wait` tell that they began, and end when they are let.
struct Echo {
    begun: Mutex<Tell<()>>,
    go: Mutex<Receiver<()>>,
    ended: Mutex<Vec<(String, Code)>>,
}

impl Service for Echo {
    fn lane(&self, path: &str) -> Lane {
        match path {
            _ if path.contains("Look") => Lane::Look,
            _ if path.contains("Walk") => Lane::Walk,
            _ if path.contains("Wait") => Lane::Write,
            _ => Lane::Read,
        }
    }

    fn time(&self, path: &str, usual: Duration) -> Duration {
        if path.contains("Long") { SOON } else { usual }
    }

    fn call(&self, call: &Call, reply: &mut Reply<'_>) -> Result<(), Status> {
        match call.path.rsplit('/').next().unwrap() {
            "Echo" | "LookEcho" => reply.send(call.message.clone()).map_err(|Gone| unreachable!()),
            "Header" => {
                let text = call.header("containerd-namespace").unwrap_or("none");
                reply
                    .send(text.as_bytes().to_vec())
                    .map_err(|Gone| unreachable!())
            }
            "Many" => {
                for n in 0..100u8 {
                    let sent = reply.send(vec![n; 50_000]);
                    sent.map_err(|Gone| Status::new(Code::DeadlineExceeded, ""))?;
                }
                Ok(())
            }
            "Large" => reply.send(vec![0; 100_000]).map_err(|Gone| unreachable!()),
            "Fail" => Err(Status::new(Code::FailedPrecondition, "it is 100% \"so\"")),
            "FailLate" => {
                let _ = reply.send(b"one".to_vec());
                let _ = reply.send(b"two".to_vec());
                Err(Status::new(Code::DataLoss, "late"))
            }
            "Panic" => panic!("on purpose"),
            "Wait" | "LookWait" => {
                self.begun.lock().unwrap().send(()).unwrap();
                self.go.lock().unwrap().recv().unwrap();
                reply
                    .send(b"waited".to_vec())
                    .map_err(|Gone| Status::new(Code::Cancelled, ""))
            }
            _ => Err(Status::new(Code::Unimplemented, call.path.clone())),
        }
    }

    fn ended(&self, ended: &Ended<'_>) {
        self.ended
            .lock()
            .unwrap()
            .push((ended.path.to_owned(), ended.code));
    }
}

pub(super) struct Running {
    path: PathBuf,
    echo: Arc<Echo>,
    pub(super) begun: Receiver<()>,
    pub(super) go: Tell<()>,
    stop: Option<OwnedFd>,
    server: Option<JoinHandle<io::Result<()>>>,
    _dir: tempfile::TempDir,
}

impl Running {
    pub(super) fn new(limits: Limits) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let listener = UnixListener::bind(&path).unwrap();
        let (begun, told) = channel();
        let (go, wait) = channel();
        let echo = Arc::new(Echo {
            begun: Mutex::new(begun),
            go: Mutex::new(wait),
            ended: Mutex::default(),
        });
        let (stop, stopper) = rustix::pipe::pipe().unwrap();
        let server = Server::new(echo.clone(), limits).unwrap();
        let server = std::thread::spawn(move || server.serve(&listener, &stop, || ()));
        Running {
            path,
            echo,
            begun: told,
            go,
            stop: Some(stopper),
            server: Some(server),
            _dir: dir,
        }
    }

    pub(super) fn client(&self) -> Client {
        Client::connect(&self.path).unwrap()
    }

    /// A call by a client of its own, made in the background.
    pub(super) fn behind(
        &self,
        path: &'static str,
        time: Duration,
    ) -> JoinHandle<Result<Vec<Vec<u8>>, ClientError>> {
        let mut client = self.client();
        std::thread::spawn(move || client.call(path, &[], b"x", time))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            server.join().unwrap().unwrap();
        }
    }
}

pub(super) fn code(result: Result<Vec<Vec<u8>>, ClientError>) -> Code {
    result.unwrap_err().status().expect("a status").code
}

#[test]
fn calls_are_answered() {
    let server = Running::new(Limits::default());
    let mut client = server.client();
    for length in [0, 1, 1000, 16_384, 70_000, 1 << 20] {
        let message = vec![7; length];
        assert_eq!(client.call("/t.T/Echo", &[], &message, SOON).unwrap(), [message]);
    }
    let mut header = |headers: &[(&str, &str)]| client.call("/t.T/Header", headers, b"", SOON).unwrap();
    assert_eq!(header(&[("containerd-namespace", "k8s.io")]), [b"k8s.io"]);
    assert_eq!(header(&[]), [b"none"]);
    let error = client.call("/t.T/Fail", &[], b"", SOON).unwrap_err();
    assert_eq!(
        error.status(),
        Some(&Status::new(Code::FailedPrecondition, "it is 100% \"so\""))
    );
    assert_eq!(code(client.call("/t.T/FailLate", &[], b"", SOON)), Code::DataLoss);
    assert_eq!(
        code(client.call("/t.T/Nothing", &[], b"", SOON)),
        Code::Unimplemented
    );
    assert_eq!(code(client.call("/t.T/Panic", &[], b"", SOON)), Code::Internal);
    // One is told as ended as it was, once, right after who called.
    let of = |path: &str| {
        let ended = server.echo.ended.lock().unwrap();
        let of = ended.iter().filter(|(found, _)| found == path);
        of.map(|(_, code)| *code).collect::<Vec<_>>()
    };
    until(|| of("/t.T/Panic") == [Code::Internal]);
    assert_eq!(of("/t.T/Echo"), [Code::Ok; 6]);
}

fn until(is_so: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !is_so() {
        assert!(Instant::now() < end);
        std::thread::yield_now();
    }
}

#[test]
fn an_answer_larger_than_every_window_arrives_whole() {
    let server = Running::new(Limits::default());
    let mut client = server.client();
    for _ in 0..3 {
        let messages = client.call("/t.T/Many", &[], b"", SOON).unwrap();
        assert_eq!(messages.len(), 100);
        for (n, message) in messages.iter().enumerate() {
            assert_eq!(message, &vec![n as u8; 50_000]);
        }
    }
}

#[test]
fn what_takes_too_long_is_answered_and_does_not_stand_in_the_way() {
    let limits = Limits {
        writers: 2,
        walkers: 1,
        queue: 1,
        ..Limits::default()
    };
    let server = Running::new(limits);
    let stuck = [(); 2].map(|()| {
        let call = server.behind("/t.T/Wait", Duration::from_secs(2));
        server.begun.recv().unwrap();
        call
    });
    // All threads that write are at it; one call waits, and is answered in its time as well.
    let waits = server.behind("/t.T/Wait", Duration::from_secs(2));
    let mut client = server.client();
    // Until the one that waits is in the queue, another may be there in its place.
    let mut refused = || code(client.call("/t.T/Wait", &[], b"", Duration::from_millis(100)));
    assert!([Code::ResourceExhausted, Code::DeadlineExceeded].contains(&refused()));
    // What reads is served all the same.
    assert_eq!(client.call("/t.T/Echo", &[], b"x", SOON).unwrap(), [b"x"]);
    for call in stuck.into_iter().chain([waits]) {
        let code = code(call.join().unwrap());
        assert!(
            [Code::ResourceExhausted, Code::DeadlineExceeded].contains(&code),
            "{code:?}"
        );
    }
    (0..2).for_each(|_| server.go.send(()).unwrap());
    // What had waited was given up, not begun; the threads are free for the next.
    server.go.send(()).unwrap();
    // Until a thread has taken it out of the queue, there is no room in that for the next.
    let next = loop {
        match server.behind("/t.T/Wait", SOON).join().unwrap() {
            Err(error)
                if error
                    .status()
                    .is_some_and(|is| is.code == Code::ResourceExhausted) => {}
            next => break next,
        }
    };
    assert_eq!(next.unwrap(), [b"waited"]);
    server.begun.recv().unwrap();
    assert!(server.begun.try_recv().is_err());
}

#[test]
fn a_call_beyond_the_queue_is_refused() {
    let limits = Limits {
        writers: 1,
        walkers: 1,
        queue: 0,
        ..Limits::default()
    };
    let server = Running::new(limits);
    assert_eq!(
        code(server.client().call("/t.T/Wait", &[], b"", SOON)),
        Code::ResourceExhausted
    );
    let ended = || server.echo.ended.lock().unwrap().clone();
    until(|| ended() == [("/t.T/Wait".to_owned(), Code::ResourceExhausted)]);
}

#[test]
fn a_message_that_is_too_large_is_refused_before_it_is_read() {
    let limits = Limits {
        message: 1000,
        ..Limits::default()
    };
    let server = Running::new(limits);
    let mut client = server.client();
    assert_eq!(
        client.call("/t.T/Echo", &[], &[1; 1000], SOON).unwrap(),
        [[1; 1000]]
    );
    let mut fresh = server.client();
    assert_eq!(
        code(fresh.call("/t.T/Echo", &[], &[1; 1001], SOON)),
        Code::ResourceExhausted
    );
    // The connection is as good as before.
    assert_eq!(fresh.call("/t.T/Echo", &[], b"x", SOON).unwrap(), [b"x"]);
}

#[test]
fn a_server_that_stops_finishes_what_is_under_way() {
    let mut server = Running::new(Limits::default());
    let mut idle = server.client();
    idle.call("/t.T/Echo", &[], b"x", SOON).unwrap();
    let waits = server.behind("/t.T/Wait", SOON);
    server.begun.recv().unwrap();
    drop(server.stop.take());
    // No further call is taken once it has noticed, by a connection that is there either. Which end it meets is the
    // server's timing.
    let refused = loop {
        if let Err(error) = idle.call("/t.T/Echo", &[], b"x", SOON) {
            break error;
        }
    };
    assert!(
        refused
            .status()
            .is_none_or(|status| status.code == Code::Unavailable),
        "{refused}"
    );
    server.go.send(()).unwrap();
    assert_eq!(waits.join().unwrap().unwrap(), [b"waited"]);
    server.server.take().unwrap().join().unwrap().unwrap();
}

#[test]
fn a_server_that_stops_waits_only_so_long() {
    let limits = Limits {
        drain: Duration::from_millis(50),
        ..Limits::default()
    };
    let mut server = Running::new(limits);
    let waits = server.behind("/t.T/Wait", SOON);
    server.begun.recv().unwrap();
    drop(server.stop.take());
    server.server.take().unwrap().join().unwrap().unwrap();
    waits.join().unwrap().unwrap_err();
    server.go.send(()).unwrap();
}

#[test]
fn a_server_that_stops_waits_for_what_may_take_long_unless_it_walks() {
    let limits = || Limits {
        time: Duration::from_millis(50),
        ..Limits::default()
    };
    let mut server = Running::new(limits());
    let waits = server.behind("/t.Long/Wait", SOON);
    server.begun.recv().unwrap();
    drop(server.stop.take());
    std::thread::sleep(Duration::from_millis(200));
    server.go.send(()).unwrap();
    assert_eq!(waits.join().unwrap().unwrap(), [b"waited"]);

    let mut server = Running::new(limits());
    let began = Instant::now();
    let waits = server.behind("/t.LongWalk/Wait", SOON);
    server.begun.recv().unwrap();
    drop(server.stop.take());
    server.server.take().unwrap().join().unwrap().unwrap();
    waits.join().unwrap().unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.go.send(()).unwrap();
}

#[test]
fn a_connection_too_many_is_closed() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = Running::new(limits);
    let first = server.behind("/t.T/Wait", SOON);
    server.begun.recv().unwrap();
    let mut second = UnixStream::connect(&server.path).unwrap();
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    server.go.send(()).unwrap();
    first.join().unwrap().unwrap();
}

#[test]
fn connections_without_calls_give_way_to_further_ones() {
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let server = Running::new(limits);
    let busy = server.behind("/t.T/Wait", SOON);
    server.begun.recv().unwrap();
    let mut silent = Raw::new(&server);
    silent.say(|heard| heard.0 == kind::SETTINGS);
    // Whether something is just being said to the one that is to give way is the server's timing.
    let further = || {
        let mut client = Client::connect(&server.path)?;
        client.call("/t.T/Echo", &[], b"x", SOON)
    };
    until(|| further().is_ok());
    let heard = silent.say(|_| false);
    assert_eq!(heard.last(), Some(&(kind::GOAWAY, 0, 0)));
    server.go.send(()).unwrap();
    busy.join().unwrap().unwrap();
}

/// Says frames, and reads what comes.
pub(super) struct Raw {
    pub(super) socket: UnixStream,
    pub(super) out: Vec<u8>,
}

impl Raw {
    pub(super) fn new(server: &Running) -> Raw {
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

    pub(super) fn call(&mut self, stream: u32, path: &str) {
        let (mut block, message) = (Vec::new(), [&message::head(1)[..], b"x"].concat());
        headers::put_request(&mut block, path, SOON, &[]);
        frame::put_headers(&mut self.out, 0, stream, &block);
        frame::put(&mut self.out, kind::DATA, flag::END_STREAM, stream, &message);
    }

    /// Sends all of it; the kinds, streams and flags of what is answered, until `last` or the end.
    pub(super) fn say(&mut self, last: impl Fn(&(u8, u32, u8)) -> bool) -> Vec<(u8, u32, u8)> {
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

use crate::{headers, message};

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
