//! `bpf(2)`: programs that decide which devices a cgroup may open. Only what that needs is here.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

/// One eBPF instruction, laid out as the kernel's `struct bpf_insn` (linux/bpf.h).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// Class, operation, source.
    pub code: u8,
    /// Destination register in the low half, source register in the high one.
    pub registers: u8,
    /// Offset of a jump in instructions, or of a memory access in bytes.
    pub offset: i16,
    /// Operand.
    pub immediate: i32,
}

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const PROG_QUERY: libc::c_int = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 1 << 1;

/// The members of `union bpf_attr` that `BPF_PROG_LOAD` reads here; the kernel takes what is missing as zero.
#[repr(C)]
struct LoadAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

#[repr(C)]
struct AttachAttributes {
    target: u32,
    program: u32,
    attach_type: u32,
    flags: u32,
    replaced: u32,
}

#[repr(C)]
struct QueryAttributes {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

fn bpf<T>(command: libc::c_int, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: each caller passes the attributes that its command reads and writes, of the size told, and keeps alive
    // every buffer that they point at.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer as i32)
    }
}

/// Loads a `BPF_PROG_TYPE_CGROUP_DEVICE` program: it answers 1 to allow an access to a device, 0 to refuse it.
///
/// # Errors
/// `EPERM` without `CAP_BPF` and `CAP_NET_ADMIN` (or `CAP_SYS_ADMIN`), `ENOSYS` without the call, and the verifier's
/// refusal, whose own words are then in the message.
pub fn load_device_program(instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..14].copy_from_slice(b"strata_devices");
    let mut attributes = LoadAttributes {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
    };
    let loaded = match bpf(PROG_LOAD, &mut attributes) {
        // The verifier speaks only when it is asked to: once more, for its words.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EACCES)) => {
            let mut log = vec![0u8; 16 << 10];
            attributes.log_level = 1;
            attributes.log_size = log.len() as u32;
            attributes.log = log.as_mut_ptr() as u64;
            bpf(PROG_LOAD, &mut attributes).map_err(|_| {
                let end = log.iter().position(|byte| *byte == 0).unwrap_or(log.len());
                let text = String::from_utf8_lossy(&log[..end]);
                let last = text
                    .lines()
                    .rev()
                    .find(|line| !line.starts_with("processed "))
                    .unwrap_or("");
                io::Error::new(error.kind(), format!("{error}: {last}"))
            })?
        }
        other => other?,
    };
    // SAFETY: a successful BPF_PROG_LOAD answers a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(loaded) })
}

/// Attaches a program to a cgroup2 directory, beside those of the cgroups above it and those attached to it already:
/// an access needs the consent of all (`BPF_F_ALLOW_MULTI`). The program lives as long as the cgroup.
///
/// # Errors
/// `EPERM` where a cgroup above forbids programs below it, `EBADF` when the directory is no cgroup2.
pub fn attach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: ALLOW_MULTI,
        replaced: 0,
    };
    bpf(PROG_ATTACH, &mut attributes).map(drop)
}

/// Takes a program off a cgroup2 directory again.
///
/// # Errors
/// `ENOENT` when it is not attached there.
pub fn detach_device_program(cgroup: impl AsFd, program: impl AsFd) -> io::Result<()> {
    let mut attributes = AttachAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        program: program.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        flags: 0,
        replaced: 0,
    };
    bpf(PROG_DETACH, &mut attributes).map(drop)
}

/// How many device programs are attached to a cgroup2 directory itself, those above it not counted.
///
/// # Errors
/// The kernel's.
pub fn device_program_count(cgroup: impl AsFd) -> io::Result<u32> {
    let mut attributes = QueryAttributes {
        target: cgroup.as_fd().as_raw_fd() as u32,
        attach_type: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: 0,
        count: 0,
        padding: 0,
    };
    bpf(PROG_QUERY, &mut attributes)?;
    Ok(attributes.count)
}

#[cfg(test)]
mod root_tests {
    use super::*;

    const RETURN: Instruction = Instruction {
        code: 0x95,
        registers: 0,
        offset: 0,
        immediate: 0,
    };

    #[test]
    fn a_program_is_loaded_and_a_bad_one_is_explained() {
        let allow = Instruction {
            code: 0xb7,
            registers: 0,
            offset: 0,
            immediate: 1,
        };
        load_device_program(&[allow, RETURN])
            .expect("loading a device program needs root and CONFIG_CGROUP_BPF");
        let error = load_device_program(&[RETURN]).unwrap_err();
        assert!(error.to_string().contains("R0 !read_ok"), "{error}");
    }
}
