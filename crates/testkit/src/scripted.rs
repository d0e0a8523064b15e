//! An HTTP/1.1 server that answers what a test tells it to, faults included.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request that came in.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, `HEAD`, `POST`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, value)| value.as_str())
    }

    /// First byte asked for by `Range: bytes=N-` or `bytes=N-M`.
    pub fn range_start(&self) -> Option<usize> {
        self.range()?.0.parse().ok()
    }

    /// The byte after the last that is asked for of a body.
    fn range_end(&self, body: &[u8]) -> usize {
        let last = self.range().and_then(|(_, last)| last.parse::<usize>().ok());
        last.map_or(body.len(), |last| body.len().min(last + 1))
    }

    fn range(&self) -> Option<(&str, &str)> {
        self.header("range")?.strip_prefix("bytes=")?.split_once('-')
    }
}

/// An answer.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    cut: Option<usize>,
    stall: Option<usize>,
    hold: Option<(usize, Arc<AtomicBool>)>,
    announce: Option<Option<usize>>,
}

impl Reply {
    /// An answer without a body.
    pub fn new(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    /// 200 with a body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self {
            body: body.into(),
            ..Self::new(200)
        }
    }

    /// The whole, or what `Range` asks for.
    pub fn ranged(request: &Request, body: &[u8]) -> Self {
        match request.range_start() {
            Some(start) if start <= body.len() => Self::new(206)
                .header(
                    "content-range",
                    format!(
                        "bytes {start}-{}/{}",
                        request.range_end(body).max(1) - 1,
                        body.len()
                    ),
                )
                .body(&body[start..request.range_end(body)]),
            _ => Self::ok(body),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Closes the connection after so many bytes of the body.
    pub fn cut(mut self, after: usize) -> Self {
        self.cut = Some(after);
        self
    }

    /// Sends no more after so many bytes of the body, and keeps the connection.
    pub fn stall(mut self, after: usize) -> Self {
        self.stall = Some(after);
        self
    }

    /// Goes on after so many bytes of the body only when `until` is true.
    pub fn hold(mut self, after: usize, until: &Arc<AtomicBool>) -> Self {
        self.hold = Some((after, until.clone()));
        self
    }

    /// Announces another length than the body's.
    pub fn announce(mut self, length: usize) -> Self {
        self.announce = Some(Some(length));
        self
    }

    /// Announces no length: the body ends with the connection.
    pub fn unannounced(mut self) -> Self {
        self.announce = Some(None);
        self
    }
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Answers on a free port of 127.0.0.1, each request by `handler`, in a thread of its own.
    pub fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("no free port on 127.0.0.1");
        let address = listener.local_addr().expect("the listener has an address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler = Arc::new(handler);
        let thread = std::thread::spawn({
            let (requests, stop) = (requests.clone(), stop.clone());
            move || {
                for connection in listener.incoming().flatten() {
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                    let (requests, stop, handler) = (requests.clone(), stop.clone(), handler.clone());
                    std::thread::spawn(move || {
                        // A client that goes away in the middle is part of the tests.
                        let _ = serve(connection, &*handler, &requests, &stop);
                    });
                }
            }
        });
        Self {
            address,
            requests,
            stop,
            thread: Some(thread),
        }
    }

    /// `127.0.0.1:PORT`, as it stands in image names.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What was asked for so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// How often something was asked for whose path contains `part`.
    pub fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|r| r.path.contains(part)).count()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the loop, so that it sees that it is over.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(
    connection: TcpStream,
    handler: &(dyn Fn(&Request) -> Reply + Send + Sync),
    requests: &Mutex<Vec<Request>>,
    stop: &AtomicBool,
) -> std::io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(30)))?;
    let mut from = BufReader::new(connection.try_clone()?);
    let mut to = connection;
    // A TLS greeting: this server speaks none.
    if from.fill_buf()?.first() == Some(&0x16) {
        return to.write_all(b"HTTP/1.0 400 Bad Request\r\n\r\n");
    }
    let mut request = Request::default();
    let mut line = String::new();
    from.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    request.method = words.next().unwrap_or_default().to_owned();
    request.path = words.next().unwrap_or_default().to_owned();
    loop {
        line.clear();
        from.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                request
                    .headers
                    .push((name.to_ascii_lowercase(), value.trim().to_owned()));
            }
            None => break,
        }
    }
    let length = request
        .header("content-length")
        .and_then(|v| v.parse().ok())
        .unwrap_or(0);
    request.body = vec![0; length];
    from.read_exact(&mut request.body)?;
    requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(request.clone());

    let reply = handler(&request);
    let mut head = format!("HTTP/1.1 {} X\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if let Some(length) = reply.announce.unwrap_or(Some(reply.body.len())) {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    to.write_all(format!("{head}\r\n").as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let end = reply
        .cut
        .or(reply.stall)
        .unwrap_or(reply.body.len())
        .min(reply.body.len());
    let mut sent = 0;
    if let Some((after, until)) = &reply.hold {
        sent = end.min(*after);
        to.write_all(&reply.body[..sent])?;
        to.flush()?;
        while !until.load(Ordering::SeqCst) && !stop.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    to.write_all(&reply.body[sent..end])?;
    to.flush()?;
    while reply.stall.is_some() && !stop.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
