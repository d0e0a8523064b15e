//! What a helper that has its maker's memory does to that memory: nothing, whether it comes to its end or is killed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use rustix::process::{Pid, PidfdFlags, WaitOptions};
use sys::process::{Child, Fork, namespaces as kind};
use sys::seccomp::{Flags, Instruction, Program};
use sys::within::{Failed, Place, Step};

/// Counts what others than one process take and give back, in memory that they share with it.
struct Counting;

static OWNER: AtomicI32 = AtomicI32::new(0);
static OTHERS: AtomicUsize = AtomicUsize::new(0);

fn count() {
    let owner = OWNER.load(Ordering::Relaxed);
    // SAFETY: asks for a number.
    if owner != 0 && owner != unsafe { libc::getpid() } {
        OTHERS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: the system's does all the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count();
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `body` in a process of one thread; it ends with what that returns.
fn alone(body: impl FnOnce() -> u8) -> i32 {
    // SAFETY: what the harness's other thread may hold, the memory allocator's lock, libc sets free in the child.
    match unsafe { libc::fork() } {
        0 => {
            OWNER.store(std::process::id().cast_signed(), Ordering::Relaxed);
            let body = std::panic::AssertUnwindSafe(body);
            sys::process::exit_now(std::panic::catch_unwind(body).unwrap_or(100))
        }
        pid => {
            let status = rustix::process::waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap();
            status.unwrap().1.exit_status().unwrap()
        }
    }
}

fn this() -> OwnedFd {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap()
}

/// A process in these namespaces of the calling one.
fn born_in(kinds: u64) -> Result<Child, Failed> {
    let first = this();
    let place = Place {
        first: first.as_fd(),
        kinds,
        kept: &[first.as_fd()],
    };
    sys::within::fork(&place, &Fork::default(), || {
        // What it does is its own.
        let text = "7".repeat(3);
        text.len() as u8
    })
}

#[test]
fn a_helper_takes_no_memory() {
    let ended = alone(|| {
        let child = born_in(kind::UTS | kind::NETWORK).unwrap();
        let pid = Pid::from_raw(child.pid);
        let status = rustix::process::waitpid(pid, WaitOptions::empty()).unwrap();
        assert_eq!(status.unwrap().1.exit_status(), Some(3));
        // Nor where it fails.
        let failed = born_in(kind::USER).unwrap_err();
        assert_eq!(failed.step, Step::Joining);
        assert_eq!(failed.error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(OTHERS.load(Ordering::Relaxed), 0);
        0
    });
    assert_eq!(ended, 0);
}

#[test]
fn one_that_is_killed_is_told_of() {
    let step = |code, k| Instruction {
        code,
        jump_true: 0,
        jump_false: 0,
        k,
    };
    let load_number = step(0x20, 0);
    let skip_the_next = Instruction {
        jump_false: 1,
        ..step(0x15, libc::SYS_setns as u32)
    };
    let answer = |k| step(0x06, k);
    let filter = Program::new(vec![
        load_number,
        skip_the_next,
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
    let filter = filter.unwrap();
    let ended = alone(move || {
        sys::seccomp::install(&filter, Flags::default()).unwrap();
        let failed = born_in(kind::UTS).unwrap_err();
        assert_eq!(failed.step, Step::Helper, "{failed:?}");
        assert!(failed.error.to_string().contains("killed"), "{failed:?}");
        0
    });
    assert_eq!(ended, 0);
}
