//! Two pages over HTTP: `/metrics`, as Prometheus reads it, and `/healthz`.
//!
//! One request a connection, one connection at a time, each with little time: enough for what asks every few seconds,
//! and nothing that could stand in the way of the service.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::Snapshotter;

/// How long a client may take with each step.
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

fn answer(service: &Snapshotter, mut connection: TcpStream) -> io::Result<()> {
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.set_write_timeout(Some(PATIENCE))?;
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
