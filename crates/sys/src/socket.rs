//! Sockets between processes of one machine: whole messages (`SOCK_SEQPACKET`) that carry descriptors.

use std::ffi::OsStr;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::Dir;

/// Descriptors that one message may carry at most; more are refused with `EINVAL`. The kernel's own limit is 253.
pub const MAX_FDS: usize = 64;

/// A message as it arrived.
#[derive(Debug)]
pub struct Message {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The descriptors it brought, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

/// Two connected ends.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?)
}

/// A listening socket named `name` in `dir`, for the owner alone (0600). The name is reached through the
/// directory's descriptor: a path of its own would be cut at 107 bytes.
pub fn listen(dir: &Dir, name: &str) -> io::Result<OwnedFd> {
    listen_as(SocketType::SEQPACKET, dir, name)
}

/// As [`listen`], for a stream of bytes: what OCI runtimes send a terminal to.
pub fn listen_stream(dir: &Dir, name: &str) -> io::Result<OwnedFd> {
    listen_as(SocketType::STREAM, dir, name)
}

fn listen_as(kind: SocketType, dir: &Dir, name: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
    // The mode of the socket's name is that of the socket itself, less the umask.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &address(dir.as_fd(), name)?)?;
    rustix::net::listen(&socket, 16)?;
    Ok(socket)
}

/// Takes the next connection, if one waits. It is non-blocking.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok(connection) => Ok(Some(connection)),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::CONNABORTED) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Connects to the socket `name` in `dir`. `ECONNREFUSED` when nobody listens any more. With a `limit`, connecting, and
/// each message sent later, waits no longer than that for a listener that takes nothing, and answers `EAGAIN` then.
pub fn connect(dir: &Dir, name: &str, limit: Option<Duration>) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, limit)?;
    rustix::net::connect(&socket, &address(dir.as_fd(), name)?)?;
    Ok(socket)
}

/// Connects to the stream socket at `path`, which a caller named: it is followed as the caller would follow it. `limit` as
/// for [`connect`].
pub fn connect_stream(path: &Path, limit: Option<Duration>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, limit)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

fn address(dir: BorrowedFd<'_>, name: &str) -> io::Result<SocketAddrUnix> {
    if name.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
    Ok(SocketAddrUnix::new(OsStr::new(&path))?)
}

/// Sends one message. A receiver that is gone answers `EPIPE`, never a signal.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.len() > MAX_FDS {
        return Err(rustix::io::Errno::INVAL.into());
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    loop {
        match rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            // Reset is told once, when the other end was closed with messages of ours unread; then the pipe is broken.
            Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNRESET) => continue,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message of at most `max` bytes; `None` when the other end is closed. A longer one, or one with
/// more descriptors than [`MAX_FDS`], answers `EMSGSIZE`.
pub fn receive(socket: BorrowedFd<'_>, max: usize) -> io::Result<Option<Message>> {
    let mut bytes = vec![0; max];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut iov = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => continue,
            // Told once, when the other end was closed with messages of ours unread; what it had sent before, and
            // then its end, come after.
            Err(rustix::io::Errno::CONNRESET) => continue,
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received
        .flags
        .intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC)
    {
        return Err(rustix::io::Errno::MSGSIZE.into());
    }
    if received.bytes == 0 {
        return Ok(None);
    }
    bytes.truncate(received.bytes);
    Ok(Some(Message { bytes, fds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_descriptors() {
        let (a, b) = pair().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        send(a.as_fd(), b"one", &[writer.as_fd()]).unwrap();
        send(a.as_fd(), b"two", &[]).unwrap();
        drop((a, writer));
        let one = receive(b.as_fd(), 100).unwrap().unwrap();
        assert_eq!((one.bytes.as_slice(), one.fds.len()), (b"one".as_slice(), 1));
        rustix::io::write(&one.fds[0], b"through").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(rustix::io::read(&reader, &mut buffer).unwrap(), 7);
        assert_eq!(receive(b.as_fd(), 100).unwrap().unwrap().bytes, b"two");
        assert!(receive(b.as_fd(), 100).unwrap().is_none());
        let error = send(b.as_fd(), b"three", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn the_last_words_of_one_who_did_not_listen() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"unread", &[]).unwrap();
        send(b.as_fd(), b"last", &[]).unwrap();
        drop(b);
        let error = send(a.as_fd(), b"too late", &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(receive(a.as_fd(), 100).unwrap().unwrap().bytes, b"last");
        assert!(receive(a.as_fd(), 100).unwrap().is_none());
    }

    #[test]
    fn too_long_is_an_error_not_a_part() {
        let (a, b) = pair().unwrap();
        send(a.as_fd(), b"longer", &[]).unwrap();
        let error = receive(b.as_fd(), 3).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
    }

    #[test]
    fn a_name_in_a_deep_directory() {
        let temp = tempfile::tempdir().unwrap();
        let top = Dir::open_ambient(temp.path()).unwrap();
        let deep = top
            .mkdir_all(format!("{0}/{0}/{0}", "d".repeat(60)), Mode::RWXU)
            .unwrap();
        let listener = listen(&deep, "control.sock").unwrap();
        assert!(accept(listener.as_fd()).unwrap().is_none());
        let client = connect(&deep, "control.sock", None).unwrap();
        let server = accept(listener.as_fd()).unwrap().unwrap();
        send(client.as_fd(), b"hello", &[]).unwrap();
        assert_eq!(receive(server.as_fd(), 100).unwrap().unwrap().bytes, b"hello");
        // Nobody takes the next ones: the queue is full after a while.
        let limit = Some(Duration::from_millis(50));
        let mut waiting = Vec::new();
        let error = loop {
            match connect(&deep, "control.sock", limit) {
                Ok(socket) => waiting.push(socket),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        drop(listener);
        let error = connect(&deep, "control.sock", None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        let mode = deep.stat("control.sock").unwrap().st_mode;
        assert_eq!(mode & 0o777, 0o600);
    }
}
