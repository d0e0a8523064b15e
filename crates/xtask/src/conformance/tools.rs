//! The tools, one function each: how it is called in a directory, and how its answer is read.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Kit, output};

/// What a tool found.
#[derive(Debug, Default)]
pub(super) struct Count {
    pub(super) passed: BTreeSet<String>,
    pub(super) failed: BTreeSet<String>,
    /// Cases that this system cannot show.
    pub(super) skipped: usize,
}

impl Count {
    fn add(&mut self, name: String, passed: bool) {
        if passed {
            self.passed.insert(name)
        } else {
            self.failed.insert(name)
        };
    }
}

/// Users and groups that every Debian has; times coarser than any file system's here.
const PJDFSTEST: &str = r#"
[features]
posix_fallocate = {}
rename_ctime = {}
utime_now = {}
utimensat = {}
[settings]
naptime = 0.02
allow_remount = false
[dummy_auth]
entries = [["nobody", "nogroup"], ["daemon", "daemon"]]
"#;

/// POSIX, call by call.
pub(super) fn pjdfstest(kit: &Kit, dir: &Path) -> Result<Count> {
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), PJDFSTEST)?;
    let mut command = Command::new(kit.bin.join("pjdfstest"));
    command.arg("-c").arg(config.path()).arg("-p").arg(dir);
    command.current_dir(dir).env("RUST_BACKTRACE", "0");
    let (_, text) = output(&mut command)?;
    let mut count = Count::default();
    for line in text.lines().filter(|line| line.contains("::")) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(verdict), None) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        match verdict {
            "ok" => count.add(name.into(), true),
            "FAILED" => count.add(name.into(), false),
            "skipped" => count.skipped += 1,
            _ => {}
        }
    }
    if count.passed.len() < 100 {
        bail!("pjdfstest did not run: {text}");
    }
    Ok(count)
}

/// Every operation that it knows and FUSE can carry; a megabyte, in pieces of any size.
const FSX: &str = r"
flen = 1048576
[opsize]
max = 70000
[weights]
close_open = 1
invalidate = 1
mapread = 10
mapwrite = 10
read = 10
write = 10
truncate = 2
fsync = 1
fdatasync = 1
punch_hole = 2
posix_fallocate = 2
sendfile = 2
copy_file_range = 2
";

/// Operations on one file, which must always read as it was written.
pub(super) fn fsx(kit: &Kit, dir: &Path) -> Result<Count> {
    let (config, artifacts) = (tempfile::NamedTempFile::new()?, tempfile::tempdir()?);
    std::fs::write(config.path(), FSX)?;
    let mut count = Count::default();
    for seed in 1..=8 {
        let mut command = Command::new(kit.bin.join("fsx"));
        command
            .args(["-q", "-N", "5000", "-S", &seed.to_string(), "-f"])
            .arg(config.path())
            .arg("-P")
            .arg(artifacts.path())
            .arg(dir.join(format!("fsx{seed}")));
        let (passed, text) = output(&mut command)?;
        if !passed {
            println!("{}", text.lines().take(40).collect::<Vec<_>>().join("\n"));
        }
        count.add(format!("seed {seed}, 5000 operations"), passed);
    }
    Ok(count)
}

/// Stressors of stress-ng's class "filesystem" that work in a directory they are given, and some others that do.
const STRESSORS: &[&str] = &[
    "access",
    "chdir",
    "chmod",
    "chown",
    "copy-file",
    "dentry",
    "dir",
    "dirdeep",
    "dirmany",
    "fallocate",
    "fcntl",
    "fiemap",
    "file-ioctl",
    "filename",
    "flock",
    "fpunch",
    "fsize",
    "fstat",
    "getdent",
    "handle",
    "hdd",
    "inotify",
    "io",
    "iomix",
    "link",
    "locka",
    "lockf",
    "lockofd",
    "mknod",
    "mmap",
    "msync",
    "open",
    "readahead",
    "rename",
    "revio",
    "seek",
    "sendfile",
    "symlink",
    "sync-file",
    "touch",
    "utime",
    "xattr",
];

/// Many at the same files at once.
pub(super) fn stress_ng(kit: &Kit, dir: &Path) -> Result<Count> {
    let mut count = Count::default();
    for stressor in STRESSORS {
        let mut command = Command::new("stress-ng");
        command.arg(format!("--{stressor}")).arg("2");
        command.args([
            "--verify",
            "--quiet",
            "--timeout",
            &format!("{}s", kit.seconds),
            "--temp-path",
        ]);
        let output = command.arg(dir).current_dir(dir).output().context("stress-ng")?;
        // From its manual: 3 no resources, 4 not implemented here; 2 a stressor failed.
        match output.status.code() {
            Some(3 | 4) => count.skipped += 1,
            code => {
                if code != Some(0) {
                    println!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
                }
                count.add((*stressor).into(), code == Some(0));
            }
        }
    }
    Ok(count)
}

/// How fio reads and writes: a name and what it is told.
const PATTERNS: &[(&str, &[&str])] = &[
    ("sequential", &["--rw=write", "--bs=128k", "--ioengine=psync"]),
    ("random 4k", &["--rw=randwrite", "--bs=4k", "--ioengine=psync"]),
    (
        "random sizes",
        &[
            "--rw=randrw",
            "--bsrange=512-70k",
            "--bs_unaligned",
            "--ioengine=psync",
        ],
    ),
    ("mapped", &["--rw=randrw", "--bs=4k", "--ioengine=mmap"]),
    (
        "direct",
        &[
            "--rw=randrw",
            "--bs=4k",
            "--ioengine=libaio",
            "--iodepth=8",
            "--direct=1",
        ],
    ),
    (
        "io_uring",
        &["--rw=randrw", "--bs=8k", "--ioengine=io_uring", "--iodepth=8"],
    ),
    (
        "with fsync",
        &["--rw=randwrite", "--bs=16k", "--ioengine=psync", "--fsync=16"],
    ),
];

/// What is written carries a checksum, and is read back.
pub(super) fn fio(_: &Kit, dir: &Path) -> Result<Count> {
    let mut count = Count::default();
    for (name, told) in PATTERNS {
        let mut command = Command::new("fio");
        command.args([
            "--name=verify",
            "--size=16m",
            "--numjobs=2",
            "--verify=crc32c",
            "--do_verify=1",
        ]);
        command.args([
            "--verify_fatal=1",
            "--group_reporting",
            "--output-format=terse",
            "--thread",
        ]);
        command.arg(format!("--directory={}", dir.display())).args(*told);
        let (passed, text) = output(command.current_dir(dir))?;
        if !passed {
            println!("{}", text.lines().take(20).collect::<Vec<_>>().join("\n"));
        }
        count.add((*name).into(), passed);
        for job in 0..2 {
            let _ = std::fs::remove_file(dir.join(format!("verify.{job}.0")));
        }
    }
    Ok(count)
}
