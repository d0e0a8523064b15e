//! The virtual machine: Debian's own kernel, for what the kernel of this machine cannot show.
//!
//! Debian 12 has Linux 6.1 (no `lowerdir+`), cgroup v2 with every controller, and project quotas. Its cloud kernel
//! boots under plain qemu in a few seconds, without KVM. Which programs run there, [`cases`] says; they are
//! ordinary test programs of cargo, put with their libraries on a throw-away disk under the very paths that they
//! have on this machine, so that what `env!("CARGO_BIN_EXE_…")` baked into them is found.
//!
//! Start reading at [`test`]; then `disk.rs` (what lies in the machine), `guest-init.sh` (what it does), `machine.rs`
//! (how it is started and watched); `systemd.rs` is another machine, with an init system.

mod cases;
mod disk;
mod initramfs;
mod kernel;
mod machine;
mod systemd;

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::build;
use crate::libtest::Tally;
use cases::Cases;
use kernel::Kernel;
use machine::Boot;

/// Has the kernel run SELinux, without a policy as yet.
const SELINUX: &str = "security=selinux selinux=1";

/// Builds the cases, boots the machines, and counts what came of them. Two machines run at a time: what is emulated is
/// slow, and one machine keeps one processor busy.
pub(crate) fn test(only: Option<&str>, show: bool) -> Result<Tally> {
    let kernel = kernel::find()?;
    let chosen = cases::chosen(only)?;
    let one_by_one = || -> Result<Tally> {
        let mut total = Tally::default();
        if only.is_none_or(|only| only == systemd::NAME) {
            total.add(systemd::test(show, &kernel, &work_dir(systemd::NAME)?, &chosen)?);
        }
        total.add(boot("selinux", SELINUX, &chosen.labelled, &kernel, show)?);
        total.add(boot("alone", "", &chosen.alone, &kernel, show)?);
        Ok(total)
    };
    thread::scope(|scope| {
        let twice = scope.spawn(|| boot("twice", "", &chosen.twice, &kernel, show));
        let mut total = one_by_one()?;
        total.add(twice.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        Ok(total)
    })
}

/// Runs the cases in a machine of their own.
fn boot(name: &str, parameters: &str, cases: &Cases, kernel: &Kernel, show: bool) -> Result<Tally> {
    if cases.list.is_empty() {
        return Ok(Tally::default());
    }
    let started = Instant::now();
    let dir = work_dir(name)?;
    initramfs::write(&dir.join("initramfs"), kernel, "/vm/init")?;
    disk::write(&dir.join("disk"), cases)?;
    println!(
        "virtual machine \"{name}\": Linux {}, disk made in {:.1} s",
        kernel.release,
        started.elapsed().as_secs_f64()
    );
    let boot = Boot {
        dir: &dir,
        parameters,
        reboots: false,
    };
    machine::run(&boot, kernel, cases, show)
}

/// Where the disk and the console's log lie; kept after the run, for looking at.
fn work_dir(name: &str) -> Result<PathBuf> {
    let dir = build::target_dir().join("vm").join(name);
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
