//! A server and clients over a real socket; what a client of ours never says, `frames.rs` has.

mod frames;

use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender as Tell, channel};

use super::*;
use crate::frame::kind;
use crate::{Client, ClientError};
pub(super) use frames::Raw;

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
