//! The data of a file, from one layer to another.

use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{self, SeekFrom};
use rustix::io::Errno;
use sys::writeback::begin_writeback;

use crate::live::Result;

/// What is copied at once at most: some milliseconds, in which nobody can give it up.
const PIECE: u64 = 16 << 20;

/// How data is copied.
pub(super) struct Way<'a> {
    /// How many bytes the file system likes to be read at once.
    pub(super) block: u64,
    /// Whether it is made durable afterwards: the disk then begins with what is copied while the rest still is.
    pub(super) durable: bool,
    /// Asked between two pieces whether it is still wanted; `EINTR` if not.
    pub(super) given_up: &'a dyn Fn() -> bool,
}

impl Way<'_> {
    /// To be called at `at`, when everything from `begun` on is copied: looks up once a piece.
    fn look_up(&self, to: &File, begun: &mut u64, at: u64) -> Result<()> {
        if at - *begun < PIECE {
            return Ok(());
        }
        if self.durable {
            begin_writeback(to, *begun, at - *begun);
        }
        *begun = at;
        match (self.given_up)() {
            true => Err(Errno::INTR),
            false => Ok(()),
        }
    }
}

/// Copies the first `length` bytes, holes as holes, sharing blocks where the file system can.
pub(super) fn copy_data(from: impl AsFd, to: &File, length: u64, way: &Way<'_>) -> Result<()> {
    let from = from.as_fd();
    let size = fs::fstat(from)?.st_size as u64;
    if length >= size && size > 0 && fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let length = length.min(size);
    let mut at = 0;
    while at < length {
        let (data, hole) = match fs::seek(from, SeekFrom::Data(at)) {
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            Err(Errno::INVAL) => (at, length),
            Ok(data) => match fs::seek(from, SeekFrom::Hole(data)) {
                Ok(hole) => (data, hole),
                Err(_) => (data, length),
            },
            Err(error) => return Err(error),
        };
        copy_range(from, to, (data, hole.min(length)), way)?;
        at = hole.max(data + 1);
    }
    fs::ftruncate(to, length)
}

fn copy_range(from: impl AsFd, to: &File, (mut at, end): (u64, u64), way: &Way<'_>) -> Result<()> {
    let mut begun = at;
    while at < end {
        way.look_up(to, &mut begun, at)?;
        let (mut source, mut target) = (at, at);
        let piece = (end - at).min(PIECE) as usize;
        match fs::copy_file_range(&from, Some(&mut source), to, Some(&mut target), piece) {
            // Shorter than its status said.
            Ok(0) => return Ok(()),
            Ok(copied) => at += copied as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(error) => return Err(error),
        }
    }
    if at == end {
        return Ok(());
    }
    let mut buffer = vec![0; (1 << 20).max(way.block as usize)];
    while at < end {
        way.look_up(to, &mut begun, at)?;
        let piece = buffer.len().min((end - at) as usize);
        let read = match rustix::io::pread(&from, &mut buffer[..piece], at) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        if read == 0 {
            return Ok(());
        }
        let mut written = 0;
        while written < read {
            match rustix::io::pwrite(to, &buffer[written..read], at + written as u64) {
                Err(Errno::INTR) => {}
                other => written += other?,
            }
        }
        at += read as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
