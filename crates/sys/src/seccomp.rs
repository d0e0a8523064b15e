//! `seccomp(2)`: system call filters in the kernel's classic BPF. Which filter is another's subject
//! (`runtime::seccomp`); here it is only carried and installed.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::ioctl::opcode;

/// One classic BPF instruction, laid out as the kernel's `struct sock_filter` (linux/filter.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Instruction {
    /// Class, size, mode or operation, source: `BPF_JMP | BPF_JEQ | BPF_K`.
    pub code: u16,
    /// Instructions to skip when a comparison holds.
    pub jump_true: u8,
    /// Instructions to skip when it does not.
    pub jump_false: u8,
    /// Operand.
    pub k: u32,
}

/// The kernel's limit (`BPF_MAXINSNS`).
pub const MAX_INSTRUCTIONS: usize = 4096;

/// A filter ready to be installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    /// A program of these instructions. The kernel checks them when they are installed.
    ///
    /// # Errors
    /// `InvalidInput` when there are none or more than [`MAX_INSTRUCTIONS`].
    pub fn new(instructions: Vec<Instruction>) -> io::Result<Program> {
        if instructions.is_empty() || instructions.len() > MAX_INSTRUCTIONS {
            let text = format!(
                "a filter of {} instructions, of 1 to {MAX_INSTRUCTIONS}",
                instructions.len()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Program { instructions })
    }

    /// The instructions, in order.
    pub fn instructions(&self) -> &[Instruction] {
        &self.instructions
    }

    /// The program in the kernel's own layout, to be carried to another process of this machine.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.instructions.len() * size_of::<Instruction>());
        for one in &self.instructions {
            bytes.extend(one.code.to_ne_bytes());
            bytes.extend([one.jump_true, one.jump_false]);
            bytes.extend(one.k.to_ne_bytes());
        }
        bytes
    }

    /// What [`Program::to_bytes`] made.
    ///
    /// # Errors
    /// As [`Program::new`]; bytes that are no whole number of instructions.
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Program> {
        let (instructions, []) = bytes.as_chunks() else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let instructions = instructions.iter().map(|&[a, b, t, f, w, x, y, z]| Instruction {
            code: u16::from_ne_bytes([a, b]),
            jump_true: t,
            jump_false: f,
            k: u32::from_ne_bytes([w, x, y, z]),
        });
        Program::new(instructions.collect())
    }
}

bitflags::bitflags! {
    /// `SECCOMP_FILTER_FLAG_*` (linux/seccomp.h).
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
    pub struct Flags: libc::c_ulong {
        /// All threads of the process get the filter.
        const TSYNC = 1;
        /// Actions other than allow are logged.
        const LOG = 1 << 1;
        /// Speculative store bypass stays on (kernels before 5.16 turn it off, at a cost, for every filtered task).
        const SPEC_ALLOW = 1 << 2;
        /// A descriptor is returned on which notified calls arrive.
        const NEW_LISTENER = 1 << 3;
        /// A notified call that has been received is interrupted by fatal signals only.
        const WAIT_KILLABLE_RECV = 1 << 5;
    }
}

/// Installs `program` on the calling thread, for it and all it will execute, for ever. Returns the listener where
/// [`Flags::NEW_LISTENER`] asks for one.
///
/// The caller has `CAP_SYS_ADMIN` in its user namespace or has set no-new-privileges. Allocates nothing, so it may be
/// called between `fork` and `exec`.
///
/// # Errors
/// `EACCES` without the right, `EINVAL` for a program or flag that the kernel does not take, `ESRCH` where a thread
/// could not be given the filter under [`Flags::TSYNC`].
pub fn install(program: &Program, flags: Flags) -> io::Result<Option<OwnedFd>> {
    let filter = libc::sock_fprog {
        len: program.instructions.len() as libc::c_ushort,
        filter: program.instructions.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `filter` points at `len` instructions of `program`, which outlives the call; `Instruction` has the
    // layout of `sock_filter`, and the kernel only reads them.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags.bits(),
            &filter,
        )
    };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags.contains(Flags::NEW_LISTENER) {
        // SAFETY: with this flag a non-negative answer is a new descriptor that nothing else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(answer as i32) }));
    }
    if answer > 0 {
        // The id of the thread that has another filter.
        return Err(io::Error::from_raw_os_error(libc::ESRCH));
    }
    Ok(None)
}

/// A call that a filter asks the holder of its listener about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    id: u64,
    /// The process, in the pid namespace of whoever receives it.
    pub pid: u32,
    /// Its number in the table of the process's ABI.
    pub number: i32,
}

/// What becomes of a [`Call`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It was done for the process, which is told this.
    Done(i64),
    /// It fails with this `errno`.
    Fails(i32),
    /// The kernel does it after all.
    Continues,
}

/// Waits for the next call on a listener. What answers calls for containers is not strata; its tests are.
///
/// # Errors
/// `ENOENT` where nobody is left who could call, or the call has been given up.
pub fn next_call(listener: BorrowedFd<'_>) -> io::Result<Call> {
    // SAFETY: all zeros is a `seccomp_notif`, which is integers, and what the kernel wants there.
    let mut call: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: SECCOMP_IOCTL_NOTIF_RECV writes one `seccomp_notif` behind the pointer, which lives across the call.
    let answer = unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_RECV as _, &raw mut call) };
    match answer {
        0 => Ok(Call {
            id: call.id,
            pid: call.pid,
            number: call.data.nr,
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Answers a call.
///
/// # Errors
/// `ENOENT` where the process waits no longer.
pub fn answer(listener: BorrowedFd<'_>, call: Call, answer: Answer) -> io::Result<()> {
    let (val, error, flags) = match answer {
        Answer::Done(value) => (value, 0, 0),
        Answer::Fails(errno) => (0, -errno, 0),
        Answer::Continues => (0, 0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let response = libc::seccomp_notif_resp {
        id: call.id,
        val,
        error,
        flags,
    };
    // SAFETY: SECCOMP_IOCTL_NOTIF_SEND reads one `seccomp_notif_resp` behind the pointer, which lives across the call.
    match unsafe { libc::ioctl(listener.as_raw_fd(), NOTIF_SEND as _, &raw const response) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `SECCOMP_IOCTL_NOTIF_RECV` and `SECCOMP_IOCTL_NOTIF_SEND` of linux/seccomp.h.
const NOTIF_RECV: rustix::ioctl::Opcode = opcode::read_write::<libc::seccomp_notif>(b'!', 0);
const NOTIF_SEND: rustix::ioctl::Opcode = opcode::read_write::<libc::seccomp_notif_resp>(b'!', 1);

/// Whether the running kernel knows an action (`SECCOMP_RET_*`).
pub fn knows_action(action: u32) -> bool {
    // SAFETY: the kernel reads one u32 behind the pointer, which lives across the call.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &action) };
    answer == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_a_size() {
        let allow = Instruction {
            code: 6,
            jump_true: 0,
            jump_false: 0,
            k: libc::SECCOMP_RET_ALLOW,
        };
        assert!(Program::new(vec![]).is_err());
        assert!(Program::new(vec![allow; MAX_INSTRUCTIONS]).is_ok());
        assert!(Program::new(vec![allow; MAX_INSTRUCTIONS + 1]).is_err());
        assert_eq!(size_of::<Instruction>(), size_of::<libc::sock_filter>());
    }

    #[test]
    fn the_kernel_knows_its_actions() {
        assert!(knows_action(libc::SECCOMP_RET_ALLOW));
        assert!(!knows_action(0x1234_0000));
    }
}
