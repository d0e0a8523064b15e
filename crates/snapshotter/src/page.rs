//! Two pages over HTTP: `/metrics`, as Prometheus reads it, and `/healthz`.
//!
//! One request a connection, a few connections at a time, each with little time: enough for what asks every few seconds,
//! and nothing that could stand in the way of the service. A store that does not answer, on a disk that stands still, is
//! told to be so, and asked by one thread however many want to know.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use store::{Counts, Fault};

use crate::Snapshotter;

/// How long a client may take, to ask and to take the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long the store may take: kubelet's own patience with a probe is a second.
const SOON: Duration = Duration::from_millis(800);

/// Clients at once; a further one is left.
const CLIENTS: usize = 8;

/// Bytes of a thread's stack.
const STACK: usize = 256 * 1024;

/// Bytes of a request that are read.
const LONGEST: usize = 8 * 1024;

/// Serves the pages at `address` on a thread of its own, as long as the process lives. The address that it has: one
/// with port 0 gets a free one.
///
/// # Errors
/// The address is taken, or none.
pub fn serve(service: Arc<Snapshotter>, address: SocketAddr) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    std::thread::Builder::new()
        .name("pages".to_owned())
        .stack_size(STACK)
        .spawn(move || take(&listener, &Arc::new(Pages::new(service))))?;
    Ok(address)
}

fn take(listener: &TcpListener, pages: &Arc<Pages>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for connection in listener.incoming() {
        // Whoever asks in vain asks again.
        let Ok(connection) = connection else {
            std::thread::sleep(Duration::from_millis(50));
            continue;
        };
        if clients.fetch_add(1, Ordering::Relaxed) >= CLIENTS {
            clients.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (pages, left) = (pages.clone(), clients.clone());
        let answered = std::thread::Builder::new()
            .name("page".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                let _ = answer(&pages, connection);
                left.fetch_sub(1, Ordering::Relaxed);
            });
        if answered.is_err() {
            clients.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// What the pages tell of.
struct Pages {
    service: Arc<Snapshotter>,
    counts: Arc<Soon<Result<Counts, Fault>>>,
}

impl Pages {
    fn new(service: Arc<Snapshotter>) -> Pages {
        let asked = service.clone();
        Pages {
            service,
            counts: Arc::new(Soon::new(move || asked.counts())),
        }
    }
}

/// Something that is found out by one thread at a time, and waited for only so long.
struct Soon<T> {
    find: Box<dyn Fn() -> T + Send + Sync>,
    state: Mutex<Finding<T>>,
    found: Condvar,
}

struct Finding<T> {
    under_way: bool,
    /// How often it was found out.
    times: u64,
    last: Option<Arc<T>>,
}

impl<T: Send + Sync + 'static> Soon<T> {
    fn new(find: impl Fn() -> T + Send + Sync + 'static) -> Soon<T> {
        Soon {
            find: Box::new(find),
            state: Mutex::new(Finding {
                under_way: false,
                times: 0,
                last: None,
            }),
            found: Condvar::new(),
        }
    }

    /// `None` where it takes too long.
    fn get(self: &Arc<Self>) -> Option<Arc<T>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.under_way {
            let this = self.clone();
            let finder = std::thread::Builder::new().name("counts".to_owned());
            finder.stack_size(STACK).spawn(move || this.find_out()).ok()?;
            state.under_way = true;
        }
        let before = state.times;
        let waited = self
            .found
            .wait_timeout_while(state, SOON, |state| state.times == before);
        let (state, late) = waited.unwrap_or_else(PoisonError::into_inner);
        state.last.clone().filter(|_| !late.timed_out())
    }

    fn find_out(&self) {
        let last = Some(Arc::new((self.find)()));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.under_way = false;
        state.times += 1;
        state.last = last;
        self.found.notify_all();
    }
}

fn answer(pages: &Pages, connection: TcpStream) -> io::Result<()> {
    let mut connection = Hurried {
        connection,
        until: Instant::now() + PATIENCE,
    };
    let mut request = Vec::new();
    let mut some = [0; 1024];
    while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < LONGEST {
        match connection.read(&mut some)? {
            0 => break,
            read => request.extend_from_slice(&some[..read]),
        }
    }
    let (status, kind, body) = page(pages, &request);
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    connection.write_all(head.as_bytes())?;
    connection.write_all(body.as_bytes())
}

/// A connection whose steps share one time: a client that gives or takes a byte now and then gets no more of it.
struct Hurried {
    connection: TcpStream,
    until: Instant,
}

impl Hurried {
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.until.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(io::ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Hurried {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.connection.set_read_timeout(self.left()?)?;
        self.connection.read(into)
    }
}

impl Write for Hurried {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.connection.set_write_timeout(self.left()?)?;
        self.connection.write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn page(pages: &Pages, request: &[u8]) -> (&'static str, &'static str, String) {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, path) {
        ("GET", "/metrics") => {
            let counts = pages.counts.get();
            let counts = counts.as_deref().and_then(|counts| counts.as_ref().ok());
            let text = pages.service.metrics().render(counts);
            ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text)
        }
        ("GET", "/healthz") => match pages.counts.get().as_deref() {
            Some(Ok(_)) => ("200 OK", PLAIN, "ok\n".to_owned()),
            Some(Err(error)) => ("503 Service Unavailable", PLAIN, format!("{error}\n")),
            None => (
                "503 Service Unavailable",
                PLAIN,
                format!("the store has not answered for {} ms\n", SOON.as_millis()),
            ),
        },
        ("GET", _) => (
            "404 Not Found",
            PLAIN,
            "there are /metrics and /healthz\n".to_owned(),
        ),
        _ => (
            "405 Method Not Allowed",
            PLAIN,
            "these pages are read only\n".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_drips_is_left_when_its_time_is_over() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut hurried = Hurried {
            connection: listener.accept().unwrap().0,
            until: Instant::now(),
        };
        // There is something to read and room to write, and no time.
        client.write_all(b"x").unwrap();
        let kind = |result: io::Result<usize>| result.unwrap_err().kind();
        assert_eq!(kind(hurried.read(&mut [0])), io::ErrorKind::TimedOut);
        assert_eq!(kind(hurried.write(b"x")), io::ErrorKind::TimedOut);
        hurried.until += Duration::from_secs(60);
        assert_eq!(hurried.read(&mut [0]).unwrap(), 1);
        assert_eq!(hurried.write(b"x").unwrap(), 1);
    }

    #[test]
    fn what_takes_long_is_waited_for_so_long_and_asked_once() {
        let asked = Arc::new(AtomicUsize::new(0));
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let wait = Mutex::new(wait);
        let counted = asked.clone();
        let soon = Arc::new(Soon::new(move || {
            let _ = wait.lock().unwrap().recv();
            counted.fetch_add(1, Ordering::Relaxed)
        }));
        let began = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(soon.get(), None));
            }
        });
        assert!(began.elapsed() < SOON * 2, "{:?}", began.elapsed());
        go.send(()).unwrap();
        while asked.load(Ordering::Relaxed) == 0 {
            std::thread::yield_now();
        }
        go.send(()).unwrap();
        let found = soon.get();
        assert!(found.is_some() && asked.load(Ordering::Relaxed) <= 2, "{found:?}");
    }

    #[test]
    fn who_says_nothing_keeps_nobody_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let service = Snapshotter::open(&dir.path().join("store"), crate::Options::default()).unwrap();
        let address = serve(Arc::new(service), "127.0.0.1:0".parse().unwrap()).unwrap();
        let _silent: Vec<_> = (0..CLIENTS - 1)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        let began = Instant::now();
        let mut asks = TcpStream::connect(address).unwrap();
        asks.write_all(b"GET /healthz HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        asks.read_to_string(&mut answer).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("ok\n"),
            "{answer}"
        );
        assert!(began.elapsed() < PATIENCE, "{:?}", began.elapsed());
    }
}
