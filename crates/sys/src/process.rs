//! Processes: `clone3` into namespaces and a cgroup with a pidfd, `exec`, and the calls on one's own process that
//! `rustix` does not wrap.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The namespaces to make anew, as `CLONE_NEW*` bits.
pub mod namespaces {
    /// Mounts.
    pub const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    /// The view of the cgroup tree.
    pub const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// Host and domain name.
    pub const UTS: u64 = libc::CLONE_NEWUTS as u64;
    /// System V IPC and POSIX message queues.
    pub const IPC: u64 = libc::CLONE_NEWIPC as u64;
    /// User and group ids, capabilities.
    pub const USER: u64 = libc::CLONE_NEWUSER as u64;
    /// Process ids.
    pub const PID: u64 = libc::CLONE_NEWPID as u64;
    /// Network.
    pub const NETWORK: u64 = libc::CLONE_NEWNET as u64;
    /// Offsets of the monotonic and boot-time clocks.
    pub const TIME: u64 = libc::CLONE_NEWTIME as u64;
}

/// How a child is to differ from the process that forks it.
#[derive(Debug, Default, Clone, Copy)]
pub struct Fork<'fd> {
    /// Namespaces the child gets anew: bits of [`namespaces`]. `TIME` is not among those `clone3` takes here.
    pub namespaces: u64,
    /// A cgroup2 directory that the child is born in (`CLONE_INTO_CGROUP`, Linux 5.7).
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// The child becomes a sibling: its parent is the caller's own (`CLONE_PARENT`).
    pub sibling: bool,
}

/// A child that was forked: its number, and the descriptor that stands for it even when the number is reused.
#[derive(Debug)]
pub struct Child {
    /// Process id in the caller's pid namespace.
    pub pid: i32,
    /// Becomes readable when the process ends.
    pub pidfd: OwnedFd,
}

/// Of linux/sched.h; `libc` has it as an `int`, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C, align(8))]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Ends the process when the closure of [`fork`] unwinds: the frames above it belong to the parent's copy.
struct EndsHere;

impl Drop for EndsHere {
    fn drop(&mut self) {
        exit_now(125);
    }
}

/// Ends this process at once, running nothing that the process it was forked from had planned for its own end.
pub fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` takes no memory of ours and does not return.
    unsafe { libc::_exit(code.into()) }
}

/// Waits for a child to end, and tells how, and how many bytes of memory it had at its most (getrusage(2), `ru_maxrss`).
/// What its parent had when it was made counts too.
pub fn wait_with_peak(child: std::process::Child) -> io::Result<(ExitStatus, u64)> {
    let mut status = 0;
    // SAFETY: all zeros is a `rusage`, which is integers.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: `status` and `usage` are ours, and live across the call.
        let waited = unsafe { libc::wait4(child.id().cast_signed(), &raw mut status, 0, &raw mut usage) };
        match waited {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
            _ => break,
        }
    }
    let kibibytes = u64::try_from(usage.ru_maxrss).unwrap_or(0);
    Ok((ExitStatus::from_raw(status), kibibytes * 1024))
}

/// Whether the calling process has one thread only.
pub fn is_single_threaded() -> bool {
    // Unsharing CLONE_THREAD changes nothing in a process of one thread and fails in every other (unshare(2)).
    // SAFETY: the call passes no memory, and has no effect where it succeeds.
    unsafe { libc::unshare(libc::CLONE_THREAD) == 0 }
}

/// Forks a child that runs `child` and ends with the code it returns. Refused with `EBUSY` where the process has
/// other threads, since a lock that one of them holds would stay locked in the child for ever.
pub fn fork(request: &Fork<'_>, child: impl FnOnce() -> u8) -> io::Result<Child> {
    if !is_single_threaded() {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: request.namespaces | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(cgroup) = request.cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    if request.sibling {
        // A sibling's end is told as its maker's would be; clone3 wants no signal given.
        args.flags |= libc::CLONE_PARENT as u64;
        args.exit_signal = 0;
    }
    // SAFETY: `args` is of the size given and outlives the call, and `pidfd` is a place for the descriptor.
    // Without CLONE_VM the child has its own copy of memory, and without other threads (checked above) no lock
    // in that copy is held by someone who is not there.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let _ends_here = EndsHere;
            let code = child();
            exit_now(code)
        }
        pid => Ok(Child {
            pid: pid as i32,
            // SAFETY: the kernel opened this descriptor for us in the call above; nobody else knows of it.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
        }),
    }
}

/// Makes a child in these namespaces that does nothing until it is killed, or until the thread that made it ends. Unlike
/// [`fork`] it may be called in a process of several threads.
pub fn idle(namespaces: u64) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    // SAFETY: as in `fork` for the parent. The child makes system calls alone, that take no memory and no lock, so what
    // other threads held when it was copied does not matter to it.
    unsafe {
        let maker = libc::getpid();
        match libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<CloneArgs>()) {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                // Who made it may be gone already; in a pid namespace of its own it does not see that one (0).
                while [maker, 0].contains(&libc::getppid()) {
                    libc::pause();
                }
                libc::_exit(0)
            }
            pid => Ok(Child {
                pid: pid as i32,
                pidfd: OwnedFd::from_raw_fd(pidfd),
            }),
        }
    }
}

/// Strings as `execve` takes them.
#[derive(Debug)]
pub struct CStrings {
    strings: Vec<CString>,
    /// Into `strings`, whose heap blocks do not move, and a null at the end.
    pointers: Vec<*const c_char>,
}

impl CStrings {
    /// Takes the strings in their order. A string with a NUL in it answers `EINVAL`.
    pub fn new<S: Into<Vec<u8>>>(strings: impl IntoIterator<Item = S>) -> io::Result<CStrings> {
        let strings: Vec<CString> = strings
            .into_iter()
            .map(|string| CString::new(string).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL)))
            .collect::<io::Result<_>>()?;
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Ok(CStrings { strings, pointers })
    }

    /// The strings.
    pub fn as_slice(&self) -> &[CString] {
        &self.strings
    }

    /// The strings alone.
    pub fn into_vec(self) -> Vec<CString> {
        self.strings
    }
}

/// `execve(2)`: returns only when it failed.
pub fn exec(program: &CStr, args: &CStrings, env: &CStrings) -> io::Error {
    // SAFETY: `program` is NUL-terminated, and both lists end in a null and point to strings that `args` and
    // `env` own.
    unsafe { libc::execve(program.as_ptr(), args.pointers.as_ptr(), env.pointers.as_ptr()) };
    io::Error::last_os_error()
}

fn check(result: libc::c_long) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// `unshare(2)` of `namespaces` (bits of [`namespaces`]); anything else is refused with `EINVAL`.
pub fn unshare(namespaces: u64) -> io::Result<()> {
    use namespaces::{CGROUP, IPC, MOUNT, NETWORK, PID, TIME, USER, UTS};
    if namespaces & !(CGROUP | IPC | MOUNT | NETWORK | PID | TIME | USER | UTS) != 0 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: the flags are namespaces alone; none of them takes memory or descriptors from another thread.
    check(unsafe { libc::unshare(namespaces as libc::c_int) }.into())
}

/// Gives the calling thread a root and working directory of its own, no longer those of the other threads.
pub fn unshare_directories() -> io::Result<()> {
    // SAFETY: CLONE_FS only copies the thread's root, working directory and umask; no memory or descriptor is touched.
    check(unsafe { libc::unshare(libc::CLONE_FS) }.into())
}

/// Joins the namespace that `namespace` refers to, which must be of the kind `kind` (one bit of [`namespaces`]).
pub fn setns(namespace: BorrowedFd<'_>, kind: u64) -> io::Result<()> {
    // SAFETY: the call takes a descriptor, which is open while borrowed, and no memory.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind as libc::c_int) }.into())
}

/// Joins those namespaces of the process behind `process` that `kinds` names (bits of [`namespaces`]), all at once or
/// none (Linux 5.8). Of a pid namespace, the caller's later children are members. `ESRCH` when the process has ended;
/// `EINVAL` for the user namespace that the caller is in already.
pub fn join_namespaces(process: BorrowedFd<'_>, kinds: u64) -> io::Result<()> {
    // SAFETY: the call takes a descriptor, which is open while borrowed, and no memory.
    check(unsafe { libc::setns(process.as_raw_fd(), kinds as libc::c_int) }.into())
}

/// Sends `signal`, any number the kernel knows (real-time ones too), to the process behind `pidfd`; 0 only asks
/// whether it is there. `ESRCH` when it has ended and was reaped.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null siginfo asks the kernel to fill one in; the descriptor is open while borrowed.
    check(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, no_info, 0) })
}

/// Marks every descriptor from `first` on close-on-exec, whoever opened it (`close_range(2)`, Linux 5.11).
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: the call changes a flag of descriptors; no memory is passed, nothing is closed now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// Gives the calling process a session keyring of its own, so that it does not see the keys of the user who started
/// it. `ENOSYS` on a kernel without keys.
pub fn join_new_session_keyring() -> io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_int = 1;
    let anonymous = std::ptr::null::<c_char>();
    // SAFETY: a null name asks for a new keyring without one; nothing else is passed.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, anonymous) })
}

/// Sets the execution domain (`personality(2)`).
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: the call takes a number. What it changes (address layout of later mappings, uname) is for the
    // program executed next.
    check(unsafe { libc::personality(persona) }.into())
}

/// Sets class (1 real-time, 2 best-effort, 3 idle) and level of the calling process's I/O (`ioprio_set(2)`).
pub fn set_io_priority(class: u16, level: u16) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    let value = libc::c_int::from(class) << 13 | libc::c_int::from(level);
    // SAFETY: the call takes numbers only; 0 is the calling process.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, value) })
}

/// Sets from which memory nodes the calling thread takes its memory (`set_mempolicy(2)`): a mode with its flags, and the
/// nodes, a bit each.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    // The kernel takes one less than it is told.
    let length = match nodes.len() {
        0 => 0,
        words => words * 64 + 1,
    };
    let mask = match nodes.is_empty() {
        true => std::ptr::null(),
        false => nodes.as_ptr(),
    };
    // SAFETY: the kernel reads as many bits as `length` says less one, which is what `nodes` has; none where it is null.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, length) })
}

/// What `sched_setattr(2)` sets; times are nanoseconds.
#[derive(Debug, Default, Clone, Copy)]
pub struct Scheduling {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For `SCHED_OTHER` and `SCHED_BATCH`.
    pub nice: i32,
    /// For `SCHED_FIFO` and `SCHED_RR`.
    pub priority: u32,
    /// For `SCHED_DEADLINE`.
    pub runtime: u64,
    /// For `SCHED_DEADLINE`.
    pub deadline: u64,
    /// For `SCHED_DEADLINE`.
    pub period: u64,
}

/// Sets how the calling process is scheduled.
pub fn set_scheduling(wanted: &Scheduling) -> io::Result<()> {
    #[repr(C)]
    struct Raw {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        runtime: u64,
        deadline: u64,
        period: u64,
    }
    let raw = Raw {
        size: size_of::<Raw>() as u32,
        policy: wanted.policy,
        flags: wanted.flags,
        nice: wanted.nice,
        priority: wanted.priority,
        runtime: wanted.runtime,
        deadline: wanted.deadline,
        period: wanted.period,
    };
    // SAFETY: `raw` has the layout of the first version of `struct sched_attr` (its size says so) and is only
    // read.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const raw, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_does_not_fork() {
        // The test harness has a thread of its own beside this one.
        let (_keep, wait) = std::sync::mpsc::channel::<()>();
        std::thread::spawn(move || wait.recv());
        assert!(!is_single_threaded());
        let error = fork(&Fork::default(), || 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY));
    }

    #[test]
    fn exec_of_nothing() {
        let empty = CStrings::new(Vec::<Vec<u8>>::new()).unwrap();
        let error = exec(c"/nowhere/at/all", &empty, &empty);
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(CStrings::new([b"a\0b".to_vec()]).is_err());
    }

    #[test]
    fn namespaces_alone_are_unshared() {
        let error = unshare(libc::CLONE_FILES as u64).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
