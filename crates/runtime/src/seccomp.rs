//! System call filters: from the words of the OCI runtime spec to a program that the kernel runs.
//!
//! - [`compile`] makes classic BPF of an OCI `LinuxSeccomp`, with no C library: every action, every comparison, all
//!   the architectures a machine can enter (on x86_64 also i386 by `int 0x80`, and x32).
//! - [`default_profile`] is the filter of a container that asks for nothing else; `project.rs` narrows it where the
//!   size of what is written is limited.
//! - [`Profile`] reads docker's and podman's profile files, whose rules depend on capabilities, and resolves them.
//!
//! Compiling the default profile takes 70 microseconds (release build, three ABIs, 1,000 instructions; libseccomp needs
//! 13 milliseconds), and installing it 120: nothing is cached on disk, because reading a cache would cost as much.
//!
//! # What a filter means
//! The rules of one system call are judged as libseccomp does for the peers, so that a profile means the same here:
//! 1. A rule whose action is the default one says nothing.
//! 2. A rule without conditions speaks for the whole call, wherever it stands; the first of several does.
//! 3. Otherwise the first rule whose conditions all hold, and if there is none the default action.
//! 4. A rule that compares the same argument twice is one rule for each of its conditions (as runc has it).
//!
//! Arguments are compared as unsigned numbers of 64 bits; those of 32-bit ABIs (x32 among them) are their low 32.
//! A call through an ABI that the profile does not list kills the process.
//!
//! Start reading at [`compile`](compile()), then `tree.rs` for the shape of the program.

mod abi;
mod compile;
mod condition;
mod default;
mod errno;
mod numbers;
mod profile;
mod project;
#[cfg(test)]
mod tests;
mod tree;

pub use abi::Abi;
pub use compile::{CompileError, compile, compile_for, flags};
pub use default::default_profile;
pub use profile::{Circumstances, Profile, ProfileError};
pub(crate) use project::keep_project;

/// The values of `SECCOMP_RET_*` (linux/seccomp.h).
mod ret {
    pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
    pub(super) const KILL_THREAD: u32 = 0;
    pub(super) const TRAP: u32 = 0x0003_0000;
    pub(super) const ERRNO: u32 = 0x0005_0000;
    pub(super) const USER_NOTIF: u32 = 0x7fc0_0000;
    pub(super) const TRACE: u32 = 0x7ff0_0000;
    pub(super) const LOG: u32 = 0x7ffc_0000;
    pub(super) const ALLOW: u32 = 0x7fff_0000;
}
