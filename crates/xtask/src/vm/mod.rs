//! The virtual machine: Debian's own kernel, for what the kernel of this machine cannot show.
//!
//! Debian 12 has Linux 6.1 (no `lowerdir+`), cgroup v2 with every controller, and project quotas. Its cloud kernel
//! boots under plain qemu in a few seconds, without KVM. Which programs run there, [`cases`] says; they are
//! ordinary test programs of cargo, put with their libraries on a throw-away disk under the very paths that they
//! have on this machine, so that what `env!("CARGO_BIN_EXE_…")` baked into them is found.
//!
//! Start reading at [`test`]; then `disk.rs` (what lies in the machine), `guest-init.sh` (what it does), `machine.rs`
//! (how it is started and watched); `systemd.rs` is a second machine.

mod cases;
mod disk;
mod initramfs;
mod kernel;
mod machine;
mod systemd;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::build;
use crate::libtest::Tally;
use machine::Boot;

/// Builds the cases, boots the machine, and counts what came of them.
pub(crate) fn test(only: Option<&str>, show: bool) -> Result<Tally> {
    let kernel = kernel::find()?;
    let dir = work_dir()?;
    let mut total = Tally::default();
    if only.is_none_or(|only| only == systemd::NAME) {
        total.add(systemd::test(show, &kernel, &dir)?);
    }
    if only == Some(systemd::NAME) {
        return Ok(total);
    }
    let cases = cases::chosen(only)?;
    if cases.list.is_empty() {
        return Ok(total);
    }
    let started = Instant::now();
    initramfs::write(&dir.join("initramfs"), &kernel, "/vm/init")?;
    disk::write(&dir.join("disk"), &cases)?;
    println!(
        "virtual machine: Linux {}, disk made in {:.1} s",
        kernel.release,
        started.elapsed().as_secs_f64()
    );
    let boot = Boot {
        dir: &dir,
        parameters: "",
        reboots: false,
    };
    total.add(machine::run(&boot, &kernel, &cases, show)?);
    Ok(total)
}

/// Where the disk and the console's log lie; kept after the run, for looking at.
fn work_dir() -> Result<PathBuf> {
    let dir = build::target_dir().join("vm");
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
