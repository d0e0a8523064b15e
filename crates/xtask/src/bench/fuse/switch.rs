//! The kernel's switch for FUSE over io_uring. It concerns every FUSE mount that is made while it is on.

use std::fs;

use anyhow::{Context, Result};

const PATH: &str = "/sys/module/fuse/parameters/enable_uring";

/// What it is set to.
pub(super) fn read() -> String {
    match fs::read_to_string(PATH) {
        Ok(value) => value.trim().to_owned(),
        Err(_) => "this kernel has none".to_owned(),
    }
}

/// On until it is dropped.
pub(super) struct On {
    before: String,
}

/// Turns it on. Fails on a kernel that has none (before Linux 6.14).
pub(super) fn on() -> Result<On> {
    let before = fs::read_to_string(PATH).context("this kernel does not speak FUSE over io_uring")?;
    fs::write(PATH, "Y").context(PATH)?;
    Ok(On { before })
}

impl Drop for On {
    fn drop(&mut self) {
        let _ = fs::write(PATH, self.before.trim());
    }
}
