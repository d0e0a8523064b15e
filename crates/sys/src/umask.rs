//! The file creation mask, of one thread alone.

use std::io;

use rustix::fs::Mode;
use rustix::thread::UnshareFlags;

/// Gives the calling thread a umask of its own and clears it, so that modes given to `open`, `mkdir` and `mknod` are
/// taken as they are. The thread's working directory is no longer shared with the process either.
///
/// Meant for threads that end when their work is done. Fails where a filter forbids `unshare(2)`; then nothing has
/// changed.
pub fn clear_for_thread() -> io::Result<()> {
    // SAFETY: CLONE_FS gives the thread a copy of umask, working directory and root. Descriptors and memory, which
    // other code's soundness rests on, stay shared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
    rustix::process::umask(Mode::empty());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dir;

    #[test]
    fn only_the_thread_is_concerned() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open_ambient(temp.path()).unwrap();
        let mode = |name: &str| dir.stat(name).unwrap().st_mode & 0o7777;
        std::thread::scope(|scope| {
            let make = || {
                clear_for_thread().unwrap();
                dir.mkdir_masked("inside", Mode::from_raw_mode(0o777)).unwrap();
                dir.create_new("file", Mode::from_raw_mode(0o1666)).unwrap();
                assert!(dir.create_new("file", Mode::RWXU).is_err());
            };
            scope.spawn(make).join().unwrap();
        });
        dir.mkdir_masked("outside", Mode::from_raw_mode(0o777)).unwrap();
        assert_eq!((mode("inside"), mode("file")), (0o777, 0o1666));
        let umask = std::fs::read_to_string("/proc/self/status").unwrap();
        if !umask.contains("Umask:\t0000") {
            assert_ne!(mode("outside"), 0o777);
        }
    }
}
