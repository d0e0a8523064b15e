//! The machine's disk: the test programs, what they start, their libraries, and a user land of busybox.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::cases::Cases;

const GUEST_INIT: &str = include_str!("guest-init.sh");

/// Bytes of the disk. Sparse: only what is written costs anything.
const SIZE: u64 = 8 << 30;

/// Makes the disk anew, so that a run never sees what the one before it left.
pub(crate) fn write(to: &Path, cases: &Cases) -> Result<()> {
    let root = tempfile::Builder::new()
        .prefix("vm-root-")
        .tempdir_in(to.parent().context("a disk has a directory")?)?;
    lay_out(root.path(), cases)?;

    make(to, root.path())
}

/// A file system that counts projects, and what lies in it.
pub(super) fn make(to: &Path, root: &Path) -> Result<()> {
    let _ = fs::remove_file(to);
    fs::File::create(to)?
        .set_len(SIZE)
        .with_context(|| to.display().to_string())?;
    // Project quotas must be in the file system from its making. Nothing is gained by a journal on a throw-away disk.
    run(Command::new("mkfs.ext4")
        .args([
            "-q",
            "-F",
            "-O",
            "quota,project,^has_journal",
            "-E",
            "quotatype=usrquota:grpquota:prjquota",
            "-d",
        ])
        .args([root, to]))
}

/// Puts a program where `name` says, with its libraries.
pub(super) fn place_program(root: &Path, program: &Path, name: &Path) -> Result<()> {
    strip(program, &place(root, name)?)?;
    for library in libraries_of(program)? {
        let there = place(root, &library)?;
        if !there.exists() {
            fs::copy(&library, there).with_context(|| library.display().to_string())?;
        }
    }
    Ok(())
}

/// Symbols stay, for the names in a backtrace; line tables are most of the size.
fn strip(program: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .args([to, program]))
}

fn lay_out(root: &Path, cases: &Cases) -> Result<()> {
    for dir in [
        "bin", "dev", "etc", "proc", "root", "run", "sbin", "sys", "usr/bin", "usr/sbin", "var/tmp", "vm",
    ] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::create_dir(root.join("tmp"))?;
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/hostname"), "strata-vm\n")?;
    fs::write(root.join("etc/resolv.conf"), "nameserver 192.0.2.1\n")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n")?;
    fs::copy("/bin/busybox", root.join("bin/busybox"))?;
    symlink("/bin/busybox", root.join("bin/sh"))?;
    symlink("/bin/busybox", root.join("usr/bin/busybox"))?;

    let programs = cases
        .list
        .iter()
        .map(|case| &case.test.executable)
        .chain(&cases.programs);
    let mut libraries = BTreeSet::new();
    for program in programs {
        strip(program, &place(root, program)?)?;
        libraries.extend(libraries_of(program)?);
    }
    for library in &libraries {
        fs::copy(library, place(root, library)?).with_context(|| library.display().to_string())?;
    }

    let mut plan = String::new();
    for case in &cases.list {
        let test = &case.test;
        fs::create_dir_all(place(root, &test.package_dir)?)?;
        plan += &format!(
            "{} {} {} {} {}\n",
            case.limit.as_secs(),
            test.name,
            test.package_dir.display(),
            test.executable.display(),
            case.arguments.join(" ")
        );
    }
    fs::write(root.join("vm/plan"), plan)?;
    fs::write(root.join("vm/init"), GUEST_INIT)?;
    fs::set_permissions(root.join("vm/init"), fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Where a path of this machine lies beneath `root`; its directory is made.
fn place(root: &Path, path: &Path) -> Result<PathBuf> {
    let there = root.join(path.strip_prefix("/").unwrap_or(path));
    fs::create_dir_all(there.parent().unwrap_or(root)).with_context(|| there.display().to_string())?;
    Ok(there)
}

/// What the dynamic loader would map: lines `name => /path (0x…)` and `/lib64/ld-linux… (0x…)` of ldd(1).
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("ldd")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(text
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

pub(super) fn run(command: &mut Command) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| program.clone())?;
    if !output.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
