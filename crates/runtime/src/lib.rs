//! runtime
#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

pub mod options;
pub mod seccomp;
