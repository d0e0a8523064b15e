//! Containers: the bundle, the process made from it, and the supervisor that looks after it.
//!
//! What it is: everything between an OCI bundle with a mounted root file system and a running process, and back to its
//! exit code. Its contract is the OCI runtime specification 1.2: what the launcher does, it does because
//! `config.json` says so.
//!
//! What it never does: mount a root file system, know what an image or a store is, open a database, print, read the
//! environment. It has no async runtime and no threads, but for one in a container's process on its way to the program
//! (`launch/listener.rs`).
//!
//! | where | what |
//! |---|---|
//! | [`bundle`] | the directory of a container |
//! | [`start()`] | from a bundle to a running program |
//! | [`exec()`] | one more program in a container that runs |
//! | [`supervisor`] | the process that stays beside it |
//! | `launch` | from a spec to a process, step by step |
//! | [`oci`] | containers that another engine looks after: made and started, and left to it |
//! | [`end()`] | the end of a container, whatever state it is in |
//! | [`processes`] | its processes, and what they use |
//! | [`state`] | what a container does, asked by anyone |
//! | [`control`] | the language that supervisors speak |
//! | [`log`] | what it printed, in files |
//! | [`events`] | what happened to it and to others, in a file |
//! | [`health`] | what is asked of it while it runs, and what came of it |
//! | [`attach`] | being attached to one that runs |
//! | [`terminal`] | the foreground: signals, keys, windows |
//! | [`options`] | the values of `run`'s flags |
//! | [`seccomp`] | system call filters |
//! | [`cgroup`] | what a container may use, and its end |
//! | [`devices`] | which devices it may open |
//! | [`pause()`] | standing still for a while |
//! | [`spec`] | a spec from what was asked, the image and the defaults |
//! | [`user`] | who its process is |
//! | [`rootless`] | an ordinary user's namespaces, in which all of this is done without root |
//!
//! Start reading at [`start()`], then `launch`.
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod attach;
pub mod bundle;
pub mod cgroup;
pub mod control;
pub mod devices;
mod end;
pub mod events;
mod exec;
mod external;
pub mod health;
mod launch;
pub mod log;
mod names;
pub mod oci;
pub mod options;

mod pause;
pub mod processes;
pub mod rootless;
pub mod seccomp;
pub mod spec;
mod start;
pub mod state;
pub mod supervisor;
pub mod terminal;
pub mod user;

pub use end::{EndError, end};
pub use exec::{ExecError, ExecRequest, exec, root};
pub use launch::{INIT_ANNOTATION, apparmor, make_directory, selinux};
pub use pause::{PauseError, Paused, pause};
pub use start::{
    Helper, Running, StartError, StartRequest, Streams, Summoned, can_leave_later, execute_from_a_copy,
    leave_the_disk, start, summon,
};
/// For a program that starts containers, before it does: whoever started it may have had SIGCHLD ignored.
pub use sys::signal::hear_of_children;
