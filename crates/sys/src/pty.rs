//! Pseudo-terminals, made in a given devpts and reached by descriptor alone.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;

/// Both ends of a pseudo-terminal.
#[derive(Debug)]
pub struct Pty {
    /// The end of the one who looks on: what is written here is typed, what is read here was printed.
    pub master: OwnedFd,
    /// The terminal that programs run on.
    pub slave: OwnedFd,
}

/// Unlocks the terminal behind `ptmx`, a freshly opened `ptmx` device, and opens its other end with `TIOCGPTPEER`
/// (Linux 4.13): no path is walked, so nobody can put another file in its place.
pub fn open(ptmx: OwnedFd) -> io::Result<Pty> {
    rustix::pty::unlockpt(&ptmx)?;
    let slave = peer(ptmx.as_fd())?;
    Ok(Pty { master: ptmx, slave })
}

/// Opens the other end of the terminal behind `master`; it becomes nobody's controlling terminal by that.
pub fn peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    Ok(rustix::pty::ioctl_tiocgptpeer(master, flags)?)
}

/// Sets the size of the window behind `terminal` in rows and columns.
pub fn set_size(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

/// Rows and columns of the window behind `terminal`.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(terminal)?;
    Ok((size.ws_row, size.ws_col))
}

/// Makes `slave` the controlling terminal of the calling process, which must lead a session without one.
pub fn take_control(slave: impl AsFd) -> io::Result<()> {
    Ok(rustix::process::ioctl_tiocsctty(slave)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags};

    #[test]
    fn what_is_printed_is_read() {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let ptmx = rustix::fs::openat(CWD, "/dev/ptmx", flags, Mode::empty()).unwrap();
        let pty = open(ptmx).unwrap();
        set_size(pty.master.as_fd(), 7, 31).unwrap();
        assert_eq!(size(pty.slave.as_fd()).unwrap(), (7, 31));
        rustix::io::write(&pty.slave, b"hi\n").unwrap();
        let mut buffer = [0; 16];
        let length = rustix::io::read(&pty.master, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"hi\r\n");
    }
}
