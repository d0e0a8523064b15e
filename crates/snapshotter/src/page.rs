//! Two pages over HTTP: `/metrics`, as Prometheus reads it, and `/healthz`.
//!
//! One request a connection, one connection at a time, each with little time: enough for what asks every few seconds,
//! and nothing that could stand in the way of the service.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::Snapshotter;

/// How long a client may take, to ask and to take the answer: the next one waits meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

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
        .stack_size(256 * 1024)
        .spawn(move || {
            for connection in listener.incoming() {
                // Whoever asks in vain asks again.
                match connection {
                    Ok(connection) => drop(answer(&service, connection)),
                    Err(_) => std::thread::sleep(Duration::from_millis(50)),
                }
            }
        })?;
    Ok(address)
}

fn answer(service: &Snapshotter, connection: TcpStream) -> io::Result<()> {
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
    let (status, kind, body) = page(service, &request);
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

fn page(service: &Snapshotter, request: &[u8]) -> (&'static str, &'static str, String) {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, path) {
        ("GET", "/metrics") => {
            let text = service.metrics().render(service.counts().ok().as_ref());
            ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text)
        }
        ("GET", "/healthz") => match service.counts() {
            Ok(_) => ("200 OK", PLAIN, "ok\n".to_owned()),
            Err(error) => ("503 Service Unavailable", PLAIN, format!("{error}\n")),
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
}
