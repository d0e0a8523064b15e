//! A file system of a test's own.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::drive::{Drive, Kept};
use crate::random::Random;

/// A small file system, most often in a sparse file that is mounted by a loop device; gone with the value.
#[derive(Debug)]
pub struct Disk {
    dir: TempDir,
    /// What it lies on, where power can be cut.
    drive: Option<Drive>,
}

/// File systems that the disk of a [`Disk::on_drive`] may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// ext4.
    Ext4,
    /// xfs.
    Xfs,
    /// btrfs.
    Btrfs,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Ext4, Kind::Xfs, Kind::Btrfs];

    /// Its name, how it is made, and how one is mounted whose copy is mounted already.
    fn words(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Kind::Ext4 => ("ext4", &["mkfs.ext4", "-q"], "rw"),
            Kind::Xfs => ("xfs", &["mkfs.xfs", "-q"], "nouuid"),
            Kind::Btrfs => ("btrfs", &["mkfs.btrfs", "-q"], "rw"),
        }
    }
}

impl Disk {
    /// Makes one of `size` bytes by the program and arguments `make`, and mounts it with `options`.
    pub fn new(kind: &str, make: &[&str], size: u64, options: &str) -> Disk {
        Disk::new_in(&std::env::temp_dir(), kind, make, size, options)
    }

    /// The same, its file in a directory of a chosen file system.
    pub fn new_in(beneath: &Path, kind: &str, make: &[&str], size: u64, options: &str) -> Disk {
        let dir = tempfile::tempdir_in(beneath).expect("a temporary directory");
        let image = dir.path().join("image");
        format(make, &image, size);
        Disk::mounted(dir, &image, kind, options)
    }

    /// One whose power can be cut ([`Disk::cut`]): it lies on a [`Drive`], whose files are in `beneath`, on a file system
    /// that clones files.
    pub fn on_drive(beneath: &Path, kind: Kind, size: u64) -> Disk {
        let dir = tempfile::tempdir_in(beneath).expect("a temporary directory");
        let (latest, image) = (dir.path().join("latest"), dir.path().join("image"));
        let (name, make, _) = kind.words();
        format(make, &latest, size);
        let drive = Drive::serve(&latest, &image);
        let mut disk = Disk::mounted(dir, &image, name, "rw");
        drive.hide();
        disk.drive = Some(drive);
        disk
    }

    /// A disk that a power cut in this instant would leave. This one goes on.
    pub fn cut(&self, kind: Kind, kept: Kept, random: &mut Random) -> Disk {
        let drive = self.drive.as_ref().expect("a disk on a drive");
        let beneath = self.dir.path().parent().expect("it lies in a directory");
        let dir = tempfile::tempdir_in(beneath).expect("a temporary directory");
        let image = dir.path().join("image");
        let copy = std::fs::File::create(&image).expect("the directory is new");
        drive.cut(&copy, kept, random);
        let (name, _, options) = kind.words();
        Disk::mounted(dir, &image, name, options)
    }

    fn mounted(dir: TempDir, image: &Path, kind: &str, options: &str) -> Disk {
        let place = dir.path().join("mounted");
        std::fs::create_dir(&place).expect("the directory is new");
        let options = format!("loop,{options}");
        run(Command::new("mount")
            .args(["-t", kind, "-o", &options])
            .args([image, &place]));
        Disk { dir, drive: None }
    }

    /// Memory, with options as tmpfs takes them, such as `size=4m`. Every user can reach it.
    pub fn tmpfs(options: &str) -> Disk {
        Disk::memory("tmpfs", options)
    }

    /// Memory without extended attributes.
    pub fn ramfs() -> Disk {
        Disk::memory("ramfs", "mode=755")
    }

    fn memory(kind: &str, options: &str) -> Disk {
        let dir = tempfile::tempdir().expect("a temporary directory");
        crate::files::chmod(dir.path(), 0o755).expect("our own directory");
        let place = dir.path().join("mounted");
        std::fs::create_dir(&place).expect("the directory is new");
        run(Command::new("mount")
            .args(["-t", kind, "-o", options, "strata-test"])
            .arg(&place));
        Disk { dir, drive: None }
    }

    /// An xfs, whose files can share blocks.
    pub fn xfs() -> Disk {
        Disk::new("xfs", &["mkfs.xfs", "-q"], 400 << 20, "rw")
    }

    /// An xfs that counts projects and holds them to their limits.
    pub fn xfs_with_project_quotas() -> Disk {
        // Less than 300 MiB are refused.
        Disk::new("xfs", &["mkfs.xfs", "-q"], 400 << 20, "prjquota")
    }

    /// Where it is mounted.
    pub fn path(&self) -> std::path::PathBuf {
        Path::join(self.dir.path(), "mounted")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A program that another test starts holds our descriptors for a moment, from fork to exec.
        let deadline = Instant::now() + Duration::from_secs(5);
        let unmount = || {
            let output = Command::new("umount").arg(self.path()).output();
            output.expect("umount").status.success()
        };
        let mut unmounted = unmount();
        while !unmounted && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
            unmounted = unmount();
        }
        if !std::thread::panicking() {
            assert!(unmounted, "a disk is still in use");
        }
        if unmounted && let Some(drive) = &mut self.drive {
            drive.end();
        }
    }
}

fn format(make: &[&str], image: &Path, size: u64) {
    let file = std::fs::File::create(image).expect("the directory is new");
    file.set_len(size).expect("a sparse file");
    run(Command::new(make[0]).args(&make[1..]).arg(image));
}

fn run(command: &mut Command) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {output:?}");
}
