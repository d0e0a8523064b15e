//! The socket that the service is reached by: one that the service manager opened, or one of our own.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketType, sockopt};
use sys::Dir;

/// How long it is waited for one that listens and takes nobody: that it is there is known then as well.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);

/// Why there is no socket to serve on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SocketError {
    /// Another server has it.
    #[error("{} is served by another process", .0.display())]
    Served(PathBuf),
    /// Something else lies there.
    #[error("{} is there, and is no socket", .0.display())]
    InTheWay(PathBuf),
    /// It names no file.
    #[error("{0:?} is no path of a socket")]
    NoPath(PathBuf),
    /// The service manager passed something else than one listening unix socket.
    #[error("the service manager passed {0}")]
    Passed(String),
    /// A system call failed.
    #[error("{what} {}: {source}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
}

/// A listening socket. Its name goes with it, unless the service manager made it.
pub struct Socket {
    listener: UnixListener,
    own: Option<Own>,
}

struct Own {
    dir: Dir,
    name: String,
    /// Whoever holds its lock is the server; the kernel lets go of it with the process.
    _lock: File,
}

impl Drop for Own {
    fn drop(&mut self) {
        // The lock's file stays: to remove it would let two hold different files of that name.
        let _ = self.dir.unlink(&self.name);
    }
}

impl Socket {
    /// Makes the socket at `path`, for its owner alone (0600), and the directory that it lies in where that is missing.
    /// What a server that is dead left there is replaced.
    ///
    /// # Errors
    /// Another server has it, or it cannot be made.
    pub fn bind(path: &Path) -> Result<Socket, SocketError> {
        let io = |what, source: io::Error| SocketError::Io {
            what,
            path: path.to_owned(),
            source,
        };
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| SocketError::NoPath(path.to_owned()))?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        use std::os::unix::fs::DirBuilderExt;
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent);
        made.map_err(|e| io("making the directory of", e))?;
        let dir = Dir::open_ambient(parent).map_err(|e| io("opening the directory of", e))?;
        let flags = OFlags::RDWR | OFlags::CREATE;
        let lock = dir.open_file(format!("{name}.lock"), flags, Mode::RUSR | Mode::WUSR);
        let lock = lock.map_err(|e| io("locking", e))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(SocketError::Served(path.to_owned())),
            Err(error) => return Err(io("locking", error.into())),
        }
        let found = dir.try_stat(name).map_err(|e| io("looking at", e))?;
        if let Some(found) = found {
            if rustix::fs::FileType::from_raw_mode(found.st_mode) != rustix::fs::FileType::Socket {
                return Err(SocketError::InTheWay(path.to_owned()));
            }
            // A server that knows no lock of ours.
            let connected = sys::socket::connect_stream(path, Some(PATIENCE));
            let nobody = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if !connected.is_err_and(|error| nobody(&error)) {
                return Err(SocketError::Served(path.to_owned()));
            }
            dir.unlink(name).map_err(|e| io("replacing", e))?;
        }
        let listener = sys::socket::listen_stream(&dir, name).map_err(|e| io("making", e))?;
        let own = Own {
            dir,
            name: name.to_owned(),
            _lock: lock,
        };
        Ok(Socket {
            listener: listener.into(),
            own: Some(own),
        })
    }

    /// The socket that the service manager passed.
    ///
    /// # Errors
    /// It is none, or there are several.
    pub fn passed(mut fds: Vec<OwnedFd>) -> Result<Socket, SocketError> {
        let (Some(fd), true) = (fds.pop(), fds.is_empty()) else {
            return Err(SocketError::Passed("several sockets".to_owned()));
        };
        let is = sockopt::socket_domain(&fd) == Ok(AddressFamily::UNIX)
            && sockopt::socket_type(&fd) == Ok(SocketType::STREAM)
            && sockopt::socket_acceptconn(&fd) == Ok(true);
        match is {
            true => Ok(Socket {
                listener: fd.into(),
                own: None,
            }),
            false => Err(SocketError::Passed(
                "something that is no listening unix socket".to_owned(),
            )),
        }
    }

    /// What clients connect to.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Whether the service manager made it.
    pub fn is_passed(&self) -> bool {
        self.own.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_a_dead_server_left_is_replaced_and_a_living_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("run/strata/sock");
        let first = Socket::bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(UnixStream::connect(&path).is_ok());
        assert!(matches!(Socket::bind(&path), Err(SocketError::Served(_))));
        drop(first);
        assert!(!path.exists());
        // Killed, it leaves its name.
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists() && UnixStream::connect(&path).is_err());
        drop(Socket::bind(&path).unwrap());
        // One that knows no lock of ours.
        let other = UnixListener::bind(&path).unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::Served(_))));
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(Socket::bind(&path), Err(SocketError::InTheWay(_))));
        assert!(matches!(
            Socket::bind(Path::new("/")),
            Err(SocketError::NoPath(_))
        ));
    }

    #[test]
    fn only_a_listening_unix_socket_is_taken_from_the_manager() {
        let temp = tempfile::tempdir().unwrap();
        let listener =
            || UnixListener::bind(temp.path().join(format!("{:?}", std::time::Instant::now()))).unwrap();
        assert!(Socket::passed(vec![listener().into()]).unwrap().is_passed());
        assert!(Socket::passed(vec![listener().into(), listener().into()]).is_err());
        assert!(Socket::passed(Vec::new()).is_err());
        let (one, _two) = UnixStream::pair().unwrap();
        assert!(Socket::passed(vec![one.into()]).is_err());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(Socket::passed(vec![tcp.into()]).is_err());
        assert!(Socket::passed(vec![File::open("/dev/null").unwrap().into()]).is_err());
    }
}
