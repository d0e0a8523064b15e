//! The first process of a pid namespace, for programs that are not made to be one: it passes signals on and reaps
//! whatever is orphaned.

use std::ffi::c_char;
use std::io;
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;

use crate::process::exit_now;
use crate::signal::{Set, set_mask};

unsafe extern "C" {
    /// The first of the strings that this process was started with (program_invocation_name(3)).
    static program_invocation_name: *mut c_char;
}

/// Stands before the process `child`, which the caller has forked: sends it every signal that arrives here, reaps all
/// that ends, and exits as `child` did (128 + signal where one ended it) once it has. Every descriptor above the
/// standard streams is closed first, and its command line, which all in the namespace can read, becomes `init`: it
/// was that of the process which forked it, and names paths of the host.
///
/// Signals are to be held back since before `child` was forked, so that none is missed.
pub fn stand_in(child: i32) -> ! {
    // SAFETY: this process has one thread, and this function never returns: nobody is left in it who owns one of
    // the descriptors.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    rewrite_command_line(b"init");
    if set_mask(Set::full()).is_err() {
        exit_now(125);
    }
    // Children may have ended before the signal could be waited for.
    let mut signal = libc::SIGCHLD;
    loop {
        if signal == libc::SIGCHLD {
            if let Some(code) = reap(child) {
                exit_now(code);
            }
        } else if signal > 0 {
            // SAFETY: a number and a signal; the child is ours and not reaped yet, so the number is still its own.
            unsafe { libc::kill(child, signal) };
        }
        signal = wait_for_signal();
    }
}

/// Overwrites the strings that this process was started with.
fn rewrite_command_line(name: &[u8]) {
    let words = std::env::args_os().map(|word| word.as_bytes().len() + 1);
    let room: usize = words.sum();
    let length = name.len().min(room.saturating_sub(1));
    // SAFETY: the kernel lays the arguments one after the other, each with its NUL, in memory that the process may
    // write (execve(2)), and they are as long as what the standard library reads of them; the C library's pointer is
    // to the first. This process has one thread, and zeros leave each argument a string, so whoever asks for them
    // later finds empty ones.
    unsafe {
        let start = program_invocation_name.cast::<u8>();
        start.write_bytes(0, room);
        start.copy_from_nonoverlapping(name.as_ptr(), length);
    }
}

fn wait_for_signal() -> i32 {
    let all = Set::full();
    // SAFETY: the set is initialized, and no siginfo is asked for.
    unsafe { libc::sigwaitinfo(all.as_ptr(), std::ptr::null_mut()) }
}

/// Reaps all that has ended; the exit code of `child` once it is among them, or cannot be waited for any more.
fn reap(child: i32) -> Option<u8> {
    loop {
        let mut status = MaybeUninit::<libc::c_int>::uninit();
        // SAFETY: the status is written where a process was reaped, and read only then.
        let pid = unsafe { libc::waitpid(-1, status.as_mut_ptr(), libc::WNOHANG) };
        match pid {
            0 => return None,
            -1 if io::Error::last_os_error().raw_os_error() == Some(libc::EINTR) => {}
            // No child is left, the one we wait for included.
            -1 => return Some(125),
            pid if pid == child => {
                // SAFETY: written, since a process was reaped.
                let status = unsafe { status.assume_init() };
                return Some(if libc::WIFSIGNALED(status) {
                    128 + libc::WTERMSIG(status) as u8
                } else {
                    libc::WEXITSTATUS(status) as u8
                });
            }
            _ => {}
        }
    }
}
