//! A machine with systemd: Debian's, with strata and its unit. It is booted three times; what is looked at each time says
//! `guest-systemd.sh`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::cases::{Case, Cases, Chosen, LIMIT};
use super::kernel::Kernel;
use super::machine::{self, Boot};
use super::{disk, initramfs};
use crate::build::{self, TestProgram};
use crate::libtest::Tally;

const CHECK: &str = include_str!("guest-systemd.sh");
const CHECK_OCI: &str = include_str!("guest-oci.sh");

/// Comes after strata's own unit.
const UNIT: &str = "[Unit]
After=strata.service
[Service]
ExecStart=/vm/check
[Install]
WantedBy=multi-user.target
";

/// An ordinary user's, in the user's own systemd.
const USER_UNIT: &str = "[Service]
Type=oneshot
ExecStart=/vm/oci user
";

/// How each run of the machine ends, as `guest-systemd.sh` names it.
const STAGES: [&str; 3] = ["told", "killed", "ended"];

/// What `--only` calls it.
pub(super) const NAME: &str = "systemd";

/// Boots it with our programs, and counts what came of it.
pub(super) fn test(show: bool, kernel: &Kernel, dir: &Path, chosen: &Chosen) -> Result<Tally> {
    let mut total = Tally::default();
    initramfs::write(&dir.join("initramfs"), kernel, "/lib/systemd/systemd")?;
    write_disk(dir, chosen)?;
    for stage in STAGES {
        let cases = Cases {
            list: vec![Case {
                test: TestProgram {
                    name: format!("{NAME}::{stage}"),
                    executable: "/vm/check".into(),
                    package_dir: "/".into(),
                },
                arguments: Vec::new(),
                limit: LIMIT,
            }],
            programs: Vec::new(),
        };
        let boot = Boot {
            dir,
            // Nobody logs in; without udev, nobody would tell of the line either.
            parameters: "systemd.mask=serial-getty@ttyS0.service systemd.mask=getty.target",
            reboots: stage != "ended",
        };
        let tally = machine::run(&boot, kernel, &cases, show)?;
        let failed = !tally.failed.is_empty();
        total.add(tally);
        if failed {
            break;
        }
    }
    Ok(total)
}

/// Debian comes from a mirror once, and is kept.
fn write_disk(dir: &Path, chosen: &Chosen) -> Result<()> {
    let debian = dir.join("debian-2.tar");
    if !debian.exists() {
        let new = dir.join("new.tar");
        disk::run(
            Command::new("mmdebstrap")
                .args([
                    "--quiet",
                    "--variant=minbase",
                    // The last two are for the systemd of a user.
                    "--include=systemd-sysv,dbus,libpam-systemd",
                    "bookworm",
                ])
                .arg(&new),
        )?;
        fs::rename(&new, &debian)?;
    }
    let root = tempfile::Builder::new().prefix("root-").tempdir_in(dir)?;
    let root = root.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755))?;
    disk::run(Command::new("tar").arg("-xf").arg(&debian).arg("-C").arg(root))?;
    disk::place_program(root, &chosen.strata, Path::new("/usr/bin/strata"))?;
    fs::create_dir(root.join("vm"))?;
    // Calls the snapshotter, as containerd would.
    disk::place_program(root, &chosen.xtask, Path::new("/vm/xtask"))?;
    busybox(dir, &root.join("vm/busybox.tar"))?;
    fs::write(root.join("vm/stage"), STAGES[0])?;
    for (name, text) in [("vm/check", CHECK), ("vm/oci", CHECK_OCI)] {
        fs::write(root.join(name), text)?;
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755))?;
    }
    symlink("strata", root.join("usr/bin/strata-oci"))?;
    let users_units = root.join("etc/systemd/user");
    fs::create_dir_all(&users_units)?;
    fs::write(users_units.join("oci.service"), USER_UNIT)?;
    let units = root.join("etc/systemd/system");
    for unit in [
        "strata.service",
        "strata-snapshotter.service",
        "strata-snapshotter.socket",
    ] {
        let ours = build::workspace().join("dist").join(unit);
        fs::copy(&ours, units.join(unit)).with_context(|| ours.display().to_string())?;
    }
    fs::write(units.join("check.service"), UNIT)?;
    let wanted = units.join("multi-user.target.wants");
    fs::create_dir_all(&wanted)?;
    for unit in ["strata.service", "check.service"] {
        symlink(Path::new("..").join(unit), wanted.join(unit))?;
    }
    disk::make(&dir.join("disk"), root)
}

/// The root file system of an image.
fn busybox(dir: &Path, to: &Path) -> Result<()> {
    let root = tempfile::Builder::new().prefix("image-").tempdir_in(dir)?;
    let bin = root.path().join("bin");
    fs::create_dir(&bin)?;
    fs::copy("/bin/busybox", bin.join("busybox")).context("/bin/busybox")?;
    for name in ["sh", "sleep", "cat", "stat"] {
        symlink("busybox", bin.join(name))?;
    }
    disk::run(
        Command::new("tar")
            .arg("-cf")
            .arg(to)
            .arg("-C")
            .arg(root.path())
            .arg("."),
    )
}
