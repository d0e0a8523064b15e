//! Writing to disk ahead of the call that waits for it.

use std::os::fd::{AsFd, AsRawFd};

/// Tells the kernel to begin writing these bytes of a file to disk, and does not wait. Nothing is durable by it: a
/// later `fdatasync` finds less to do. Where the kernel cannot, nothing happens.
pub fn begin_writeback(file: impl AsFd, from: u64, len: u64) {
    let (Ok(from), Ok(len)) = (i64::try_from(from), i64::try_from(len)) else {
        return;
    };
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: it takes a descriptor, which the borrow keeps open, and numbers; it does nothing to memory.
    unsafe { libc::sync_file_range(fd, from, len, libc::SYNC_FILE_RANGE_WRITE) };
}
