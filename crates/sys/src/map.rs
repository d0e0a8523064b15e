//! A file mapped into memory, read and written byte by byte.
//!
//! The bytes of a mapping change under the program's feet when somebody else writes the file, so no reference to them
//! is ever handed out: they are copied in and out.

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use rustix::mm::{MapFlags, MprotectFlags, MsyncFlags, ProtFlags};

/// What becomes of writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// They reach the file, and everybody who maps it.
    Shared,
    /// They stay in this mapping.
    Private,
}

/// A mapping of the first bytes of a file. Ends with the value; the file may be closed before.
#[derive(Debug)]
pub struct Map {
    start: NonNull<u8>,
    length: usize,
    writable: bool,
}

// SAFETY: the mapping is owned by the value alone, and belongs to the process, not to a thread.
unsafe impl Send for Map {}

impl Map {
    /// Maps the first `length` bytes of `file`. Access beyond the last page of the file kills the process with
    /// `SIGBUS`, as it does for any mapping: the caller keeps the file long enough.
    pub fn new(file: BorrowedFd<'_>, length: usize, sharing: Sharing, writable: bool) -> io::Result<Map> {
        let mut protection = ProtFlags::READ;
        if writable {
            protection |= ProtFlags::WRITE;
        }
        let flags = match sharing {
            Sharing::Shared => MapFlags::SHARED,
            Sharing::Private => MapFlags::PRIVATE,
        };
        // SAFETY: the kernel chooses an address where nothing else lies; what lies there then is ours until `drop`.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, flags, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::Other)?;
        Ok(Map {
            start,
            length,
            writable,
        })
    }

    /// Copies bytes out.
    ///
    /// # Panics
    /// When they do not all lie in the mapping.
    pub fn read(&self, at: usize, length: usize) -> Vec<u8> {
        assert!(at.checked_add(length).is_some_and(|end| end <= self.length));
        // SAFETY: the bounds were checked, the mapping lives as long as `self`, and a volatile read assumes nothing
        // about bytes that others may be writing.
        (at..at + length)
            .map(|at| unsafe { self.start.as_ptr().add(at).read_volatile() })
            .collect()
    }

    /// Copies bytes in.
    ///
    /// # Panics
    /// When they do not all fit into the mapping, or it is not writable.
    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        assert!(self.writable && at.checked_add(bytes.len()).is_some_and(|end| end <= self.length));
        for (offset, byte) in bytes.iter().enumerate() {
            // SAFETY: as for `read`; that the mapping may be written was checked.
            unsafe { self.start.as_ptr().add(at + offset).write_volatile(*byte) };
        }
    }

    /// Lets the mapping be written, where the file's descriptor allows it (`EACCES` otherwise).
    pub fn make_writable(&mut self) -> io::Result<()> {
        let flags = MprotectFlags::READ | MprotectFlags::WRITE;
        // SAFETY: the range is ours alone, and rights are only added.
        unsafe { rustix::mm::mprotect(self.start.as_ptr().cast(), self.length, flags) }?;
        self.writable = true;
        Ok(())
    }

    /// Writes what was changed back to the file (`msync(2)` with `MS_SYNC`).
    pub fn sync(&self) -> io::Result<()> {
        // SAFETY: the range is ours; nothing in memory changes.
        Ok(unsafe { rustix::mm::msync(self.start.as_ptr().cast(), self.length, MsyncFlags::SYNC) }?)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and no reference into it was ever given away.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn shared_writes_reach_the_file_and_private_ones_do_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"hello").unwrap();
        let open = std::fs::File::options()
            .read(true)
            .write(true)
            .open(file.path())
            .unwrap();
        let mut private = Map::new(open.as_fd(), 5, Sharing::Private, true).unwrap();
        let mut shared = Map::new(open.as_fd(), 5, Sharing::Shared, true).unwrap();
        private.write(0, b"J");
        shared.write(4, b"y");
        assert_eq!(private.read(0, 4), b"Jell");
        assert_eq!(std::fs::read(file.path()).unwrap(), b"helly");
    }
}
